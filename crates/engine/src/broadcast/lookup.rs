//! Finding values in a column by hash, whole arrays at a time.

use arrow::array::make_comparator;
use arrow::array::{Array, ArrayRef, UInt32Array, UInt32Builder};
use arrow::compute::SortOptions;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::common::hash_utils::{RandomState, create_hashes};
use datafusion::error::DataFusionError;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use tidemill_types::{FailureKind, TaskFailure};

use crate::error::task_failure;

const SEED: u64 = 0;

/// The rows of a column by their values. It holds row numbers alone: the values stay where they are.
pub(super) struct Lookup {
    table: HashTable<u32>,
}

impl Lookup {
    /// Of values that are there more than once the first row; nulls are in no row.
    pub(super) fn of(column: &ArrayRef) -> Result<Self, TaskFailure> {
        let hashes = hashes(column)?;
        let rows = u32::try_from(hashes.len())
            .map_err(|_| TaskFailure::new(FailureKind::Resource, "more than 2^32 values cannot be looked up"))?;
        let equal = comparator(column, column)?;
        let nulls = column.logical_nulls();
        // Never grows, so that hashes are needed no more afterwards.
        let mut table = HashTable::with_capacity(hashes.len());
        for row in 0..rows {
            let at = row as usize;
            if nulls.as_ref().is_some_and(|nulls| nulls.is_null(at)) {
                continue;
            }
            let same = |other: &u32| equal(*other as usize, at).is_eq();
            if let Entry::Vacant(new) = table.entry(hashes[at], same, |other: &u32| hashes[*other as usize]) {
                new.insert(row);
            }
        }
        Ok(Self { table })
    }

    /// The number of different values.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// The row of each key in `column`, which is the one that this was made of.
    pub(super) fn find(&self, column: &ArrayRef, keys: &ArrayRef) -> Result<UInt32Array, TaskFailure> {
        let converted;
        let keys = if keys.data_type() == column.data_type() {
            keys
        } else if fits(keys.data_type(), column.data_type()) {
            // What the column's type cannot be becomes null, and is found nowhere.
            converted = cast(keys, column.data_type()).map_err(|error| task_failure(&error.into()))?;
            &converted
        } else {
            let message = format!("values of type {} hold no {}", column.data_type(), keys.data_type());
            return Err(TaskFailure::new(FailureKind::User, message));
        };
        let hashes = hashes(keys)?;
        let equal = comparator(column, keys)?;
        let nulls = keys.logical_nulls();
        let mut found = UInt32Builder::with_capacity(keys.len());
        for (at, hash) in hashes.into_iter().enumerate() {
            if nulls.as_ref().is_some_and(|nulls| nulls.is_null(at)) {
                found.append_null();
                continue;
            }
            let row = self.table.find(hash, |row| equal(*row as usize, at).is_eq());
            found.append_option(row.copied());
        }
        Ok(found.finish())
    }
}

fn hashes(column: &ArrayRef) -> Result<Vec<u64>, TaskFailure> {
    let mut hashes = vec![0; column.len()];
    create_hashes([column], &RandomState::with_seed(SEED), &mut hashes).map_err(|error| task_failure(&error))?;
    Ok(hashes)
}

fn comparator(left: &ArrayRef, right: &ArrayRef) -> Result<arrow::array::DynComparator, TaskFailure> {
    make_comparator(left, right, SortOptions::default()).map_err(|error| task_failure(&DataFusionError::from(error)))
}

/// Whether keys of a type can be compared with values of another one without a loss: text with text, bytes with bytes,
/// whole numbers with numbers.
pub(crate) fn fits(key: &DataType, value: &DataType) -> bool {
    let text = |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let bytes = |t: &DataType| matches!(t, DataType::Binary | DataType::LargeBinary | DataType::BinaryView);
    match (key, value) {
        (DataType::Null, _) => true,
        (DataType::Dictionary(_, inner), value) => fits(inner, value),
        (key, value) if key == value => true,
        (key, value) if text(key) => text(value),
        (key, value) if bytes(key) => bytes(value),
        (key, value) if key.is_integer() => value.is_integer() || value.is_floating(),
        (key, value) => key.is_floating() && value.is_floating(),
    }
}
