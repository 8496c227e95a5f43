//! Which version of each broadcast variable the next batch uses, and which ones are still needed.
//!
//! ```text
//!  offered ── every executor with the plan holds it ──► current ── a newer one is ──► old ── no batch names it ──► dropped
//! ```
//! - A batch is launched with the current versions, the same for all its tasks, and keeps them: whatever of it runs again
//!   or is made again later has the very values that it had.
//! - An executor that comes is given no partition before it holds all versions that a batch can name.
//! - While a new version is on its way, batches go on with the one before it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidemill_types::{BroadcastId, ExecutorId};

use super::Job;
use crate::action::Action;
use crate::scheduler::Context;

/// The version of each broadcast variable that a batch uses.
pub(crate) type BroadcastVersions = Arc<BTreeMap<BroadcastId, u32>>;

type Version = (BroadcastId, u32);

/// The versions of a job's broadcast variables.
#[derive(Debug)]
pub(crate) struct Broadcasts {
    current: BroadcastVersions,
    /// Newer than the current one, and not held everywhere yet.
    offered: BTreeSet<Version>,
    /// Was current, and may still be named by a batch.
    old: BTreeSet<Version>,
    held: BTreeMap<ExecutorId, BTreeSet<Version>>,
    /// Executors that have the plan and not all values.
    waiting: BTreeSet<ExecutorId>,
}

impl Broadcasts {
    pub(super) fn new(first: &[Version]) -> Self {
        Self {
            current: Arc::new(first.iter().copied().collect()),
            offered: BTreeSet::new(),
            old: BTreeSet::new(),
            held: BTreeMap::new(),
            waiting: BTreeSet::new(),
        }
    }

    pub(super) fn current(&self) -> BroadcastVersions {
        Arc::clone(&self.current)
    }

    fn offer(&mut self, version: Version) {
        // What was destroyed has no current version and gets none.
        if self.current.get(&version.0).is_some_and(|current| *current < version.1) {
            self.offered.insert(version);
        }
    }

    fn hold(&mut self, executor: ExecutorId, version: Version) {
        self.held.entry(executor).or_default().insert(version);
    }

    /// A process that is gone, or another one under its number.
    pub(super) fn lose(&mut self, executor: ExecutorId) {
        self.held.remove(&executor);
        self.waiting.remove(&executor);
    }

    fn destroy(&mut self, broadcast: BroadcastId) {
        // What was only offered was never named, and goes with the rest.
        self.old
            .extend(self.offered.iter().filter(|(of, _)| *of == broadcast).copied());
        self.offered.retain(|(of, _)| *of != broadcast);
        if let Some(version) = Arc::make_mut(&mut self.current).remove(&broadcast) {
            self.old.insert((broadcast, version));
        }
    }

    fn holds(&self, executor: ExecutorId, version: Version) -> bool {
        self.held.get(&executor).is_some_and(|held| held.contains(&version))
    }

    /// Whether an executor holds every version that a batch can name.
    pub(super) fn has_all(&self, executor: ExecutorId) -> bool {
        let current = self.current.iter().map(|(id, version)| (*id, *version));
        current
            .chain(self.old.iter().copied())
            .all(|version| self.holds(executor, version))
    }

    pub(super) fn wait(&mut self, executor: ExecutorId) {
        self.waiting.insert(executor);
    }

    /// Executors that waited and have all values now.
    fn admitted(&mut self) -> Vec<ExecutorId> {
        let all: Vec<ExecutorId> = self.waiting.iter().copied().filter(|id| self.has_all(*id)).collect();
        all.iter().for_each(|executor| {
            self.waiting.remove(executor);
        });
        all
    }

    /// Makes versions current that all of these executors hold; the newest of each broadcast.
    fn promote(&mut self, executors: &[ExecutorId]) {
        if self.offered.is_empty() || executors.is_empty() {
            return;
        }
        let everywhere = |version: &&Version| executors.iter().all(|executor| self.holds(*executor, **version));
        // In ascending order, so the last of each stays.
        let ready: BTreeMap<BroadcastId, u32> = self.offered.iter().filter(everywhere).copied().collect();
        for (broadcast, version) in ready {
            // Those that were passed over were never named.
            let passed = |offered: &&Version| offered.0 == broadcast && offered.1 < version;
            let passed: Vec<Version> = self.offered.iter().filter(passed).copied().collect();
            self.offered.remove(&(broadcast, version));
            self.offered.retain(|offered| !passed.contains(offered));
            self.old.extend(passed);
            if let Some(before) = Arc::make_mut(&mut self.current).insert(broadcast, version) {
                self.old.insert((broadcast, before));
            }
        }
    }

    /// Takes the old versions that none of `named` is.
    fn retire<'a>(&mut self, named: impl Iterator<Item = &'a BroadcastVersions>) -> Vec<Version> {
        let mut unnamed = self.old.clone();
        for versions in named {
            for (broadcast, version) in versions.iter() {
                unnamed.remove(&(*broadcast, *version));
            }
        }
        for version in &unnamed {
            self.old.remove(version);
            self.held.values_mut().for_each(|held| {
                held.remove(version);
            });
        }
        unnamed.into_iter().collect()
    }
}

impl Job {
    pub(crate) fn on_broadcast_offered(&mut self, broadcast: BroadcastId, version: u32) {
        self.broadcasts.offer((broadcast, version));
    }

    pub(crate) fn on_broadcast_held(&mut self, executor: ExecutorId, broadcast: BroadcastId, version: u32) {
        if self.installed.contains_key(&executor) {
            self.broadcasts.hold(executor, (broadcast, version));
        }
    }

    /// Batches that are launched from now on do not have it.
    pub(crate) fn on_broadcast_destroyed(&mut self, broadcast: BroadcastId) {
        self.broadcasts.destroy(broadcast);
    }

    /// Takes in executors that were waited for, and versions.
    pub(super) fn advance_broadcasts(&mut self, cx: &mut Context<'_>) {
        for executor in self.broadcasts.admitted() {
            self.admit(cx, executor);
        }
        let executors: Vec<ExecutorId> = self.executors().collect();
        self.broadcasts.promote(&executors);
    }

    /// Has versions dropped that no batch can name any more.
    pub(super) fn retire_broadcasts(&mut self, cx: &mut Context<'_>) {
        if self.broadcasts.old.is_empty() || self.state.is_ended() {
            return;
        }
        let runs = self.batches.values().chain(self.restores.values());
        let named = runs
            .map(|batch| &batch.broadcasts)
            .chain(self.history.values().map(|history| &history.broadcasts));
        for (broadcast, version) in self.broadcasts.retire(named) {
            cx.act(Action::DropBroadcast {
                job: self.spec.id,
                broadcast,
                version,
            });
        }
    }

    /// Every version that a run names is held where it can run.
    #[cfg(test)]
    pub(super) fn check_broadcasts(&self) {
        let runs = self.launched().chain(self.restores.values());
        for versions in runs.map(|run| &run.broadcasts) {
            for (broadcast, version) in versions.iter() {
                for executor in self.executors() {
                    let held = self.broadcasts.holds(executor, (*broadcast, *version));
                    assert!(
                        held,
                        "executor {executor} does not hold {broadcast} in version {version}"
                    );
                }
            }
        }
    }
}
