//! What a driver tells of its jobs and executors.

use std::fmt;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use tidemill_dstream::accumulator::Reading;
use tidemill_rpc::control;
use tidemill_types::{BatchTime, ExecutorId, JobId, StageId};

use crate::error::{Error, Result};

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Waits for executors.
    Pending,
    Running,
    /// Finishes what it has.
    Stopping,
    Stopped,
    /// Bounded input was read to its end, or the asked number of batches was completed.
    Finished,
    Failed,
}

impl JobState {
    /// Whether the job will do nothing more.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::Stopped | Self::Finished | Self::Failed)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Finished => "finished",
            Self::Failed => "failed",
        })
    }
}

/// A job at a glance.
#[derive(Clone, Debug, PartialEq)]
pub struct JobSummary {
    pub id: JobId,
    pub name: String,
    pub state: JobState,
    pub batch_interval: Duration,
    pub completed_batches: u64,
    /// Batches that are due and not completed.
    pub queued_batches: u64,
    pub failed_batches: u64,
    pub input_rows: u64,
    /// Rows that were received and lost with an executor.
    pub lost_rows: u64,
    /// The last completed batch; `None` before the first.
    pub last_batch: Option<BatchTime>,
    /// Of the last completed batch.
    pub delays: Delays,
    /// Milliseconds since the Unix epoch.
    pub submitted_ms: i64,
    /// Why the job failed.
    pub error: Option<String>,
    /// The first batch that failed, also if the job went on.
    pub first_failure: Option<BatchFailure>,
    /// So many batches are queued that receivers do not read.
    pub sources_held: bool,
    /// The driver's journal cannot be written at present, and why: outputs of a job with a checkpoint wait for it.
    pub journal_error: Option<String>,
}

/// A batch that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchFailure {
    pub time: BatchTime,
    pub error: String,
}

/// The three times that say whether a job keeps up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delays {
    /// From the batch's time to the start of its work.
    pub scheduling: Duration,
    /// From there to its commit.
    pub processing: Duration,
    /// Both.
    pub total: Duration,
}

/// A job with its latest batches, receivers and stages.
#[derive(Clone, Debug, PartialEq)]
pub struct JobDetail {
    pub summary: JobSummary,
    /// Newest first.
    pub batches: Vec<BatchSummary>,
    pub receivers: Vec<ReceiverSummary>,
    pub stages: Vec<StageSummary>,
    /// Output tables.
    pub tables: Vec<String>,
    /// Those that are listed, without batches.
    pub accumulators: Vec<AccumulatorSummary>,
    pub broadcasts: Vec<BroadcastSummary>,
    pub remembered: Vec<RememberedStream>,
}

/// An accumulator of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct AccumulatorSummary {
    pub name: String,
    /// As in a job file.
    pub kind: String,
    /// The type of its values; `None` if nothing says it.
    pub value_type: Option<String>,
    /// Whether lists show it without being asked for all.
    pub listed: bool,
    /// Over all batches that are committed.
    pub total: Reading,
    /// Newest first.
    pub batches: Vec<AccumulatorBatch>,
}

/// What a batch has added to an accumulator.
#[derive(Clone, Debug, PartialEq)]
pub struct AccumulatorBatch {
    pub time: BatchTime,
    pub reading: Reading,
}

