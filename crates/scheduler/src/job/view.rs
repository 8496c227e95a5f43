//! What others may see of a job.

use std::time::Duration;

use tidemill_types::{BatchTime, BroadcastId, ExecutorId, JobId, ReceiverId, RoutingVersion, StageId, StreamId};

use super::receiver::Place;
use super::{BatchState, Job, JobState};
use crate::action::BatchStats;

/// Sums over the life of a job.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Totals {
    pub(crate) completed_batches: u64,
    pub(crate) failed_batches: u64,
    pub(crate) input_rows: u64,
    pub(crate) lost_rows: u64,
    pub(crate) last: Option<(BatchTime, BatchStats)>,
}

impl Totals {
    pub(crate) fn record(&mut self, batch: BatchTime, stats: &BatchStats) {
        self.completed_batches += 1;
        self.input_rows += stats.input_rows;
        self.last = Some((batch, stats.clone()));
    }
}

/// A job at one moment.
#[derive(Clone, Debug)]
pub struct JobView<'a> {
    pub id: JobId,
    pub name: &'a str,
    pub state: &'a JobState,
    pub interval: Duration,
    /// Microseconds since the epoch.
    pub submitted: i64,
    pub completed_batches: u64,
    pub failed_batches: u64,
    /// Due and not completed.
    pub queued_batches: u64,
    /// Receivers do not read, because too many batches are queued.
    pub held: bool,
    pub input_rows: u64,
    pub lost_rows: u64,
    pub last: Option<&'a (BatchTime, BatchStats)>,
    pub routing: RoutingVersion,
    pub receivers: Vec<ReceiverView>,
    /// Unfinished batches, oldest first.
    pub batches: Vec<BatchView>,
    pub stages: Vec<(StageId, Vec<ExecutorId>)>,
    /// The version of each broadcast variable that the next batch is launched with.
    pub broadcasts: Vec<(BroadcastId, u32)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiverView {
    pub id: ReceiverId,
    pub stream: StreamId,
    pub executor: Option<ExecutorId>,
    pub session: u32,
    pub rows: u64,
    /// Rows a second that it was told to read at most; `None` for as many as come.
    pub rate: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchView {
    pub time: BatchTime,
    pub state: BatchState,
    pub input_rows: u64,
    /// Microseconds since the epoch.
    pub due: i64,
    pub failed_attempts: u32,
}

impl Job {
    pub(crate) fn view(&self) -> JobView<'_> {
        JobView {
            id: self.spec.id,
            name: &self.spec.name,
            state: &self.state,
            interval: self.interval(),
            submitted: self.submitted,
            completed_batches: self.totals.completed_batches,
            failed_batches: self.totals.failed_batches,
            queued_batches: self.batches.len() as u64,
            held: self.held,
            input_rows: self.totals.input_rows,
            lost_rows: self.totals.lost_rows,
            last: self.totals.last.as_ref(),
            routing: self.routing,
            receivers: self
                .receivers
                .iter()
                .map(|(id, receiver)| ReceiverView {
                    id,
                    stream: receiver.stream,
                    executor: match receiver.place {
                        Place::On(executor) | Place::Stopping(executor) => Some(executor),
                        Place::Unplaced | Place::Stopped => None,
                    },
                    session: receiver.session,
                    rows: receiver.rows,
                    rate: receiver.told_rate(),
                })
                .collect(),
            batches: self
                .batches
                .values()
                .map(|batch| BatchView {
                    time: batch.time,
                    state: batch.state,
                    input_rows: batch.input_rows(&self.spec.plan),
                    due: batch.due,
                    failed_attempts: batch.failed_attempts,
                })
                .collect(),
            stages: self
                .spec
                .plan
                .stages
                .iter()
                .map(|stage| {
                    let owners = (0..stage.partitions).filter_map(|partition| self.owner(stage.id, partition));
                    (stage.id, owners.collect())
                })
                .collect(),
            broadcasts: self
                .broadcasts
                .current()
                .iter()
                .map(|(id, version)| (*id, *version))
                .collect(),
        }
    }
}
