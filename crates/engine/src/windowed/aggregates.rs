//! Partial states of aggregates, merged and evaluated for many groups at once.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use datafusion::error::Result;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;

/// Some aggregates. Their state columns stand one after the other, as in the rows of a partial aggregation.
pub(crate) struct Aggregates {
    functions: Vec<Arc<AggregateFunctionExpr>>,
    /// State columns of each.
    widths: Vec<usize>,
    types: Vec<DataType>,
}

/// Rows of states, and the group of each. An accumulator takes the groups that it is told of for groups with rows, so a
/// part may only name groups that it or a part before it has rows of.
pub(crate) struct Part<'a> {
    pub(crate) states: &'a [ArrayRef],
    pub(crate) groups: &'a [usize],
    /// Groups of this part and of those before it: all below this number.
    pub(crate) total: usize,
}

impl Aggregates {
    /// `None` if a state cannot be merged for many groups at once, or grows with what it has seen: every state is held
    /// several times, in panes and in what was merged of them.
    pub(crate) fn try_new(functions: &[Arc<AggregateFunctionExpr>]) -> Result<Option<Self>> {
        let mut widths = Vec::with_capacity(functions.len());
        let mut types = Vec::new();
        for function in functions {
            let fields = function.state_fields()?;
            if !function.groups_accumulator_supported() || fields.iter().any(|field| field.data_type().is_nested()) {
                return Ok(None);
            }
            widths.push(fields.len());
            types.extend(fields.iter().map(|field| field.data_type().clone()));
        }
        Ok(Some(Self {
            functions: functions.to_vec(),
            widths,
            types,
        }))
    }

    /// The types of the state columns.
    pub(crate) fn types(&self) -> &[DataType] {
        &self.types
    }

    /// The states of all groups; of each the parts are merged in their order.
    pub(crate) fn merge(&self, parts: &[Part<'_>]) -> Result<Vec<ArrayRef>> {
        let mut states = Vec::with_capacity(self.types.len());
        self.accumulate(parts, |accumulator| {
            states.extend(accumulator.state(EmitTo::All)?);
            Ok(())
        })?;
        Ok(states)
    }

    /// The results for all groups.
    pub(crate) fn evaluate(&self, parts: &[Part<'_>]) -> Result<Vec<ArrayRef>> {
        let mut results = Vec::with_capacity(self.functions.len());
        self.accumulate(parts, |accumulator| {
            results.push(accumulator.evaluate(EmitTo::All)?);
            Ok(())
        })?;
        Ok(results)
    }

    /// The results of no rows at all, as one row.
    pub(crate) fn of_nothing(&self) -> Result<Vec<ArrayRef>> {
        let results = self.functions.iter().map(|function| {
            let nothing = function.create_accumulator()?.evaluate()?;
            nothing.to_array()
        });
        results.collect()
    }

    fn accumulate(
        &self,
        parts: &[Part<'_>],
        mut finish: impl FnMut(&mut dyn GroupsAccumulator) -> Result<()>,
    ) -> Result<()> {
        let mut column = 0;
        for (function, width) in self.functions.iter().zip(&self.widths) {
            let mut accumulator = function.create_groups_accumulator()?;
            for part in parts {
                accumulator.merge_batch(&part.states[column..column + width], part.groups, part.total)?;
            }
            finish(accumulator.as_mut())?;
            column += width;
        }
        Ok(())
    }
}