#[derive(Clone, Debug, PartialEq)]
pub struct BatchSummary {
    pub time: BatchTime,
    pub state: String,
    pub input_rows: u64,
    pub delays: Delays,
    /// Task attempts that failed.
    pub attempts_failed: u32,
    pub error: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiverSummary {
    pub stream: String,
    pub state: String,
    pub executor: Option<ExecutorId>,
    pub rows: u64,
    pub restarts: u32,
    /// Lines that were repaired: not UTF-8, or cut.
    pub malformed_rows: u64,
    /// Rows a second that back-pressure lets it read; `None`: as many as come.
    pub rate_limit: Option<u64>,
    /// The last error.
    pub message: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageSummary {
    pub id: StageId,
    pub partitions: u32,
    pub description: String,
    /// By partition.
    pub executors: Vec<ExecutorId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutorSummary {
    pub id: ExecutorId,
    pub state: String,
    pub host: String,
    pub data_address: String,
    pub slots: u32,
    pub running_tasks: u32,
    pub queued_tasks: u32,
    pub completed_tasks: u64,
    pub failed_tasks: u64,
    pub memory_bytes: u64,
    pub spilled_bytes: u64,
    pub receivers: u32,
    /// Milliseconds since the Unix epoch.
    pub registered_ms: i64,
    /// Broadcast values that it holds.
    pub broadcast_bytes: u64,
    /// Their pieces.
    pub pieces: PieceCounts,
    /// Who holds how much; `None` until it has said so.
    pub storage: Option<StorageSummary>,
}

/// Pieces of broadcast values that an executor moved since it registered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PieceCounts {
    pub from_driver: u64,
    pub from_peers: u64,
    /// Given to others.
    pub sent: u64,
    /// Came damaged and were taken from somebody else.
    pub corrupt: u64,
}

/// A broadcast variable of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BroadcastSummary {
    pub name: String,
    /// `scalar`, `list`, `map` or `table`; empty when there is no value any more.
    pub shape: String,
    /// What the next batch uses; `None` once it was destroyed, or the job has ended.
    pub version: Option<u32>,
    /// The newest: another one while executors do not hold it yet.
    pub newest: u32,
    pub rows: u64,
    pub bytes: u64,
    /// Those that hold the newest version.
    pub executors: Vec<ExecutorId>,
    /// Pieces of all versions that executors got from the driver.
    pub pieces_from_driver: u64,
    /// And from each other.
    pub pieces_from_peers: u64,
    pub pieces_corrupt: u64,
    /// Why the value is not newer.
    pub warning: Option<String>,
    /// Versions that are kept, because batches can still ask for them.
    pub kept_versions: u32,
}

/// What an executor holds, and what it has to hold it in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageSummary {
    /// Bytes that may be in memory, and the most that were at once.
    pub memory_limit: u64,
    pub peak_bytes: u64,
    pub disk_limit: u64,
    /// Files written so far, and their bytes.
    pub spilled_files: u64,
    pub written_bytes: u64,
    /// Files that could not be read back as they were written.
    pub lost_files: u64,
    /// Blocks, datasets, shuffle, map outputs, state, and what tasks work with.
    pub kinds: Vec<KindSummary>,
}

/// What an executor holds of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindSummary {
    pub kind: String,
    pub memory_bytes: u64,
    pub peak_bytes: u64,
    pub disk_bytes: u64,
    /// Entries that went from memory to files.
    pub evicted: u64,
    /// Entries that were let go of: they may not go to files, or can be made again.
    pub dropped: u64,
}

/// A stream of a job whose batches can be sliced and asked for in SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RememberedStream {
    pub stream: String,
    /// The name of its storage level.
    pub level: String,
    /// Completed batches that are remembered, and the one that is made.
    pub batches: u32,
}

/// What a followed job does.
#[derive(Clone, Debug, PartialEq)]
pub enum JobEvent {
    Printed(PrintedBatch),
    /// A batch was completed or failed.
    Batch(BatchSummary),
    /// The job is over: the last event.
    Ended(JobSummary),
}

/// The first rows of a batch of a printed stream.
#[derive(Clone, Debug, PartialEq)]
pub struct PrintedBatch {
    pub time: BatchTime,
    pub stream: String,
    pub schema: SchemaRef,
    pub rows: Vec<RecordBatch>,
    /// Whether there are more rows than these.
    pub more: bool,
}

/// A batch of a remembered stream.
#[derive(Clone, Debug, PartialEq)]
pub struct RememberedBatch {
    pub time: BatchTime,
    pub schema: SchemaRef,
    pub rows: Vec<RecordBatch>,
}

