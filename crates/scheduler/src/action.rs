//! Everything that the scheduler can ask for. The driver's loop performs actions in order.

use std::time::Duration;

use tidemill_dstream::InputItem;
use tidemill_dstream::accumulator::AccumulatorState;
use tidemill_types::{
    AccumulatorId, Attempt, BatchTime, BlockId, BroadcastId, DatasetId, ExecutorId, JobId, OutputId, PlanVersion,
    ReceiverId, RoutingVersion, SlotId, StageId, StreamId,
};

use crate::event::{DatasetPart, OutputPart, StreamInput};

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Send the plan, the templates and the tables of a job to an executor.
    Install {
        executor: ExecutorId,
        job: JobId,
    },
    /// The executor can drop everything of the job.
    Remove {
        executor: ExecutorId,
        job: JobId,
    },
    /// Who owns which partition from now on. What is launched before keeps its own routing, save for what is sent again
    /// (`Resend`) or launched again.
    Routing {
        executor: ExecutorId,
        job: JobId,
        version: RoutingVersion,
        stages: Vec<(StageId, Vec<ExecutorId>)>,
    },
    Launch {
        executor: ExecutorId,
        launch: Launch,
    },
    /// Send the rows for these partitions to where the routing says: of finished maps what was kept, and of maps that
    /// run what they come to.
    Resend {
        executor: ExecutorId,
        job: JobId,
        batch: BatchTime,
        from_stage: StageId,
        partitions: Vec<u32>,
        routing: RoutingVersion,
    },
    /// Take over remembered partitions from the executors named.
    FetchDatasets {
        executor: ExecutorId,
        job: JobId,
        parts: Vec<(DatasetPart, ExecutorId)>,
    },
    /// A dataset is remembered for fewer batches and kept as any other from now on.
    Unpersist {
        executor: ExecutorId,
        job: JobId,
        dataset: DatasetId,
        remember: u32,
        /// Batches before this one can go.
        from: BatchTime,
    },
    Cancel {
        executor: ExecutorId,
        job: JobId,
        batch: BatchTime,
        reason: String,
    },
    StartReceiver {
        executor: ExecutorId,
        job: JobId,
        receiver: ReceiverId,
        stream: StreamId,
        session: u32,
        /// As in [`Action::SetRate`].
        rate: Option<u64>,
    },
    /// Read at most so many rows a second from now on; none at all for 0, as many as come for `None`.
    SetRate {
        executor: ExecutorId,
        job: JobId,
        receiver: ReceiverId,
        session: u32,
        rate: Option<u64>,
    },
    StopReceiver {
        executor: ExecutorId,
        job: JobId,
        receiver: ReceiverId,
        session: u32,
    },
    /// Ask the planners of the job's other streams for the batch's input.
    Allocate {
        job: JobId,
        batch: BatchTime,
        index: i64,
    },
    /// Make the outputs of a batch visible, in the order given, and take in what its tasks added to accumulators: all of
    /// it or nothing.
    Commit {
        job: JobId,
        batch: BatchTime,
        outputs: Vec<OutputCommit>,
        /// Those of each task once, in the order of stages and partitions.
        deltas: Vec<(AccumulatorId, AccumulatorState)>,
    },
    /// For the journal: a batch has its input, which it keeps for ever. It is recorded before anything that follows from
    /// it.
    RecordAllocated {
        job: JobId,
        batch: BatchTime,
        index: i64,
        inputs: Vec<StreamInput>,
    },
    /// For the journal: a batch failed and is left out.
    RecordSkipped {
        job: JobId,
        batch: BatchTime,
        index: i64,
    },
    /// For the journal: all partitions of a state are saved as a batch has left them.
    RecordState {
        job: JobId,
        stage: StageId,
        batch: BatchTime,
        index: i64,
    },
    /// No batch can name this version of a broadcast variable any more: nobody has to keep it.
    DropBroadcast {
        job: JobId,
        broadcast: BroadcastId,
        version: u32,
    },
    /// Something that listeners may want to know.
    Publish(Notice),
}

