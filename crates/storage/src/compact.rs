//! Frees string views from data that they share but do not use.
//!
//! A slice of a view array refers to all of the array's data buffers, however few of its rows use them. That is what
//! makes slicing free inside a process; sent to another, written to a file or remembered for an hour it would drag
//! the whole input along.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, GenericListArray, MapArray, OffsetSizeTrait, RecordBatch,
    RecordBatchOptions, StructArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, FieldRef};

use crate::size::view_bytes;
use crate::{Result, retained_bytes, sliced_bytes};

/// Held bytes for each used byte above which views are copied. Below it, the copy costs more than it frees.
const WASTE_FACTOR: u64 = 2;

/// Views that hold no more than this are left alone.
const WASTE_FLOOR: u64 = 4 * 1024;

/// The same rows, with views rewritten that hold much more than they use. Other arrays are shared, not copied.
pub fn compact(batch: &RecordBatch) -> Result<RecordBatch> {
    if !batch
        .schema_ref()
        .fields()
        .iter()
        .any(|field| has_views(field.data_type()))
    {
        return Ok(batch.clone());
    }
    let columns = batch.columns().iter().map(compact_array).collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(batch.schema(), columns, &options)?)
}

/// Like [`compact`] for batches that are kept together: data that they share is only waste if all of them together use
/// little of it.
pub(crate) fn compact_together(batches: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
    let views = |batch: &RecordBatch| {
        batch
            .schema_ref()
            .fields()
            .iter()
            .any(|field| has_views(field.data_type()))
    };
    if !batches.iter().any(views) {
        return Ok(batches);
    }
    let held = retained_bytes(&batches);
    let used: u64 = batches.iter().map(sliced_bytes).sum();
    if held > WASTE_FLOOR && held > used.saturating_mul(WASTE_FACTOR) {
        batches.iter().map(compact).collect()
    } else {
        Ok(batches)
    }
}

fn has_views(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8View | DataType::BinaryView => true,
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => has_views(field.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_views(field.data_type())),
        _ => false,
    }
}

fn compact_array(array: &ArrayRef) -> Result<ArrayRef> {
    if !has_views(array.data_type()) {
        return Ok(Arc::clone(array));
    }
    Ok(match array.data_type() {
        DataType::Utf8View if wasteful(array) => Arc::new(array.as_string_view().gc()),
        DataType::BinaryView if wasteful(array) => Arc::new(array.as_binary_view().gc()),
        DataType::List(field) => compact_list::<i32>(array, field)?,
        DataType::LargeList(field) => compact_list::<i64>(array, field)?,
        DataType::FixedSizeList(field, size) => {
            let list = array.as_fixed_size_list();
            let values = compact_array(list.values())?;
            Arc::new(FixedSizeListArray::try_new(
                Arc::clone(field),
                *size,
                values,
                list.nulls().cloned(),
            )?)
        }
        DataType::Map(field, sorted) => {
            let map = array.as_map();
            let (offsets, from, len) = rebase(map.offsets());
            let entries: ArrayRef = Arc::new(map.entries().slice(from, len));
            let entries = compact_array(&entries)?;
            let nulls = map.nulls().cloned();
            let entries = entries.as_struct().clone();
            Arc::new(MapArray::try_new(Arc::clone(field), offsets, entries, nulls, *sorted)?)
        }
        DataType::Struct(fields) => {
            let parent = array.as_struct();
            let columns = parent.columns().iter().map(compact_array).collect::<Result<Vec<_>>>()?;
            Arc::new(StructArray::try_new(fields.clone(), columns, parent.nulls().cloned())?)
        }
        _ => Arc::clone(array),
    })
}

fn wasteful(array: &ArrayRef) -> bool {
    let (used, held) = view_bytes(&array.to_data());
    held > WASTE_FLOOR && held > used.saturating_mul(WASTE_FACTOR)
}

fn compact_list<O: OffsetSizeTrait>(array: &ArrayRef, field: &FieldRef) -> Result<ArrayRef> {
    let list = array.as_list::<O>();
    let (offsets, from, len) = rebase(list.offsets());
    let values = compact_array(&list.values().slice(from, len))?;
    Ok(Arc::new(GenericListArray::<O>::try_new(
        Arc::clone(field),
        offsets,
        values,
        list.nulls().cloned(),
    )?))
}

/// Offsets that begin at zero, and the range of the values that they are about.
fn rebase<O: OffsetSizeTrait>(offsets: &OffsetBuffer<O>) -> (OffsetBuffer<O>, usize, usize) {
    let from = offsets.first().map_or(0, |offset| offset.as_usize());
    let to = offsets.last().map_or(0, |offset| offset.as_usize());
    if from == 0 {
        (offsets.clone(), 0, to)
    } else {
        let lengths = offsets.windows(2).map(|pair| (pair[1] - pair[0]).as_usize());
        (OffsetBuffer::from_lengths(lengths), from, to - from)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::StringViewArray;

    use super::*;

    fn words(count: usize) -> RecordBatch {
        let words: StringViewArray = (0..count).map(|i| Some(format!("a rather long word {i}"))).collect();
        RecordBatch::try_from_iter([("w", Arc::new(words) as ArrayRef)]).unwrap()
    }

    #[test]
    fn a_small_slice_of_a_large_view_array_drops_what_it_does_not_use() {
        let slice = words(10_000).slice(5_000, 10);
        let compacted = compact(&slice).unwrap();
        assert_eq!(compacted, slice);
        assert_eq!(retained_bytes(std::slice::from_ref(&compacted)), sliced_bytes(&slice));
    }

    #[test]
    fn views_that_use_their_data_are_shared() {
        let whole = words(10_000);
        let compacted = compact(&whole).unwrap();
        let data = |batch: &RecordBatch| batch.column(0).as_string_view().data_buffers()[0].as_ptr();
        assert_eq!(data(&compacted), data(&whole));
    }

    #[test]
    fn slices_that_use_their_data_together_are_shared() {
        let whole = words(10_000);
        let slices: Vec<_> = (0..10).map(|i| whole.slice(i * 1000, 1000)).collect();
        let data = |batch: &RecordBatch| batch.column(0).as_string_view().data_buffers()[0].as_ptr();
        assert_eq!(data(&compact_together(slices.clone()).unwrap()[3]), data(&whole));
        let few = compact_together(slices[..1].to_vec()).unwrap();
        assert_eq!(few, slices[..1]);
        assert_ne!(data(&few[0]), data(&whole));
    }

    #[test]
    fn nested_views_are_compacted_too() {
        let batch = crate::testing::wide_batch(3_000).slice(100, 5);
        let compacted = compact(&batch).unwrap();
        assert_eq!(compacted, batch);
        let retained = retained_bytes(std::slice::from_ref(&compacted));
        assert!(
            retained < retained_bytes(&[batch]) / 10,
            "{retained} bytes are still held"
        );
    }
}
