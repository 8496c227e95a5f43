//! Partial states of aggregates, merged and evaluated for many groups at once.
//!
//! With keys the states are those of DataFusion's accumulators of groups, without keys those of its accumulators of
//! everything, and each kind is merged by its own: the latter have states of no rows too, which the former would take for
//! some.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;

/// Some aggregates. Their state columns stand one after the other, as in the rows of a partial aggregation.
pub(crate) struct Aggregates {
    functions: Vec<Arc<AggregateFunctionExpr>>,
    /// State columns of each.
    widths: Vec<usize>,
    types: Vec<DataType>,
    keyed: bool,
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
    pub(crate) fn try_new(functions: &[Arc<AggregateFunctionExpr>], keyed: bool) -> Result<Option<Self>> {
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
            keyed,
        }))
    }

    /// The types of the state columns.
    pub(crate) fn types(&self) -> &[DataType] {
        &self.types
    }

    /// The states of all groups; of each the parts are merged in their order.
    pub(crate) fn merge(&self, parts: &[Part<'_>]) -> Result<Vec<ArrayRef>> {
        let mut states = Vec::with_capacity(self.types.len());
        for (function, columns) in self.functions.iter().zip(self.columns()) {
            if self.keyed {
                states.extend(of_groups(function, columns, parts)?.state(EmitTo::All)?);
            } else {
                let mut rows = of_everything(function, columns.clone(), parts)?;
                let rows = rows.iter_mut().map(|accumulator| accumulator.state());
                let rows: Vec<Vec<ScalarValue>> = rows.collect::<Result<_>>()?;
                let column = |place: usize| ScalarValue::iter_to_array(rows.iter().map(|row| row[place].clone()));
                let columns: Vec<ArrayRef> = (0..columns.len()).map(column).collect::<Result<_>>()?;
                states.extend(columns);
            }
        }
        Ok(states)
    }

    /// The results for all groups.
    pub(crate) fn evaluate(&self, parts: &[Part<'_>]) -> Result<Vec<ArrayRef>> {
        let results = self.functions.iter().zip(self.columns()).map(|(function, columns)| {
            if self.keyed {
                return of_groups(function, columns, parts)?.evaluate(EmitTo::All);
            }
            let mut rows = of_everything(function, columns, parts)?;
            let results: Vec<ScalarValue> = rows
                .iter_mut()
                .map(|accumulator| accumulator.evaluate())
                .collect::<Result<_>>()?;
            ScalarValue::iter_to_array(results)
        });
        results.collect()
    }

    /// The results of no rows at all, as one row.
    pub(crate) fn of_nothing(&self) -> Result<Vec<ArrayRef>> {
        let results = self.functions.iter().map(|function| {
            let nothing = function.create_accumulator()?.evaluate()?;
            nothing.to_array()
        });
        results.collect()
    }

    /// The places of each function's state columns.
    fn columns(&self) -> impl Iterator<Item = Range<usize>> {
        self.widths.iter().scan(0, |next, width| {
            let begin = *next;
            *next += width;
            Some(begin..*next)
        })
    }
}

/// The function with all parts merged.
fn of_groups(
    function: &AggregateFunctionExpr,
    columns: Range<usize>,
    parts: &[Part<'_>],
) -> Result<Box<dyn GroupsAccumulator>> {
    let mut accumulator = function.create_groups_accumulator()?;
    for part in parts {
        accumulator.merge_batch(&part.states[columns.clone()], part.groups, part.total)?;
    }
    Ok(accumulator)
}

/// The same, one for each group.
fn of_everything(
    function: &AggregateFunctionExpr,
    columns: Range<usize>,
    parts: &[Part<'_>],
) -> Result<Vec<Box<dyn Accumulator>>> {
    let groups = parts.iter().map(|part| part.total).max().unwrap_or(0);
    let mut accumulators = Vec::with_capacity(groups);
    for _ in 0..groups {
        accumulators.push(function.create_accumulator()?);
    }
    for part in parts {
        for (row, group) in part.groups.iter().enumerate() {
            let states = part.states[columns.clone()].iter().map(|column| column.slice(row, 1));
            accumulators[*group].merge_batch(&states.collect::<Vec<_>>())?;
        }
    }
    Ok(accumulators)
}
