//! The operators of a stream as logical plans.
//!
//! Every step gives a plan whose columns are unqualified and have distinct names, so that the next step's expressions
//! see the names that the job file shows.

mod aggregates;
mod cogroup;
mod folds;
mod joins;
mod records;
mod sort;
mod union;

pub(super) use folds::Combine;

use std::collections::HashSet;

use arrow::datatypes::DataType;
use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result;
use datafusion::execution::session_state::SessionState;
use datafusion::functions::core::expr_fn::named_struct;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, ident, lit};
use tidemill_dstream::{Diagnostic, NamedFunction};

use super::diagnose::Place;
use super::expressions::{Scope, Typed, stand_in};

type Faults = Vec<Diagnostic>;

/// One step being added to a stream.
pub(super) struct StepBuilder<'a> {
    pub(super) state: &'a SessionState,
    pub(super) place: &'a Place,
}

impl StepBuilder<'_> {
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

    /// Key columns as they are.
    fn kept(&self, input: &LogicalPlan, keys: &[String]) -> Result<Vec<Expr>, Faults> {
        let mut faults = self.known(input, keys);
        let mut seen = HashSet::new();
        for key in keys.iter().filter(|key| !seen.insert(key.as_str())) {
            let fault = self.place.diagnostic(format!("key `{key}` is there twice"));
            faults.push(fault.subject(key.clone()));
        }
        if faults.is_empty() {
            Ok(keys.iter().map(ident).collect())
        } else {
            Err(faults)
        }
    }

    /// The places of key columns.
    pub(super) fn places(&self, input: &LogicalPlan, keys: &[String]) -> Result<Vec<usize>, Faults> {
        self.kept(input, keys)?;
        if keys.is_empty() {
            return Err(vec![self.place.diagnostic("has no key").hint("such as `key: user`")]);
        }
        let schema = input.schema();
        Ok(keys
            .iter()
            .filter_map(|key| schema.index_of_column_by_name(None, key))
            .collect())
    }

    /// What is wrong with names of columns.
    fn known(&self, input: &LogicalPlan, columns: &[String]) -> Faults {
        let schema = input.schema();
        let unknown = columns
            .iter()
            .filter(|name| !schema.has_column_with_unqualified_name(name));
        unknown
            .map(|name| {
                let known = schema.fields().iter().map(|field| field.name().as_str());
                self.place
                    .diagnostic(format!("unknown column `{name}`"))
                    .suggest(name, known.collect::<Vec<_>>())
            })
            .collect()
    }

    /// The plan that `build` makes over an input. Types are resolved in what it adds, and not once more below it.
    fn over(
        &self,
        input: LogicalPlan,
        build: impl FnOnce(LogicalPlanBuilder) -> Result<LogicalPlanBuilder>,
    ) -> Result<LogicalPlan, Faults> {
        let plan = self.finish(build(LogicalPlanBuilder::from(stand_in(input.schema()))))?;
        let put_in = |node| match node {
            LogicalPlan::EmptyRelation(_) => Ok(Transformed::yes(input.clone())),
            node => Ok(Transformed::no(node)),
        };
        plan.transform_up(put_in)
            .data()
            .map_err(|error| vec![self.place.explain(&error, self.state)])
    }

    pub(super) fn finish(&self, plan: Result<LogicalPlanBuilder>) -> Result<LogicalPlan, Faults> {
        plan.and_then(LogicalPlanBuilder::build)
            .and_then(|plan| super::expressions::analyze(plan, self.state))
            .and_then(unqualified)
            .map_err(|error| vec![self.place.explain(&error, self.state)])
    }
}

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

/// The columns of a record beside its keys.
fn values<'a>(input: &LogicalPlan, keys: impl IntoIterator<Item = &'a String>) -> Vec<(String, DataType)> {
    let keys: HashSet<&String> = keys.into_iter().collect();
    let fields = input.schema().fields().iter();
    fields
        .filter(|field| !keys.contains(field.name()))
        .map(|field| (field.name().clone(), field.data_type().clone()))
        .collect()
}

/// Values as one: that of the only column, or a struct of several.
fn as_one(values: &[(String, DataType)]) -> Option<Expr> {
    match values {
        [] => None,
        [(only, _)] => Some(ident(only)),
        several => {
            let fields = several.iter().flat_map(|(name, _)| [lit(name.as_str()), ident(name)]);
            Some(named_struct(fields.collect()))
        }
    }
}

fn same_type(left: &DataType, right: &DataType) -> bool {
    let text = |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    left.equals_datatype(right) || (text(left) && text(right))
}
