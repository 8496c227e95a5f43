//! How many bytes rows take.
//!
//! Arrow's own `get_array_memory_size` counts a shared buffer once for every slice of it, which makes a batch cut
//! into 64 partitions 64 times as large. Two measures replace it: [`sliced_bytes`], what the rows themselves need, for
//! frames and map outputs; and [`retained_bytes`], what a set of batches keeps alive, for blocks and datasets.

use std::collections::HashSet;

use arrow::array::{Array, ArrayData, RecordBatch};
use arrow::datatypes::DataType;

/// Strings up to this many bytes stand in their view itself.
const INLINE_VIEW_BYTES: u32 = 12;

/// The bytes that the rows of `batch` need, without what else its buffers hold.
#[must_use]
pub fn sliced_bytes(batch: &RecordBatch) -> u64 {
    batch
        .columns()
        .iter()
        .map(|column| array_bytes(&column.to_data(), &mut None))
        .sum()
}

/// The bytes that `batches` keep alive; a string buffer that several of them share counts once, and whole.
#[must_use]
pub fn retained_bytes(batches: &[RecordBatch]) -> u64 {
    let mut seen = Some(HashSet::new());
    batches
        .iter()
        .flat_map(RecordBatch::columns)
        .map(|column| array_bytes(&column.to_data(), &mut seen))
        .sum()
}

/// The bytes behind the views of `array`: those that its values use, and those of all its data buffers.
pub(crate) fn view_bytes(array: &ArrayData) -> (u64, u64) {
    let views = array
        .buffers()
        .first()
        .map(|buffer| &buffer.typed_data::<u128>()[array.offset()..array.offset() + array.len()])
        .unwrap_or_default();
    // The low 32 bits of a view are its length.
    let used = views
        .iter()
        .map(|view| *view as u32)
        .filter(|length| *length > INLINE_VIEW_BYTES)
        .map(u64::from)
        .sum();
    let held = array.buffers().iter().skip(1).map(|buffer| buffer.len() as u64).sum();
    (used, held)
}

/// With `seen`, data buffers of views count whole, at their first sight; without, only what the views use.
fn array_bytes(array: &ArrayData, seen: &mut Option<HashSet<usize>>) -> u64 {
    let len = array.len() as u64;
    let nulls = if array.nulls().is_some() { len.div_ceil(8) } else { 0 };
    let own = match array.data_type() {
        DataType::Null => 0,
        DataType::Boolean => len.div_ceil(8),
        DataType::Utf8 | DataType::Binary => {
            let (from, to) = offsets::<i32>(array);
            4 * (len + 1) + to.saturating_sub(from) as u64
        }
        DataType::LargeUtf8 | DataType::LargeBinary => {
            let (from, to) = offsets::<i64>(array);
            8 * (len + 1) + to.saturating_sub(from) as u64
        }
        DataType::Utf8View | DataType::BinaryView => {
            let data = match seen {
                None => {
                    let (used, held) = view_bytes(array);
                    used.min(held)
                }
                Some(seen) => array
                    .buffers()
                    .iter()
                    .skip(1)
                    .filter(|buffer| seen.insert(buffer.as_ptr() as usize))
                    .map(|buffer| buffer.len() as u64)
                    .sum(),
            };
            16 * len + data
        }
        DataType::List(_) | DataType::Map(_, _) => {
            let (from, to) = offsets::<i32>(array);
            4 * (len + 1) + child_bytes(array, from, to.saturating_sub(from), seen)
        }
        DataType::LargeList(_) => {
            let (from, to) = offsets::<i64>(array);
            8 * (len + 1) + child_bytes(array, from, to.saturating_sub(from), seen)
        }
        DataType::FixedSizeList(_, size) => {
            let size = usize::try_from(*size).unwrap_or(0);
            child_bytes(array, array.offset() * size, array.len() * size, seen)
        }
        // Slicing a struct slices its children, whatever its own offset says then.
        DataType::Struct(_) => whole_children(array, seen),
        DataType::Dictionary(key, _) => len * key.primitive_width().unwrap_or(0) as u64 + whole_children(array, seen),
        DataType::ListView(_) => 8 * len + whole_children(array, seen),
        DataType::LargeListView(_) => 16 * len + whole_children(array, seen),
        DataType::Union(_, _) => 5 * len + whole_children(array, seen),
        DataType::RunEndEncoded(_, _) => whole_children(array, seen),
        DataType::FixedSizeBinary(width) => len * u64::try_from(*width).unwrap_or(0),
        other => len * other.primitive_width().unwrap_or(0) as u64,
    };
    own + nulls
}

fn whole_children(array: &ArrayData, seen: &mut Option<HashSet<usize>>) -> u64 {
    array.child_data().iter().map(|child| array_bytes(child, seen)).sum()
}

fn child_bytes(array: &ArrayData, from: usize, len: usize, seen: &mut Option<HashSet<usize>>) -> u64 {
    array
        .child_data()
        .iter()
        .map(|child| {
            if from == 0 && len == child.len() {
                array_bytes(child, seen)
            } else {
                array_bytes(&child.slice(from, len), seen)
            }
        })
        .sum()
}

/// The first and the last offset of the slice; an empty array may have none.
fn offsets<O: arrow::array::OffsetSizeTrait>(array: &ArrayData) -> (usize, usize) {
    let offsets = array
        .buffers()
        .first()
        .map(|buffer| buffer.typed_data::<O>())
        .unwrap_or_default();
    match (offsets.get(array.offset()), offsets.get(array.offset() + array.len())) {
        (Some(from), Some(to)) => (from.as_usize(), to.as_usize()),
        _ => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, ListArray, StringArray, StringViewArray, StructArray};
    use arrow::datatypes::Int32Type;

    use super::*;

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter(columns).unwrap()
    }

    #[test]
    fn slices_of_a_batch_sum_up_to_about_the_batch() {
        let words: StringArray = (0..1000).map(|i| Some(format!("word number {i}"))).collect();
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>((0..1000).map(|i| Some(vec![Some(i); 3])));
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
        let nested = StructArray::from(vec![(
            Arc::new(arrow::datatypes::Field::new("n", DataType::Int64, false)),
            Arc::clone(&numbers),
        )]);
        let whole = batch(vec![
            ("w", Arc::new(words)),
            ("l", Arc::new(lists)),
            ("n", numbers),
            ("s", Arc::new(nested)),
        ]);
        let parts: u64 = (0..10).map(|i| sliced_bytes(&whole.slice(i * 100, 100))).sum();
        let all = sliced_bytes(&whole);
        assert!(parts >= all && parts < all + 200, "{parts} for parts of {all}");
    }

    #[test]
    fn views_count_what_they_use_or_what_they_retain() {
        let long = "x".repeat(1000);
        let views: ArrayRef = Arc::new(StringViewArray::from(vec![long.as_str(); 10]));
        let whole = batch(vec![("v", views)]);
        let parts: Vec<_> = (0..10).map(|i| whole.slice(i, 1)).collect();
        assert_eq!(sliced_bytes(&parts[0]), 16 + 1000);
        let retained = retained_bytes(&parts);
        assert_eq!(
            retained,
            retained_bytes(std::slice::from_ref(&whole)),
            "shared buffers count once"
        );
        assert!(retained >= 10_000);
    }

    #[test]
    fn empty_arrays_of_all_kinds_have_a_size() {
        let schema = crate::testing::wide_schema();
        assert!(sliced_bytes(&RecordBatch::new_empty(schema)) < 200);
    }
}
