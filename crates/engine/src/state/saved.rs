//! A version of a state as rows that another process goes on with, of whatever build.
//!
//! ```text
//!   key columns, state columns     by the names that the job gives them
//!   __touched: Int64               of `map_with_state`: when the key was touched last, in milliseconds
//! ```
//! It is one Arrow IPC stream (lz4) with a row for each key that has a state; dead rows, keys that are leaving and the
//! version before are not written. Its schema says which kind of state it is. Slots are given anew when it is read, so
//! which key stands first is no part of a state.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::compute::{cast, concat};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use datafusion::error::Result;

use super::all_keys::AllKeys;
use super::freeze::held_bytes;
use super::spec::{StateKind, StateSpec, batch};
use super::touched_keys::TouchedKeys;
use crate::batches::compact;
use crate::error::Error;
use crate::ipc::contain;
use crate::keyed::Keys;
use crate::keyed::rows::{RowRef, gather};
use crate::memory::{Kept, TaskMemory};
use crate::template::Template;

/// Rows that are written at a time.
const CHUNK_ROWS: usize = 8192;
/// The schema's metadata that names the kind of state.
const KIND: &str = "tidemill.state";
/// The same with the number of its rows: a stream that ends between two batches is as good as any.
const ROWS: &str = "tidemill.rows";
const ALL_KEYS: &str = "all_keys";
const TOUCHED_KEYS: &str = "touched_keys";
/// It is found by its place, whatever a job calls its columns.
const TOUCHED: &str = "__touched";

/// A partition's state as a batch has left it. Later batches do not change it; it shares their memory as long as they have
/// the same rows.
pub struct StateVersion {
    pub(super) spec: Arc<StateSpec>,
    pub(super) rows: VersionRows,
}

pub(super) enum VersionRows {
    /// Keys and states.
    Columns(Vec<ArrayRef>, usize),
    Log(LogRows),
}

/// Rows of a log, by key.
pub(super) struct LogRows {
    pub(super) keys: Keys,
    pub(super) places: Vec<RowRef>,
    /// When each key was touched last.
    pub(super) touched: Vec<i64>,
    pub(super) runs: HashMap<u32, Vec<ArrayRef>>,
}

/// A state that was saved, as columns.
pub(super) struct SavedRows {
    pub(super) keys: Vec<ArrayRef>,
    pub(super) state: Vec<ArrayRef>,
    /// Empty for a state that looks at all keys.
    pub(super) touched: Vec<i64>,
    pub(super) rows: usize,
}

impl StateVersion {
    /// Keys that have a state.
    #[must_use]
    pub fn rows(&self) -> usize {
        match &self.rows {
            VersionRows::Columns(_, rows) => *rows,
            VersionRows::Log(log) => log.places.len(),
        }
    }

    /// Bytes that it keeps in memory, were it alone.
    #[must_use]
    pub fn size(&self) -> usize {
        match &self.rows {
            VersionRows::Columns(columns, _) => held_bytes(columns),
            VersionRows::Log(log) => {
                held_bytes(log.runs.values().flatten())
                    + log.keys.size()
                    + log.places.capacity() * size_of::<RowRef>()
                    + log.touched.capacity() * size_of::<i64>()
            }
        }
    }

    /// Writes it, some rows at a time.
    ///
    /// # Errors
    /// `sink` cannot be written to.
    pub fn write(&self, sink: impl Write) -> Result<(), Error> {
        let schema = saved_schema(&self.spec, self.rows());
        let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
        let mut writer = StreamWriter::try_new_with_options(sink, &schema, options)?;
        let rows = self.rows();
        for begin in (0..rows).step_by(CHUNK_ROWS) {
            let chunk = begin..rows.min(begin + CHUNK_ROWS);
            let columns = self.columns(&chunk)?;
            writer.write(&compact(&batch(Arc::clone(&schema), columns, chunk.len())?)?)?;
        }
        writer.finish()?;
        Ok(())
    }

    fn columns(&self, chunk: &Range<usize>) -> Result<Vec<ArrayRef>> {
        let log = match &self.rows {
            VersionRows::Columns(columns, _) => {
                let slices = columns.iter().map(|column| column.slice(chunk.start, chunk.len()));
                return Ok(slices.collect());
            }
            VersionRows::Log(log) => log,
        };
        let mut columns = log.keys.columns(&self.spec.key_types(), chunk.clone())?;
        let places = &log.places[chunk.clone()];
        let run = |number| log.runs.get(&number).map_or(&[][..], Vec::as_slice);
        columns.extend(gather(places, &self.spec.column_types(), run)?);
        columns.push(Arc::new(Int64Array::from(log.touched[chunk.clone()].to_vec())));
        Ok(columns)
    }
}

