//! Answers the driver's questions for what is kept here: states, remembered partitions.
//!
//! Off the event loop: a state may be large, and a task may be at work on it.

use std::sync::Arc;

use bytes::Bytes;
use tidemill_engine::encode_ipc;
use tidemill_rpc::driver as wire;
use tidemill_rpc::driver::read_kept::What;
use tidemill_storage::DatasetKey;
use tidemill_types::{BatchTime, DatasetId, FailureKind, JobId, StageId};

use crate::event::Event;
use crate::event_loop::EventLoop;
use crate::node::Node;

/// Rows are sent in pieces of about this size.
const PIECE: usize = 2 << 20;

impl EventLoop {
    pub(crate) fn read_kept(&self, read: wire::ReadKept) {
        let Some(node) = self.node.clone() else { return };
        let (events, epoch) = (self.events.clone(), self.epoch);
        tokio::task::spawn_blocking(move || {
            for part in &read.parts {
                for rows in answer(&node, &read, part) {
                    // The loop ends only with the process.
                    let _ = events.send(Event::Kept { epoch, rows });
                }
            }
        });
    }
}

/// The pieces of one part.
fn answer(node: &Arc<Node>, read: &wire::ReadKept, part: &wire::KeptPart) -> Vec<wire::KeptRows> {
    let none = wire::KeptRows {
        request: read.request,
        batch_time_ms: part.batch_time_ms,
        partition: part.partition,
        last: true,
        ..wire::KeptRows::default()
    };
    match part_rows(node, read, part) {
        Err(error) => vec![wire::KeptRows { error, ..none }],
        Ok(None) => vec![wire::KeptRows { absent: true, ..none }],
        Ok(Some(ipc)) if ipc.is_empty() => vec![none],
        Ok(Some(ipc)) => (0..ipc.len())
            .step_by(PIECE)
            .map(|at| wire::KeptRows {
                ipc: ipc.slice(at..(at + PIECE).min(ipc.len())),
                last: at + PIECE >= ipc.len(),
                ..none.clone()
            })
            .collect(),
    }
}

/// The part as an IPC stream; `None` if it is not here.
fn part_rows(node: &Node, read: &wire::ReadKept, part: &wire::KeptPart) -> Result<Option<Bytes>, String> {
    let job = JobId(read.job);
    let batches = match read.what {
        Some(What::State(stage)) => {
            let Some(memory) = node.memories.find(job, StageId(stage), part.partition) else {
                return Ok(None);
            };
            let rows = memory.state_at(part.index).map_err(|error| error.to_string())?;
            rows.map(|rows| vec![rows])
        }
        Some(What::Dataset(dataset)) => {
            let key = DatasetKey {
                job,
                dataset: DatasetId(dataset),
                batch: BatchTime(part.batch_time_ms),
                partition: part.partition,
            };
            match node.blocks.dataset(key) {
                Ok(rows) => rows,
                // It is made again: whoever asks comes back.
                Err(error) if error.kind() == FailureKind::InputLost => None,
                Err(error) => return Err(error.to_string()),
            }
        }
        None => return Err("nothing is asked for".to_owned()),
    };
    let Some(batches) = batches else { return Ok(None) };
    let Some(first) = batches.first() else {
        return Ok(Some(Bytes::new()));
    };
    let rows: usize = batches.iter().map(|batch| batch.num_rows()).sum();
    if rows as u64 > read.max_rows {
        return Err(format!(
            "it has {rows} rows, more than the {} that can be read",
            read.max_rows
        ));
    }
    let ipc = encode_ipc(&first.schema(), &batches).map_err(|error| error.to_string())?;
    if ipc.len() as u64 > read.max_bytes {
        return Err(format!(
            "it has {} bytes, more than the {} that can be read",
            ipc.len(),
            read.max_bytes
        ));
    }
    Ok(Some(ipc))
}
