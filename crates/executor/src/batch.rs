//! The tasks of one launched batch on this executor, and what each still waits for.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use tidemill_dstream::InputItem;
use tidemill_dstream::plan::SlotKind;
use tidemill_rpc::driver as wire;
use tidemill_storage::{DatasetKey, ShuffleReady, VersionKey};
use tidemill_types::{Attempt, BlockId, ExecutorId, StageId, TaskKey};

use crate::job::InstalledJob;
use crate::launch::{Launch, TaskLaunch};
use crate::task::BatchInfo;

/// Something that a task needs and that may not be here yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Need {
    Shuffle(ShuffleReady),
    Dataset(DatasetKey),
    Block(BlockId),
    /// The state that the task of an earlier batch of the same partition leaves.
    State(TaskKey),
    /// A version of a broadcast variable.
    Broadcast(VersionKey),
}

pub(crate) struct BatchRun {
    pub(crate) info: Arc<BatchInfo>,
    pub(crate) tasks: BTreeMap<(StageId, u32), TaskRun>,
    /// Finished tasks that the driver has not been told of.
    pub(crate) reports: Vec<wire::TaskReport>,
}

pub(crate) struct TaskRun {
    pub(crate) launch: Arc<TaskLaunch>,
    pub(crate) missing: HashSet<Need>,
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
        }
    }

    /// Nothing runs here until the driver sends more.
    pub(crate) fn all_ended(&self) -> bool {
        self.tasks
            .values()
            .all(|task| matches!(task.state, TaskState::Done | TaskState::Failed))
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
