//! Reading the values of broadcast variables: from files, from the job, from queries.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use tidemill_config::ByteSize;
use tidemill_connectors::{ReadOptions, open};
use tidemill_dstream::{
    BroadcastDef, BroadcastFormat, BroadcastSource, Diagnostic, FilePart, FileRange, InputItem, JobGraph, Shape, Source,
};
use tidemill_engine::{BroadcastRows, BroadcastValue, TableData, evaluate_query, literal_rows, load_table};
use tidemill_storage::Manifest;

/// A value as it is sent to executors.
#[derive(Clone, Debug)]
pub(crate) struct LoadedBroadcast {
    pub(crate) shape: Shape,
    pub(crate) schema: SchemaRef,
    pub(crate) rows: u64,
    /// An Arrow IPC stream.
    pub(crate) value: Bytes,
    pub(crate) manifest: Manifest,
}

impl LoadedBroadcast {
    fn of(rows: &BroadcastRows) -> Result<Self, String> {
        let value = rows.encode().map_err(|error| error.to_string())?;
        Ok(Self {
            shape: rows.shape(),
            schema: rows.schema(),
            rows: rows.num_rows() as u64,
            manifest: Manifest::of(&value),
            value,
        })
    }

    /// A value that was encoded before.
    pub(crate) fn of_value(shape: Shape, value: Bytes) -> Result<Self, String> {
        let decoded = BroadcastValue::decode(shape, Buffer::from(value.clone()));
        let decoded = decoded.map_err(|error| error.to_string())?;
        Ok(Self {
            shape,
            schema: decoded.schema(),
            rows: decoded.rows().num_rows() as u64,
            manifest: Manifest::of(&value),
            value,
        })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.manifest.bytes
    }

    /// The value as a table that queries can name. It shares the value's memory.
    pub(crate) fn table(&self, name: &str) -> Result<TableData, String> {
        let value = BroadcastValue::decode(self.shape, Buffer::from(self.value.clone()));
        let value = value.map_err(|error| error.to_string())?;
        Ok(TableData {
            name: name.to_owned(),
            schema: value.schema(),
            batches: vec![value.rows().clone()],
        })
    }
}

/// Loads the values of a graph, in order: a query can name tables and the values before it. All together they may have
/// `room` bytes.
///
/// # Errors
/// A diagnostic for each value that cannot be loaded.
pub(crate) async fn load_all(
    graph: &JobGraph,
    tables: &[TableData],
    mut room: u64,
) -> Result<(Vec<TableData>, Vec<LoadedBroadcast>), Vec<Diagnostic>> {
    let (mut data, mut loaded, mut faults) = (tables.to_vec(), Vec::new(), Vec::new());
    for def in &graph.broadcasts {
        match load(def, &data, room).await {
            Ok(value) => match value.table(&def.name) {
                Ok(table) => {
                    room -= value.bytes();
                    data.push(table);
                    loaded.push(value);
                }
                Err(message) => faults.push(fault(def, message)),
            },
            Err(diagnostic) => faults.push(diagnostic),
        }
    }
    if faults.is_empty() {
        data.drain(..tables.len());
        Ok((data, loaded))
    } else {
        Err(faults)
    }
}

/// Lets go of values that came with the graph and are loaded: the driver has each once.
pub(crate) fn forget_inline(graph: &mut JobGraph) {
    for def in &mut graph.broadcasts {
        if !matches!(def.source, BroadcastSource::File { .. } | BroadcastSource::Query(_)) {
            def.shape = Some(def.known_shape());
            def.source = BroadcastSource::Bytes(Bytes::new());
        }
    }
}

