//! The columns that operators give, and what they ask of those that they take.

use super::{Keyed, Model, Named, Op, Query, Reduction};
use crate::reference::{Column, Expr, Schema, Type, Unfit};

/// What an operator takes.
struct Input<'a> {
    /// The name of its stream.
    name: &'a str,
    schema: &'a Schema,
}

impl Model {
    /// The columns of the node at `place`; those of the nodes before it are known.
    pub(crate) fn schema_of(&self, place: usize, known: &[Schema]) -> Result<Schema, Unfit> {
        let node = &self.nodes[place];
        let input = |input: &usize| {
            let schema = known.get(*input).ok_or_else(|| Unfit::new("reads a node behind it"))?;
            let name = &self.nodes[*input].name;
            Ok(Input { name, schema })
        };
        let inputs: Vec<Input<'_>> = node.inputs.iter().map(input).collect::<Result<_, Unfit>>()?;
        if !node.op.takes(inputs.len()) {
            return Err(Unfit::new(format!("reads {} streams", inputs.len())));
        }
        match (&node.op, inputs.as_slice()) {
            (Op::Cogroup { keys, .. }, _) => cogroup(keys, &node.name, &inputs),
            (Op::StateSnapshots, _) => match &self.nodes[node.inputs[0]].op {
                Op::MapWithState { keyed, .. } => {
                    let records = node.inputs.first().and_then(|map| self.nodes[*map].inputs.first());
                    keyed.with_state(&known[*records.ok_or_else(|| Unfit::new("reads nothing"))?])
                }
                _ => Err(Unfit::new("snapshots of what has no state")),
            },
            (op, inputs) => op.output(inputs),
        }
    }
}

impl Op {
    fn takes(&self, streams: usize) -> bool {
        match self {
            Self::Source => streams == 0,
            Self::Union | Self::Cogroup { .. } => streams >= 2,
            Self::Join { .. } => streams == 2,
            Self::Transform(query) => streams == query.streams(),
            Self::TransformWith(query) => streams == 2 && query.streams() == 2,
            _ => streams == 1,
        }
    }

