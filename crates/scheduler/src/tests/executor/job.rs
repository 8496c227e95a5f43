//! What an executor holds of a job, and which tasks can run.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use tidemill_dstream::plan::{ExchangeKind, JobPlan, Keeps, SlotKind, StageOutput, StagePlan};
use tidemill_types::{BatchTime, BlockId, DatasetId, ExecutorId, JobId, ReceiverId, RoutingVersion, StageId};

use super::{Frame, Key, RunId};
use crate::tests::plans::{Rows, sent};
use crate::{DatasetPart, Launch, TaskLaunch, TaskOutcome};

pub(in crate::tests) struct Job {
    pub(in crate::tests) plan: Rc<JobPlan>,
    pub(super) routing: RoutingVersion,
    pub(super) owners: BTreeMap<RoutingVersion, BTreeMap<StageId, Vec<ExecutorId>>>,
    pub(super) runs: BTreeMap<RunId, Run>,
    pub(super) datasets: BTreeMap<DatasetPart, Rows>,
    pub(super) absent: BTreeSet<BatchTime>,
    pub(in crate::tests) blocks: BTreeMap<BlockId, u64>,
    pub(in crate::tests) receivers: BTreeMap<ReceiverId, u32>,
    /// The last two versions of each partition's state, by the batch that has left them.
    pub(super) states: BTreeMap<Key, BTreeMap<i64, Rows>>,
    saved: Saved,
}

/// What executors have saved, by the index of the batch.
pub(in crate::tests) type Saved = Rc<RefCell<BTreeMap<(i64, Key), Rows>>>;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Waiting,
    Failed,
    Done,
}

#[derive(Default)]
pub(super) struct Run {
    pub(super) index: i64,
    /// What its maps go by, save for readers that have moved.
    pub(super) routing: RoutingVersion,
    pub(super) moved: BTreeMap<Key, ExecutorId>,
    pub(super) tasks: BTreeMap<Key, (TaskLaunch, Progress)>,
    pub(super) expected: BTreeMap<StageId, Vec<u32>>,
    pub(super) frames: BTreeMap<(StageId, u32, u32), Rows>,
    /// Finished maps' rows.
    pub(super) kept: BTreeMap<Key, Rows>,
    pub(super) outcomes: Vec<TaskOutcome>,
    pub(super) save_state: bool,
    state_bases: Vec<(StageId, BatchTime)>,
}

impl Run {
    pub(super) fn all_done(&self) -> bool {
        self.tasks.values().all(|(_, progress)| *progress != Progress::Waiting)
    }
}

impl Job {
    pub(super) fn new(plan: Rc<JobPlan>, saved: Saved) -> Self {
        Self {
            plan,
            routing: RoutingVersion(0),
            owners: BTreeMap::new(),
            runs: BTreeMap::new(),
            datasets: BTreeMap::new(),
            absent: BTreeSet::new(),
            blocks: BTreeMap::new(),
            receivers: BTreeMap::new(),
            states: BTreeMap::new(),
            saved,
        }
    }

    /// The batch whose state a task of a batch goes on with.
    fn previous(&self, (batch, index): (BatchTime, i64), every: u32) -> i64 {
        let interval = self.plan.batch_interval.as_millis() as i64;
        let every = i64::from(every.max(1));
        let mut before = (index - 1).div_euclid(every) * every;
        while before >= 1 && self.absent.contains(&BatchTime(batch.0 - (index - before) * interval)) {
            before -= every;
        }
        before.max(0)
    }

    /// The state before a task, if it is here or saved, and no task that makes it has still to run.
    fn state_before(&self, id: RunId, run: &Run, key: Key) -> Option<Rows> {
        let stage = self.plan.stage(key.0).expect("a stage of the plan");
        let before = self.previous((id.0, run.index), stage.every);
        if before == 0 {
            return Some(Rows::new());
        }
        let unfinished =
            |run: &Run| run.index == before && run.tasks.get(&key).is_some_and(|task| task.1 != Progress::Done);
        if self.runs.values().any(unfinished) {
            return None;
        }
        if let Some(rows) = self.states.get(&key).and_then(|versions| versions.get(&before)) {
            return Some(rows.clone());
        }
        let interval = self.plan.batch_interval.as_millis() as i64;
        let time = BatchTime(id.0.0 - (run.index - before) * interval);
        let named = run.state_bases.contains(&(key.0, time));
        named.then(|| self.saved.borrow()[&(before, key)].clone())
    }

