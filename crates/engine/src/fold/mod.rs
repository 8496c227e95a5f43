//! Aggregates that make the records of a group one by a function of the job: binary reductions and `combine_by_key`.
//!
//! - [`Fold`]: the combined columns and the functions that make them, in physical expressions.
//! - [`FoldFunction`]: a fold as an aggregate function of DataFusion. Its state is the combined columns themselves and
//!   whether there were records, so partial results can be shuffled, remembered as panes and merged.
//! - [`FoldGroups`]: the fold of all groups at once. It keeps values until there are many, then folds them in rounds
//!   over whole arrays: [`pairwise`] merges neighbours, so that `n` values of a group take `log2(n)` rounds, for
//!   which the function has to be associative and nothing else, for neighbours stay in order; [`sequential`] applies a
//!   function of the combined columns and one more record, in as many rounds as a group has records.

mod function;
mod groups;
mod pairwise;
mod sequential;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;

pub(crate) use function::FoldFunction;
use groups::FoldGroups;

/// What the functions of a merge call their arguments: the value of an earlier and of a later record.
pub(crate) const EARLIER: &str = "a";
pub(crate) const LATER: &str = "b";

/// How records become one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fold {
    /// Names and types of the combined columns.
    pub(crate) columns: SchemaRef,
    /// For each of them a function of [`EARLIER`] and [`LATER`].
    pub(crate) merge: Vec<Arc<dyn PhysicalExpr>>,
    /// How records are combined, if they are not combined values themselves.
    pub(crate) records: Option<Records>,
}

/// How combined columns are made of records.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Records {
    /// The columns of a record.
    pub(crate) columns: SchemaRef,
    /// For each combined column a function of the first record.
    pub(crate) create: Vec<Arc<dyn PhysicalExpr>>,
    /// The combined columns and then those of a record, as the functions of `merge` name them.
    pub(crate) scope: SchemaRef,
    /// For each combined column a function over `scope`.
    pub(crate) merge: Vec<Arc<dyn PhysicalExpr>>,
}

/// The scope of a merge of values of this type.
pub(crate) fn pair(data_type: &DataType) -> SchemaRef {
    let field = |name| Field::new(name, data_type.clone(), true);
    Arc::new(Schema::new(vec![field(EARLIER), field(LATER)]))
}

impl Fold {
    fn types(&self) -> impl Iterator<Item = &DataType> {
        self.columns.fields().iter().map(|field| field.data_type())
    }

    /// The columns of what is folded: records, or combined values.
    fn inputs(&self) -> &SchemaRef {
        self.records.as_ref().map_or(&self.columns, |records| &records.columns)
    }

    /// Rows of `a` combined with the rows of `b` behind them.
    fn merged(&self, a: &[ArrayRef], b: &[ArrayRef], rows: usize) -> Result<Vec<ArrayRef>> {
        let columns = a.iter().zip(b).zip(&self.merge).zip(self.types());
        columns
            .map(|(((a, b), merge), data_type)| {
                let pairs = batch(&pair(data_type), vec![Arc::clone(a), Arc::clone(b)], rows)?;
                evaluate(merge, &pairs, data_type)
            })
            .collect()
    }

    /// Combined values of one record each.
    fn created(&self, records: &[ArrayRef], rows: usize) -> Result<Vec<ArrayRef>> {
        let Some(by) = &self.records else {
            return Ok(records.to_vec());
        };
        let records = batch(&by.columns, records.to_vec(), rows)?;
        let columns = by.create.iter().zip(self.types());
        columns
            .map(|(create, data_type)| evaluate(create, &records, data_type))
            .collect()
    }
}

impl Records {
    /// Combined values, with one more record each.
    fn merged(&self, fold: &Fold, combined: &[ArrayRef], records: &[ArrayRef], rows: usize) -> Result<Vec<ArrayRef>> {
        let columns = combined.iter().chain(records).cloned().collect();
        let scope = batch(&self.scope, columns, rows)?;
        let merged = self.merge.iter().zip(fold.types());
        merged
            .map(|(merge, data_type)| evaluate(merge, &scope, data_type))
            .collect()
    }
}

fn evaluate(expr: &Arc<dyn PhysicalExpr>, rows: &RecordBatch, data_type: &DataType) -> Result<ArrayRef> {
    let column = expr.evaluate(rows)?.into_array(rows.num_rows())?;
    typed(column, data_type)
}

fn typed(column: ArrayRef, data_type: &DataType) -> Result<ArrayRef> {
    if column.data_type() == data_type {
        Ok(column)
    } else {
        Ok(cast(&column, data_type)?)
    }
}

fn batch(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(
        Arc::clone(schema),
        columns,
        &options,
    )?)
}
