//! The hash by which keys are spread, pinned: the same in every process, build and release.
//!
//! A key's hash is XXH64 of its column's bytes, columns after the first mixed in. It depends on the value and not on how
//! Arrow holds it: text is hashed alike as Utf8, LargeUtf8 and Utf8View, whole numbers of all widths by their value. The
//! upper bits choose one of [`KEY_GROUPS`], and a partition has a contiguous run of groups, so that state can move to
//! another number of partitions by whole groups.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Date64Type, Decimal128Type, DurationMicrosecondType, DurationMillisecondType,
    DurationNanosecondType, DurationSecondType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, Time32MillisecondType, Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimeUnit,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use arrow::row::{RowConverter, SortField};
use datafusion::error::Result;
use twox_hash::XxHash64;

/// Part of the format of everything that is kept by key: never changed.
const SEED: u64 = 0;
/// The hash of a null.
const NULL: u64 = 0x9e37_79b9_7f4a_7c15;

/// What keys are divided into for ever; a multiple of the most partitions that a stage can have.
pub(crate) const KEY_GROUPS: u64 = 1 << 15;

/// The partition of a key with this hash, of `partitions`.
pub(crate) fn partition(hash: u64, partitions: u32) -> u32 {
    let group = (hash >> 32) % KEY_GROUPS;
    // Below `partitions`, which is 32 bits wide.
    (group * u64::from(partitions) / KEY_GROUPS) as u32
}

/// The hash of each row of some key columns, of which there is at least one.
pub(crate) fn hash_keys(columns: &[ArrayRef]) -> Result<Vec<u64>> {
    let rows = columns.first().map_or(0, |column| column.len());
    let mut hashes = vec![0u64; rows];
    for (i, column) in columns.iter().enumerate() {
        if i == 0 {
            hash_column(column, &mut |row, hash| hashes[row] = hash)?;
        } else {
            hash_column(column, &mut |row, hash| hashes[row] = mix(hashes[row], hash))?;
        }
    }
    Ok(hashes)
}

fn mix(first: u64, second: u64) -> u64 {
    let mut both = [0; 16];
    both[..8].copy_from_slice(&first.to_le_bytes());
    both[8..].copy_from_slice(&second.to_le_bytes());
    XxHash64::oneshot(SEED, &both)
}

fn of_bytes(bytes: &[u8]) -> u64 {
    XxHash64::oneshot(SEED, bytes)
}

fn of_int(value: i64) -> u64 {
    of_bytes(&value.to_le_bytes())
}

/// Zeros are equal, and so are all that are not a number.
fn of_float(value: f64) -> u64 {
    let value = match value {
        nan if nan.is_nan() => f64::NAN,
        0.0 => 0.0,
        other => other,
    };
    of_bytes(&value.to_bits().to_le_bytes())
}

macro_rules! primitive {
    ($column:expr, $put:expr, $type:ty, $hash:expr) => {{
        let array = $column.as_primitive::<$type>();
        if array.null_count() == 0 {
            for (row, value) in array.values().iter().enumerate() {
                $put(row, $hash(*value));
            }
        } else {
            for (row, value) in array.iter().enumerate() {
                $put(row, value.map_or(NULL, $hash));
            }
        }
    }};
}

macro_rules! bytes {
    ($array:expr, $put:expr, $view:expr) => {{
        for (row, value) in $array.iter().enumerate() {
            $put(row, value.map_or(NULL, |value| of_bytes($view(value))));
        }
    }};
}

