//! State by key: what of it is saved, what is lost, and making it again.
//!
//! The state of a partition is at its owner alone. Of a job with a checkpoint it is saved every so many batches: a stage's
//! **base** is the last batch whose state is saved for all partitions. What is lost goes on from there: the batches behind
//! the base run again in order, for the lost partitions only, as restores. So the inputs of all batches behind the base
//! stay known.
//!
//! ```text
//!     base          completed   running
//!   ───┼───┬───┬───┬───┼─────────┬──►
//!      │   1   2   3   4         5     an owner is lost while 5 runs: the new one loads the base, 1 to 4 run again for
//!                                      the lost partitions, and 5, which was launched there at once, waits for 4
//! ```

use std::collections::{BTreeMap, BTreeSet};

use tidemill_types::{BatchTime, ExecutorId, StageId};

use super::Job;
use super::batch::BatchState;
use super::task::Key;
use crate::action::{Action, Notice};
use crate::scheduler::Context;

#[derive(Debug, Default)]
pub(super) struct States {
    /// Partitions whose owners do not have what the last batch left.
    lost: LostStates,
    /// Of the lost ones those that are made again now, and up to which batch.
    restoring: BTreeMap<Key, i64>,
    /// Partitions whose restores were given up on the way: what has run behind them has to run behind the next ones too.
    given_up: BTreeSet<Key>,
    /// By stage; nothing is saved of those that are not here.
    bases: BTreeMap<StageId, i64>,
    /// What is saved of later batches, by partition.
    saved: BTreeMap<(i64, StageId), BTreeSet<u32>>,
    /// The last batch that was to be saved.
    asked: i64,
}

/// Lost states by partition.
pub(super) type LostStates = BTreeMap<Key, Lost>;

/// A lost state.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lost {
    /// The batch whose state the owner has, or can load.
    have: i64,
    /// The last batch whose tasks do not run again by themselves: it was completed, or was being committed, when the state
    /// was lost.
    until: i64,
}

impl States {
    pub(super) fn with_bases(bases: impl IntoIterator<Item = (StageId, i64)>) -> Self {
        let bases: BTreeMap<StageId, i64> = bases.into_iter().collect();
        Self {
            asked: bases.values().copied().min().unwrap_or(0),
            bases,
            ..Self::default()
        }
    }

    /// 0 for the state before the first batch.
    fn base(&self, stage: StageId) -> i64 {
        self.bases.get(&stage).copied().unwrap_or(0)
    }

    pub(super) fn bases(&self) -> impl Iterator<Item = (StageId, i64)> {
        self.bases.iter().map(|(stage, index)| (*stage, *index))
    }

    fn lose(&mut self, key: Key, until: i64) {
        let have = self.base(key.0);
        self.lost.insert(key, Lost { have, until });
    }

    /// Restores begin anew: what they have made so far does not count.
    pub(super) fn abandon(&mut self, until: i64) {
        for key in std::mem::take(&mut self.restoring).into_keys() {
            self.lose(key, until);
            self.given_up.insert(key);
        }
    }

    pub(super) fn restoring(&self) -> impl Iterator<Item = Key> {
        self.restoring.keys().copied()
    }

    pub(super) fn take_given_up(&mut self) -> BTreeSet<Key> {
        std::mem::take(&mut self.given_up)
    }

    /// All restores are done.
    pub(super) fn restored(&mut self) {
        for (key, have) in std::mem::take(&mut self.restoring) {
            if let Some(lost) = self.lost.get_mut(&key) {
                lost.have = have;
            }
        }
    }

