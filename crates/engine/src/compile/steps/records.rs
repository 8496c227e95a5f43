//! Operators that go record by record.

use arrow::datatypes::DataType;
use datafusion::common::{Column, UnnestOptions};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan, col, lit};
use tidemill_dstream::{Function, NamedFunction};

use super::{Faults, StepBuilder};
use crate::compile::expressions::Scope;
use crate::functions::draw;

impl StepBuilder<'_> {
    pub(in crate::compile) fn map(&self, input: LogicalPlan, columns: &[NamedFunction]) -> Result<LogicalPlan, Faults> {
        self.map_values(input, &[], columns)
    }

    pub(in crate::compile) fn map_values(
        &self,
        input: LogicalPlan,
        keys: &[String],
        columns: &[NamedFunction],
    ) -> Result<LogicalPlan, Faults> {
        let (exprs, _) = self.columns(&input, keys, columns)?;
        self.over(input, |input| input.project(exprs))
    }

    pub(in crate::compile) fn flat_map(
        &self,
        input: LogicalPlan,
        columns: &[NamedFunction],
    ) -> Result<LogicalPlan, Faults> {
        self.flat_map_values(input, &[], columns)
    }

    pub(in crate::compile) fn flat_map_values(
        &self,
        input: LogicalPlan,
        keys: &[String],
        columns: &[NamedFunction],
    ) -> Result<LogicalPlan, Faults> {
        let (exprs, types) = self.columns(&input, keys, columns)?;
        let lists: Vec<Column> = types
            .iter()
            .zip(columns)
            .filter(|(data_type, _)| is_list(data_type))
            .map(|(_, column)| Column::new_unqualified(&column.name))
            .collect();
        if lists.is_empty() {
            let types: Vec<String> = types
                .iter()
                .zip(columns)
                .map(|(data_type, column)| format!("`{}` is {data_type}", column.name))
                .collect();
            return Err(vec![
                self.place
                    .diagnostic(format!("no column is a list: {}", types.join(", ")))
                    .hint("one has to be, for example string_to_array(value, ' '); for one record to one use map"),
            ]);
        }
        let options = UnnestOptions::new().with_preserve_nulls(false);
        self.over(input, |input| {
            input.project(exprs)?.unnest_columns_with_options(lists, options)
        })
    }

    /// Keys and columns as expressions, and the types of the columns.
    fn columns(
        &self,
        input: &LogicalPlan,
        keys: &[String],
        columns: &[NamedFunction],
    ) -> Result<(Vec<Expr>, Vec<DataType>), Faults> {
        let mut faults: Faults = columns
            .iter()
            .filter(|column| keys.contains(&column.name))
            .map(|column| {
                let place = self.place.child(&column.name, column.line);
                let fault = place.diagnostic(format!("`{}` is a key, which stays as it is", column.name));
                fault.subject(column.name.clone())
            })
            .collect();
        let kept = self.kept(input, keys).map_err(|found| faults.extend(found));
        let typed = self.scalars(input, columns).map_err(|found| faults.extend(found));
        let (Ok(mut exprs), Ok(typed), true) = (kept, typed, faults.is_empty()) else {
            return Err(faults);
        };
        let types = typed.iter().map(|typed| typed.data_type.clone()).collect();
        let named = typed.into_iter().zip(columns);
        exprs.extend(named.map(|(typed, column)| typed.expr.alias(&column.name)));
        Ok((exprs, types))
    }

    pub(in crate::compile) fn filter(&self, input: LogicalPlan, predicate: &Function) -> Result<LogicalPlan, Faults> {
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
            return self.over(input, |input| input.filter(typed.expr));
        }
        self.keep(input, typed.expr)
    }

    /// Which records it keeps depends on the task, the seed and the place of the step alone, so the same ones are kept
    /// when a batch runs again.
    pub(in crate::compile) fn sample(
        &self,
        input: LogicalPlan,
        fraction: f64,
        seed: u64,
    ) -> Result<LogicalPlan, Faults> {
        if !(0.0..=1.0).contains(&fraction) {
            let place = self.place.child("fraction", tidemill_dstream::Line(None));
            return Err(vec![place.diagnostic(format!("{fraction} is not between 0 and 1"))]);
        }
        self.keep(input, draw(seed, &self.place.path).lt(lit(fraction)))
    }

    /// A filter by something drawn. A predicate on a random number is about the records of this step. The optimizer
    /// would move it below a flat_map, for it names no column; it leaves a column where it is.
    fn keep(&self, input: LogicalPlan, predicate: Expr) -> Result<LogicalPlan, Faults> {
        let columns: Vec<Expr> = input
            .schema()
            .iter()
            .map(|field| Expr::Column(Column::from(field)))
            .collect();
        let mut drawn = columns.clone();
        drawn.push(predicate.alias(KEEP));
        self.over(input, |input| input.project(drawn)?.filter(col(KEEP))?.project(columns))
    }
}

/// The name of the hidden column that a volatile predicate becomes.
const KEEP: &str = "__keep";

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