    /// A task has left a state.
    pub(super) fn leave_state(&mut self, index: i64, key: Key, before: i64, rows: &Rows) {
        let versions = self.states.entry(key).or_default();
        versions.retain(|version, _| *version == before);
        versions.insert(index, rows.clone());
    }

    pub(super) fn save(&self, index: i64, key: Key, rows: &Rows) {
        self.saved.borrow_mut().insert((index, key), rows.clone());
    }

    pub(super) fn before(&self, id: RunId, key: Key) -> i64 {
        let stage = self.plan.stage(key.0).expect("a stage of the plan");
        self.previous((id.0, self.runs[&id].index), stage.every)
    }

    pub(super) fn launch(&mut self, launch: Launch) {
        assert_eq!(
            launch.routing, self.routing,
            "an executor knows the routing of what it is to run"
        );
        let restore = launch.restore.then_some(launch.routing);
        self.runs.retain(|(time, restore), run| match restore {
            None => launch.restore || *time >= launch.oldest,
            // A restore is over when the routing changes or all its tasks here have succeeded. Its frames may be here
            // before it is.
            Some(version) if *version == launch.routing => {
                let succeeded = run.tasks.values().all(|(_, progress)| *progress == Progress::Done);
                launch.restore || run.tasks.is_empty() || !succeeded
            }
            Some(version) => *version > launch.routing,
        });
        if !launch.restore {
            self.datasets.retain(|part, _| part.batch >= launch.remember_from);
        }
        // Late frames of it may have come since.
        let first = self.runs.get(&(launch.batch, None));
        let over = first.is_none_or(|run| run.tasks.is_empty());
        assert!(
            !launch.restore || over,
            "the first run is over before the batch is restored"
        );
        if launch.restore {
            // What goes on with these states is launched again behind the restores.
            let plan = Rc::clone(&self.plan);
            let keeps = |key: &Key| matches!(plan.stage(key.0).expect("a stage").keeps, Keeps::State { .. });
            let restored: BTreeSet<Key> = launch.tasks.iter().map(|task| (task.stage, task.partition)).collect();
            for ((_, restore), run) in &mut self.runs {
                if restore.is_some() || run.index <= launch.index {
                    continue;
                }
                for (key, (_, progress)) in &mut run.tasks {
                    if restored.contains(key) && keeps(key) && *progress == Progress::Waiting {
                        *progress = Progress::Failed;
                    }
                }
            }
        }
        self.blocks.retain(|id, _| !launch.forget_blocks.contains(id));
        self.absent = launch.absent.into_iter().collect();
        let run = self.runs.entry((launch.batch, restore)).or_default();
        run.index = launch.index;
        run.save_state = launch.save_state;
        run.state_bases = launch.state_bases;
        if launch.routing > run.routing {
            run.routing = launch.routing;
            run.moved.clear();
        }
        for task in launch.tasks {
            run.tasks
                .insert((task.stage, task.partition), (task, Progress::Waiting));
        }
        for expectation in launch.expectations {
            run.expected.insert(expectation.from_stage, expectation.map_partitions);
        }
    }

    /// The frames that carry a map's rows to these partitions of its reader, or to all.
    pub(super) fn frames(&self, id: RunId, (stage, map): Key, rows: &Rows, only: &[u32]) -> Vec<Frame> {
        let run = &self.runs[&id];
        let table = &self.owners[&run.routing];
        let plan = self.plan.stage(stage).expect("a stage of the plan");
        let StageOutput::Exchange { to, kind } = plan.output else {
            return Vec::new();
        };
        let reader = self.plan.stage(to).expect("a stage of the plan");
        let mut frames = Vec::new();
        for partition in (0..kind.partitions()).filter(|partition| only.is_empty() || only.contains(partition)) {
            let mut owners = BTreeSet::new();
            for task in 0..reader.partitions {
                if shuffle_reads(reader, task).contains(&(stage, partition)) {
                    let owner = table[&to][task as usize];
                    owners.insert(run.moved.get(&(to, task)).copied().unwrap_or(owner));
                }
            }
            let body = if kind == ExchangeKind::Broadcast {
                sent(rows, 0)
            } else {
                sent(rows, partition)
            };
            frames.extend(owners.into_iter().map(|owner| Frame {
                from: ExecutorId(0),
                to: owner,
                job: JobId(0),
                run: id,
                stage,
                map,
                partition,
                rows: body.clone(),
            }));
        }
        frames
    }

