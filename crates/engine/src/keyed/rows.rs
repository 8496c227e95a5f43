//! Rows by where they are: a batch of a set of batches, and a position in it.

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, new_empty_array};
use arrow::compute::interleave;
use arrow::datatypes::DataType;
use datafusion::error::Result;

/// A row of a batch that its owner knows by a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowRef {
    pub(crate) batch: u32,
    pub(crate) row: u32,
}

impl RowRef {
    /// No row.
    pub(crate) const NONE: RowRef = RowRef {
        batch: u32::MAX,
        row: u32::MAX,
    };

    pub(crate) fn is_some(self) -> bool {
        self != Self::NONE
    }
}

/// The rows named, as columns of these types. `columns_of` gives a batch's columns; each batch that is named is asked for
/// once.
pub(crate) fn gather<'a>(
    rows: &[RowRef],
    types: &[DataType],
    columns_of: impl Fn(u32) -> &'a [ArrayRef],
) -> Result<Vec<ArrayRef>> {
    if rows.is_empty() {
        return Ok(types.iter().map(new_empty_array).collect());
    }
    let mut places: HashMap<u32, usize, foldhash::fast::FixedState> = HashMap::default();
    let mut batches: Vec<&[ArrayRef]> = Vec::new();
    let mut last = (u32::MAX, 0);
    let mut indices = Vec::with_capacity(rows.len());
    for row in rows {
        // Neighbours are often of one batch.
        if last.0 != row.batch {
            let place = *places.entry(row.batch).or_insert_with(|| {
                batches.push(columns_of(row.batch));
                batches.len() - 1
            });
            last = (row.batch, place);
        }
        indices.push((last.1, row.row as usize));
    }
    let gathered = (0..types.len()).map(|column| {
        let arrays: Vec<&dyn Array> = batches.iter().map(|batch| batch[column].as_ref()).collect();
        Ok(interleave(&arrays, &indices)?)
    });
    gathered.collect()
}
