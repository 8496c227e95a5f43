//! Plans the input of each batch for the streams that have no receiver.
//!
//! Listing directories and scanning files blocks, so each job has a thread for it. Batches are planned in order.

use std::sync::mpsc;
use std::time::Duration;

use tidemill_connectors::{AllocateRequest, InputPlanner};
use tidemill_scheduler::StreamInput;
use tidemill_types::{BatchTime, JobId, StreamId, TaskFailure};
use tokio::sync::mpsc::UnboundedSender;
use tracing::warn;

use crate::event::Event;
use crate::journal::source_position;

/// One planned stream.
pub(crate) struct PlannedStream {
    pub(crate) stream: StreamId,
    pub(crate) partitions: u32,
    pub(crate) planner: Box<dyn InputPlanner>,
}

/// Hands batches to the planning thread; ends it when dropped.
#[derive(Debug)]
pub(crate) struct Allocator {
    requests: mpsc::Sender<(BatchTime, i64)>,
}

impl Allocator {
    pub(crate) fn start(
        job: JobId,
        mut streams: Vec<PlannedStream>,
        interval: Duration,
        no_wait: bool,
        tells_positions: bool,
        events: UnboundedSender<Event>,
    ) -> std::io::Result<Self> {
        let (requests, batches) = mpsc::channel();
        std::thread::Builder::new()
            .name(format!("tidemill-input-{job}"))
            .spawn(move || {
                while let Ok((batch, index)) = batches.recv() {
                    let result = allocate(&mut streams, batch, index, interval, no_wait);
                    let tell = tells_positions && result.is_ok();
                    let stands = |planned: &PlannedStream| source_position(planned.stream, planned.planner.position());
                    let positions = streams.iter().filter(|_| tell).map(stands).collect();
                    let event = Event::Allocated {
                        job,
                        batch,
                        result,
                        positions,
                    };
                    if events.send(event).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self { requests })
    }

    pub(crate) fn allocate(&self, batch: BatchTime, index: i64) {
        if self.requests.send((batch, index)).is_err() {
            warn!(%batch, "input planning has ended");
        }
    }
}

fn allocate(
    streams: &mut [PlannedStream],
    batch: BatchTime,
    index: i64,
    interval: Duration,
    no_wait: bool,
) -> Result<Vec<StreamInput>, TaskFailure> {
    let plan = |planned: &mut PlannedStream| {
        let request = AllocateRequest {
            batch,
            index,
            interval,
            partitions: planned.partitions,
            no_wait,
        };
        let allocation = planned
            .planner
            .allocate(&request)
            .map_err(|error| TaskFailure::new(error.kind(), error.to_string()))?;
        Ok(StreamInput {
            stream: planned.stream,
            partitions: allocation.partitions,
            rows: allocation.rows,
            exhausted: allocation.exhausted,
        })
    };
    streams.iter_mut().map(plan).collect()
}
