//! A value as the driver makes it: rows that have the columns of its shape.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use tidemill_dstream::Shape;

use super::BroadcastValue;
use super::lookup::Lookup;
use crate::TableData;
use crate::error::Error;
use crate::ipc::encode_ipc;

/// The rows of a value, checked.
#[derive(Clone, Debug)]
pub struct BroadcastRows {
    shape: Shape,
    rows: RecordBatch,
}

impl BroadcastRows {
    /// Gives rows the columns of a shape: a scalar is one row of one column, a list one column, a map two, of which the
    /// first has every key once. Text becomes Utf8View, the type that text sources have.
    ///
    /// # Errors
    /// A sentence about what the rows are instead.
    pub fn try_new(shape: Shape, schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Self, String> {
        let names: &[&str] = match shape {
            Shape::Scalar | Shape::List => &["value"],
            Shape::Map => &["key", "value"],
            Shape::Table => &[],
        };
        let columns = schema.fields().len();
        if shape != Shape::Table && columns != names.len() {
            let (name, wanted) = (shape.name(), names.len());
            return Err(format!("a {name} has {wanted} columns, and this has {columns}"));
        }
        let fields = schema.fields().iter().enumerate().map(|(i, field)| {
            let data_type = match field.data_type() {
                DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
                other => other.clone(),
            };
            Field::new(names.get(i).map_or(field.name().as_str(), |name| name), data_type, true)
        });
        let target = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let said = |error: arrow::error::ArrowError| error.to_string();
        let rows = concat_batches(schema, batches).map_err(said)?;
        let converted = rows
            .columns()
            .iter()
            .zip(target.fields())
            .map(|(column, field)| cast(column, field.data_type()));
        let converted = converted.collect::<Result<Vec<_>, _>>().map_err(said)?;
        let rows = RecordBatch::try_new(target, converted).map_err(said)?;
        if shape == Shape::Scalar && rows.num_rows() != 1 {
            return Err(format!("a scalar is one value, and these are {}", rows.num_rows()));
        }
        if shape == Shape::Map {
            every_key_once(&rows)?;
        }
        Ok(Self { shape, rows })
    }

    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }

    #[must_use]
    pub fn num_rows(&self) -> usize {
        self.rows.num_rows()
    }

    /// The value as an Arrow IPC stream of one batch.
    pub fn encode(&self) -> Result<Bytes, Error> {
        encode_ipc(&self.rows.schema(), std::slice::from_ref(&self.rows))
    }

    /// The value, as a task has it.
    #[must_use]
    pub fn value(&self) -> BroadcastValue {
        BroadcastValue::new(self.shape, self.rows.clone())
    }

    /// The value as a table that queries can name.
    #[must_use]
    pub fn table(&self, name: &str) -> TableData {
        TableData {
            name: name.to_owned(),
            schema: self.rows.schema(),
            batches: vec![self.rows.clone()],
        }
    }
}

fn every_key_once(rows: &RecordBatch) -> Result<(), String> {
    let keys = rows.column(0);
    let nulls = keys.logical_null_count();
    if nulls > 0 {
        return Err(format!("a map has no null keys, and this has {nulls}"));
    }
    let distinct = Lookup::of(keys).map_err(|failure| failure.message)?.len();
    if distinct < keys.len() {
        return Err(format!(
            "a map has every key once, and of {} keys {} are there again",
            keys.len(),
            keys.len() - distinct
        ));
    }
    Ok(())
}
