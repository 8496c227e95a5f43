//! Lines as record batches in memory, as connectors make them.

use std::sync::Arc;

use anyhow::Result;
use arrow::array::{ArrayRef, RecordBatch, StringViewBuilder};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Schema};

/// Rows of a batch.
const ROWS: usize = 8192;

/// The lines of a text in as many partitions, batches of views into one buffer.
pub(crate) fn blocks(text: Vec<u8>, partitions: usize) -> Result<Vec<Vec<RecordBatch>>> {
    let mut lines: Vec<(u32, u32)> = Vec::new();
    let mut begin = 0;
    for end in memchr::memchr_iter(b'\n', &text) {
        lines.push((u32::try_from(begin)?, u32::try_from(end - begin)?));
        begin = end + 1;
    }
    let buffer = Buffer::from_vec(text);
    let of_partition = |lines: &[(u32, u32)]| {
        let batches = lines.chunks(ROWS).map(|lines| {
            let mut views = StringViewBuilder::new();
            let block = views.append_block(buffer.clone());
            for (begin, length) in lines {
                views.try_append_view(block, *begin, *length)?;
            }
            Ok(batch(Arc::new(views.finish()))?)
        });
        batches.collect::<Result<Vec<_>>>()
    };
    let share = lines.len().div_ceil(partitions).max(1);
    let mut blocks: Vec<Vec<RecordBatch>> = lines.chunks(share).map(of_partition).collect::<Result<_>>()?;
    blocks.resize(partitions, Vec::new());
    Ok(blocks)
}

fn batch(lines: ArrayRef) -> Result<RecordBatch, arrow::error::ArrowError> {
    let schema = Schema::new(vec![Field::new("value", DataType::Utf8View, false)]);
    RecordBatch::try_new(Arc::new(schema), vec![lines])
}