/// All tasks of one executor for all stages of one batch.
///
/// A restore is another run of a batch that was committed: its routing is later than that of everything launched before
/// it, and it is over when the routing changes or all its tasks have succeeded. So it is told apart by its routing
/// version, also in frames that overtake the launch.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    pub job: JobId,
    pub plan: PlanVersion,
    pub routing: RoutingVersion,
    pub batch: BatchTime,
    pub index: i64,
    pub tasks: Vec<TaskLaunch>,
    pub expectations: Vec<Expectation>,
    /// Batches before this one are finished: what was sent and kept for them can go. For a restore its own batch: it
    /// forgets nothing.
    pub oldest: BatchTime,
    /// Datasets of batches before this one can go.
    pub remember_from: BatchTime,
    /// Only datasets of a committed batch are made again.
    pub restore: bool,
    pub tables: Vec<(String, u32)>,
    /// Those that are not there were destroyed.
    pub broadcasts: Vec<(BroadcastId, u32)>,
    /// Skipped batches that windows may still ask for.
    pub absent: Vec<BatchTime>,
    /// Received blocks of this executor that nobody will ask for any more.
    pub forget_blocks: Vec<BlockId>,
    /// The state that the batch's tasks leave is saved in the job's checkpoint, in the background.
    pub save_state: bool,
    /// Saved states, by the batch that has left them: a task that goes on with one and does not find it loads it.
    pub state_bases: Vec<(StageId, BatchTime)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskLaunch {
    pub stage: StageId,
    pub partition: u32,
    pub attempt: Attempt,
    pub inputs: Vec<TaskInput>,
    /// Send only to these partitions of the next stage; empty: to all.
    pub only_targets: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskInput {
    pub slot: SlotId,
    pub partition: u32,
    pub items: Vec<InputItem>,
}

/// The partitions of a sending stage that run in a batch, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    pub from_stage: StageId,
    pub map_partitions: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct OutputCommit {
    pub output: OutputId,
    /// In the order of partitions.
    pub parts: Vec<OutputPart>,
}

/// What happened, for listeners, logs and metrics.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    JobRunning {
        job: JobId,
    },
    JobStopping {
        job: JobId,
    },
    JobEnded {
        job: JobId,
        end: JobEnd,
    },
    /// The batch has its input.
    BatchSubmitted {
        job: JobId,
        batch: BatchTime,
        /// When it was due, in microseconds since the epoch.
        due: i64,
        inputs: Vec<InputInfo>,
    },
    BatchStarted {
        job: JobId,
        batch: BatchTime,
    },
    BatchCompleted {
        job: JobId,
        batch: BatchTime,
        stats: BatchStats,
    },
    BatchFailed {
        job: JobId,
        batch: BatchTime,
        error: String,
    },
    TaskFailed {
        job: JobId,
        batch: BatchTime,
        stage: StageId,
        partition: u32,
        executor: ExecutorId,
        error: String,
    },
    /// Batches are queued up to the bound: receivers stop reading, and none becomes due until one is completed. Or it is
    /// over.
    SourcesHeld {
        job: JobId,
        held: bool,
    },
    /// Received records that only a lost executor had.
    RowsLost {
        job: JobId,
        executor: ExecutorId,
        rows: u64,
        blocks: u64,
    },
    /// A state could not be saved as a batch has left it; what is saved of an earlier one stays.
    StateNotSaved {
        job: JobId,
        batch: BatchTime,
        stage: StageId,
        partition: u32,
        error: String,
    },
    /// Remembered partitions of a batch are made again.
    Restoring {
        job: JobId,
        batch: BatchTime,
        partitions: u32,
    },
    ReceiverPlaced {
        job: JobId,
        receiver: ReceiverId,
        executor: ExecutorId,
        session: u32,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobEnd {
    /// Its input or the number of batches asked for came to an end.
    Finished,
    Stopped,
    Failed(String),
}

/// What a batch has of one input stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputInfo {
    pub stream: StreamId,
    /// `None` while it is not known, and where tasks read several such streams at once.
    pub rows: Option<u64>,
    /// For people: its blocks or files.
    pub description: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct BatchStats {
    pub input_rows: u64,
    /// By stream.
    pub inputs: Vec<InputInfo>,
    /// From the batch's time to its launch.
    pub scheduling_delay: Duration,
    /// From launch to commit.
    pub processing_time: Duration,
    pub total_delay: Duration,
    pub tasks: u32,
    pub failed_attempts: u32,
}