    /// The columns, unless they depend on names of streams.
    fn output(&self, inputs: &[Input<'_>]) -> Result<Schema, Unfit> {
        let Some(Input { schema, .. }) = inputs.first() else {
            return Ok(Model::source_columns());
        };
        match self {
            Self::Source
            | Self::Sample { .. }
            | Self::Accumulate
            | Self::MapPartitions
            | Self::Repartition(_)
            | Self::Window { .. } => Ok((*schema).clone()),
            Self::Map(columns) => typed(columns, schema),
            Self::FlatMap(columns) => spread(typed(columns, schema)?),
            Self::MapValues { keys, columns } => schema.select(keys)?.and(&typed(columns, schema)?),
            Self::FlatMapValues { keys, columns } => schema.select(keys)?.and(&spread(typed(columns, schema)?)?),
            Self::Filter(predicate) => match predicate.typed("predicate", schema, None)?.data_type {
                Type::Bool => Ok((*schema).clone()),
                other => Err(Unfit::new(format!("{} is {other:?}", predicate.sql()))),
            },
            Self::Glom => plain(schema),
            Self::PartitionBy { keys, .. } => {
                plain(&schema.select(keys)?)?;
                Ok((*schema).clone())
            }
            Self::Union => {
                for other in &inputs[1..] {
                    if !schema.matches(other.schema) {
                        return Err(Unfit::new("united streams have other columns"));
                    }
                }
                let anywhere = |column: &Column| {
                    let mut all = inputs.iter().map(|input| input.schema.column(&column.name));
                    let nullable = all.any(|other| other.is_ok_and(|other| other.nullable));
                    Column::new(&column.name, column.data_type.clone(), nullable)
                };
                Schema::new(schema.columns().iter().map(anywhere).collect())
            }
            Self::Count => Ok(count()),
            Self::CountByValue { .. } => plain(schema)?.and(&count()),
            Self::Distinct { .. } => plain(schema),
            Self::Reduce(reduction) => reduction.output(schema, schema),
            Self::ReduceByKey { keys, reduction, .. } => {
                let keys = plain(&typed(keys, schema)?)?;
                let values = schema.without(&names(&keys));
                keys.and(&reduction.output(schema, &values)?)
            }
            Self::Aggregate { keys, aggregates, .. } => {
                let keys = if keys.is_empty() {
                    Schema::default()
                } else {
                    plain(&typed(keys, schema)?)?
                };
                keys.and(&aggregated(aggregates, &Schema::default(), schema)?)
            }
            Self::GroupByKey { keys, .. } => {
                let keys = plain(&typed(keys, schema)?)?;
                let values = listed("values", &schema.without(&names(&keys)))?;
                keys.and(&Schema::new(vec![values])?)
            }
            Self::CombineByKey {
                keys,
                create,
                merge_value,
                merge_combiners,
                ..
            } => {
                let keys = plain(&typed(keys, schema)?)?;
                let combined = typed(create, schema)?.nullable();
                if !merge_value.is_empty() {
                    same(
                        &typed(merge_value, &combined.and(&prefixed("value_", schema))?)?,
                        &combined,
                    )?;
                }
                for column in combined.columns() {
                    let function = by_name(merge_combiners, &column.name)?;
                    same_type(function, &pair(column), column)?;
                }
                keys.and(&combined)
            }
            Self::SortBy { keys, .. } => {
                plain(schema)?;
                all_sorted(schema, keys.iter().map(|key| &key.column))
            }
            Self::Transform(query) | Self::TransformWith(query) => query.output(inputs),
            Self::Join { kind, on, .. } => {
                let [left, right] = inputs else {
                    return Err(Unfit::new("joins two streams"));
                };
                let (lefts, rights): (Vec<String>, Vec<String>) = on.iter().cloned().unzip();
                let keys = plain(&left.schema.select(&lefts)?)?;
                for (key, other) in keys.columns().iter().zip(right.schema.select(&rights)?.columns()) {
                    if key.data_type != other.data_type {
                        return Err(Unfit::new(format!("{} and {} are joined", key.name, other.name)));
                    }
                }
                let (left_missing, right_missing) = kind.missing();
                let widened = |schema: Schema, missing: bool| if missing { schema.nullable() } else { schema };
                let ours = widened(left.schema.without(&lefts), left_missing);
                let theirs = widened(right.schema.without(&rights), right_missing);
                let renamed = theirs.columns().iter().map(|column| Column {
                    name: joined_name(&column.name, left.schema, right.name),
                    ..column.clone()
                });
                keys.nullable().and(&ours)?.and(&Schema::new(renamed.collect())?)
            }
            Self::Windowed { op, filter, .. } => {
                let schema = op.output(inputs)?;
                match filter {
                    Some(filter) => Self::Filter(filter.clone()).output(&[Input {
                        name: inputs[0].name,
                        schema: &schema,
                    }]),
                    None => Ok(schema),
                }
            }
            Self::UpdateStateByKey(keyed) => {
                keyed.check(schema)?;
                keyed.with_state(schema)
            }
            Self::MapWithState { keyed, emit, .. } => {
                keyed.check(schema)?;
                // What is emitted by itself may not be called as what could be, either.
                let scope = keyed.emit_scope(schema)?;
                if emit.is_empty() {
                    keyed.with_state(schema)
                } else {
                    typed(emit, &scope)
                }
            }
            Self::Cogroup { .. } | Self::StateSnapshots => Err(Unfit::new("needs the names of streams")),
        }
    }
}

impl super::JoinKind {
    /// Whether records of the left and of the right may be missing in a pair.
    pub(crate) fn missing(self) -> (bool, bool) {
        match self {
            Self::Inner => (false, false),
            Self::LeftOuter => (false, true),
            Self::RightOuter => (true, false),
            Self::FullOuter => (true, true),
        }
    }
}

/// The name in a join's result of a column of the right side.
pub(crate) fn joined_name(column: &str, left: &Schema, right: &str) -> String {
    if left.position(column).is_some() {
        format!("{right}_{column}")
    } else {
        column.to_owned()
    }
}

impl Reduction {
    fn output(&self, records: &Schema, values: &Schema) -> Result<Schema, Unfit> {
        match self {
            Self::Aggregates(aggregates) => aggregated(aggregates, &Schema::default(), records),
            Self::Binary { columns, inverse } => {
                for column in values.columns() {
                    same_type(by_name(columns, &column.name)?, &pair(column), column)?;
                    if !inverse.is_empty() {
                        same_type(by_name(inverse, &column.name)?, &pair(column), column)?;
                    }
                }
                if values.columns().len() == columns.len() && !columns.is_empty() {
                    Ok(values.clone())
                } else {
                    Err(Unfit::new("one function for each value column"))
                }
            }
        }
    }
}

impl Query {
    fn output(&self, inputs: &[Input<'_>]) -> Result<Schema, Unfit> {
        let schema = inputs[0].schema;
        match self {
            Self::Select(columns) => typed(columns, schema),
            Self::Group { keys, aggregates } => {
                plain(&schema.select(keys)?)?.and(&aggregated(aggregates, &Schema::default(), schema)?)
            }
            Self::Top { keys, .. } => {
                plain(schema)?;
                all_sorted(schema, keys.iter().map(|key| &key.column))
            }
            Self::Number { key } => {
                schema.column(key)?;
                plain(schema)?.and(&Schema::of([Column::new("place", Type::Int, false)]))
            }
            Self::Above { column } => {
                int(schema, column)?;
                Ok(schema.clone())
            }
            Self::Join {
                key,
                other_key,
                left,
                right,
                outer,
            } => {
                let others = met(inputs, key, other_key)?;
                let others = prefixed("right_", &others.select(right)?);
                let others = if *outer { others.nullable() } else { others };
                schema.select([key])?.and(&schema.select(left)?)?.and(&others)
            }
            Self::Exists { key, other_key } | Self::NotIn { key, other_key } => {
                met(inputs, key, other_key)?;
                Ok(schema.clone())
            }
            Self::Lookup { key, left, outer, .. } => {
                int(schema, key)?;
                let label = Schema::of([Column::new("label", Type::Text, *outer)]);
                schema.select([key])?.and(&schema.select(left)?)?.and(&label)
            }
            Self::Native => Ok(Schema::of([Column::new("records", Type::Int, false)])),
        }
    }
}

/// The columns of the other stream, whose key is of the type of ours.
fn met<'a>(inputs: &[Input<'a>], key: &str, other_key: &str) -> Result<&'a Schema, Unfit> {
    let [ours, theirs] = inputs else {
        return Err(Unfit::new("joins two streams"));
    };
    let (key, other_key) = (ours.schema.column(key)?, theirs.schema.column(other_key)?);
    if key.data_type == other_key.data_type && key.data_type.is_plain() {
        Ok(theirs.schema)
    } else {
        Err(Unfit::new(format!("{} and {} are joined", key.name, other_key.name)))
    }
}

