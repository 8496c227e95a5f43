//! Record batches as text.

use anyhow::Result;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::util::pretty::pretty_format_batches_with_schema;
use tidemill_client::PrintedBatch;

pub(crate) fn table(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<String> {
    Ok(pretty_format_batches_with_schema(schema.clone(), batches)?.to_string())
}

/// A printed batch with its banner, as Spark's `print` has it.
pub(crate) fn printed(printed: &PrintedBatch) -> Result<String> {
    let line = "-------------------------------------------";
    let more = if printed.more { "...\n" } else { "" };
    let rows = table(&printed.schema, &printed.rows)?;
    Ok(format!(
        "{line}\nTime: {} ms  {}\n{line}\n{rows}\n{more}\n",
        printed.time, printed.stream
    ))
}
