//! Operators that need nothing but the batch.

use std::collections::BTreeMap;

use super::Mistake;
use crate::reference::{Expr, JoinKind, Named, Op, Query, Reduction, Row, Schema, Scope, SortKey, Unfit, Value};

/// The records of a stream in a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Records<'a> {
    pub(super) schema: &'a Schema,
    pub(super) rows: &'a [Row],
}

/// What an operator has before it.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    pub(super) inputs: Vec<Records<'a>>,
    pub(super) number: u64,
    pub(super) mistake: Option<Mistake>,
}

/// The records of each key, in their order.
type Groups = BTreeMap<Row, Vec<Row>>;

impl Batch<'_> {
    fn made(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    pub(super) fn apply(&self, op: &Op) -> Result<Vec<Row>, Unfit> {
        let records = self.inputs[0];
        let Records { schema, rows } = records;
        match op {
            Op::Map(columns) | Op::Transform(Query::Select(columns)) => {
                rows.iter().map(|row| self.columns(columns, schema, row)).collect()
            }
            Op::FlatMap(columns) => self.spread(&[], columns),
            Op::Filter(predicate) => self.filter(predicate),
            Op::MapValues { keys, columns } => rows
                .iter()
                .map(|row| {
                    Ok(joined(
                        &picked(schema, keys, row)?,
                        &self.columns(columns, schema, row)?,
                    ))
                })
                .collect(),
            Op::FlatMapValues { keys, columns } => self.spread(keys, columns),
            Op::Sample { all } => Ok(if *all { rows.to_vec() } else { Vec::new() }),
            Op::Accumulate | Op::Glom | Op::Repartition(_) | Op::PartitionBy { .. } => Ok(rows.to_vec()),
            Op::MapPartitions => Ok(rows.iter().flat_map(|row| [row.clone(), row.clone()]).collect()),
            Op::Union => self.union(),
            Op::Count if rows.is_empty() && self.made(Mistake::NoCountOfNothing) => Ok(Vec::new()),
            Op::Count => Ok(vec![vec![Value::Int(rows.len() as i64)]]),
            Op::CountByValue { .. } => Ok(numbers(rows)
                .into_iter()
                .map(|(row, count)| joined(&row, &[Value::Int(count)]))
                .collect()),
            Op::Distinct { .. } if self.made(Mistake::DistinctKeepsCopies) => Ok(rows.to_vec()),
            Op::Distinct { .. } => Ok(numbers(rows).into_keys().collect()),
            Op::Reduce(_) if rows.is_empty() => Ok(Vec::new()),
            Op::Reduce(reduction) => Ok(vec![self.reduced(reduction, schema, rows)?]),
            Op::ReduceByKey { keys, reduction, .. } => {
                let groups = self.groups(keys)?.into_iter();
                let reduced = groups.map(|(key, rows)| {
                    let key_names: Vec<String> = keys.iter().map(|key| key.name.clone()).collect();
                    let values = match reduction {
                        Reduction::Aggregates(_) => self.reduced(reduction, schema, &rows)?,
                        Reduction::Binary { .. } => {
                            let values = schema.without(&key_names);
                            let rows = rows.iter().map(|row| schema.pick(values.names(), row));
                            self.reduced(reduction, &values, &rows.collect::<Result<Vec<_>, _>>()?)?
                        }
                    };
                    Ok(joined(&key, &values))
                });
                reduced.collect()
            }
            Op::Aggregate { keys, aggregates, .. } if keys.is_empty() => {
                Ok(vec![self.aggregated(aggregates, schema, rows)?])
            }
            Op::Aggregate { keys, aggregates, .. } => self.grouped(keys, aggregates),
            Op::Transform(Query::Group { keys, aggregates }) => {
                let keys: Vec<Named> = keys.iter().map(Named::column).collect();
                self.grouped(&keys, aggregates)
            }
            Op::GroupByKey { keys, .. } => {
                let key_names: Vec<String> = keys.iter().map(|key| key.name.clone()).collect();
                let values = schema.without(&key_names);
                let groups = self.groups(keys)?.into_iter();
                let listed = groups.map(|(key, rows)| Ok(joined(&key, &[list(schema, &values, &rows)?])));
                listed.collect()
            }
            Op::CombineByKey {
                keys,
                create,
                merge_value,
                merge_combiners,
                ..
            } => {
                let groups = self.groups(keys)?.into_iter();
                groups
                    .map(|(key, rows)| {
                        Ok(joined(
                            &key,
                            &self.combined(create, merge_value, merge_combiners, &rows)?,
                        ))
                    })
                    .collect()
            }
            Op::SortBy { keys, limit } => Ok(top(records, keys, *limit)),
            Op::Transform(Query::Top { keys, limit }) => Ok(top(records, keys, Some(*limit))),
            Op::Transform(Query::Number { key }) => Ok(numbered(records, key)),
            Op::Transform(query) | Op::TransformWith(query) => self.sql(query),
            Op::Join { kind, on, .. } => self.join(*kind, on),
            Op::Cogroup { keys, .. } => self.cogroup(keys),
            other => Err(Unfit::new(format!("{other:?} is not for one batch"))),
        }
    }

    fn scope<'b>(&self, columns: &'b Schema, row: &'b [Value], records: Records<'b>) -> Scope<'b> {
        Scope {
            columns,
            row,
            records: records.rows,
            record_columns: records.schema,
            batch: self.number,
        }
    }

    fn columns(&self, columns: &[Named], schema: &Schema, row: &[Value]) -> Result<Row, Unfit> {
        let nothing = Records { schema, rows: &[] };
        let scope = self.scope(schema, row, nothing);
        columns.iter().map(|column| column.expr.eval(scope)).collect()
    }

    fn aggregated(&self, columns: &[Named], schema: &Schema, rows: &[Row]) -> Result<Row, Unfit> {
        let scope = self.scope(schema, &[], Records { schema, rows });
        columns.iter().map(|column| column.expr.eval(scope)).collect()
    }

    fn filter(&self, predicate: &Expr) -> Result<Vec<Row>, Unfit> {
        let Records { schema, rows } = self.inputs[0];
        let mut kept = Vec::new();
        for row in rows {
            let scope = self.scope(schema, row, Records { schema, rows: &[] });
            if predicate.eval(scope)? == Value::Bool(true) {
                kept.push(row.clone());
            }
        }
        Ok(kept)
    }

    /// `flat_map`: the lists of a record in step, the shorter padded with null, all else repeated.
    fn spread(&self, keys: &[String], columns: &[Named]) -> Result<Vec<Row>, Unfit> {
        let Records { schema, rows } = self.inputs[0];
        // A null list is told from a null value by its type.
        let lists = columns.iter().map(|column| {
            let typed = column.expr.typed(&column.name, schema, None)?;
            Ok(typed.data_type.item().is_some())
        });
        let lists: Vec<bool> = lists.collect::<Result<_, Unfit>>()?;
        let mut spread = Vec::new();
        for row in rows {
            let kept = picked(schema, keys, row)?;
            let values = self.columns(columns, schema, row)?;
            let length = |value: &Value| match value {
                Value::List(values) => values.len(),
                _ => 0,
            };
            let longest = values.iter().zip(&lists).filter(|(_, is_list)| **is_list);
            let longest = longest.map(|(value, _)| length(value)).max().unwrap_or(0);
            for place in 0..longest {
                let at_place = values.iter().zip(&lists).map(|(value, is_list)| match value {
                    Value::List(values) => values.get(place).cloned().unwrap_or(Value::Null),
                    _ if *is_list => Value::Null,
                    value => value.clone(),
                });
                spread.push(joined(&kept, &at_place.collect::<Row>()));
            }
        }
        Ok(spread)
    }

    fn union(&self) -> Result<Vec<Row>, Unfit> {
        let ours = self.inputs[0].schema;
        let mut rows = Vec::new();
        for other in &self.inputs {
            for row in other.rows {
                rows.push(other.schema.pick(ours.names(), row)?);
            }
        }
        Ok(rows)
    }

    fn groups(&self, keys: &[Named]) -> Result<Groups, Unfit> {
        let Records { schema, rows } = self.inputs[0];
        let mut groups = Groups::new();
        for row in rows {
            groups
                .entry(self.columns(keys, schema, row)?)
                .or_default()
                .push(row.clone());
        }
        Ok(groups)
    }

    fn grouped(&self, keys: &[Named], aggregates: &[Named]) -> Result<Vec<Row>, Unfit> {
        let schema = self.inputs[0].schema;
        let groups = self.groups(keys)?.into_iter();
        groups
            .map(|(key, rows)| Ok(joined(&key, &self.aggregated(aggregates, schema, &rows)?)))
            .collect()
    }

    /// At least one record of values, made one.
    fn reduced(&self, reduction: &Reduction, schema: &Schema, rows: &[Row]) -> Result<Row, Unfit> {
        match reduction {
            Reduction::Aggregates(aggregates) => self.aggregated(aggregates, schema, rows),
            Reduction::Binary { columns, .. } => {
                let mut reduced = rows[0].clone();
                for row in &rows[1..] {
                    reduced = self.binary(columns, schema, &reduced, row)?;
                }
                Ok(reduced)
            }
        }
    }

    /// For each column its function of `a` and `b`.
    fn binary(&self, functions: &[Named], schema: &Schema, a: &[Value], b: &[Value]) -> Result<Row, Unfit> {
        let columns = schema.columns().iter().enumerate();
        columns
            .map(|(place, column)| {
                let function = crate::reference::model::by_name(functions, &column.name)?;
                let pair = crate::reference::model::pair(column);
                let values = [a[place].clone(), b[place].clone()];
                let nothing = Records { schema, rows: &[] };
                function.eval(self.scope(&pair, &values, nothing))
            })
            .collect()
    }

    fn combined(
        &self,
        create: &[Named],
        merge_value: &[Named],
        merge_combiners: &[Named],
        rows: &[Row],
    ) -> Result<Row, Unfit> {
        let schema = self.inputs[0].schema;
        let typed = create
            .iter()
            .map(|column| column.expr.typed(&column.name, schema, None));
        let combined = Schema::new(typed.collect::<Result<_, _>>()?)?;
        let scope = combined.and(&schema.renamed(|name| format!("value_{name}")))?;
        let mut result = self.columns(create, schema, &rows[0])?;
        for row in &rows[1..] {
            result = if merge_value.is_empty() {
                let single = self.columns(create, schema, row)?;
                self.binary(merge_combiners, &combined, &result, &single)?
            } else {
                let merged = self.columns(merge_value, &scope, &joined(&result, row))?;
                // They may be named in another order.
                let names = merge_value.iter().map(|column| &column.name);
                let merged = names.zip(merged).collect::<BTreeMap<_, _>>();
                combined.names().map(|name| merged[&name.to_owned()].clone()).collect()
            };
        }
        Ok(result)
    }

    fn join(&self, kind: JoinKind, on: &[(String, String)]) -> Result<Vec<Row>, Unfit> {
        let (left, right) = (self.inputs[0], self.inputs[1]);
        let (left_keys, right_keys): (Vec<String>, Vec<String>) = on.iter().cloned().unzip();
        let split = |records: Records<'_>, keys: &[String]| -> Result<Vec<(Row, Row)>, Unfit> {
            let others = records.schema.without(keys);
            let parts = records.rows.iter().map(|row| {
                let key = picked(records.schema, keys, row)?;
                Ok((key, records.schema.pick(others.names(), row)?))
            });
            parts.collect()
        };
        let (lefts, rights) = (split(left, &left_keys)?, split(right, &right_keys)?);
        let meets = |a: &Row, b: &Row| a == b && !(self.made(Mistake::NullKeysDoNotJoin) && a.contains(&Value::Null));
        let (left_missing, right_missing) = match self.made(Mistake::OuterJoinsAreInner) {
            true => (false, false),
            false => kind.missing(),
        };
        let mut rows = Vec::new();
        for (key, ours) in &lefts {
            let mut partners = rights.iter().filter(|(other, _)| meets(key, other)).peekable();
            if partners.peek().is_none() && right_missing {
                rows.push([key.clone(), ours.clone(), nulls(right.schema, &right_keys)].concat());
            }
            rows.extend(partners.map(|(_, theirs)| [key.clone(), ours.clone(), theirs.clone()].concat()));
        }
        if left_missing {
            let alone = rights
                .iter()
                .filter(|(key, _)| !lefts.iter().any(|(other, _)| meets(key, other)));
            rows.extend(
                alone.map(|(key, theirs)| [key.clone(), nulls(left.schema, &left_keys), theirs.clone()].concat()),
            );
        }
        Ok(rows)
    }

    fn cogroup(&self, keys: &[String]) -> Result<Vec<Row>, Unfit> {
        let mut groups: BTreeMap<Row, Vec<Vec<Row>>> = BTreeMap::new();
        for (place, input) in self.inputs.iter().enumerate() {
            for row in input.rows {
                let key = picked(input.schema, keys, row)?;
                let group = groups.entry(key).or_insert_with(|| vec![Vec::new(); self.inputs.len()]);
                group[place].push(row.clone());
            }
        }
        let rows = groups.into_iter().map(|(mut row, group)| {
            for (input, rows) in self.inputs.iter().zip(group) {
                row.push(list(input.schema, &input.schema.without(keys), &rows)?);
            }
            Ok(row)
        });
        rows.collect()
    }
}