fn int(schema: &Schema, column: &str) -> Result<(), Unfit> {
    match &schema.column(column)?.data_type {
        Type::Int => Ok(()),
        other => Err(Unfit::new(format!("{column} is {other:?}"))),
    }
}

impl Keyed {
    fn check(&self, records: &Schema) -> Result<(), Unfit> {
        plain(&records.select(&self.keys)?)?;
        let scope = self.scope(records)?;
        for column in &self.state {
            let found = column.expr.typed(&column.name, &scope, None)?;
            if found.data_type != column.data_type {
                return Err(Unfit::new(format!("{} is {:?}", column.expr.sql(), found.data_type)));
            }
        }
        Ok(())
    }

    /// The columns of the state, all of which may be null.
    pub(crate) fn state_columns(&self) -> Result<Schema, Unfit> {
        let columns = self
            .state
            .iter()
            .map(|column| Column::new(&column.name, column.data_type.clone(), true));
        Schema::new(columns.collect())
    }

    /// The columns of the aggregated values.
    pub(crate) fn value_columns(&self, records: &Schema) -> Result<Schema, Unfit> {
        aggregated(&self.values, &Schema::default(), records)
    }

    /// The key columns and those of the state.
    pub(crate) fn with_state(&self, records: &Schema) -> Result<Schema, Unfit> {
        records.select(&self.keys)?.nullable().and(&self.state_columns()?)
    }

    /// What the columns of the state are made from.
    pub(crate) fn scope(&self, records: &Schema) -> Result<Schema, Unfit> {
        self.with_state(records)?.and(&self.value_columns(records)?)
    }

    /// What emitted columns are made from.
    pub(crate) fn emit_scope(&self, records: &Schema) -> Result<Schema, Unfit> {
        self.scope(records)?
            .and(&prefixed("old_", &self.state_columns()?))?
            .and(&Schema::of([Column::new("timing_out", Type::Bool, false)]))
    }
}

/// The column `count`.
fn count() -> Schema {
    Schema::of([Column::new("count", Type::Int, false)])
}

fn names(schema: &Schema) -> Vec<String> {
    schema.names().map(str::to_owned).collect()
}

