//! Finds at submission what would otherwise fail in the first batch.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow::array::{RecordBatch, new_null_array};
use arrow::datatypes::{Schema, SchemaRef};
use tidemill_dstream::{FileFormat, SaveOutput};

use super::create_directory;
use super::encode::encode;
use crate::Error;

/// Creates the output's directory if it is not there, and tries to write in it.
pub fn check_save(save: &SaveOutput) -> Result<(), Error> {
    let path = Path::new(&save.path);
    create_directory(path)?;
    // Two submissions may probe at the same time.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let probe = path.join(format!(".probe-{}-{}", process::id(), now.as_nanos()));
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&probe)
        .and_then(|_| fs::remove_file(&probe))
        .map_err(|source| Error::NotWritable {
            path: path.to_owned(),
            source,
        })
}

/// Refuses columns that the output's format cannot express.
pub fn check_save_schema(save: &SaveOutput, schema: &Schema) -> Result<(), Error> {
    let (format, advice) = match save.format {
        FileFormat::Text => ("text", "convert it to a string first"),
        FileFormat::Csv => ("csv", "convert it to a string first, or save as json"),
        FileFormat::Json => ("json", "convert it to a string first"),
    };
    for field in schema.fields() {
        // What the encoder says to a null of the type is what it says to every value.
        let column = new_null_array(field.data_type(), 1);
        let schema = SchemaRef::new(Schema::new(vec![field.as_ref().clone().with_nullable(true)]));
        let encoded = RecordBatch::try_new(schema, vec![column])
            .and_then(|batch| encode(save.format, &batch, true, &mut Vec::new()));
        if encoded.is_err() {
            return Err(Error::Unsaveable {
                column: field.name().clone(),
                data_type: field.data_type().to_string(),
                format,
                advice,
            });
        }
    }
    Ok(())
}
