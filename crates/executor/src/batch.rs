//! The tasks of one launched batch on this executor, and what each still waits for.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use tidemill_dstream::InputItem;
use tidemill_dstream::plan::SlotKind;
use tidemill_rpc::driver as wire;
use tidemill_storage::{DatasetKey, DueMark, ShuffleReady, Stowed, VersionKey};
use tidemill_types::{Attempt, BlockId, ExecutorId, RoutingVersion, StageId, TaskKey};

use crate::job::InstalledJob;
use crate::launch::{Launch, TaskLaunch};
use crate::node::Node;
use crate::task::BatchInfo;

/// Something that a task needs and that may not be here yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Need {
    Shuffle(ShuffleReady),
    Dataset(DatasetKey),
    Block(BlockId),
    /// The state that the task of an earlier batch of the same partition leaves.
    State(TaskKey),
    /// The same, which is saved and is loaded.
    SavedState(TaskKey),
    /// A version of a broadcast variable.
    Broadcast(VersionKey),
}

pub(crate) struct BatchRun {
    pub(crate) info: Arc<BatchInfo>,
    pub(crate) tasks: BTreeMap<(StageId, u32), TaskRun>,
    /// Finished tasks that the driver has not been told of.
    pub(crate) reports: Vec<wire::TaskReport>,
    /// What its tasks come to is reported at once: the driver has to run some of them again, and others wait for these.
    pub(crate) prompt: bool,
    /// With which it was launched last.
    pub(crate) routing: RoutingVersion,
}

pub(crate) struct TaskRun {
    pub(crate) launch: Arc<TaskLaunch>,
    pub(crate) missing: HashSet<Need>,
    /// What it reads goes to files behind everything else.
    pub(crate) due: Vec<DueMark>,
    pub(crate) state: TaskState,
    /// When its last input was there.
    pub(crate) ready: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaskState {
    Waiting,
    Queued,
    Running,
    Done,
    /// The driver launches another attempt.
    Failed,
}

impl BatchRun {
    pub(crate) fn new(job: &Arc<InstalledJob>, launch: &Launch) -> Self {
        Self {
            info: Arc::new(BatchInfo::new(job, launch)),
            tasks: BTreeMap::new(),
            reports: Vec::new(),
            prompt: false,
            routing: launch.routing,
        }
    }

    /// Nothing runs here until the driver sends more.
    pub(crate) fn all_ended(&self) -> bool {
        self.tasks
            .values()
            .all(|task| matches!(task.state, TaskState::Done | TaskState::Failed))
    }

    /// What is to be reported now, if anything.
    pub(crate) fn take_report(&mut self) -> Option<wire::BatchReport> {
        let tasks = std::mem::take(&mut self.reports);
        (!tasks.is_empty()).then(|| wire::BatchReport {
            job: self.info.job.id.0,
            batch_time_ms: self.info.batch.0,
            restore: self.info.restore,
            tasks,
        })
    }

    pub(crate) fn all_succeeded(&self) -> bool {
        self.tasks.values().all(|task| task.state == TaskState::Done)
    }

    /// The task if the attempt is its present one.
    pub(crate) fn current(&mut self, stage: StageId, partition: u32, attempt: Attempt) -> Option<&mut TaskRun> {
        self.tasks
            .get_mut(&(stage, partition))
            .filter(|task| task.launch.attempt == attempt)
    }
}

/// All that a task reads and that has to be here first.
pub(crate) fn needs(info: &BatchInfo, launch: &TaskLaunch) -> HashSet<Need> {
    let mut needs: HashSet<Need> = info.broadcasts().map(Need::Broadcast).collect();
    let job = &info.job;
    let Some(stage) = job.stage(launch.stage) else {
        return needs;
    };
    for read in stage.reads.get(launch.partition as usize).into_iter().flatten() {
        let Some(slot) = stage.slots.iter().find(|slot| slot.id == read.slot) else {
            continue;
        };
        match &slot.kind {
            SlotKind::Shuffle { from } => {
                needs.insert(Need::Shuffle(ShuffleReady {
                    job: job.id,
                    batch: info.batch,
                    from_stage: *from,
                    partition: read.partition,
                }));
            }
            SlotKind::Dataset { dataset, batches } => {
                needs.extend(info.dataset_keys(*dataset, *batches, read.partition).map(Need::Dataset));
            }
            SlotKind::Source { .. } | SlotKind::Table { .. } => {}
        }
    }
    for item in launch.inputs.iter().flat_map(|input| &input.items) {
        if let InputItem::Block { id, .. } = item {
            needs.insert(Need::Block(*id));
        }
    }
    needs
}

/// Of a long window, only so many batches are marked: the newest. A window that is looked at whole in every batch is not
/// kept in memory by marks.
const MAX_MARKS: usize = 64;

/// Marks what a task is about to read and what is here.
pub(crate) fn due_marks(node: &Node, info: &BatchInfo, launch: &TaskLaunch) -> Vec<DueMark> {
    let mut stowed: Vec<Stowed> = Vec::new();
    for item in launch.inputs.iter().flat_map(|input| &input.items) {
        if let InputItem::Block { id, .. } = item {
            stowed.push(Stowed::Block(*id));
        }
    }
    let Some(stage) = info.job.stage(launch.stage) else {
        return Vec::new();
    };
    for read in stage.reads.get(launch.partition as usize).into_iter().flatten() {
        let slot = stage.slots.iter().find(|slot| slot.id == read.slot);
        if let Some(SlotKind::Dataset { dataset, batches }) = slot.map(|slot| &slot.kind) {
            let keys: Vec<DatasetKey> = info.dataset_keys(*dataset, *batches, read.partition).collect();
            stowed.extend(keys.into_iter().rev().take(MAX_MARKS).map(Stowed::Dataset));
        }
    }
    let marks = stowed.into_iter().filter_map(|what| node.blocks.mark_due(what));
    marks.collect()
}

/// The shuffle partitions that tasks of this executor read, by sending stage.
pub(crate) fn shuffle_partitions(info: &BatchInfo, tasks: &[TaskLaunch]) -> HashMap<StageId, Vec<u32>> {
    let mut partitions: HashMap<StageId, Vec<u32>> = HashMap::new();
    for task in tasks {
        for need in needs(info, task) {
            if let Need::Shuffle(ready) = need {
                let partitions = partitions.entry(ready.from_stage).or_default();
                if !partitions.contains(&ready.partition) {
                    partitions.push(ready.partition);
                }
            }
        }
    }
    partitions
}

/// Blocks of a task that other executors hold.
pub(crate) fn is_remote(block: &BlockId, me: ExecutorId) -> bool {
    block.executor != me
}
