//! Making remembered partitions again after their holder is lost.
//!
//! A lost part of a dataset is a function of its batch's inputs. For each batch that windows can still ask for, the
//! tasks that lead to the missing parts run again, with the inputs that the batch had, and send only to the missing
//! partitions. Nothing else of the batch is repeated, and no output.
//!
//! One set of restores runs at a time, under a routing version of its own; what is lost meanwhile is in the next. Its
//! launches follow the routing at once, so that no executor takes the one without the other.

use std::collections::{BTreeMap, BTreeSet};

use tidemill_dstream::plan::SlotKind;
use tidemill_types::{BlockId, Medium};

use super::Job;
use super::batch::{Batch, BatchState};
use super::graph::{dataset_of, reads};
use super::inputs::Losses;
use super::parts::Part;
use super::states::LostStates;
use super::task::Key;
use crate::action::{Action, JobEnd, Notice};
use crate::scheduler::Context;

/// The tasks of each batch, and the partitions that they send to.
type Wanted = BTreeMap<i64, BTreeMap<Key, BTreeSet<u32>>>;

impl Job {
    /// Starts runs for the parts that are lost and that an unfinished or later batch can read, once a batch is launched:
    /// with it executors learn which first runs are over, so that those are not taken for the restores nor the other way
    /// round.
    pub(super) fn restore_missing(&mut self, cx: &mut Context<'_>) {
        if !self.restores.is_empty() || self.owners.is_empty() || self.launched().next().is_none() {
            return;
        }
        let missing: Vec<Part> = self.parts.lost().filter(|part| self.is_wanted(*part)).collect();
        let states = self.lost_state_tasks();
        let given_up = self.states.take_given_up();
        if missing.is_empty() && states.is_empty() {
            if !given_up.is_empty() {
                // Whoever still works on them drops them with the next launch.
                self.renew_routing(cx);
                self.run_behind(cx, &given_up);
            }
            return;
        }
        self.restore_attempt = self.restore_attempt.next();
        let (wanted, rewound) = self.restore_tasks(missing, states);
        if !rewound.is_empty() && !self.is_durable() {
            self.end(cx, JobEnd::Failed(super::spilled::NOT_SAVED.to_owned()));
            return;
        }
        // All that is made again, what was just rewound among it.
        self.begin_states(rewound);
        let behind: BTreeSet<Key> = given_up.into_iter().chain(self.states.restoring()).collect();
        let mut losses = Losses::default();
        for (index, tasks) in &wanted {
            let Some(history) = self.history.get_mut(index) else {
                continue;
            };
            let (here, lost) = (&self.installed, &self.lost_blocks);
            for (stage, partition) in tasks.keys() {
                if let Some(stage) = self.spec.plan.stage(*stage) {
                    let gone = |block: &BlockId| here.get(&block.executor) != Some(&true) || lost.contains(block);
                    history.inputs.lose_of_task(stage, *partition, gone, &mut losses);
                }
            }
        }
        self.publish_losses(cx, &losses);
        let first = wanted.keys().next().copied().unwrap_or(i64::MAX);
        self.restoring_from = first.min(self.remembered_from());
        self.tell_oldest(cx);
        self.renew_routing(cx);
        for (index, tasks) in &wanted {
            self.add_restore(cx, *index, tasks);
        }
        for (index, tasks) in wanted {
            self.send(cx, index, &tasks.into_keys().collect(), true, []);
        }
        self.run_behind(cx, &behind);
    }

    /// Runs the tasks of launched batches again whose states go through the batches before once more. An executor drops
    /// those that it has not begun when it gets the restore: they would go on with a state that is made again.
    pub(super) fn run_behind(&mut self, cx: &mut Context<'_>, rewound: &BTreeSet<Key>) {
        let running = self.launched().filter(|batch| batch.state == BatchState::Running);
        let again = running.map(|batch| {
            let keys = rewound.iter().filter(|key| batch.tasks.get(**key).is_some());
            (batch.index, keys.copied().collect::<BTreeSet<Key>>())
        });
        for (index, keys) in again.collect::<Vec<_>>() {
            self.run_again(cx, index, &keys);
        }
    }

    /// Executors forget what only the restores have read.
    pub(super) fn end_restores(&mut self) {
        self.restoring_from = i64::MAX;
        self.parts.forget_before(self.remembered_from());
    }

