//! Who owns which partition of the job, and telling the executors.
//!
//! Owners change in two ways. When an executor has come, partitions move until the loads are even, at a batch border:
//! no batch is launched until those before are finished, so that nothing is on its way to an old owner. When an
//! executor is lost, its partitions move at once and nobody else's. Once a job has state, its partitions stay where they
//! are.

use std::collections::BTreeMap;

use tidemill_dstream::plan::StagePlan;
use tidemill_types::{DatasetId, ExecutorId, StageId};

use super::graph::runs_anywhere;
use super::inputs::Inputs;
use super::{Job, parts::Part};
use crate::action::Action;
use crate::event::DatasetPart;
use crate::placement;
use crate::scheduler::Context;

impl Job {
    /// Chooses owners among all executors that have the plan, while no batch depends on the present ones.
    pub(super) fn rebalance_if_idle(&mut self, cx: &mut Context<'_>) {
        if !self.rebalance || self.launched().next().is_some() || !self.restores.is_empty() {
            return;
        }
        self.rebalance = false;
        if self.state_began && !self.owners.is_empty() {
            // State stays where it is.
            return;
        }
        let places = self.homes.iter().flat_map(|(_, homes)| homes).max();
        let places = places.map_or(0, |max| max + 1);
        let capacities = cx.capacities(|id| self.is_here(id));
        let rotate = self.spec.id.0.saturating_sub(1);
        let owners = placement::assign(&self.owners, &capacities, places, rotate);
        self.change_owners(cx, owners);
        self.move_parts(cx);
    }

    /// Gives the partitions of executors that are gone to others.
    pub(super) fn replace_owners(&mut self, cx: &mut Context<'_>) {
        let capacities = cx.capacities(|id| self.is_here(id));
        let owners = placement::replace(&self.owners, &capacities);
        self.change_owners(cx, owners);
    }

    fn change_owners(&mut self, cx: &mut Context<'_>, owners: Vec<ExecutorId>) {
        if owners == self.owners {
            return;
        }
        self.owners = owners;
        self.renew_routing(cx);
    }

    /// Tells all executors the owners under a new version.
    pub(super) fn renew_routing(&mut self, cx: &mut Context<'_>) {
        self.routing = self.routing.next();
        for executor in self.executors().collect::<Vec<_>>() {
            self.send_routing(cx, executor);
        }
    }

    /// Tells an executor the owners. One that has just come needs them too: it may run maps before it owns anything.
    pub(super) fn send_routing(&self, cx: &mut Context<'_>, executor: ExecutorId) {
        if self.owners.is_empty() {
            return;
        }
        let owners = |homes: &[u32]| {
            homes
                .iter()
                .filter_map(|home| self.owners.get(*home as usize).copied())
                .collect()
        };
        let stages = self.homes.iter().map(|(stage, homes)| (*stage, owners(homes)));
        cx.act(Action::Routing {
            executor,
            job: self.spec.id,
            version: self.routing,
            stages: stages.collect(),
        });
    }

    pub(super) fn owner(&self, stage: StageId, partition: u32) -> Option<ExecutorId> {
        let (_, homes) = self.homes.iter().find(|(id, _)| *id == stage)?;
        self.owners.get(*homes.get(partition as usize)? as usize).copied()
    }

    /// Where a task runs: where its first block is, if it may; any other at its partition's owner.
    pub(super) fn place(&self, stage: &StagePlan, partition: u32, inputs: &Inputs) -> Option<ExecutorId> {
        let holder = inputs.holder(stage, partition);
        holder
            .filter(|executor| runs_anywhere(stage, partition) && self.is_here(*executor))
            .or_else(|| self.owner(stage.id, partition))
    }

    /// Another executor for a task that failed on one; `None` if it has to stay.
    pub(super) fn elsewhere(&self, stage: &StagePlan, partition: u32, failed_on: ExecutorId) -> Option<ExecutorId> {
        if !runs_anywhere(stage, partition) {
            return None;
        }
        let after = self.executors().find(|id| *id > failed_on);
        after.or_else(|| self.executors().next())
    }

    /// Tells new owners to take over the remembered partitions that the old ones hold.
    pub(super) fn move_parts(&mut self, cx: &mut Context<'_>) {
        let mut moves: BTreeMap<ExecutorId, Vec<(DatasetPart, ExecutorId)>> = BTreeMap::new();
        for (part, holder) in self.parts.held().collect::<Vec<_>>() {
            let owner = self
                .spec
                .plan
                .dataset(part.dataset)
                .and_then(|dataset| self.owner(dataset.stage, part.partition));
            let Some(owner) = owner.filter(|owner| *owner != holder) else {
                continue;
            };
            if !self.is_readable(part) {
                self.parts.forget(part);
                continue;
            }
            self.parts.place(part, owner);
            if self.is_replicated(part.dataset) {
                self.parts.copy(part, holder);
            }
            moves.entry(owner).or_default().push((self.dataset_part(part), holder));
        }
        for (executor, parts) in moves {
            cx.act(Action::FetchDatasets {
                executor,
                job: self.spec.id,
                parts,
            });
        }
    }

    /// Has parts of completed batches copied that are to be on two executors and are on one.
    pub(super) fn replicate(&mut self, cx: &mut Context<'_>) {
        let executors: Vec<ExecutorId> = self.executors().collect();
        if executors.len() < 2 || !self.spec.plan.datasets.iter().any(|dataset| dataset.level.replicated) {
            return;
        }
        let mut copies: BTreeMap<ExecutorId, Vec<(DatasetPart, ExecutorId)>> = BTreeMap::new();
        for (part, holder) in self.parts.held().collect::<Vec<_>>() {
            let single = self.is_replicated(part.dataset) && self.parts.copied_to(part).is_none();
            if !single || !self.is_readable(part) {
                continue;
            }
            let others: Vec<ExecutorId> = executors.iter().copied().filter(|other| *other != holder).collect();
            let executor = others[part.partition as usize % others.len()];
            self.parts.copy(part, executor);
            copies
                .entry(executor)
                .or_default()
                .push((self.dataset_part(part), holder));
        }
        for (executor, parts) in copies {
            cx.act(Action::FetchDatasets {
                executor,
                job: self.spec.id,
                parts,
            });
        }
    }

    fn is_replicated(&self, dataset: DatasetId) -> bool {
        self.spec
            .plan
            .dataset(dataset)
            .is_some_and(|dataset| dataset.level.replicated)
    }

    /// Parts that could not be taken over are lost, and copies that could not be made are not there. Restores that run may
    /// wait for them, so they begin anew.
    pub(crate) fn on_datasets_fetched(&mut self, executor: ExecutorId, missing: &[DatasetPart]) {
        let mut lost = false;
        for missing in missing {
            let part = Part {
                index: self.index_of(missing.batch),
                dataset: missing.dataset,
                partition: missing.partition,
            };
            if self.parts.holder(part) == Some(executor) {
                // Whoever had it did not give it.
                self.parts.lose(part);
                lost = true;
            } else {
                self.parts.lose_at(part, executor);
            }
        }
        if lost {
            self.abandon_restores();
        }
    }

    pub(super) fn dataset_part(&self, part: Part) -> DatasetPart {
        DatasetPart {
            dataset: part.dataset,
            batch: self.time_of(part.index),
            partition: part.partition,
        }
    }
}
