//! Frames to bytes and back.

use std::collections::HashMap;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::buffer::Buffer;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::RecordBatchDecoder;
use arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};
use arrow::ipc::{MetadataVersion, root_as_message};
use bytes::Bytes;

use super::wire_type::{convert, wire_schema};
use super::{EncodedFrame, Frame, Run, layout};
use crate::ipc::guarded;
use crate::{Error, Result, compact};

/// The alignment of buffers in a body: what the widest values (views, decimals) need. Arrow's default of 64 would
/// make small frames mostly padding.
const ALIGNMENT: usize = 16;

/// A body below this is copied out of the message that it came in, which may hold far more.
const SHARE_BYTES: usize = 64 * 1024;

/// Encodes a frame for another process. Rows are copied once, strings without what they do not use.
pub fn encode(frame: &Frame) -> Result<EncodedFrame> {
    let runs = frame
        .runs
        .iter()
        .map(|run| match u32::try_from(run.rows.num_rows()) {
            Ok(rows) => Ok((run.partition, rows)),
            Err(_) => Err(Error::malformed("a run of more than 2^32 rows")),
        })
        .collect::<Result<Vec<_>>>()?;
    let (header, body) = match frame.runs.as_slice() {
        [] => (Bytes::new(), Bytes::new()),
        [run] => encode_rows(run.rows.clone())?,
        runs => {
            let schema = runs[0].rows.schema();
            encode_rows(concat_batches(&schema, runs.iter().map(|run| &run.rows))?)?
        }
    };
    Ok(EncodedFrame {
        head: frame.head.clone(),
        runs,
        header,
        body,
    })
}

/// Decodes a frame whose rows have `schema`. The runs are slices of one batch.
pub fn decode(schema: &SchemaRef, frame: EncodedFrame) -> Result<Frame> {
    let bytes = frame.bytes();
    let runs = if frame.runs.is_empty() {
        if !frame.header.is_empty() || !frame.body.is_empty() {
            return Err(Error::malformed("rows that belong to no partition"));
        }
        Vec::new()
    } else {
        let rows = decode_rows(schema, &frame.header, frame.body)?;
        let expected: u64 = frame.runs.iter().map(|(_, rows)| u64::from(*rows)).sum();
        if rows.num_rows() as u64 != expected {
            return Err(Error::malformed(format!(
                "{} rows in runs of {expected}",
                rows.num_rows()
            )));
        }
        let mut from = 0;
        let runs = frame.runs.iter().map(|(partition, count)| {
            let run = rows.slice(from, *count as usize);
            from += *count as usize;
            Run {
                partition: *partition,
                rows: run,
            }
        });
        runs.collect()
    };
    Ok(Frame {
        head: frame.head,
        runs,
        bytes,
    })
}

fn encode_rows(rows: RecordBatch) -> Result<(Bytes, Bytes)> {
    let schema = wire_schema(rows.schema_ref());
    let rows = compact(&convert(rows, &schema)?)?;
    let options = IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5)?;
    let mut dictionaries = DictionaryTracker::new(false);
    let (_, message) =
        IpcDataGenerator::default().encode(&rows, &mut dictionaries, &options, &mut IpcWriteContext::default())?;
    Ok((message.ipc_message.into(), message.arrow_data.into()))
}

/// Bytes that are not rows of `schema` are an error, whatever they are.
pub(super) fn decode_rows(schema: &SchemaRef, header: &[u8], body: Bytes) -> Result<RecordBatch> {
    let wire = wire_schema(schema);
    let rows = guarded(|| decode_wire(&wire, header, body))?;
    convert(rows, schema)
}

pub(super) fn decode_wire(schema: &SchemaRef, header: &[u8], body: Bytes) -> Result<RecordBatch> {
    let message = root_as_message(header).map_err(|error| Error::malformed(error.to_string()))?;
    let version = message.version();
    if version != MetadataVersion::V5 {
        return Err(Error::malformed("not of Arrow IPC version 5"));
    }
    let Some(batch) = message.header_as_record_batch() else {
        return Err(Error::malformed("not a record batch"));
    };
    layout::check(schema, &batch, body.len())?;
    if schema.fields().is_empty() {
        return without_columns(schema, batch.length());
    }
    let body = aligned(body);
    let dictionaries = HashMap::new();
    let decoder = RecordBatchDecoder::try_new(&body, batch, SchemaRef::clone(schema), &dictionaries, &version)?;
    Ok(decoder.read_record_batch()?)
}

fn without_columns(schema: &SchemaRef, rows: i64) -> Result<RecordBatch> {
    let rows = usize::try_from(rows).map_err(|_| Error::malformed("a negative number of rows"))?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(
        SchemaRef::clone(schema),
        vec![],
        &options,
    )?)
}

/// The body at an address at which all of its arrays can stand as they are.
fn aligned(body: Bytes) -> Buffer {
    if body.len() >= SHARE_BYTES && (body.as_ptr() as usize).is_multiple_of(ALIGNMENT) {
        Buffer::from(body)
    } else {
        Buffer::from(&body[..])
    }
}
