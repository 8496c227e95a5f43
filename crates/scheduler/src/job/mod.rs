//! One job: its batches, its receivers, where its partitions are.

mod allocation;
mod batch;
mod broadcasts;
mod commit;
mod graph;
mod inputs;
#[cfg(test)]
mod invariants;
mod kept;
mod launch;
mod loss;
mod owners;
mod parts;
mod rate;
mod receiver;
mod report;
mod restore;
mod resume;
mod spilled;
mod states;
mod task;
mod ticks;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tidemill_types::{Attempt, BatchTime, BlockId, ExecutorId, RoutingVersion, StageId};

pub use self::batch::BatchState;
pub use self::kept::{Forgotten, RememberedBatch, StateVersion};
pub use self::view::{BatchView, JobView, ReceiverView};

use self::batch::{Batch, History, TableVersions};
use self::broadcasts::Broadcasts;
use self::inputs::Losses;
use self::parts::Parts;
use self::receiver::Receivers;
use self::states::States;
use crate::action::{Action, JobEnd, Notice};
use crate::event::JobSpec;
use crate::scheduler::Context;

/// Where a job is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Waits for executors, and for them to have the plan.
    Pending,
    Running,
    /// No new input; finishes what it has.
    Stopping,
    Ended(JobEnd),
}

impl JobState {
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self, Self::Ended(_))
    }
}

#[derive(Debug)]
pub(crate) struct Job {
    spec: JobSpec,
    state: JobState,
    submitted: i64,
    zero_time: BatchTime,
    /// The next batch to become due; the first is 1.
    next_index: i64,
    /// The first batch that may have no input yet. Batches are allocated in order.
    next_allocation: i64,
    /// Due batches that are not completed, by index. Batches are launched in order, so launched ones stand in front.
    batches: BTreeMap<i64, Batch>,
    /// What completed batches were made of, as far back as a lost dataset can ask for.
    history: BTreeMap<i64, History>,
    /// Runs that make lost dataset partitions of completed batches again.
    restores: BTreeMap<i64, Batch>,
    /// Of the last attempt in any restore: no two attempts of a restored task have the same number.
    restore_attempt: Attempt,
    /// Tasks of restores that lacked an input since all restores were last done.
    restore_misses: u32,
    parts: Parts,
    /// Parts of batches from this index on are read by the restores that run.
    restoring_from: i64,
    /// Blocks that executors which live have lost, until no batch can ask for them.
    lost_blocks: BTreeSet<BlockId>,
    /// Blocks that no batch can ask for any more, by holder, until it is told.
    forgotten_blocks: BTreeMap<ExecutorId, Vec<BlockId>>,
    /// What each executor was told to be the oldest unfinished batch.
    told_oldest: BTreeMap<ExecutorId, i64>,
    receivers: Receivers,
    /// Receivers do not read, because too many batches are queued.
    held: bool,
    /// Every source has said that no more will come.
    exhausted: bool,
    /// Executors that were asked to install the plan, and whether they have.
    installed: BTreeMap<ExecutorId, bool>,
    /// By place; empty until the first are chosen, and while no executor has the plan.
    owners: Vec<ExecutorId>,
    homes: Vec<(StageId, Vec<u32>)>,
    routing: RoutingVersion,
    /// An executor has come since the owners were chosen.
    rebalance: bool,
    /// A batch of a job with state was launched: executors hold state from then on.
    state_began: bool,
    /// It has a zero time from an earlier run.
    resumed: bool,
    /// Of each stage with state, the last batch that it has come to.
    state_of: BTreeMap<StageId, i64>,
    states: States,
    tables: TableVersions,
    broadcasts: Broadcasts,
    totals: view::Totals,
}

impl Job {
    pub(crate) fn new(spec: JobSpec, now: i64) -> Self {
        Self {
            state: JobState::Pending,
            submitted: now,
            zero_time: BatchTime(0),
            next_index: 1,
            next_allocation: 1,
            batches: BTreeMap::new(),
            history: BTreeMap::new(),
            restores: BTreeMap::new(),
            restore_attempt: Attempt(0),
            restore_misses: 0,
            parts: Parts::default(),
            restoring_from: i64::MAX,
            lost_blocks: BTreeSet::new(),
            forgotten_blocks: BTreeMap::new(),
            told_oldest: BTreeMap::new(),
            receivers: Receivers::new(&spec),
            held: false,
            exhausted: false,
            installed: BTreeMap::new(),
            owners: Vec::new(),
            homes: spec.plan.homes(),
            routing: RoutingVersion(0),
            rebalance: false,
            state_began: false,
            resumed: false,
            state_of: BTreeMap::new(),
            states: States::default(),
            tables: Arc::new(spec.tables.iter().cloned().collect()),
            broadcasts: Broadcasts::new(&spec.broadcasts),
            totals: view::Totals::default(),
            spec,
        }
    }

    fn interval(&self) -> Duration {
        self.spec.plan.batch_interval
    }

    fn time_of(&self, index: i64) -> BatchTime {
        BatchTime(self.zero_time.0 + index * i64::try_from(self.interval().as_millis()).unwrap_or(i64::MAX))
    }

    fn index_of(&self, time: BatchTime) -> i64 {
        time.index(self.zero_time, self.interval())
    }

    // === events ===

