//! Everything that can happen to the scheduler. Each variant says who sends it.

use std::time::Duration;

use tidemill_dstream::accumulator::AccumulatorState;
use tidemill_dstream::plan::JobPlan;
use tidemill_dstream::{BackPressure, FailurePolicy, InputItem};
use tidemill_types::{
    AccumulatorId, Attempt, BatchTime, BlockId, BroadcastId, DatasetId, ExecutorId, JobId, OutputId, ReceiverId,
    StageId, StreamId, TaskFailure, TaskKey,
};

#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The attach service: a new incarnation of an executor is there.
    ExecutorRegistered { executor: ExecutorId, slots: u32 },
    /// The liveness check: heartbeats stopped, the stream ended and was not resumed, or a newer incarnation came.
    ExecutorLost { executor: ExecutorId, reason: String },
    /// The control service, with the compiled job.
    JobSubmitted(Box<JobSpec>),
    /// An executor's answer to [`Action::Install`](crate::Action::Install).
    JobInstalled {
        job: JobId,
        executor: ExecutorId,
        error: Option<String>,
    },
    /// The control service.
    StopRequested { job: JobId, now: bool },
    /// A receiver, through its executor.
    BlocksReported {
        job: JobId,
        receiver: ReceiverId,
        session: u32,
        blocks: Vec<StoredBlock>,
        border: BatchTime,
    },
    /// A receiver that was asked to stop has stored and reported all that it had.
    ReceiverStopped {
        job: JobId,
        receiver: ReceiverId,
        session: u32,
    },
    /// The input planners' answer to [`Action::Allocate`](crate::Action::Allocate).
    Allocated {
        job: JobId,
        batch: BatchTime,
        result: Result<Vec<StreamInput>, TaskFailure>,
    },
    /// An executor: what its tasks of a batch came to.
    BatchReported {
        executor: ExecutorId,
        job: JobId,
        batch: BatchTime,
        restore: bool,
        tasks: Vec<TaskOutcome>,
    },
    /// An executor that was asked to take over remembered partitions.
    DatasetsFetched {
        executor: ExecutorId,
        job: JobId,
        missing: Vec<DatasetPart>,
    },
    /// An executor: what it has held and does not hold any more, because there was no room or a file is damaged.
    DataLost {
        executor: ExecutorId,
        job: JobId,
        datasets: Vec<DatasetPart>,
        /// Map outputs that were kept.
        outputs: Vec<TaskKey>,
        blocks: Vec<BlockId>,
    },
    /// A reader outside of the job: it wants remembered partitions that nobody holds.
    PartsWanted { job: JobId, parts: Vec<DatasetPart> },
    /// The control service: a stream's batches are not to be kept beyond what windows need.
    Unpersisted { job: JobId, dataset: DatasetId },
    /// The committer's answer to [`Action::Commit`](crate::Action::Commit).
    Committed {
        job: JobId,
        batch: BatchTime,
        result: Result<(), TaskFailure>,
    },
    /// The table loader: a version of a table was sent to all executors.
    TableInstalled { job: JobId, name: String, version: u32 },
    /// The broadcast loader: a new version was offered to all executors.
    BroadcastOffered {
        job: JobId,
        broadcast: BroadcastId,
        version: u32,
    },
    /// An executor: it holds a version.
    BroadcastHeld {
        job: JobId,
        executor: ExecutorId,
        broadcast: BroadcastId,
        version: u32,
    },
    /// The control service.
    BroadcastDestroyed { job: JobId, broadcast: BroadcastId },
    /// An executor: the state that a task left is saved, or could not be.
    StateSaved {
        job: JobId,
        batch: BatchTime,
        stage: StageId,
        partition: u32,
        error: Option<String>,
    },
    /// A timer asked for by [`Scheduler::next_deadline`](crate::Scheduler::next_deadline).
    Clock,
}

