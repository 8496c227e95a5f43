//! Rows as bytes of a file format.

use arrow::array::{AsArray, RecordBatch};
use arrow::csv::WriterBuilder;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::json::LineDelimitedWriter;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tidemill_dstream::FileFormat;

/// Appends the rows of a batch. `first` says that nothing is in the file yet, so a header is due.
pub(super) fn encode(
    format: FileFormat,
    batch: &RecordBatch,
    first: bool,
    bytes: &mut Vec<u8>,
) -> Result<(), ArrowError> {
    match format {
        FileFormat::Text => encode_text(batch, bytes),
        FileFormat::Csv => WriterBuilder::new().with_header(first).build(bytes).write(batch),
        FileFormat::Json => {
            let mut writer = LineDelimitedWriter::new(bytes);
            writer.write(batch)?;
            writer.finish()
        }
    }
}

/// Columns separated by tabs, one row a line. Nothing is escaped: what a text value contains is written as it is.
fn encode_text(batch: &RecordBatch, bytes: &mut Vec<u8>) -> Result<(), ArrowError> {
    if let [column] = batch.columns()
        && column.data_type() == &DataType::Utf8View
    {
        for line in column.as_string_view() {
            bytes.extend_from_slice(line.unwrap_or_default().as_bytes());
            bytes.push(b'\n');
        }
        return Ok(());
    }
    let options = FormatOptions::new().with_display_error(false);
    let columns = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options))
        .collect::<Result<Vec<_>, _>>()?;
    let mut text = String::new();
    for row in 0..batch.num_rows() {
        text.clear();
        for (at, column) in columns.iter().enumerate() {
            if at > 0 {
                text.push('\t');
            }
            column.value(row).write(&mut text)?;
        }
        text.push('\n');
        bytes.extend_from_slice(text.as_bytes());
    }
    Ok(())
}
