//! Record batches as bytes: Arrow's IPC stream format, for rows that leave the process.
//!
//! View columns are compacted on the way when they refer to much more data than they show (a slice of a shuffled
//! batch shares its whole input's buffers, and IPC would write all of these for every slice).

use std::panic::AssertUnwindSafe;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;

use crate::batches::compact;
use crate::error::Error;

/// The batches as one IPC stream, which carries the schema also when there is no batch.
pub fn encode_ipc(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Bytes, Error> {
    let mut writer = StreamWriter::try_new(Vec::new(), schema)?;
    for batch in batches {
        writer.write(&compact(batch)?)?;
    }
    Ok(writer.into_inner()?.into())
}

/// What [`encode_ipc`] wrote. The bytes may come from a peer: damaged ones are an error, never a panic.
pub fn decode_ipc(bytes: &[u8]) -> Result<(SchemaRef, Vec<RecordBatch>), Error> {
    contain(|| {
        let reader = StreamReader::try_new(bytes, None)?;
        let schema = reader.schema();
        let batches = reader.collect::<Result<_, _>>()?;
        Ok((schema, batches))
    })
}

/// Runs a decoder that was not made for hostile bytes: Arrow's panics on some that it does not know.
pub(crate) fn contain<T>(decode: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    std::panic::catch_unwind(AssertUnwindSafe(decode)).unwrap_or(Err(Error::Damaged))
}
