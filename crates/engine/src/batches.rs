//! Small transformations of record batches that leave the rows as they are.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, GenericByteViewArray, ListArray, RecordBatch, RecordBatchOptions, StructArray,
};
use arrow::datatypes::{ByteViewType, DataType, SchemaRef};
use arrow::error::ArrowError;

/// The batch under `schema`, which has the same types but may differ in names, nullability and metadata.
pub(crate) fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    if Arc::ptr_eq(batch.schema_ref(), schema) || batch.schema_ref() == schema {
        return Ok(batch.clone());
    }
    with_columns(batch, schema.clone(), batch.columns().to_vec())
}

/// The batch without the data that its view columns keep alive but do not show: a slice of a shuffled batch shares the
/// buffers of its whole input, and these would be written, sent and remembered with every slice.
pub(crate) fn compact(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let compacted: Vec<Option<ArrayRef>> = batch.columns().iter().map(compact_column).collect();
    if compacted.iter().all(Option::is_none) {
        return Ok(batch.clone());
    }
    let columns = compacted
        .into_iter()
        .zip(batch.columns())
        .map(|(new, old)| new.unwrap_or_else(|| old.clone()));
    with_columns(batch, batch.schema(), columns.collect())
}

fn with_columns(batch: &RecordBatch, schema: SchemaRef, columns: Vec<ArrayRef>) -> Result<RecordBatch, ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema, columns, &options)
}

/// `None` if there is nothing to gain.
fn compact_column(column: &ArrayRef) -> Option<ArrayRef> {
    match column.data_type() {
        DataType::Utf8View => compact_views(column.as_string_view()),
        DataType::BinaryView => compact_views(column.as_binary_view()),
        DataType::List(field) => {
            let list = column.as_list::<i32>();
            let (first, last) = (*list.offsets().first()?, *list.offsets().last()?);
            let values = list
                .values()
                .slice(usize::try_from(first).ok()?, usize::try_from(last - first).ok()?);
            let values = compact_column(&values)?;
            let offsets = arrow::buffer::OffsetBuffer::from_lengths(list.offsets().lengths());
            Some(Arc::new(
                ListArray::try_new(field.clone(), offsets, values, list.nulls().cloned()).ok()?,
            ))
        }
        DataType::Struct(fields) => {
            let array = column.as_struct();
            let compacted: Vec<Option<ArrayRef>> = array.columns().iter().map(compact_column).collect();
            if compacted.iter().all(Option::is_none) {
                return None;
            }
            let columns = compacted
                .into_iter()
                .zip(array.columns())
                .map(|(new, old)| new.unwrap_or_else(|| old.clone()));
            Some(Arc::new(
                StructArray::try_new(fields.clone(), columns.collect(), array.nulls().cloned()).ok()?,
            ))
        }
        _ => None,
    }
}

fn compact_views<T: ByteViewType + ?Sized>(column: &GenericByteViewArray<T>) -> Option<ArrayRef> {
    let held: usize = column.data_buffers().iter().map(|buffer| buffer.len()).sum();
    (held > 0 && held > 2 * column.total_buffer_bytes_used()).then(|| Arc::new(column.gc()) as ArrayRef)
}