// === From the wire ===

pub(crate) fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn delays(scheduling_micros: u64, processing_micros: u64, total_micros: u64) -> Delays {
    Delays {
        scheduling: Duration::from_micros(scheduling_micros),
        processing: Duration::from_micros(processing_micros),
        total: Duration::from_micros(total_micros),
    }
}

impl TryFrom<control::JobSummary> for JobSummary {
    type Error = Error;

    fn try_from(job: control::JobSummary) -> Result<Self> {
        let state = match job.state() {
            control::JobState::Pending => JobState::Pending,
            control::JobState::Running => JobState::Running,
            control::JobState::Stopping => JobState::Stopping,
            control::JobState::Stopped => JobState::Stopped,
            control::JobState::Finished => JobState::Finished,
            control::JobState::Failed => JobState::Failed,
            control::JobState::Unspecified => {
                return Err(Error::answer(format!("{} is not a known state of a job", job.state)));
            }
        };
        Ok(Self {
            id: JobId(job.id),
            name: job.name,
            state,
            batch_interval: Duration::from_millis(job.batch_interval_ms),
            completed_batches: job.completed_batches,
            queued_batches: job.queued_batches,
            failed_batches: job.failed_batches,
            input_rows: job.input_rows,
            lost_rows: job.lost_rows,
            last_batch: (job.completed_batches > 0).then_some(BatchTime(job.last_batch_time_ms)),
            delays: delays(
                job.scheduling_delay_micros,
                job.processing_time_micros,
                job.total_delay_micros,
            ),
            submitted_ms: job.submitted_ms,
            error: some(job.error),
            sources_held: job.sources_held,
            journal_error: some(job.journal_error),
            first_failure: some(job.first_error).map(|error| BatchFailure {
                time: BatchTime(job.first_failed_batch_ms),
                error,
            }),
        })
    }
}

pub(crate) fn summary(summary: Option<control::JobSummary>) -> Result<JobSummary> {
    summary
        .ok_or_else(|| Error::answer("it has no summary of the job"))?
        .try_into()
}

impl TryFrom<control::GetJobResponse> for JobDetail {
    type Error = Error;

    fn try_from(job: control::GetJobResponse) -> Result<Self> {
        Ok(Self {
            summary: summary(job.summary)?,
            batches: job.batches.into_iter().map(BatchSummary::from).collect(),
            receivers: job.receivers.into_iter().map(ReceiverSummary::from).collect(),
            stages: job.stages.into_iter().map(StageSummary::from).collect(),
            tables: job.tables,
            accumulators: accumulators(job.accumulators)?,
            broadcasts: job.broadcasts.into_iter().map(BroadcastSummary::from).collect(),
            remembered: job
                .remembered
                .into_iter()
                .map(|stream| RememberedStream {
                    stream: stream.stream,
                    level: stream.level,
                    batches: stream.batches,
                })
                .collect(),
        })
    }
}

pub(crate) fn reading(reading: Option<control::AccumulatorReading>) -> Result<Reading> {
    Reading::try_from(reading.unwrap_or_default()).map_err(Error::answer)
}

pub(crate) fn accumulators(accumulators: Vec<control::AccumulatorSummary>) -> Result<Vec<AccumulatorSummary>> {
    accumulators.into_iter().map(AccumulatorSummary::try_from).collect()
}

impl TryFrom<control::AccumulatorSummary> for AccumulatorSummary {
    type Error = Error;

