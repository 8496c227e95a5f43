//! Everything that can happen to a driver. Each variant says who sends it.

use std::sync::Arc;

use tidemill_dstream::JobGraph;
use tidemill_engine::{CompiledJob, SchemaRef, TableData};
use tidemill_journal::JournalEvent;
use tidemill_rpc::control;
use tidemill_rpc::driver::{AttachRequest, AttachResponse, Register};
use tidemill_rpc::journal::SourcePosition;
use tidemill_scheduler::StreamInput;
use tidemill_types::{BatchTime, BroadcastId, ExecutorId, JobId, TaskFailure};
use tokio::sync::{broadcast, mpsc, oneshot};
use tonic::Status;

use crate::accumulators::Accumulated;
use crate::attached::AttachedFiles;
use crate::broadcasts::{LoadedBroadcast, UpdateTarget};
use crate::committer::PrintedBatch;
use crate::journal::Past;
use crate::kept::KeptRelation;
use crate::listening::OutputStep;
use crate::reads::{KeptBatches, ReadReply, Target};
use crate::tables::LoadedTable;

#[derive(Debug)]
pub(crate) enum Event {
    /// The attach service: an executor opened its stream.
    Attach {
        register: Register,
        commands: mpsc::UnboundedSender<Result<AttachResponse, Status>>,
        /// The executor's number and the connection's.
        reply: oneshot::Sender<Option<(ExecutorId, u64)>>,
    },
    /// The attach service: a message of an executor.
    Message {
        executor: ExecutorId,
        connection: u64,
        message: Box<AttachRequest>,
    },
    /// The attach service: the stream ended.
    Detached { executor: ExecutorId, connection: u64 },
    /// The control service.
    Control(Control),
    /// The planners of a job are done with a batch, or failed.
    Allocated {
        job: JobId,
        batch: BatchTime,
        result: Result<Vec<StreamInput>, TaskFailure>,
        /// Where they stand behind it; of a job with a checkpoint.
        positions: Vec<SourcePosition>,
    },
    /// The journal.
    Journal(JournalEvent),
    /// A committer has come to an end with a batch.
    Committed {
        job: JobId,
        batch: BatchTime,
        result: Result<Accumulated, TaskFailure>,
    },
    /// A committer made a print output visible.
    Printed { job: JobId, printed: PrintedBatch },
    /// A committer begins with an output of a batch, or is done with it. By its position in the plan.
    Output {
        job: JobId,
        batch: BatchTime,
        output: usize,
        step: OutputStep,
    },
    /// A table's file has changed and was read again.
    TableReloaded { job: JobId, table: LoadedTable },
    /// A broadcast variable's file has changed and was read again.
    BroadcastRead {
        job: JobId,
        broadcast: BroadcastId,
        loaded: Result<LoadedBroadcast, String>,
    },
    /// The timer.
    Clock,
}

/// Requests of the control service, each with the place for its answer.
#[derive(Debug)]
pub(crate) enum Control {
    /// Waits for the executors that a job needs and gives the number of slots.
    Slots(oneshot::Sender<u32>),
    /// Whether a job of that name lives.
    NameTaken {
        name: String,
        reply: oneshot::Sender<bool>,
    },
    Submit {
        submission: Box<Submission>,
        reply: oneshot::Sender<Result<JobId, Status>>,
    },
    Jobs(oneshot::Sender<Vec<control::JobSummary>>),
    Job {
        job: String,
        reply: oneshot::Sender<Result<control::GetJobResponse, Status>>,
    },
    Stop {
        job: String,
        now: bool,
        reply: oneshot::Sender<Result<control::JobSummary, Status>>,
    },
    Follow {
        job: String,
        history: bool,
        listen: bool,
        reply: oneshot::Sender<Result<Following, Status>>,
    },
    Executors(oneshot::Sender<Vec<control::ExecutorSummary>>),
    Accumulators {
        request: control::ListAccumulatorsRequest,
        reply: oneshot::Sender<Result<control::ListAccumulatorsResponse, Status>>,
    },
    /// How many bytes of broadcast values there is room for.
    BroadcastRoom(oneshot::Sender<u64>),
    Broadcasts {
        job: String,
        reply: oneshot::Sender<Result<Vec<control::BroadcastSummary>, Status>>,
    },
    UpdateTarget {
        job: String,
        name: String,
        refresh: bool,
        reply: oneshot::Sender<Result<UpdateTarget, Status>>,
    },
    OfferBroadcast {
        job: JobId,
        broadcast: BroadcastId,
        loaded: Box<LoadedBroadcast>,
        reply: oneshot::Sender<Result<u32, Status>>,
    },
    GiveUpBroadcast {
        job: String,
        name: String,
        destroy: bool,
        reply: oneshot::Sender<Result<(), Status>>,
    },
    /// What SQL can ask for beside output tables.
    Kept(oneshot::Sender<Vec<KeptRelation>>),
    Read {
        job: JobId,
        target: Target,
        reply: ReadReply,
    },
    /// The batches of a stream from one time to another, both included; with the stream's columns first.
    Slice {
        job: String,
        stream: String,
        from: BatchTime,
        to: BatchTime,
        reply: oneshot::Sender<Result<Slicing, Status>>,
    },
    /// Do not keep a stream's batches any longer than windows need them.
    Unpersist {
        job: String,
        stream: String,
        reply: oneshot::Sender<Result<(), Status>>,
    },
}

/// A compiled job with all that it needs to run.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) graph: JobGraph,
    pub(crate) compiled: Arc<CompiledJob>,
    /// The number that it was compiled for.
    pub(crate) partitions: u32,
    pub(crate) tables: Vec<LoadedTable>,
    /// The same, decoded.
    pub(crate) table_data: Vec<TableData>,
    /// In the order of the graph.
    pub(crate) broadcasts: Vec<LoadedBroadcast>,
    pub(crate) options: control::RunOptions,
    /// Files that came with the job; removed when it has ended.
    pub(crate) attached: Option<AttachedFiles>,
    /// Of a job that goes on.
    pub(crate) past: Option<Past>,
}

/// A slice that was asked for: the stream's columns, and where its batches come.
#[derive(Debug)]
pub(crate) struct Slicing {
    pub(crate) columns: SchemaRef,
    pub(crate) batches: oneshot::Receiver<Result<KeptBatches, Status>>,
}

/// What a follower gets: first what there is, then what comes.
#[derive(Debug)]
pub(crate) struct Following {
    pub(crate) history: Vec<control::FollowJobResponse>,
    /// `None` if the job has ended.
    pub(crate) events: Option<broadcast::Receiver<control::FollowJobResponse>>,
}
