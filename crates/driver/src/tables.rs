//! The tables of a job: files that are usable in SQL, loaded at submission and again when they change.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tidemill_dstream::{Diagnostic, JobGraph, TableDef, TableFormat};
use tidemill_engine::{SchemaRef, TableData, encode_ipc, load_table};
use tidemill_types::JobId;
use tokio::sync::mpsc::UnboundedSender;
use tracing::warn;

use crate::event::Event;

/// A version of a table as it is sent to executors.
#[derive(Clone, Debug)]
pub(crate) struct LoadedTable {
    pub(crate) name: String,
    pub(crate) version: u32,
    pub(crate) ipc: Bytes,
}

/// Loads all tables of a graph.
///
/// # Errors
/// A diagnostic for each table that cannot be loaded.
pub(crate) async fn load_all(graph: &JobGraph) -> Result<(Vec<TableData>, Vec<LoadedTable>), Vec<Diagnostic>> {
    let (mut data, mut loaded, mut faults) = (Vec::new(), Vec::new(), Vec::new());
    for table in &graph.tables {
        match load(table).await {
            Ok(read) => match encode_ipc(&read.schema, &read.batches) {
                Ok(ipc) => {
                    loaded.push(LoadedTable {
                        name: table.name.clone(),
                        version: 1,
                        ipc,
                    });
                    data.push(read);
                }
                Err(error) => faults.push(fault(table, error.to_string())),
            },
            Err(diagnostic) => faults.push(diagnostic),
        }
    }
    if faults.is_empty() {
        Ok((data, loaded))
    } else {
        Err(faults)
    }
}

async fn load(table: &TableDef) -> Result<TableData, Diagnostic> {
    let path = Path::new(&table.path);
    let format = table.format.or_else(|| by_extension(path)).ok_or_else(|| {
        fault(
            table,
            format!("the format of {} cannot be told from its name", table.path),
        )
        .hint("give format: csv, json or parquet")
    })?;
    let (schema, batches) = load_table(path, format)
        .await
        .map_err(|error| fault(table, error.to_string()))?;
    Ok(TableData {
        name: table.name.clone(),
        schema,
        batches,
    })
}

fn fault(table: &TableDef, message: String) -> Diagnostic {
    Diagnostic::new(table.line.0, format!("tables.{}", table.name), message)
}

fn by_extension(path: &Path) -> Option<TableFormat> {
    match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "csv" => Some(TableFormat::Csv),
        "json" | "jsonl" | "ndjson" => Some(TableFormat::Json),
        "parquet" => Some(TableFormat::Parquet),
        _ => None,
    }
}

/// The rows that a table's file has now, unless it cannot be read or has other columns.
pub(crate) async fn load_again(table: &TableDef, schema: &SchemaRef) -> Option<(TableData, Bytes)> {
    let data = load(table).await.ok().filter(|data| data.schema == *schema)?;
    let ipc = encode_ipc(&data.schema, &data.batches).ok()?;
    Some((data, ipc))
}

/// Looks at the files of reloadable tables again and reports new versions, until the job is gone.
pub(crate) async fn watch(job: JobId, graph: JobGraph, schemas: Vec<TableData>, events: UnboundedSender<Event>) {
    let reloadable: Vec<(TableDef, Duration)> = graph
        .tables
        .iter()
        .filter_map(|table| Some((table.clone(), table.reload?)))
        .collect();
    let watches = reloadable.into_iter().map(|(table, every)| {
        let schema = schemas
            .iter()
            .find(|data| data.name == table.name)
            .map(|data| data.schema.clone());
        let events = events.clone();
        async move {
            let mut seen = stamp(&table.path);
            let mut version = 1;
            let mut timer = tokio::time::interval(every);
            timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            timer.tick().await;
            loop {
                timer.tick().await;
                let now = stamp(&table.path);
                if now == seen || now.is_none() {
                    continue;
                }
                match load(&table).await {
                    Ok(data) if Some(&data.schema) == schema.as_ref() => {
                        match encode_ipc(&data.schema, &data.batches) {
                            Ok(ipc) => {
                                version += 1;
                                seen = now;
                                let table = LoadedTable {
                                    name: data.name,
                                    version,
                                    ipc,
                                };
                                if events.send(Event::TableReloaded { job, table }).is_err() {
                                    return;
                                }
                            }
                            Err(error) => warn!(%job, table = table.name, %error, "table was not reloaded"),
                        }
                    }
                    Ok(_) => {
                        seen = now;
                        warn!(%job, table = table.name, "table was not reloaded: its columns have changed");
                    }
                    Err(fault) => warn!(%job, table = table.name, error = fault.message, "table was not reloaded"),
                }
            }
        }
    });
    futures::future::join_all(watches).await;
}

fn stamp(path: &str) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(PathBuf::from(path)).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}