    fn try_from(accumulator: control::AccumulatorSummary) -> Result<Self> {
        let batch = |batch: control::AccumulatorBatch| {
            Ok(AccumulatorBatch {
                time: BatchTime(batch.batch_time_ms),
                reading: reading(batch.reading)?,
            })
        };
        Ok(Self {
            name: accumulator.name,
            kind: accumulator.kind,
            value_type: some(accumulator.r#type),
            listed: accumulator.listed,
            total: reading(accumulator.total)?,
            batches: accumulator.batches.into_iter().map(batch).collect::<Result<_>>()?,
        })
    }
}

impl From<control::BatchSummary> for BatchSummary {
    fn from(batch: control::BatchSummary) -> Self {
        Self {
            time: BatchTime(batch.batch_time_ms),
            state: batch.state,
            input_rows: batch.input_rows,
            delays: delays(
                batch.scheduling_delay_micros,
                batch.processing_time_micros,
                batch.total_delay_micros,
            ),
            attempts_failed: batch.attempts_failed,
            error: some(batch.error),
        }
    }
}

impl From<control::ReceiverSummary> for ReceiverSummary {
    fn from(receiver: control::ReceiverSummary) -> Self {
        Self {
            stream: receiver.stream,
            state: receiver.state,
            executor: receiver.executor.map(ExecutorId),
            rows: receiver.rows,
            restarts: receiver.restarts,
            malformed_rows: receiver.malformed_rows,
            rate_limit: receiver.rate_limit,
            message: some(receiver.message),
        }
    }
}

impl From<control::StageSummary> for StageSummary {
    fn from(stage: control::StageSummary) -> Self {
        Self {
            id: StageId(stage.id),
            partitions: stage.partitions,
            description: stage.description,
            executors: stage.executors.into_iter().map(ExecutorId).collect(),
        }
    }
}

impl From<control::ExecutorSummary> for ExecutorSummary {
    fn from(executor: control::ExecutorSummary) -> Self {
        Self {
            id: ExecutorId(executor.id),
            state: executor.state,
            host: executor.host,
            data_address: executor.data_address,
            slots: executor.slots,
            running_tasks: executor.running_tasks,
            queued_tasks: executor.queued_tasks,
            completed_tasks: executor.completed_tasks,
            failed_tasks: executor.failed_tasks,
            memory_bytes: executor.memory_bytes,
            spilled_bytes: executor.spilled_bytes,
            receivers: executor.receivers,
            registered_ms: executor.registered_ms,
            broadcast_bytes: executor.broadcast_bytes,
            pieces: PieceCounts {
                from_driver: executor.pieces_from_driver,
                from_peers: executor.pieces_from_peers,
                sent: executor.pieces_sent,
                corrupt: executor.pieces_corrupt,
            },
            storage: executor.storage.map(StorageSummary::from),
        }
    }
}

impl From<control::BroadcastSummary> for BroadcastSummary {
    fn from(broadcast: control::BroadcastSummary) -> Self {
        Self {
            name: broadcast.name,
            shape: broadcast.shape,
            version: broadcast.version,
            newest: broadcast.newest,
            rows: broadcast.rows,
            bytes: broadcast.bytes,
            executors: broadcast.executors.into_iter().map(ExecutorId).collect(),
            pieces_from_driver: broadcast.pieces_from_driver,
            pieces_from_peers: broadcast.pieces_from_peers,
            pieces_corrupt: broadcast.pieces_corrupt,
            warning: some(broadcast.warning),
            kept_versions: broadcast.kept_versions,
        }
    }
}

impl From<control::StorageSummary> for StorageSummary {
    fn from(storage: control::StorageSummary) -> Self {
        let kind = |kind: control::KindSummary| KindSummary {
            kind: kind.kind,
            memory_bytes: kind.memory_bytes,
            peak_bytes: kind.peak_bytes,
            disk_bytes: kind.disk_bytes,
            evicted: kind.evicted,
            dropped: kind.dropped,
        };
        Self {
            memory_limit: storage.memory_limit,
            peak_bytes: storage.peak_bytes,
            disk_limit: storage.disk_limit,
            spilled_files: storage.spilled_files,
            written_bytes: storage.written_bytes,
            lost_files: storage.lost_files,
            kinds: storage.kinds.into_iter().map(kind).collect(),
        }
    }
}
