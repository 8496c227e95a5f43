//! Records made one by named aggregates, by keys or all together.

use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::functions_aggregate::expr_fn::{array_agg, count};
use datafusion::logical_expr::utils::find_aggregate_exprs;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, col, ident, lit};
use tidemill_dstream::NamedFunction;

use super::{Faults, StepBuilder, as_one, duplicates, values};
use crate::compile::expressions::{Scope, told_apart};

impl StepBuilder<'_> {
    pub(in crate::compile) fn reduce_by_key(
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
            .aggregate(groups.clone(), told_apart(&inner))
            .and_then(LogicalPlanBuilder::build)
            .map_err(|e| vec![self.place.explain(&e, self.state)])?;
        let outer = self.over_groups(&grouped, groups.len(), &inner, exprs, aggregates)?;
        let keys = keys.iter().map(|key| ident(&key.name));
        self.finish(LogicalPlanBuilder::from(grouped).project(keys.chain(outer)))
    }

    pub(in crate::compile) fn reduce(
        &self,
        input: LogicalPlan,
        aggregates: &[NamedFunction],
    ) -> Result<LogicalPlan, Faults> {
        let faults = duplicates(self.place, aggregates);
        if !faults.is_empty() {
            return Err(faults);
        }
        let exprs = self.aggregates(&input, aggregates)?;
        let inner = find_aggregate_exprs(&exprs);
        // Without records there is no result, where SQL has one of nulls and zeros.
        let rows = count(lit(1)).alias(ROWS);
        let grouped = LogicalPlanBuilder::from(input)
            .aggregate(Vec::<Expr>::new(), told_apart(&inner).into_iter().chain([rows]))
            .and_then(LogicalPlanBuilder::build)
            .map_err(|e| vec![self.place.explain(&e, self.state)])?;
        let outer = self.over_groups(&grouped, 0, &inner, exprs, aggregates)?;
        self.finish(
            LogicalPlanBuilder::from(grouped)
                .filter(col(ROWS).gt(lit(0i64)))
                .and_then(|present| present.project(outer)),
        )
    }

    /// Named aggregates by any grouping; without keys as SQL has them, which gives a record for an empty batch too.
    pub(in crate::compile) fn aggregate(
        &self,
        input: LogicalPlan,
        keys: &[NamedFunction],
        aggregates: &[NamedFunction],
    ) -> Result<LogicalPlan, Faults> {
        if !keys.is_empty() {
            return self.reduce_by_key(input, keys, aggregates);
        }
        let faults = duplicates(self.place, aggregates);
        if !faults.is_empty() {
            return Err(faults);
        }
        let exprs = self.aggregates(&input, aggregates)?;
        let inner = find_aggregate_exprs(&exprs);
        let grouped = LogicalPlanBuilder::from(input)
            .aggregate(Vec::<Expr>::new(), told_apart(&inner))
            .and_then(LogicalPlanBuilder::build)
            .map_err(|e| vec![self.place.explain(&e, self.state)])?;
        let outer = self.over_groups(&grouped, 0, &inner, exprs, aggregates)?;
        self.finish(LogicalPlanBuilder::from(grouped).project(outer))
    }

    pub(in crate::compile) fn count(&self, input: LogicalPlan) -> Result<LogicalPlan, Faults> {
        self.finish(LogicalPlanBuilder::from(input).aggregate(Vec::<Expr>::new(), [count(lit(1)).alias(COUNT)]))
    }

    pub(in crate::compile) fn count_by_value(&self, input: LogicalPlan) -> Result<LogicalPlan, Faults> {
        if input.schema().has_column_with_unqualified_name(COUNT) {
            return Err(vec![
                self.place
                    .diagnostic(format!("the records have a column `{COUNT}` already"))
                    .subject(COUNT)
                    .hint("give it another name in a map"),
            ]);
        }
        let columns: Vec<Expr> = input
            .schema()
            .fields()
            .iter()
            .map(|field| ident(field.name()))
            .collect();
        self.finish(LogicalPlanBuilder::from(input).aggregate(columns, [count(lit(1)).alias(COUNT)]))
    }

    pub(in crate::compile) fn distinct(&self, input: LogicalPlan) -> Result<LogicalPlan, Faults> {
        self.finish(LogicalPlanBuilder::from(input).distinct())
    }

    pub(in crate::compile) fn group_by_key(
        &self,
        input: LogicalPlan,
        keys: &[NamedFunction],
    ) -> Result<LogicalPlan, Faults> {
        let groups = self.groups(&input, keys)?;
        if let Some(key) = keys.iter().find(|key| key.name == VALUES) {
            let place = self.place.child(&key.name, key.line);
            return Err(vec![
                place
                    .diagnostic(format!("a key cannot be called `{VALUES}`, as the list of values is"))
                    .subject(VALUES),
            ]);
        }
        let Some(value) = as_one(&values(&input, keys.iter().map(|key| &key.name))) else {
            return Err(vec![
                self.place
                    .diagnostic("every column is a key, so there are no values")
                    .hint("use distinct or count_by_value"),
            ]);
        };
        self.finish(LogicalPlanBuilder::from(input).aggregate(groups, [array_agg(value).alias(VALUES)]))
    }

    /// Keys as named expressions.
    pub(super) fn groups(&self, input: &LogicalPlan, keys: &[NamedFunction]) -> Result<Vec<Expr>, Faults> {
        if keys.is_empty() {
            return Err(vec![
                self.place
                    .diagnostic("has no key")
                    .hint("use reduce to aggregate the whole batch"),
            ]);
        }
        let typed = self.scalars(input, keys)?;
        let named = typed.into_iter().zip(keys);
        Ok(named.map(|(typed, key)| typed.expr.alias(&key.name)).collect())
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
                            Transformed::new(column, true, TreeNodeRecursion::Jump)
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
}

/// The column of numbers of records.
const COUNT: &str = "count";

/// The column of lists of values.
const VALUES: &str = "values";

/// The name of the hidden column that counts the rows of a batch.
pub(super) const ROWS: &str = "__rows";