fn hash_column(column: &ArrayRef, put: &mut dyn FnMut(usize, u64)) -> Result<()> {
    let int = |value: i64| of_int(value);
    match column.data_type() {
        DataType::Null => (0..column.len()).for_each(|row| put(row, NULL)),
        DataType::Boolean => hash_booleans(column.as_boolean(), put),
        DataType::Int8 => primitive!(column, put, Int8Type, |v| int(i64::from(v))),
        DataType::Int16 => primitive!(column, put, Int16Type, |v| int(i64::from(v))),
        DataType::Int32 => primitive!(column, put, Int32Type, |v| int(i64::from(v))),
        DataType::Int64 => primitive!(column, put, Int64Type, int),
        DataType::UInt8 => primitive!(column, put, UInt8Type, |v| int(i64::from(v))),
        DataType::UInt16 => primitive!(column, put, UInt16Type, |v| int(i64::from(v))),
        DataType::UInt32 => primitive!(column, put, UInt32Type, |v| int(i64::from(v))),
        // Above what an Int64 can be there is nothing to be equal to.
        DataType::UInt64 => primitive!(column, put, UInt64Type, |v: u64| of_bytes(&v.to_le_bytes())),
        DataType::Float16 => primitive!(column, put, Float16Type, |v| of_float(f64::from(v))),
        DataType::Float32 => primitive!(column, put, Float32Type, |v| of_float(f64::from(v))),
        DataType::Float64 => primitive!(column, put, Float64Type, of_float),
        DataType::Date32 => primitive!(column, put, Date32Type, |v| int(i64::from(v))),
        DataType::Date64 => primitive!(column, put, Date64Type, int),
        DataType::Time32(TimeUnit::Second) => primitive!(column, put, Time32SecondType, |v| int(i64::from(v))),
        DataType::Time32(_) => primitive!(column, put, Time32MillisecondType, |v| int(i64::from(v))),
        DataType::Time64(TimeUnit::Microsecond) => primitive!(column, put, Time64MicrosecondType, int),
        DataType::Time64(_) => primitive!(column, put, Time64NanosecondType, int),
        DataType::Timestamp(TimeUnit::Second, _) => primitive!(column, put, TimestampSecondType, int),
        DataType::Timestamp(TimeUnit::Millisecond, _) => primitive!(column, put, TimestampMillisecondType, int),
        DataType::Timestamp(TimeUnit::Microsecond, _) => primitive!(column, put, TimestampMicrosecondType, int),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => primitive!(column, put, TimestampNanosecondType, int),
        DataType::Duration(TimeUnit::Second) => primitive!(column, put, DurationSecondType, int),
        DataType::Duration(TimeUnit::Millisecond) => primitive!(column, put, DurationMillisecondType, int),
        DataType::Duration(TimeUnit::Microsecond) => primitive!(column, put, DurationMicrosecondType, int),
        DataType::Duration(TimeUnit::Nanosecond) => primitive!(column, put, DurationNanosecondType, int),
        DataType::Decimal128(..) => {
            primitive!(column, put, Decimal128Type, |v: i128| of_bytes(&v.to_le_bytes()));
        }
        DataType::Utf8 => bytes!(column.as_string::<i32>(), put, str::as_bytes),
        DataType::LargeUtf8 => bytes!(column.as_string::<i64>(), put, str::as_bytes),
        DataType::Utf8View => bytes!(column.as_string_view(), put, str::as_bytes),
        DataType::Binary => bytes!(column.as_binary::<i32>(), put, |v| v),
        DataType::LargeBinary => bytes!(column.as_binary::<i64>(), put, |v| v),
        DataType::BinaryView => bytes!(column.as_binary_view(), put, |v| v),
        DataType::Dictionary(_, values) => hash_column(&cast(column, values)?, put)?,
        _ => hash_encoded(column, put)?,
    }
    Ok(())
}

fn hash_booleans(column: &BooleanArray, put: &mut dyn FnMut(usize, u64)) {
    for (row, value) in column.iter().enumerate() {
        put(row, value.map_or(NULL, |value| of_int(i64::from(value))));
    }
}

/// Nested values by their bytes in Arrow's row format.
fn hash_encoded(column: &ArrayRef, put: &mut dyn FnMut(usize, u64)) -> Result<()> {
    let converter = RowConverter::new(vec![SortField::new(column.data_type().clone())])?;
    let rows = converter.convert_columns(std::slice::from_ref(column))?;
    for (i, row) in rows.iter().enumerate() {
        let hash = if column.is_null(i) {
            NULL
        } else {
            of_bytes(row.as_ref())
        };
        put(i, hash);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int32Array, Int64Array, StringArray, StringViewArray};

    use super::*;

    fn hash(column: impl Array + 'static) -> Vec<u64> {
        hash_keys(&[Arc::new(column)]).unwrap()
    }

    #[test]
    fn the_hash_is_that_of_xxh64_for_ever() {
        // The published test vectors of XXH64 with the seed 0.
        assert_eq!(
            hash(StringArray::from(vec!["", "a", "abc"])),
            [0xef46_db37_51d8_e999, 0xd24e_c4f1_a98c_6e5b, 0x44bc_2cf5_ad77_0999]
        );
    }

    #[test]
    fn a_value_has_one_hash_however_it_is_held() {
        let texts = vec![Some("tide"), None, Some("a text that does not fit into a view")];
        assert_eq!(
            hash(StringArray::from(texts.clone())),
            hash(StringViewArray::from(texts))
        );
        assert_eq!(
            hash(Int32Array::from(vec![Some(-7), None])),
            hash(Int64Array::from(vec![Some(-7), None]))
        );
        assert_eq!(
            hash(Float64Array::from(vec![0.0, f64::NAN])),
            hash(Float64Array::from(vec![-0.0, -f64::NAN]))
        );
    }

    #[test]
    fn every_key_has_a_partition_and_partitions_are_even() {
        let keys = Int64Array::from_iter_values(0..100_000);
        for partitions in [1, 2, 7, 4096] {
            let mut counts = vec![0u32; partitions as usize];
            for hash in hash(keys.clone()) {
                counts[partition(hash, partitions) as usize] += 1;
            }
            let mean = 100_000 / partitions;
            assert!(counts.iter().all(|count| *count < mean + mean / 2 + 30), "{counts:?}");
            assert!(counts.iter().all(|count| *count > 0));
        }
    }
}