    /// Whether an unfinished or later batch can read a part, and it can be made again now: parts of an unfinished batch
    /// are left by its own tasks.
    pub(super) fn is_readable(&self, part: Part) -> bool {
        let remember = self
            .spec
            .plan
            .dataset(part.dataset)
            .map_or(0, |dataset| i64::from(dataset.remember));
        let completed = self.history.get(&part.index).is_some_and(|history| !history.absent);
        completed && part.index + remember > self.oldest_unfinished()
    }

    /// Whether a lost part is to be made again now. One that was kept in memory alone may be let go of again as soon as it
    /// is there, so it is made again only for a window, or when somebody asks for it.
    fn is_wanted(&self, part: Part) -> bool {
        let Some(dataset) = self.spec.plan.dataset(part.dataset) else {
            return false;
        };
        let needed = part.index + i64::from(dataset.needed) > self.oldest_unfinished();
        // Without its state a batch before the last cannot run again: only a window is worth the end of the job.
        if !self.is_durable() && self.is_state(dataset.stage) && !needed {
            return false;
        }
        let eager = dataset.level.medium != Medium::Memory || needed || self.parts.is_asked(part);
        eager && self.is_readable(part)
    }

    /// The tasks of missing parts and of lost states, and all that these need; and the partitions whose state is where it
    /// belongs and has to go through earlier batches again for that.
    fn restore_tasks(&self, missing: Vec<Part>, states: Vec<(i64, Key)>) -> (Wanted, LostStates) {
        let plan = &self.spec.plan;
        let mut wanted = Wanted::new();
        let mut rewound = LostStates::new();
        let mut open: Vec<(i64, Key, Option<u32>)> = Vec::new();
        open.extend(states.into_iter().map(|(index, key)| (index, key, None)));
        let producer = |part: Part| {
            let dataset = plan.dataset(part.dataset)?;
            Some((part.index, (dataset.stage, part.partition), None))
        };
        open.extend(missing.into_iter().filter_map(producer));
        while let Some((index, key, target)) = open.pop() {
            let (stage_id, partition) = key;
            let (Some(stage), Some(history)) = (plan.stage(stage_id), self.history.get(&index)) else {
                continue;
            };
            // A skipped batch has no rows, and its readers know.
            if history.absent || (stage.skip_empty && history.inputs.is_empty_for(stage, partition)) {
                continue;
            }
            let tasks = wanted.entry(index).or_default();
            let known = tasks.contains_key(&key);
            tasks.entry(key).or_default().extend(target);
            if known {
                continue;
            }
            if self.is_state(stage_id)
                && let Some(lost) = self.rewound_state(index, key, &rewound)
            {
                rewound.insert(key, lost);
                open.extend(self.state_tasks(key, lost).map(|(index, key)| (index, key, None)));
            }
            for (slot, partition) in reads(stage, partition) {
                match slot.kind {
                    SlotKind::Shuffle { from } => {
                        let senders = plan.stage(from).map_or(0, |stage| stage.partitions);
                        open.extend((0..senders).map(|sender| (index, (from, sender), Some(partition))));
                    }
                    SlotKind::Dataset { dataset, batches } => {
                        let parts = plan.window(dataset, index, batches).map(|index| Part {
                            index,
                            dataset,
                            partition,
                        });
                        open.extend(
                            parts
                                .filter(|part| self.parts.holder(*part).is_none())
                                .filter_map(producer),
                        );
                    }
                    SlotKind::Source { .. } | SlotKind::Table { .. } => {}
                }
            }
        }
        (wanted, rewound)
    }

    fn add_restore(&mut self, cx: &mut Context<'_>, index: i64, tasks: &BTreeMap<Key, BTreeSet<u32>>) {
        let Some(history) = self.history.get(&index) else {
            return;
        };
        let mut run = Batch::restore(index, self.time_of(index), cx.now, history);
        let mut partitions = 0;
        for (key, targets) in tasks {
            let Some(stage) = self.spec.plan.stage(key.0) else {
                continue;
            };
            let executor = self.place(stage, key.1, &run.inputs);
            let executor = executor.expect("every place has an owner while there are owners");
            run.tasks.launch(*key, executor, self.restore_attempt);
            run.tasks.send_only_to(*key, targets.iter().copied());
            partitions += u32::from(dataset_of(stage).is_some());
        }
        cx.act(Action::Publish(Notice::Restoring {
            job: self.spec.id,
            batch: run.time,
            partitions,
        }));
        self.restores.insert(index, run);
    }
}
