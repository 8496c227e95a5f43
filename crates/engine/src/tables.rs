//! Table files: small data that SQL can use beside the streams, read whole.

use std::fs::File;
use std::io::{BufReader, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tidemill_dstream::TableFormat;

use crate::error::Error;

/// A table as it is at compilation: only its schema and its size enter the plan, so it can be loaded again later.
#[derive(Clone, Debug)]
pub struct TableData {
    pub name: String,
    pub schema: SchemaRef,
    pub batches: Vec<RecordBatch>,
}

/// Reads a table file: CSV with a header line, JSON lines or Parquet. Text columns become Utf8View, the type that
/// text sources have.
pub async fn load_table(path: &Path, format: TableFormat) -> Result<(SchemaRef, Vec<RecordBatch>), Error> {
    let owned = path.to_owned();
    tokio::task::spawn_blocking(move || read(&owned, format))
        .await
        .map_err(|panic| Error::TableFormat {
            path: path.to_owned(),
            format: name(format),
            source: Box::new(panic),
        })?
}

fn read(path: &Path, format: TableFormat) -> Result<(SchemaRef, Vec<RecordBatch>), Error> {
    let unreadable = |source| Error::TableFile {
        path: PathBuf::from(path),
        source,
    };
    let malformed = |source: Box<dyn std::error::Error + Send + Sync>| Error::TableFormat {
        path: PathBuf::from(path),
        format: name(format),
        source,
    };
    let mut file = File::open(path).map_err(unreadable)?;
    let (schema, batches): (SchemaRef, Vec<RecordBatch>) = match format {
        TableFormat::Csv => {
            let format = arrow::csv::reader::Format::default().with_header(true);
            let (schema, _) = format
                .infer_schema(BufReader::new(&file), None)
                .map_err(|e| malformed(e.into()))?;
            file.rewind().map_err(unreadable)?;
            let schema = Arc::new(schema);
            let reader = arrow::csv::ReaderBuilder::new(schema.clone())
                .with_format(format)
                .build(file)
                .map_err(|e| malformed(e.into()))?;
            (
                schema,
                reader.collect::<Result<_, _>>().map_err(|e| malformed(e.into()))?,
            )
        }
        TableFormat::Json => {
            let mut reader = BufReader::new(file);
            let (schema, _) = arrow::json::reader::infer_json_schema_from_seekable(&mut reader, None)
                .map_err(|e| malformed(e.into()))?;
            let schema = Arc::new(schema);
            let reader = arrow::json::ReaderBuilder::new(schema.clone())
                .build(reader)
                .map_err(|e| malformed(e.into()))?;
            (
                schema,
                reader.collect::<Result<_, _>>().map_err(|e| malformed(e.into()))?,
            )
        }
        TableFormat::Parquet => {
            let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| malformed(e.into()))?;
            let schema = builder.schema().clone();
            let reader = builder.build().map_err(|e| malformed(e.into()))?;
            (
                schema,
                reader.collect::<Result<_, _>>().map_err(|e| malformed(e.into()))?,
            )
        }
    };
    if schema.fields().is_empty() {
        return Err(malformed("it has no columns".into()));
    }
    let target = text_as_views(&schema);
    let batches = batches
        .iter()
        .map(|batch| conform(batch, &target))
        .collect::<Result<_, _>>();
    Ok((target.clone(), batches.map_err(|e| malformed(e.into()))?))
}

fn text_as_views(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 => Field::new(field.name(), DataType::Utf8View, field.is_nullable()),
        other => Field::new(field.name(), other.clone(), field.is_nullable()),
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, arrow::error::ArrowError> {
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| cast(column, field.data_type()));
    RecordBatch::try_new(schema.clone(), columns.collect::<Result<_, _>>()?)
}

fn name(format: TableFormat) -> &'static str {
    match format {
        TableFormat::Csv => "CSV",
        TableFormat::Json => "JSON lines",
        TableFormat::Parquet => "Parquet",
    }
}
