//! Records made one by functions of two records: binary reductions and `combine_by_key`.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::error::Result;
use datafusion::functions::core::expr_fn::get_field;
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::{AggregateUDF, Expr, LogicalPlan, LogicalPlanBuilder, cast, col, ident, lit};
use datafusion::physical_expr::PhysicalExpr;
use tidemill_dstream::{Function, Line, NamedFunction};

use super::aggregates::ROWS;
use super::{Faults, StepBuilder, duplicates, same_type, values};
use crate::compile::diagnose::Place;
use crate::compile::expressions::{Scope, Typed, physical};
use crate::fold::{EARLIER, Fold, FoldFunction, LATER, Records, pair};

/// What a record's columns are called where they meet combined ones of the same names.
const RECORD_PREFIX: &str = "value_";

/// `combine_by_key` beside its keys.
#[derive(Clone, Copy)]
pub(in crate::compile) struct Combine<'a> {
    pub(in crate::compile) create: &'a [NamedFunction],
    pub(in crate::compile) merge_value: &'a [NamedFunction],
    pub(in crate::compile) merge_combiners: &'a [NamedFunction],
}

impl StepBuilder<'_> {
    /// `reduce` by a function for each column.
    pub(in crate::compile) fn fold(
        &self,
        input: LogicalPlan,
        functions: &[NamedFunction],
        inverse: &[NamedFunction],
    ) -> Result<LogicalPlan, Faults> {
        let folds = self.folds(&input, &[], functions, inverse)?;
        let names: Vec<Expr> = values(&input, []).iter().map(|(name, _)| ident(name)).collect();
        // Without records there is no result.
        let rows = count(lit(1)).alias(ROWS);
        self.finish(
            LogicalPlanBuilder::from(input)
                .aggregate(Vec::<Expr>::new(), folds.into_iter().chain([rows]))
                .and_then(|folded| folded.filter(col(ROWS).gt(lit(0i64))))
                .and_then(|present| present.project(names)),
        )
    }

    /// `reduce_by_key` by a function for each value column.
    pub(in crate::compile) fn fold_by_key(
        &self,
        input: LogicalPlan,
        keys: &[NamedFunction],
        functions: &[NamedFunction],
        inverse: &[NamedFunction],
    ) -> Result<LogicalPlan, Faults> {
        let groups = self.groups(&input, keys)?;
        let folds = self.folds(&input, keys, functions, inverse)?;
        self.finish(LogicalPlanBuilder::from(input).aggregate(groups, folds))
    }

    /// For each value column its fold.
    fn folds(
        &self,
        input: &LogicalPlan,
        keys: &[NamedFunction],
        functions: &[NamedFunction],
        inverse: &[NamedFunction],
    ) -> Result<Vec<Expr>, Faults> {
        let values = values(input, keys.iter().map(|key| &key.name));
        let by_column = self.by_column(&values, functions, &self.place.child("function", Line(None)));
        let inverses = match inverse {
            [] => Ok(Vec::new()),
            inverse => self.by_column(&values, inverse, &self.place.child("inverse", Line(None))),
        };
        let (by_column, inverses) = match (by_column, inverses) {
            (Ok(functions), Ok(inverses)) => (functions, inverses),
            (functions, inverses) => {
                return Err([functions.err(), inverses.err()]
                    .into_iter()
                    .flatten()
                    .flatten()
                    .collect());
            }
        };
        let mut faults = Vec::new();
        let mut folds = Vec::new();
        let checked = inverses
            .iter()
            .zip(&values)
            .map(|((function, place), (name, data_type))| self.merge(function, name, data_type, place).map(|_| ()));
        faults.extend(checked.filter_map(Result::err));
        for ((function, place), (name, data_type)) in by_column.iter().zip(&values) {
            match self.merge(function, name, data_type, place) {
                Ok(merge) => folds.push(fold_of(name, data_type, function, merge)),
                Err(fault) => faults.push(fault),
            }
        }
        if faults.is_empty() { Ok(folds) } else { Err(faults) }
    }

    /// The function of each value column, with its place.
    fn by_column<'f>(
        &self,
        values: &[(String, DataType)],
        functions: &'f [NamedFunction],
        place: &Place,
    ) -> Result<Vec<(&'f Function, Place)>, Faults> {
        if let [only] = functions
            && only.name.is_empty()
        {
            let names: Vec<String> = values.iter().map(|(name, _)| format!("`{name}`")).collect();
            return match values {
                [_] => Ok(vec![(&only.function, place.clone())]),
                [] => Err(vec![
                    place.diagnostic("every column is a key, so there is nothing to reduce"),
                ]),
                _ => Err(vec![
                    place
                        .diagnostic(format!("there are {} value columns: {}", names.len(), names.join(", ")))
                        .hint("give a function for each of them by its name"),
                ]),
            };
        }
        let mut faults = duplicates(place, functions);
        let known: Vec<&str> = values.iter().map(|(name, _)| name.as_str()).collect();
        faults.extend(
            functions
                .iter()
                .filter(|function| !known.contains(&function.name.as_str()))
                .map(|function| {
                    place
                        .child(&function.name, function.line)
                        .diagnostic(format!("there is no value column `{}`", function.name))
                        .suggest(&function.name, known.clone())
                }),
        );
        let mut by_column = Vec::with_capacity(values.len());
        for (name, _) in values {
            match functions.iter().find(|function| function.name == *name) {
                Some(function) => by_column.push((&function.function, place.child(name, function.line))),
                None => faults.push(
                    place
                        .diagnostic(format!("no function for the value column `{name}`"))
                        .subject(name.clone())
                        .hint("give one, or leave the column out in a map"),
                ),
            }
        }
        if faults.is_empty() { Ok(by_column) } else { Err(faults) }
    }

    /// A function of two values of a column, which gives a third.
    fn merge(
        &self,
        function: &Function,
        column: &str,
        data_type: &DataType,
        place: &Place,
    ) -> Result<Arc<dyn PhysicalExpr>, tidemill_dstream::Diagnostic> {
        self.function_of(function, column, data_type, &pair(data_type), place)
    }

    /// A function over `scope` that gives the column.
    fn function_of(
        &self,
        function: &Function,
        column: &str,
        data_type: &DataType,
        scope: &SchemaRef,
        place: &Place,
    ) -> Result<Arc<dyn PhysicalExpr>, tidemill_dstream::Diagnostic> {
        let explain = |e| place.explain(&e, self.state);
        let columns = Arc::new(DFSchema::try_from(Arc::clone(scope)).map_err(explain)?);
        let scope = Scope {
            state: self.state,
            columns: Arc::clone(&columns),
        };
        let Typed { expr, data_type: found } = scope.scalar(function, place)?;
        if expr.is_volatile() {
            return Err(place
                .diagnostic("gives something else each time, so the order of reducing would show")
                .hint("call it in a map before"));
        }
        if !gives(&found, data_type) {
            return Err(place
                .diagnostic(format!("gives {found}, and the column `{column}` is {data_type}"))
                .hint(format!(
                    "cast the result, or the column in a map before; for example CAST({EARLIER} + {LATER} AS BIGINT)"
                )));
        }
        let expr = if found == *data_type {
            expr
        } else {
            cast(expr, data_type.clone())
        };
        physical(expr, &columns, self.state).map_err(explain)
    }

    pub(in crate::compile) fn combine_by_key(
        &self,
        input: LogicalPlan,
        keys: &[NamedFunction],
        combine: Combine<'_>,
    ) -> Result<LogicalPlan, Faults> {
        let mut faults = duplicates(self.place, keys.iter().chain(combine.create));
        let groups = self.groups(&input, keys).map_err(|found| faults.extend(found));
        let create = StepBuilder {
            state: self.state,
            place: &self.place.child("create", Line(None)),
        };
        let created = create
            .scalars(&input, combine.create)
            .map_err(|found| faults.extend(found));
        let (Ok(groups), Ok(created), true) = (groups, created, faults.is_empty()) else {
            return Err(faults);
        };
        let columns: Vec<(String, DataType)> = created
            .iter()
            .zip(combine.create)
            .map(|(typed, column)| (column.name.clone(), typed.data_type.clone()))
            .collect();
        if let Some((name, _)) = columns.iter().find(|(_, data_type)| *data_type == DataType::Null) {
            return Err(vec![
                create
                    .place
                    .diagnostic(format!("the type of `{name}` cannot be told"))
                    .subject(name.clone())
                    .hint("cast it, such as `CAST(NULL AS BIGINT)`"),
            ]);
        }
        let place = self.place.child("merge_combiners", Line(None));
        let merge = self.by_column(&columns, combine.merge_combiners, &place)?;
        if !combine.merge_value.is_empty() {
            return self.combine_records(input, groups, keys, combine, created, &columns, &merge);
        }
        let (mut folds, mut faults) = (Vec::new(), Vec::new());
        for ((function, place), (name, data_type)) in merge.iter().zip(&columns) {
            match self.merge(function, name, data_type, place) {
                Ok(merge) => folds.push(fold_of(name, data_type, function, merge)),
                Err(fault) => faults.push(fault),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let names: Vec<Expr> = keys.iter().map(|key| ident(&key.name)).collect();
        let combined = created.into_iter().zip(combine.create);
        let combined = combined.map(|(typed, column)| typed.expr.alias(&column.name));
        self.finish(
            LogicalPlanBuilder::from(input)
                .project(groups.into_iter().chain(combined))
                .and_then(|combined| combined.aggregate(names, folds)),
        )
    }

    /// With a function that takes one more record into a combined value: all columns in one fold.
    #[expect(clippy::too_many_arguments, reason = "what combine_by_key has found so far")]
    fn combine_records(
        &self,
        input: LogicalPlan,
        groups: Vec<Expr>,
        keys: &[NamedFunction],
        combine: Combine<'_>,
        created: Vec<Typed>,
        columns: &[(String, DataType)],
        merge: &[(&Function, Place)],
    ) -> Result<LogicalPlan, Faults> {
        let place = self.place.child("merge_value", Line(None));
        let merge_value = self.by_column(columns, combine.merge_value, &place)?;
        let record: Vec<Field> = input
            .schema()
            .fields()
            .iter()
            .map(|field| Field::new(field.name(), field.data_type().clone(), true))
            .collect();
        let combined: Vec<Field> = columns
            .iter()
            .map(|(name, data_type)| Field::new(name, data_type.clone(), true))
            .collect();
        let in_scope = |field: &Field| field.clone().with_name(format!("{RECORD_PREFIX}{}", field.name()));
        let scope: Vec<Field> = combined.iter().cloned().chain(record.iter().map(in_scope)).collect();
        let mut seen = HashSet::new();
        if let Some(twice) = scope.iter().find(|field| !seen.insert(field.name().clone())) {
            return Err(vec![
                place
                    .diagnostic(format!("`{}` is a combined column and one of the record", twice.name()))
                    .subject(twice.name().clone())
                    .hint("give the combined column another name"),
            ]);
        }
        let (record, combined, scope) = (schema(record), schema(combined), schema(scope));
        let mut faults = Vec::new();
        let mut found = |function: Result<_, tidemill_dstream::Diagnostic>| match function {
            Ok(function) => Some(function),
            Err(fault) => {
                faults.push(fault);
                None
            }
        };
        let merges = merge
            .iter()
            .zip(columns)
            .filter_map(|((function, place), (name, data_type))| found(self.merge(function, name, data_type, place)));
        let merges: Vec<_> = merges.collect();
        let takes = merge_value
            .iter()
            .zip(columns)
            .filter_map(|((function, place), (name, data_type))| {
                found(self.function_of(function, name, data_type, &scope, place))
            });
        let takes: Vec<_> = takes.collect();
        if !faults.is_empty() {
            return Err(faults);
        }
        let explain = |e| vec![self.place.explain(&e, self.state)];
        // The columns of a stream that is read as it is are qualified by its name.
        let of_record = Arc::clone(input.schema());
        let create = created
            .into_iter()
            .map(|typed| physical(typed.expr, &of_record, self.state))
            .collect::<Result<Vec<_>>>()
            .map_err(explain)?;
        let args: Vec<Expr> = record.fields().iter().map(|field| ident(field.name())).collect();
        let fold = Fold {
            columns: Arc::clone(&combined),
            merge: merges,
            records: Some(Records {
                columns: record,
                create,
                scope,
                merge: takes,
            }),
        };
        let texts: Vec<String> = combine.merge_value.iter().map(|f| text(&f.function)).collect();
        let function = FoldFunction::new(format!("combine[{}]", texts.join(", ")), fold);
        let folded = AggregateUDF::from(function).call(args).alias(COMBINED);
        let keys = keys.iter().map(|key| ident(&key.name));
        let results = match columns {
            [(only, _)] => vec![ident(COMBINED).alias(only)],
            several => several
                .iter()
                .map(|(name, _)| get_field(ident(COMBINED), name.as_str()).alias(name))
                .collect(),
        };
        self.finish(
            LogicalPlanBuilder::from(input)
                .aggregate(groups, [folded])
                .and_then(|folded| folded.project(keys.chain(results))),
        )
    }
}

/// The hidden column of all combined columns.
const COMBINED: &str = "__combined";

fn schema(fields: Vec<Field>) -> SchemaRef {
    Arc::new(Schema::new(fields))
}

/// The fold of a column by a function of two of its values.
fn fold_of(column: &str, data_type: &DataType, function: &Function, merge: Arc<dyn PhysicalExpr>) -> Expr {
    let fold = Fold {
        columns: schema(vec![Field::new(column, data_type.clone(), true)]),
        merge: vec![merge],
        records: None,
    };
    let function = FoldFunction::new(format!("fold[{}]", text(function)), fold);
    AggregateUDF::from(function).call(vec![ident(column)]).alias(column)
}

/// A function as people know it.
fn text(function: &Function) -> String {
    match function {
        Function::Expr(sql) => sql.clone(),
        Function::Native(call) => call.name.clone(),
    }
}

/// Whether a result is a column's value without a change that could surprise.
fn gives(found: &DataType, column: &DataType) -> bool {
    let decimals = |t: &DataType| match t {
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale)
        | DataType::Decimal256(_, scale) => Some(*scale),
        _ => None,
    };
    same_type(found, column)
        || *found == DataType::Null
        || (found.is_integer() && column.is_integer())
        || (decimals(found).is_some() && decimals(found) == decimals(column))
}
