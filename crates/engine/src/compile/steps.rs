//! The operators of a stream as logical plans.
//!
//! Every step gives a plan whose columns are unqualified and have distinct names, so that the next step's expressions
//! see the names that the job file shows.

use std::collections::HashSet;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, UnnestOptions};
use datafusion::error::Result;
use datafusion::execution::session_state::SessionState;
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::utils::find_aggregate_exprs;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, col, ident, lit};
use tidemill_dstream::{Diagnostic, Function, NamedFunction};

use super::diagnose::Place;
use super::expressions::{Scope, Typed};

type Faults = Vec<Diagnostic>;

/// One step being added to a stream.
pub(super) struct StepBuilder<'a> {
    pub(super) state: &'a SessionState,
    pub(super) place: &'a Place,
}

impl StepBuilder<'_> {
    pub(super) fn map(&self, input: LogicalPlan, columns: &[NamedFunction]) -> Result<LogicalPlan, Faults> {
        let typed = self.scalars(&input, columns)?;
        let exprs = typed
            .into_iter()
            .zip(columns)
            .map(|(typed, column)| typed.expr.alias(&column.name));
        self.finish(LogicalPlanBuilder::from(input).project(exprs))
    }

    pub(super) fn flat_map(&self, input: LogicalPlan, columns: &[NamedFunction]) -> Result<LogicalPlan, Faults> {
        let typed = self.scalars(&input, columns)?;
        let lists: Vec<Column> = typed
            .iter()
            .zip(columns)
            .filter(|(typed, _)| is_list(&typed.data_type))
            .map(|(_, column)| Column::new_unqualified(&column.name))
            .collect();
        if lists.is_empty() {
            let types: Vec<String> = typed
                .iter()
                .zip(columns)
                .map(|(typed, column)| format!("`{}` is {}", column.name, typed.data_type))
                .collect();
            return Err(vec![
                self.place
                    .diagnostic(format!("no column is a list: {}", types.join(", ")))
                    .hint("one has to be, for example string_to_array(value, ' '); for one record to one use map"),
            ]);
        }
        let exprs = typed
            .into_iter()
            .zip(columns)
            .map(|(typed, column)| typed.expr.alias(&column.name));
        let options = UnnestOptions::new().with_preserve_nulls(false);
        self.finish(
            LogicalPlanBuilder::from(input)
                .project(exprs)
                .and_then(|projected| projected.unnest_columns_with_options(lists, options)),
        )
    }

    pub(super) fn filter(&self, input: LogicalPlan, predicate: &Function) -> Result<LogicalPlan, Faults> {
        let typed = Scope::after(&input, self.state)
            .scalar(predicate, self.place)
            .map_err(|fault| vec![fault])?;
        if !matches!(typed.data_type, DataType::Boolean | DataType::Null) {
            return Err(vec![
                self.place
                    .diagnostic(format!("the predicate is {}, it has to be Boolean", typed.data_type))
                    .hint("compare it with something, for example `count > 1`"),
            ]);
        }
        if !typed.expr.is_volatile() {
            return self.finish(LogicalPlanBuilder::from(input).filter(typed.expr));
        }
        // A predicate on a random number is about the records of this step. The optimizer would move it below a
        // flat_map, for it names no column; it leaves a column where it is.
        let columns: Vec<Expr> = input
            .schema()
            .iter()
            .map(|field| Expr::Column(Column::from(field)))
            .collect();
        let drawn = columns.iter().cloned().chain([typed.expr.alias(KEEP)]);
        self.finish(
            LogicalPlanBuilder::from(input)
                .project(drawn)
                .and_then(|drawn| drawn.filter(col(KEEP)))
                .and_then(|kept| kept.project(columns)),
        )
    }

    /// `others` are streams by name, with plans that scan them.
    pub(super) fn union(&self, input: LogicalPlan, others: Vec<(String, LogicalPlan)>) -> Result<LogicalPlan, Faults> {
        let mut faults = Vec::new();
        let mut union = LogicalPlanBuilder::from(input.clone());
        for (name, other) in others {
            match self.align(&input, &name, other) {
                Ok(aligned) => {
                    union = union
                        .union(aligned)
                        .map_err(|e| vec![self.place.explain(&e, self.state)])?;
                }
                Err(fault) => faults.extend(fault),
            }
        }
        if faults.is_empty() {
            self.finish(Ok(union))
        } else {
            Err(faults)
        }
    }

    /// The other stream with this one's columns, in this one's order.
    fn align(&self, input: &LogicalPlan, name: &str, other: LogicalPlan) -> Result<LogicalPlan, Faults> {
        let mut faults = Vec::new();
        let theirs = other.schema();
        for (_, field) in input.schema().iter() {
            match theirs.field_with_unqualified_name(field.name()) {
                Ok(found) if same_type(field.data_type(), found.data_type()) => {}
                Ok(found) => faults.push(
                    self.place
                        .diagnostic(format!(
                            "column `{}` is {} here and {} in stream `{name}`",
                            field.name(),
                            field.data_type(),
                            found.data_type()
                        ))
                        .subject(field.name().clone())
                        .hint("cast one of them in a map"),
                ),
                Err(_) => {
                    let known: Vec<&str> = theirs.fields().iter().map(|field| field.name().as_str()).collect();
                    faults.push(
                        self.place
                            .diagnostic(format!("stream `{name}` has no column `{}`", field.name()))
                            .suggest(field.name(), known),
                    );
                }
            }
        }
        let ours = input.schema();
        for field in theirs
            .fields()
            .iter()
            .filter(|field| !ours.has_column_with_unqualified_name(field.name()))
        {
            faults.push(
                self.place
                    .diagnostic(format!(
                        "stream `{name}` has a column `{}` that is not here",
                        field.name()
                    ))
                    .subject(field.name().clone())
                    .hint("both streams need the same columns; choose them in a map"),
            );
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let columns = ours.fields().iter().map(|field| ident(field.name()));
        let columns: Vec<Expr> = columns.collect();
        LogicalPlanBuilder::from(other)
            .project(columns)
            .and_then(LogicalPlanBuilder::build)
            .map_err(|e| vec![self.place.explain(&e, self.state)])
    }

    pub(super) fn reduce_by_key(
        &self,
        input: LogicalPlan,
        keys: &[NamedFunction],
        aggregates: &[NamedFunction],
    ) -> Result<LogicalPlan, Faults> {
        if keys.is_empty() {
            return Err(vec![
                self.place
                    .diagnostic("has no key")
                    .hint("use reduce to aggregate the whole batch"),
            ]);
        }
        let mut faults = duplicates(self.place, keys.iter().chain(aggregates));
        let typed = self.scalars(&input, keys).map_err(|found| faults.extend(found));
        let exprs = self
            .aggregates(&input, aggregates)
            .map_err(|found| faults.extend(found));
        let (Ok(typed), Ok(exprs), true) = (typed, exprs, faults.is_empty()) else {
            return Err(faults);
        };
        let groups: Vec<Expr> = typed
            .into_iter()
            .zip(keys)
            .map(|(typed, key)| typed.expr.alias(&key.name))
            .collect();
        let inner = find_aggregate_exprs(&exprs);
        let grouped = LogicalPlanBuilder::from(input)
            .aggregate(groups.clone(), inner.clone())
            .and_then(LogicalPlanBuilder::build)
            .map_err(|e| vec![self.place.explain(&e, self.state)])?;
        let outer = self.over_groups(&grouped, groups.len(), &inner, exprs, aggregates)?;
        let keys = keys.iter().map(|key| ident(&key.name));
        self.finish(LogicalPlanBuilder::from(grouped).project(keys.chain(outer)))
    }

    pub(super) fn reduce(&self, input: LogicalPlan, aggregates: &[NamedFunction]) -> Result<LogicalPlan, Faults> {
        let faults = duplicates(self.place, aggregates);
        if !faults.is_empty() {
            return Err(faults);
        }
        let exprs = self.aggregates(&input, aggregates)?;
        let inner = find_aggregate_exprs(&exprs);
        // Without records there is no result, where SQL has one of nulls and zeros.
        let rows = count(lit(1)).alias(ROWS);
        let grouped = LogicalPlanBuilder::from(input)
            .aggregate(Vec::<Expr>::new(), inner.iter().cloned().chain([rows]))
            .and_then(LogicalPlanBuilder::build)
            .map_err(|e| vec![self.place.explain(&e, self.state)])?;
        let outer = self.over_groups(&grouped, 0, &inner, exprs, aggregates)?;
        self.finish(
            LogicalPlanBuilder::from(grouped)
                .filter(col(ROWS).gt(lit(0i64)))
                .and_then(|present| present.project(outer)),
        )
    }

    pub(super) fn count(&self, input: LogicalPlan) -> Result<LogicalPlan, Faults> {
        self.finish(LogicalPlanBuilder::from(input).aggregate(Vec::<Expr>::new(), [count(lit(1)).alias("count")]))
    }

    fn scalars(&self, input: &LogicalPlan, columns: &[NamedFunction]) -> Result<Vec<Typed>, Faults> {
        let scope = Scope::after(input, self.state);
        let mut faults = duplicates(self.place, columns);
        let mut typed = Vec::with_capacity(columns.len());
        for column in columns {
            match scope.scalar(&column.function, &self.place.child(&column.name, column.line)) {
                Ok(expr) => typed.push(expr),
                Err(fault) => faults.push(fault),
            }
        }
        if columns.is_empty() {
            faults.push(self.place.diagnostic("has no columns").hint("write `name: expression`"));
        }
        if faults.is_empty() { Ok(typed) } else { Err(faults) }
    }

    fn aggregates(&self, input: &LogicalPlan, columns: &[NamedFunction]) -> Result<Vec<Expr>, Faults> {
        let scope = Scope::after(input, self.state);
        let mut faults = Vec::new();
        let mut exprs = Vec::with_capacity(columns.len());
        for column in columns {
            match scope.aggregate(&column.function, &self.place.child(&column.name, column.line)) {
                Ok(expr) => exprs.push(expr),
                Err(fault) => faults.push(fault),
            }
        }
        if columns.is_empty() {
            faults.push(
                self.place
                    .diagnostic("has no aggregates")
                    .hint("write for example `count: count(*)`"),
            );
        }
        if faults.is_empty() { Ok(exprs) } else { Err(faults) }
    }

    /// The named expressions over the aggregated relation: `sum(x) / count(*)` becomes a quotient of two of its columns.
    fn over_groups(
        &self,
        grouped: &LogicalPlan,
        keys: usize,
        inner: &[Expr],
        exprs: Vec<Expr>,
        named: &[NamedFunction],
    ) -> Result<Vec<Expr>, Faults> {
        let mut faults = Vec::new();
        let mut outer = Vec::with_capacity(exprs.len());
        for (expr, named) in exprs.into_iter().zip(named) {
            let place = self.place.child(&named.name, named.line);
            let rebased = expr
                .transform_down(|node| {
                    Ok(match inner.iter().position(|aggregate| *aggregate == node) {
                        Some(at) => {
                            let (qualifier, field) = grouped.schema().qualified_field(keys + at);
                            let column = Expr::Column(Column::from((qualifier, field)));
                            Transformed::new(column, true, datafusion::common::tree_node::TreeNodeRecursion::Jump)
                        }
                        None => Transformed::no(node),
                    })
                })
                .data();
            let rebased = match rebased {
                Ok(rebased) => rebased,
                Err(error) => {
                    faults.push(place.explain(&error, self.state));
                    continue;
                }
            };
            match rebased
                .column_refs()
                .into_iter()
                .find(|column| !grouped.schema().has_column(column))
            {
                Some(column) => faults.push(
                    place
                        .diagnostic(format!(
                            "column `{}` is neither a key nor inside of an aggregate",
                            column.name
                        ))
                        .subject(column.name.clone())
                        .hint(format!("for example max({})", column.name)),
                ),
                None => outer.push(rebased.alias(&named.name)),
            }
        }
        if faults.is_empty() { Ok(outer) } else { Err(faults) }
    }

    pub(super) fn finish(&self, plan: Result<LogicalPlanBuilder>) -> Result<LogicalPlan, Faults> {
        plan.and_then(LogicalPlanBuilder::build)
            .and_then(|plan| super::expressions::analyze(plan, self.state))
            .and_then(unqualified)
            .map_err(|error| vec![self.place.explain(&error, self.state)])
    }
}

