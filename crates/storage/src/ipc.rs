//! Batches as one Arrow IPC stream in memory: what a fetch of a block or dataset partition sends.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;

use crate::{Error, Result, compact};

/// Encodes `batches`, which all have `schema`, with it in front.
pub fn encode_stream(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Vec<u8>> {
    let mut writer = StreamWriter::try_new(Vec::new(), schema)?;
    for batch in batches {
        writer.write(&compact(batch)?)?;
    }
    Ok(writer.into_inner()?)
}

/// The schema and batches of an encoded stream. Bytes that are not one are an error.
pub fn decode_stream(bytes: &[u8]) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    guarded(|| {
        let reader = StreamReader::try_new(Cursor::new(bytes), None)?;
        let schema = reader.schema();
        let batches = reader.collect::<Result<Vec<_>, _>>()?;
        Ok((schema, batches))
    })
}

/// Runs a decoder of the arrow library, which asserts some things about its input that bytes from elsewhere can
/// violate, and turns such a panic into an error.
pub(crate) fn guarded<T>(decode: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(decode))
        .unwrap_or_else(|_| Err(Error::malformed("the bytes contradict the schema or themselves")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{wide_batch, wide_schema};

    #[test]
    fn a_stream_returns_as_it_was() {
        let batches = vec![wide_batch(100), wide_batch(0), wide_batch(7)];
        let bytes = encode_stream(&wide_schema(), &batches).unwrap();
        let (schema, decoded) = decode_stream(&bytes).unwrap();
        assert_eq!(schema, wide_schema());
        assert_eq!(decoded, batches);
    }

    #[test]
    fn a_cut_stream_is_an_error_or_a_prefix() {
        let bytes = encode_stream(&wide_schema(), &[wide_batch(100)]).unwrap();
        assert!(decode_stream(&bytes[..100]).is_err());
        assert!(decode_stream(b"").is_err());
        assert!(decode_stream(&[0xff; 64]).is_err());
    }
}