/// A compiled job, ready to run.
#[derive(Clone, Debug, PartialEq)]
pub struct JobSpec {
    pub id: JobId,
    pub name: String,
    pub plan: JobPlan,
    pub weight: u32,
    pub max_attempts: u32,
    pub concurrent_batches: u32,
    pub on_batch_failure: FailurePolicy,
    pub back_pressure: Option<BackPressure>,
    /// Unfinished batches beyond which none becomes due and receivers stop reading.
    pub max_queued_batches: u32,
    pub pace: Pace,
    /// End after this many batches.
    pub max_batches: Option<u64>,
    /// End when every source has said that nothing more will come.
    pub ends_with_input: bool,
    /// Streams that executors receive; all others are allocated by planners.
    pub receivers: Vec<(ReceiverId, StreamId)>,
    /// The versions of the job's tables that are sent with its installation.
    pub tables: Vec<(String, u32)>,
    /// The first versions of its broadcast variables.
    pub broadcasts: Vec<(BroadcastId, u32)>,
    /// Its state is saved after so many batches; never for `None`.
    pub checkpoint_every: Option<u32>,
    /// It has run before and goes on from there.
    pub resume: Option<Box<Resume>>,
}

/// What a job that goes on has to know of its past. See [`Scheduler::resume_point`](crate::Scheduler::resume_point).
#[derive(Clone, Debug, PartialEq)]
pub struct Resume {
    pub zero_time: BatchTime,
    /// Batches up to this index are committed or were left out.
    pub completed: i64,
    /// By index, ascending and without gaps: completed batches as far back as windows and states can ask for, then those
    /// that have their input and are not committed.
    pub batches: Vec<RecordedBatch>,
    /// The batch whose state is saved, of each stage that has one.
    pub state_bases: Vec<(StageId, i64)>,
}

/// What the journal says of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedBatch {
    pub index: i64,
    pub inputs: Vec<StreamInput>,
    /// It failed and was left out.
    pub skipped: bool,
}

/// What makes the next batch due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// The clock: zero time is the last multiple of the interval before the job runs.
    Clock,
    /// The batch before it: zero time is 0.
    NoWait,
}

/// A block that a receiver stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredBlock {
    pub id: BlockId,
    pub rows: u64,
    pub bytes: u64,
    /// The batch border at or after its last record.
    pub border: BatchTime,
}

/// The input of one stream in one batch, by partition.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamInput {
    pub stream: StreamId,
    pub partitions: Vec<Vec<InputItem>>,
    /// If known before reading.
    pub rows: Option<u64>,
    /// Nothing more will come after this batch.
    pub exhausted: bool,
}

/// What one task attempt came to.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskOutcome {
    pub stage: StageId,
    pub partition: u32,
    pub attempt: Attempt,
    pub result: Result<TaskSuccess, TaskFailure>,
}

#[derive(Clone, Debug, PartialEq, Default)]
pub struct TaskSuccess {
    pub input_rows: u64,
    pub output_rows: u64,
    pub wait: Duration,
    pub run: Duration,
    pub sent_bytes: u64,
    pub local_bytes: u64,
    pub outputs: Vec<OutputPart>,
    /// What it added to accumulators.
    pub deltas: Vec<(AccumulatorId, AccumulatorState)>,
}

/// A task's part of an output. The payload is opaque here: the committer made it and reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputPart {
    pub output: OutputId,
    pub partition: u32,
    pub rows: u64,
    pub payload: OutputPayload,
}

#[derive(Clone, Debug, PartialEq)]
pub enum OutputPayload {
    /// Nothing was written.
    Empty,
    /// An Arrow IPC stream.
    Ipc(bytes::Bytes),
    /// A staged file and its final name.
    File { staged: String, name: String, bytes: u64 },
}

/// One remembered partition of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatasetPart {
    pub dataset: DatasetId,
    pub batch: BatchTime,
    pub partition: u32,
}
