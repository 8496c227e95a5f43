//! What the driver keeps of a job beside the scheduler's state.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tidemill_dstream::JobGraph;
use tidemill_dstream::plan::JobPlan;
use tidemill_engine::{CompiledJob, Registry};
use tidemill_rpc::journal::SourcePosition;
use tidemill_rpc::{control, driver as wire};
use tidemill_types::{BatchTime, DatasetId, PlanVersion, ReceiverId};
use tokio::sync::{broadcast, mpsc};
use tokio::task::AbortHandle;

use crate::accumulators::Accumulators;
use crate::allocator::Allocator;
use crate::attached::AttachedFiles;
use crate::broadcasts::BroadcastRecord;
use crate::committer::CommitRequest;
use crate::listening::is_for_listeners;
use crate::tables::LoadedTable;

/// Events that a late listener still gets.
pub(crate) const RETAINED_EVENTS: usize = 512;
/// Events that a slow follower may lag behind before it loses some.
pub(crate) const FOLLOW_CAPACITY: usize = 4096;

#[derive(Debug)]
pub(crate) struct JobRecord {
    pub(crate) graph: JobGraph,
    pub(crate) compiled: Arc<CompiledJob>,
    /// The present version of each table.
    pub(crate) tables: BTreeMap<String, LoadedTable>,
    /// By number.
    pub(crate) broadcasts: Vec<BroadcastRecord>,
    /// The installation message, the same for every executor but for the tables and broadcast variables.
    pub(crate) install: wire::InstallJob,
    pub(crate) receivers: BTreeMap<ReceiverId, ReceiverRecord>,
    /// Completed and failed batches, newest last.
    pub(crate) batches: VecDeque<control::BatchSummary>,
    pub(crate) printed: VecDeque<control::PrintedBatch>,
    /// Listeners' events, newest last.
    pub(crate) told: VecDeque<control::FollowJobResponse>,
    pub(crate) followers: broadcast::Sender<control::FollowJobResponse>,
    /// Where its sources stand behind batches that are not committed; of a job with a checkpoint.
    pub(crate) positions: BTreeMap<BatchTime, Vec<SourcePosition>>,
    /// Gone when the job has ended.
    pub(crate) running: Option<Running>,
    /// What listeners were told of batches that have not ended.
    pub(crate) open_batches: BTreeMap<BatchTime, control::BatchInfo>,
    pub(crate) accumulators: Accumulators,
    /// Datasets that are not kept beyond what windows need any more.
    pub(crate) unpersisted: BTreeSet<DatasetId>,
    /// The first batch that failed, and why.
    pub(crate) first_failure: Option<(BatchTime, String)>,
    /// Its summary when it ended.
    pub(crate) ended: Option<control::JobSummary>,
}

/// What works for a job while it lives.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) allocator: Option<Allocator>,
    pub(crate) committer: mpsc::UnboundedSender<CommitRequest>,
    pub(crate) table_watch: Option<AbortHandle>,
    pub(crate) broadcast_watch: Option<AbortHandle>,
    /// Files that came with the job.
    pub(crate) _attached: Option<AttachedFiles>,
}

impl Drop for Running {
    fn drop(&mut self) {
        for watch in self.table_watch.iter().chain(&self.broadcast_watch) {
            watch.abort();
        }
    }
}

#[derive(Debug)]
pub(crate) struct ReceiverRecord {
    pub(crate) stream: String,
    pub(crate) state: wire::ReceiverState,
    pub(crate) message: String,
    pub(crate) restarts: u32,
    pub(crate) malformed_rows: u64,
    /// When it was, in microseconds, and what.
    pub(crate) last_error: Option<(i64, String)>,
}

impl JobRecord {
    /// Of a job that does not run in this driver.
    pub(crate) fn of_ended(graph: JobGraph, summary: control::JobSummary) -> Self {
        let compiled = CompiledJob {
            plan: JobPlan {
                version: PlanVersion(0),
                batch_interval: graph.batch_interval,
                stages: Vec::new(),
                streams: Vec::new(),
                datasets: Vec::new(),
                outputs: Vec::new(),
                tables: Vec::new(),
                accumulators: Vec::new(),
                broadcasts: Vec::new(),
            },
            templates: Vec::new(),
            stream_schemas: Vec::new(),
            state_schemas: Vec::new(),
            remembered: Vec::new(),
            warnings: Vec::new(),
            registry: Registry::default(),
        };
        Self {
            graph,
            compiled: Arc::new(compiled),
            tables: BTreeMap::new(),
            broadcasts: Vec::new(),
            install: wire::InstallJob::default(),
            receivers: BTreeMap::new(),
            batches: VecDeque::new(),
            printed: VecDeque::new(),
            told: VecDeque::new(),
            followers: broadcast::channel(1).0,
            positions: BTreeMap::new(),
            running: None,
            open_batches: BTreeMap::new(),
            accumulators: Accumulators::new(Vec::new(), Vec::new()),
            unpersisted: BTreeSet::new(),
            first_failure: None,
            ended: Some(summary),
        }
    }

    /// Whether what is decided about it is recorded.
    pub(crate) fn has_checkpoint(&self) -> bool {
        self.graph.options.checkpoint.is_some()
    }

    /// Tells followers; nobody may be there.
    pub(crate) fn publish(&mut self, event: control::follow_job_response::Event) {
        let keep = is_for_listeners(&event);
        let event = control::FollowJobResponse { event: Some(event) };
        if keep {
            while self.told.len() >= RETAINED_EVENTS {
                self.told.pop_front();
            }
            self.told.push_back(event.clone());
        }
        let _ = self.followers.send(event);
    }

    pub(crate) fn remember_batch(&mut self, summary: control::BatchSummary, limit: usize) {
        while self.batches.len() >= limit.max(1) {
            self.batches.pop_front();
        }
        self.batches.push_back(summary);
    }

    pub(crate) fn remember_print(&mut self, printed: control::PrintedBatch, limit: usize) {
        self.printed.push_back(printed);
        while self.printed.len() > limit {
            self.printed.pop_front();
        }
    }
}
