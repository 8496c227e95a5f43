//! State updates in Rust.

use arrow::array::{ArrayRef, BooleanArray, ListArray};
use arrow::datatypes::SchemaRef;
use tidemill_types::BatchTime;

use super::BoxError;

/// Keys whose states are to be updated, one a row.
#[derive(Clone, Debug)]
pub struct StateBatch {
    pub batch_time: BatchTime,
    /// The key columns.
    pub keys: Vec<ArrayRef>,
    /// For each value column the values of each key in this batch, in the order of the records. Empty lists for a key
    /// without records.
    pub values: Vec<ListArray>,
    /// The columns of the states as they were; null for a key without state.
    pub old: Vec<ArrayRef>,
    /// Whether a key had state.
    pub exists: BooleanArray,
}

/// From the states of keys and the records of a batch to the next states. For the same it gives the same, for a batch can
/// run again.
pub trait StateUpdate: Send + Sync + 'static {
    /// The columns of a state, for values of these columns.
    ///
    /// # Errors
    /// It is not for such values.
    fn schema(&self, values: &SchemaRef) -> Result<SchemaRef, BoxError>;

    /// The columns of the new states, in the order of the keys. A state whose columns are all null is removed.
    ///
    /// # Errors
    /// It fails for these keys.
    fn update(&self, batch: StateBatch) -> Result<Vec<ArrayRef>, BoxError>;
}