fn saved_schema(spec: &StateSpec, rows: usize) -> SchemaRef {
    let mut fields = spec.state_schema().fields().to_vec();
    let kind = match spec.kind {
        StateKind::All => ALL_KEYS,
        StateKind::Touched { .. } => {
            fields.push(Arc::new(Field::new(TOUCHED, DataType::Int64, false)));
            TOUCHED_KEYS
        }
    };
    let metadata = [(KIND, kind.to_owned()), (ROWS, rows.to_string())];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value)).into();
    Arc::new(Schema::new_with_metadata(fields, metadata))
}

impl SavedRows {
    /// What [`StateVersion::write`] wrote, if it is of a state as `spec` has it.
    fn read(spec: &StateSpec, ipc: &[u8]) -> Result<Self, Error> {
        let (schema, batches) = contain(|| {
            let reader = StreamReader::try_new(ipc, None)?;
            let schema = reader.schema();
            Ok((schema, reader.collect::<Result<Vec<RecordBatch>, _>>()?))
        })?;
        let rows = batches.iter().map(RecordBatch::num_rows).sum();
        let expected = saved_schema(spec, rows);
        if !alike(&schema, &expected) {
            return Err(Error::SavedState {
                name: spec.name.clone(),
                found: described(&schema),
                expected: described(&expected),
            });
        }
        if schema.metadata().get(ROWS) != expected.metadata().get(ROWS) {
            return Err(Error::Damaged);
        }
        let column = |number: usize| -> Result<ArrayRef, Error> {
            let data_type = expected.field(number).data_type();
            let parts = batches.iter().map(|batch| cast(batch.column(number), data_type));
            let parts: Vec<ArrayRef> = parts.collect::<Result<_, _>>()?;
            let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
            match parts.as_slice() {
                [] => Ok(arrow::array::new_empty_array(data_type)),
                parts => Ok(concat(parts)?),
            }
        };
        let mut keys = (0..expected.fields().len())
            .map(column)
            .collect::<Result<Vec<_>, _>>()?;
        let touched = match spec.kind {
            StateKind::All => None,
            StateKind::Touched { .. } => keys.pop(),
        };
        let state = keys.split_off(spec.keys.len());
        Ok(Self {
            keys,
            state,
            touched: touched.map_or_else(Vec::new, |touched| {
                touched.as_primitive::<Int64Type>().values().to_vec()
            }),
            rows,
        })
    }
}

/// Whether both have the same columns; a text is one in either of its layouts, which a build may choose.
fn alike(found: &Schema, expected: &Schema) -> bool {
    let same = |(found, expected): (&Arc<Field>, &Arc<Field>)| {
        found.name() == expected.name() && layout(found.data_type()) == layout(expected.data_type())
    };
    found.metadata().get(KIND) == expected.metadata().get(KIND)
        && found.fields().len() == expected.fields().len()
        && found.fields().iter().zip(expected.fields()).all(same)
}

fn layout(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::LargeUtf8 | DataType::Utf8View => &DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView => &DataType::Binary,
        other => other,
    }
}

fn described(schema: &Schema) -> String {
    let kind = schema.metadata().get(KIND).map_or("no state", String::as_str);
    let columns = schema.fields().iter().map(|field| match field.name().as_str() {
        "" => field.data_type().to_string(),
        name => format!("{name} {}", field.data_type()),
    });
    format!("{kind} with {}", columns.collect::<Vec<_>>().join(", "))
}

/// Whether no key is there twice.
pub(super) fn distinct(slots: &[u32]) -> bool {
    slots.iter().collect::<HashSet<_>>().len() == slots.len()
}

impl TaskMemory {
    /// The state as a batch has left it, if that is one of the two versions that are here. It is little work: rows are
    /// shared, and of `map_with_state` keys and places of rows are copied.
    ///
    /// # Errors
    /// It was on disk and is lost, or has no room in memory.
    pub fn state_version(&self, index: i64) -> Result<Option<StateVersion>, Error> {
        self.read(|state| state.version_at(index), |state| state.version_at(index))
    }

    /// Puts a saved state here as that of the batch `index`, in place of what is here. `template` is that of the stage.
    ///
    /// # Errors
    /// The bytes are damaged or of another state, or it has no room in memory.
    pub fn load_state(&self, template: &Template, index: i64, ipc: &[u8]) -> Result<(), Error> {
        let spec = template.state().ok_or(Error::Damaged)?;
        let saved = SavedRows::read(&spec, ipc)?;
        let kept: Option<Box<dyn Kept>> = match spec.kind {
            StateKind::All => AllKeys::of_saved(&spec, index, saved)?.map(|state| Box::new(state) as _),
            StateKind::Touched { .. } => TouchedKeys::of_saved(&spec, index, saved)?.map(|state| Box::new(state) as _),
        };
        self.put_state(index, kept.ok_or(Error::Damaged)?)?;
        Ok(())
    }
}