/// The name of the hidden column that a volatile predicate becomes.
const KEEP: &str = "__keep";

/// The name of the hidden column that counts the rows of a batch.
const ROWS: &str = "__rows";

/// The plan with columns that no relation qualifies.
pub(super) fn unqualified(plan: LogicalPlan) -> Result<LogicalPlan> {
    if plan.schema().iter().all(|(qualifier, _)| qualifier.is_none()) {
        return Ok(plan);
    }
    let columns: Vec<Expr> = plan
        .schema()
        .iter()
        .map(|(qualifier, field)| Expr::Column(Column::from((qualifier, field))).alias(field.name()))
        .collect();
    LogicalPlanBuilder::from(plan).project(columns)?.build()
}

fn duplicates<'a>(place: &Place, columns: impl IntoIterator<Item = &'a NamedFunction>) -> Faults {
    let mut seen = HashSet::new();
    columns
        .into_iter()
        .filter(|column| !seen.insert(column.name.as_str()))
        .map(|column| {
            place
                .child(&column.name, column.line)
                .diagnostic(format!("column `{}` is defined twice", column.name))
                .subject(column.name.clone())
        })
        .collect()
}

fn is_list(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::List(_)
            | DataType::LargeList(_)
            | DataType::FixedSizeList(..)
            | DataType::ListView(_)
            | DataType::LargeListView(_)
    )
}

fn same_type(left: &DataType, right: &DataType) -> bool {
    let text = |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    left.equals_datatype(right) || (text(left) && text(right))
}