fn joined(left: &[Value], right: &[Value]) -> Row {
    [left, right].concat()
}

fn picked<'a>(schema: &Schema, names: impl IntoIterator<Item = &'a String>, row: &[Value]) -> Result<Row, Unfit> {
    schema.pick(names.into_iter().map(String::as_str), row)
}

/// Nulls for the columns other than the keys.
fn nulls(schema: &Schema, keys: &[String]) -> Row {
    vec![Value::Null; schema.without(keys).columns().len()]
}

fn numbers(rows: &[Row]) -> BTreeMap<Row, i64> {
    let mut numbers = BTreeMap::new();
    for row in rows {
        *numbers.entry(row.clone()).or_default() += 1;
    }
    numbers
}

/// The value columns of records as a list: their values if there is one, else structs.
fn list(schema: &Schema, values: &Schema, rows: &[Row]) -> Result<Value, Unfit> {
    let items = rows.iter().map(|row| {
        let mut items = schema.pick(values.names(), row)?;
        Ok(match items.len() {
            1 => items.remove(0),
            _ => Value::Struct(values.names().map(str::to_owned).zip(items).collect()),
        })
    });
    Ok(Value::List(items.collect::<Result<_, Unfit>>()?))
}

/// The first records in an order. Those that it does not tell apart are equal.
fn top(records: Records<'_>, keys: &[SortKey], limit: Option<u64>) -> Vec<Row> {
    let mut rows = records.rows.to_vec();
    rows.sort_by(|a, b| {
        let orders = keys.iter().filter_map(|key| {
            let place = records.schema.position(&key.column)?;
            let (a, b) = (&a[place], &b[place]);
            let nulls_first = key.nulls_first.unwrap_or(key.descending);
            Some(match (a.is_null(), b.is_null()) {
                (true, false) if nulls_first => std::cmp::Ordering::Less,
                (true, false) => std::cmp::Ordering::Greater,
                (false, true) if nulls_first => std::cmp::Ordering::Greater,
                (false, true) => std::cmp::Ordering::Less,
                _ if key.descending => b.cmp(a),
                _ => a.cmp(b),
            })
        });
        orders.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
    });
    rows.truncate(limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX)));
    rows
}

/// Records with their places among those of one key, in the order of all columns.
fn numbered(records: Records<'_>, key: &str) -> Vec<Row> {
    let keys: Vec<SortKey> = records
        .schema
        .names()
        .map(|name| SortKey {
            column: name.to_owned(),
            descending: false,
            nulls_first: None,
        })
        .collect();
    let mut places: BTreeMap<Value, i64> = BTreeMap::new();
    let place_of = records.schema.position(key).unwrap_or(0);
    let sorted = top(records, &keys, None).into_iter();
    sorted
        .map(|row| {
            let place = places.entry(row[place_of].clone()).or_default();
            *place += 1;
            joined(&row, &[Value::Int(*place)])
        })
        .collect()
}