    /// What was saved of a batch that is left out is of no use.
    pub(super) fn skip(&mut self, index: i64) {
        self.saved.retain(|(saved, _), _| *saved != index);
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Job {
    /// Whether its state is saved, so that it can be made again.
    pub(super) fn is_durable(&self) -> bool {
        self.spec.checkpoint_every.is_some()
    }

    pub(super) fn is_state(&self, stage: StageId) -> bool {
        self.spec.plan.states().any(|(keeper, _)| keeper.id == stage)
    }

    /// The state of the partitions that an executor owns is lost; of all partitions for `None`.
    pub(super) fn lose_states(&mut self, owner: Option<ExecutorId>) {
        let partitions = self.spec.plan.states();
        let keys = partitions.flat_map(|(stage, _)| (0..stage.partitions).map(|partition| (stage.id, partition)));
        let gone = keys.filter(|(stage, partition)| owner.is_none() || self.owner(*stage, *partition) == owner);
        let until = self.last_without_rerun();
        for key in gone.collect::<Vec<_>>() {
            self.states.lose(key, until);
        }
    }

    /// The states of these partitions go through all batches from what is saved again, and what is launched behind them.
    pub(super) fn give_up_states(&mut self, keys: &BTreeSet<Key>) {
        let until = self.last_without_rerun();
        for key in keys {
            self.states.lose(*key, until);
            self.states.given_up.insert(*key);
        }
    }

    /// The last batch whose tasks will not run again, whatever is lost.
    pub(super) fn last_without_rerun(&self) -> i64 {
        let committing = self.launched().find(|batch| batch.state == BatchState::Committing);
        committing.map_or(self.oldest_unfinished() - 1, |batch| batch.index)
    }

    /// What is where it belongs is not lost any more.
    pub(super) fn settle_states(&mut self) {
        if self.states.lost.is_empty() || !self.restores.is_empty() {
            return;
        }
        let lost = self.states.lost.iter();
        let settled = lost.filter(|(key, lost)| {
            lost.until < self.oldest_unfinished() && self.state_tasks(**key, **lost).next().is_none()
        });
        for key in settled.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.states.lost.remove(&key);
        }
    }

    /// The tasks that make lost state again, in the order of their batches.
    pub(super) fn lost_state_tasks(&self) -> Vec<(i64, Key)> {
        let lost = self.states.lost.iter();
        let mut tasks: Vec<(i64, Key)> = lost.flat_map(|(key, lost)| self.state_tasks(*key, *lost)).collect();
        tasks.sort_unstable();
        tasks
    }

    pub(super) fn state_tasks(&self, key: Key, lost: Lost) -> impl Iterator<Item = (i64, Key)> {
        let from = lost.have.max(self.states.base(key.0)) + 1;
        let until = (lost.until + 1).max(from);
        let stage = self.spec.plan.stage(key.0);
        let batches = self.history.range(from..until);
        let due =
            batches.filter(move |(index, history)| !history.absent && stage.is_some_and(|stage| stage.is_due(**index)));
        due.map(move |(index, _)| (*index, key))
    }

    /// A task of a stage with state is to run for a batch before the last completed one: its partition goes through all
    /// batches behind the base again. `None` if it does so already, also by one of `rewound`.
    pub(super) fn rewound_state(&self, index: i64, key: Key, rewound: &LostStates) -> Option<Lost> {
        let have = self.states.base(key.0);
        let known = rewound.get(&key).or_else(|| self.states.lost.get(&key));
        let goes_through = known.is_some_and(|lost| have.max(lost.have) < index);
        (!goes_through).then(|| Lost {
            have,
            until: self.last_without_rerun(),
        })
    }

    /// Restores begin that make all lost state again, `rewound` among it, as far as it is of completed batches.
    pub(super) fn begin_states(&mut self, rewound: LostStates) {
        self.states.lost.extend(rewound);
        let completed = self.oldest_unfinished() - 1;
        let lost = self.states.lost.iter();
        let restoring = lost.map(|(key, lost)| (*key, lost.until.min(completed)));
        self.states.restoring = restoring.collect();
    }

    /// Whether the state that a batch leaves is to be saved.
    pub(super) fn saves_state(&mut self, index: i64) -> bool {
        let Some(every) = self.spec.checkpoint_every else {
            return false;
        };
        let due = self.spec.plan.states().any(|(stage, _)| stage.is_due(index));
        let saves = due && index - self.states.asked >= i64::from(every.max(1));
        if saves {
            self.states.asked = index;
        }
        saves
    }

    /// The states that executors can load.
    pub(super) fn state_bases(&self) -> Vec<(StageId, BatchTime)> {
        let bases = self.states.bases();
        bases.map(|(stage, index)| (stage, self.time_of(index))).collect()
    }

    pub(crate) fn on_state_saved(&mut self, cx: &mut Context<'_>, time: BatchTime, stage: StageId, partition: u32) {
        let index = self.index_of(time);
        let skipped = self.history.get(&index).is_some_and(|history| history.absent);
        if self.state.is_ended() || skipped || index <= self.states.base(stage) {
            return;
        }
        self.states.saved.entry((index, stage)).or_default().insert(partition);
        self.advance_bases(cx);
    }

    pub(crate) fn on_state_not_saved(
        &mut self,
        cx: &mut Context<'_>,
        batch: BatchTime,
        stage: StageId,
        partition: u32,
        error: String,
    ) {
        let job = self.spec.id;
        cx.act(Action::Publish(Notice::StateNotSaved {
            job,
            batch,
            stage,
            partition,
            error,
        }));
    }

    /// Bases move on to what is saved as a whole and of batches that are completed. A window over a stream with state can
    /// ask for rows of batches before: the base stays behind all of them.
    pub(super) fn advance_bases(&mut self, cx: &mut Context<'_>) {
        if self.states.saved.is_empty() {
            return;
        }
        let limit = self.oldest_unfinished() - i64::from(self.spec.plan.lineage());
        let mut moved = false;
        for (stage, _) in self.spec.plan.states() {
            let whole = |partitions: &BTreeSet<u32>| partitions.len() as u32 >= stage.partitions;
            let saved = self.states.saved.iter().rev();
            let mut bases =
                saved.filter(|((index, of), partitions)| *of == stage.id && *index <= limit && whole(partitions));
            let Some(base) = bases.next().map(|((index, _), _)| *index) else {
                continue;
            };
            self.states.bases.insert(stage.id, base);
            self.states
                .saved
                .retain(|(index, of), _| *of != stage.id || *index > base);
            moved = true;
            cx.act(Action::RecordState {
                job: self.spec.id,
                stage: stage.id,
                batch: self.time_of(base),
                index: base,
            });
        }
        if moved {
            self.forget();
        }
    }

    /// The first batch behind all bases.
    pub(super) fn states_from(&self) -> i64 {
        let states = self.spec.plan.states();
        let first = states.map(|(stage, _)| self.states.base(stage.id) + 1).min();
        first.filter(|_| self.is_durable()).unwrap_or(i64::MAX)
    }
}