fn plain(schema: &Schema) -> Result<Schema, Unfit> {
    if schema.is_plain() {
        Ok(schema.clone())
    } else {
        Err(Unfit::new("lists are compared"))
    }
}

fn typed(columns: &[Named], schema: &Schema) -> Result<Schema, Unfit> {
    aggregated_or_not(columns, schema, None)
}

fn aggregated(columns: &[Named], keys: &Schema, records: &Schema) -> Result<Schema, Unfit> {
    aggregated_or_not(columns, keys, Some(records))
}

fn aggregated_or_not(columns: &[Named], schema: &Schema, records: Option<&Schema>) -> Result<Schema, Unfit> {
    if columns.is_empty() {
        return Err(Unfit::new("no columns"));
    }
    let columns = columns
        .iter()
        .map(|column| column.expr.typed(&column.name, schema, records));
    Schema::new(columns.collect::<Result<_, _>>()?)
}

/// Columns whose lists are spread over records. A list without order has nothing beside it to be in step with.
fn spread(schema: Schema) -> Result<Schema, Unfit> {
    let lists = schema
        .columns()
        .iter()
        .filter(|column| column.data_type.item().is_some());
    let lists: Vec<&Column> = lists.collect();
    let unordered = lists.iter().any(|column| matches!(column.data_type, Type::Bag(_)));
    if lists.is_empty() || (unordered && lists.len() > 1) {
        return Err(Unfit::new(format!("spreads {} lists", lists.len())));
    }
    let columns = schema.columns().iter().map(|column| match column.data_type.item() {
        Some(item) => Column::new(&column.name, item.clone(), true),
        None => column.clone(),
    });
    Schema::new(columns.collect())
}

/// Values in a list: those of the only column, else structs of all.
fn listed(name: &str, values: &Schema) -> Result<Column, Unfit> {
    let item = match plain(values)?.columns() {
        [] => return Err(Unfit::new("no value columns")),
        [only] => only.data_type.clone(),
        all => Type::Struct(all.to_vec()),
    };
    Ok(Column::new(name, Type::Bag(Box::new(item)), false))
}

fn cogroup(keys: &[String], own: &str, inputs: &[Input<'_>]) -> Result<Schema, Unfit> {
    let key_columns = plain(&inputs[0].schema.select(keys)?)?;
    let mut lists = Vec::new();
    for (i, input) in inputs.iter().enumerate() {
        if !key_columns.nullable().matches(&input.schema.select(keys)?.nullable()) {
            return Err(Unfit::new("keys of other types"));
        }
        let name = if i == 0 { own } else { input.name };
        lists.push(listed(name, &input.schema.without(keys))?);
    }
    key_columns.nullable().and(&Schema::new(lists)?)
}

fn prefixed(prefix: &str, schema: &Schema) -> Schema {
    schema.renamed(|name| format!("{prefix}{name}"))
}

/// The scope of a binary function.
pub(crate) fn pair(column: &Column) -> Schema {
    Schema::of(["a", "b"].map(|name| Column {
        name: name.to_owned(),
        ..column.clone()
    }))
}

/// The function of a column.
pub(crate) fn by_name<'a>(functions: &'a [Named], column: &str) -> Result<&'a Expr, Unfit> {
    let function = functions.iter().find(|function| function.name == column);
    let function = function.ok_or_else(|| Unfit::new(format!("no function for {column}")))?;
    Ok(&function.expr)
}

/// A binary function gives what it takes, also a null only where it takes some.
fn same_type(function: &Expr, scope: &Schema, column: &Column) -> Result<(), Unfit> {
    let found = function.typed(&column.name, scope, None)?;
    if found.data_type == column.data_type && (column.nullable || !found.nullable) {
        Ok(())
    } else {
        Err(Unfit::new(format!("{} is {:?}", function.sql(), found.data_type)))
    }
}

fn same(found: &Schema, wanted: &Schema) -> Result<(), Unfit> {
    if found.matches(wanted) {
        Ok(())
    } else {
        Err(Unfit::new("other combined columns"))
    }
}

/// A total order needs every column.
fn all_sorted<'a>(schema: &Schema, keys: impl Iterator<Item = &'a String>) -> Result<Schema, Unfit> {
    let keys: Vec<&String> = keys.collect();
    match schema.names().find(|name| !keys.iter().any(|key| key == name)) {
        None => Ok(schema.clone()),
        Some(name) => Err(Unfit::new(format!("not sorted by {name}"))),
    }
}
