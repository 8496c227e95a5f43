//! A value as executors hold it.

use std::sync::OnceLock;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamDecoder;
use datafusion::common::ScalarValue;
use tidemill_dstream::Shape;
use tidemill_types::{FailureKind, TaskFailure};

use super::lookup::Lookup;
use crate::error::{Error, task_failure};
use crate::ipc::contain;

/// The value of a broadcast variable: rows, and what is asked of its shape. Shared by all tasks of an executor.
pub struct BroadcastValue {
    shape: Shape,
    rows: RecordBatch,
    /// Made when something is looked up for the first time.
    lookup: OnceLock<Result<Lookup, TaskFailure>>,
    scalar: OnceLock<Result<ScalarValue, TaskFailure>>,
}

impl std::fmt::Debug for BroadcastValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "BroadcastValue({}, {} rows)",
            self.shape.name(),
            self.rows.num_rows()
        )
    }
}

impl BroadcastValue {
    pub(super) fn new(shape: Shape, rows: RecordBatch) -> Self {
        Self {
            shape,
            rows,
            lookup: OnceLock::new(),
            scalar: OnceLock::new(),
        }
    }

    /// What [`BroadcastRows::encode`](super::BroadcastRows::encode) wrote. The rows share the buffer's memory. Bytes may
    /// come from a peer: damaged ones are an error.
    pub fn decode(shape: Shape, bytes: Buffer) -> Result<Self, Error> {
        let rows = contain(|| {
            let (mut decoder, mut bytes) = (StreamDecoder::new(), bytes);
            while !bytes.is_empty() {
                if let Some(rows) = decoder.decode(&mut bytes)? {
                    return Ok(rows);
                }
            }
            Err(Error::Damaged)
        })?;
        if rows.num_columns() == 0 {
            return Err(Error::Damaged);
        }
        Ok(Self::new(shape, rows))
    }

    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }

    /// All rows: of a scalar one with the column `value`, of a list the column `value`, of a map `key` and `value`.
    #[must_use]
    pub fn rows(&self) -> &RecordBatch {
        &self.rows
    }

    /// The value of a scalar; the first of anything else.
    pub(crate) fn scalar(&self) -> Result<ScalarValue, TaskFailure> {
        let scalar = self.scalar.get_or_init(|| {
            let column = self.rows.column(0);
            if column.is_empty() {
                return Err(TaskFailure::new(FailureKind::Internal, "a scalar without a value"));
            }
            ScalarValue::try_from_array(column, 0).map_err(|error| task_failure(&error))
        });
        scalar.clone()
    }

    /// Of each key, whether it is in a list, or a key of a map. A null is asked for nothing and answered with null.
    ///
    /// # Errors
    /// The keys are of a type that these cannot be.
    pub fn contains(&self, keys: &ArrayRef) -> Result<BooleanArray, TaskFailure> {
        let found = self.lookup()?.find(self.rows.column(0), keys)?;
        let found: BooleanArray = found.iter().map(|row| Some(row.is_some())).collect();
        let nulls = keys.logical_nulls();
        Ok(BooleanArray::new(found.values().clone(), nulls))
    }

    /// Of each key its value in a map: null where it has none.
    ///
    /// # Errors
    /// The keys are of a type that these cannot be, or it is no map.
    pub fn get(&self, keys: &ArrayRef) -> Result<ArrayRef, TaskFailure> {
        if self.shape != Shape::Map {
            let message = format!("a {} has no values by key", self.shape.name());
            return Err(TaskFailure::new(FailureKind::User, message));
        }
        let found = self.lookup()?.find(self.rows.column(0), keys)?;
        let values = arrow::compute::take(self.rows.column(1), &found, None);
        values.map_err(|error| task_failure(&error.into()))
    }

    /// The rows that keys have, null where they have none.
    pub(crate) fn rows_of(&self, keys: &ArrayRef) -> Result<arrow::array::UInt32Array, TaskFailure> {
        self.lookup()?.find(self.rows.column(0), keys)
    }

    fn lookup(&self) -> Result<&Lookup, TaskFailure> {
        let lookup = self.lookup.get_or_init(|| Lookup::of(self.rows.column(0)));
        lookup.as_ref().map_err(Clone::clone)
    }
}