    pub(crate) fn on_submitted(&mut self, cx: &mut Context<'_>) {
        self.resumed = self.spec.resume.is_some();
        self.resume(cx);
        for executor in cx.executors().collect::<Vec<_>>() {
            self.install(cx, executor);
        }
    }

    pub(crate) fn on_executor_registered(&mut self, cx: &mut Context<'_>, executor: ExecutorId) {
        if !self.state.is_ended() {
            self.install(cx, executor);
        }
    }

    fn install(&mut self, cx: &mut Context<'_>, executor: ExecutorId) {
        self.broadcasts.lose(executor);
        self.installed.insert(executor, false);
        cx.act(Action::Install {
            executor,
            job: self.spec.id,
        });
    }

    pub(crate) fn on_installed(&mut self, cx: &mut Context<'_>, executor: ExecutorId, error: Option<String>) {
        if self.state.is_ended() || self.installed.get(&executor) != Some(&false) {
            return;
        }
        match error {
            None if self.broadcasts.has_all(executor) => self.admit(cx, executor),
            None => self.broadcasts.wait(executor),
            Some(error) => {
                self.installed.remove(&executor);
                // A job that runs goes on without the executor.
                if self.state == JobState::Pending {
                    let error = format!("executor {executor} cannot install the job: {error}");
                    self.end(cx, JobEnd::Failed(error));
                }
            }
        }
    }

    /// An executor has all that tasks of the job need.
    fn admit(&mut self, cx: &mut Context<'_>, executor: ExecutorId) {
        self.installed.insert(executor, true);
        self.rebalance = true;
        self.send_routing(cx, executor);
        // It was sent the present tables: what may run on it can name no others.
        let batches = self.batches.values_mut().map(|batch| &mut batch.tables);
        let history = self.history.values_mut().map(|history| &mut history.tables);
        for tables in batches.chain(history) {
            *tables = Arc::clone(&self.tables);
        }
    }

    pub(crate) fn on_stop_requested(&mut self, cx: &mut Context<'_>, at_once: bool) {
        match self.state {
            JobState::Ended(_) => {}
            JobState::Pending => self.end(cx, JobEnd::Stopped),
            JobState::Running | JobState::Stopping if at_once => self.end(cx, JobEnd::Stopped),
            JobState::Stopping => {}
            JobState::Running => {
                self.state = JobState::Stopping;
                cx.act(Action::Publish(Notice::JobStopping { job: self.spec.id }));
                self.stop_receivers(cx);
            }
        }
    }

    pub(crate) fn on_table_installed(&mut self, name: String, version: u32) {
        Arc::make_mut(&mut self.tables).insert(name, version);
    }

    fn end(&mut self, cx: &mut Context<'_>, end: JobEnd) {
        if self.state.is_ended() {
            return;
        }
        self.stop_receivers(cx);
        for executor in self.installed.keys() {
            cx.act(Action::Remove {
                executor: *executor,
                job: self.spec.id,
            });
        }
        self.state = JobState::Ended(end.clone());
        self.batches.clear();
        self.restores.clear();
        self.parts.clear();
        self.states.clear();
        self.history.clear();
        self.receivers.clear();
        self.forgotten_blocks.clear();
        self.lost_blocks.clear();
        cx.act(Action::Publish(Notice::JobEnded { job: self.spec.id, end }));
    }

    /// Says how many received rows are gone.
    fn publish_losses(&mut self, cx: &mut Context<'_>, losses: &Losses) {
        for (executor, loss) in &losses.by_executor {
            self.totals.lost_rows += loss.rows;
            cx.act(Action::Publish(Notice::RowsLost {
                job: self.spec.id,
                executor: *executor,
                rows: loss.rows,
                blocks: loss.blocks,
            }));
        }
    }

    /// Executors that have the plan.
    fn executors(&self) -> impl Iterator<Item = ExecutorId> {
        let having = self.installed.iter().filter(|(_, installed)| **installed);
        having.map(|(id, _)| *id)
    }

    fn is_here(&self, executor: ExecutorId) -> bool {
        self.installed.get(&executor) == Some(&true)
    }

    /// Batches whose tasks are launched, in order.
    fn launched(&self) -> impl Iterator<Item = &Batch> {
        self.batches.values().take_while(|batch| batch.state.is_launched())
    }

    fn runs(&mut self, restore: bool) -> &mut BTreeMap<i64, Batch> {
        if restore { &mut self.restores } else { &mut self.batches }
    }

    // === what follows from the state ===

    /// Does everything that can be done now.
    pub(crate) fn advance(&mut self, cx: &mut Context<'_>) {
        if !self.state.is_ended() {
            self.advance_broadcasts(cx);
            self.retire_broadcasts(cx);
        }
        if self.state == JobState::Pending {
            self.start_if_ready(cx);
        }
        if !matches!(self.state, JobState::Running | JobState::Stopping) {
            return;
        }
        if self.executors().next().is_some() {
            self.rebalance_if_idle(cx);
            self.place_receivers(cx);
            while self.generate(cx) | self.allocate(cx) {}
            self.launch_ready(cx);
            self.settle_states();
            self.restore_missing(cx);
            self.retry_deferred(cx);
            self.commit_finished(cx);
            self.set_rates(cx);
        }
        self.finish_if_done(cx);
        self.retire_broadcasts(cx);
    }
}

pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