    /// The remembered parts that a task reads, if all are here.
    pub(super) fn window(&self, run: &Run, dataset: DatasetId, batches: u32, partition: u32) -> Option<Rows> {
        let mut rows = Rows::new();
        let interval = self.plan.batch_interval.as_millis() as i64;
        let time = |index: i64, run_time: BatchTime| BatchTime(run_time.0 + (index - run.index) * interval);
        let now = self
            .runs
            .iter()
            .find(|(_, other)| std::ptr::eq(*other, run))
            .map(|(id, _)| id.0)?;
        for index in self.plan.window(dataset, run.index, batches) {
            let batch = time(index, now);
            if self.absent.contains(&batch) {
                continue;
            }
            let part = DatasetPart {
                dataset,
                batch,
                partition,
            };
            rows.extend(self.datasets.get(&part)?.iter().copied());
        }
        Some(rows)
    }

    /// What a task reads beside its sources, if it is complete.
    pub(super) fn ready(&self, id: RunId, run: &Run, (stage, partition): Key) -> Option<Rows> {
        let key = (stage, partition);
        let stage = self.plan.stage(stage).expect("a stage of the plan");
        let mut rows = Rows::new();
        if matches!(stage.keeps, Keeps::State { .. }) {
            rows.extend(self.state_before(id, run, key)?);
        }
        for read in &stage.reads[partition as usize] {
            let slot = stage
                .slots
                .iter()
                .find(|slot| slot.id == read.slot)
                .expect("a slot of the stage");
            match &slot.kind {
                SlotKind::Shuffle { from } => {
                    for map in run.expected.get(from)? {
                        rows.extend(run.frames.get(&(*from, *map, read.partition))?.iter().copied());
                    }
                }
                SlotKind::Dataset { dataset, batches } => {
                    rows.extend(self.window(run, *dataset, *batches, read.partition)?);
                }
                SlotKind::Source { .. } | SlotKind::Table { .. } => {}
            }
        }
        Some(rows)
    }

    pub(super) fn runnable(&self) -> impl Iterator<Item = (RunId, Key)> {
        self.runs.iter().flat_map(|(id, run)| {
            let waiting = run
                .tasks
                .iter()
                .filter(|(_, (_, progress))| *progress == Progress::Waiting);
            let ready = waiting.filter(|(key, _)| self.ready(*id, run, **key).is_some());
            ready.map(|(key, _)| (*id, *key))
        })
    }

    /// Frames to send for outputs that are kept.
    pub(super) fn resend(&mut self, batch: BatchTime, from_stage: StageId, partitions: &[u32]) -> Vec<Frame> {
        let Some(run) = self.runs.get_mut(&(batch, None)) else {
            return Vec::new();
        };
        let StageOutput::Exchange { to, .. } = self.plan.stage(from_stage).expect("a stage of the plan").output else {
            panic!("stage {from_stage} does not send");
        };
        let reader = self.plan.stage(to).expect("a stage of the plan");
        for task in 0..reader.partitions {
            let reads = shuffle_reads(reader, task);
            if partitions
                .iter()
                .any(|partition| reads.contains(&(from_stage, *partition)))
            {
                run.moved
                    .insert((to, task), self.owners[&self.routing][&to][task as usize]);
            }
        }
        let kept: Vec<_> = run.kept.iter().filter(|((stage, _), _)| *stage == from_stage).collect();
        let kept: Vec<_> = kept.into_iter().map(|(key, rows)| (*key, rows.clone())).collect();
        kept.iter()
            .flat_map(|(key, rows)| self.frames((batch, None), *key, rows, partitions))
            .collect()
    }
}

pub(super) fn shuffle_reads(stage: &StagePlan, partition: u32) -> Vec<(StageId, u32)> {
    let mut reads = Vec::new();
    for read in &stage.reads[partition as usize] {
        let slot = stage
            .slots
            .iter()
            .find(|slot| slot.id == read.slot)
            .expect("a slot of the stage");
        if let SlotKind::Shuffle { from } = slot.kind {
            reads.push((from, read.partition));
        }
    }
    reads
}