/// Loads a value from where its definition says.
pub(crate) async fn load(def: &BroadcastDef, tables: &[TableData], room: u64) -> Result<LoadedBroadcast, Diagnostic> {
    let said = |message: String| fault(def, message);
    let (schema, batches) = match &def.source {
        BroadcastSource::File { path, format } => {
            let format = format.unwrap_or_else(|| BroadcastFormat::of(path));
            let size = std::fs::metadata(path).map(|metadata| metadata.len());
            let size = size.map_err(|error| said(format!("{path} cannot be read: {error}")))?;
            if size > room {
                return Err(too_large(def, size, room));
            }
            read_file(path, format, def.known_shape()).await.map_err(said)?
        }
        BroadcastSource::Query(sql) => {
            let path = format!("broadcasts.{}.query", def.name);
            evaluate_query(sql, tables, &path, def.line).await?
        }
        inline => match literal_rows(inline).map_err(said)? {
            Some(rows) => rows,
            None => return Err(fault(def, "internal error: it has no rows".to_owned())),
        },
    };
    let shape = def.known_shape();
    let made = tokio::task::spawn_blocking(move || {
        let rows = BroadcastRows::try_new(shape, &schema, &batches)?;
        drop(batches);
        LoadedBroadcast::of(&rows)
    });
    let loaded = made
        .await
        .unwrap_or_else(|panic| Err(panic.to_string()))
        .map_err(said)?;
    if loaded.bytes() > room {
        return Err(too_large(def, loaded.bytes(), room));
    }
    Ok(loaded)
}

/// Reads a file as rows of its format.
async fn read_file(path: &str, format: BroadcastFormat, shape: Shape) -> Result<(SchemaRef, Vec<RecordBatch>), String> {
    if let BroadcastFormat::Table(format) = format {
        let rows = load_table(Path::new(path), format).await;
        return rows.map_err(|error| error.to_string());
    }
    let path = path.to_owned();
    let read = move || {
        let unreadable = |error: std::io::Error| format!("{path} cannot be read: {error}");
        let one = |value: ArrayRef| {
            let rows = RecordBatch::try_from_iter([("value", value)]).map_err(|error| error.to_string())?;
            Ok((rows.schema(), vec![rows]))
        };
        match format {
            BroadcastFormat::Bytes => {
                let bytes = std::fs::read(&path).map_err(unreadable)?;
                one(Arc::new(BinaryArray::from_vec(vec![&bytes])))
            }
            // One value of text is all of it.
            _ if shape == Shape::Scalar => {
                let text = std::fs::read(&path).map_err(unreadable)?;
                one(Arc::new(StringArray::from(vec![
                    String::from_utf8_lossy(&text).into_owned(),
                ])))
            }
            _ => lines(&path),
        }
    };
    tokio::task::spawn_blocking(read)
        .await
        .unwrap_or_else(|panic| Err(panic.to_string()))
}

/// The lines of a file by the rules of all text sources.
fn lines(path: &str) -> Result<(SchemaRef, Vec<RecordBatch>), String> {
    let item = InputItem::File(FileRange {
        path: path.to_owned(),
        part: FilePart::Whole,
    });
    let said = |error: tidemill_connectors::Error| error.to_string();
    let batches = open(&item, &Source::Queue(Vec::new()), &ReadOptions::default())
        .map_err(said)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(said)?;
    match batches.first() {
        Some(first) => Ok((first.schema(), batches)),
        None => {
            let none: ArrayRef = Arc::new(StringArray::from(Vec::<&str>::new()));
            let rows = RecordBatch::try_from_iter([("value", none)]).map_err(|error| error.to_string())?;
            Ok((rows.schema(), vec![rows]))
        }
    }
}

fn fault(def: &BroadcastDef, message: String) -> Diagnostic {
    Diagnostic::new(def.line.0, format!("broadcasts.{}", def.name), message)
}

fn too_large(def: &BroadcastDef, bytes: u64, room: u64) -> Diagnostic {
    let hint = "raise broadcast.memory of all executors, and executor.memory to twice that, or make the value smaller";
    fault(def, no_room(bytes, room)).hint(hint)
}

/// Why a value is not taken.
pub(crate) fn no_room(bytes: u64, room: u64) -> String {
    format!(
        "the value has {}, and executors have room for {} of broadcast values beside those that they hold",
        ByteSize(bytes),
        ByteSize(room)
    )
}
