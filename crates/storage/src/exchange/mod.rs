//! Where map outputs go, and the outputs themselves, kept until their batch is forgotten.
//!
//! A map task that ends registers its output and asks where to push it; when partitions move, the driver asks for
//! outputs to be sent again. Between the two there must be no gap into which an output falls: a map that ends just
//! before the move has pushed to the old place and is in the collection, one that ends just after pushes to the new
//! place. So both happen under one lock: [`ExchangeRouter::finish_map`] registers and reads the routing,
//! [`ExchangeRouter::collect_resend`] changes the routing and collects.
//!
//! A batch goes by the routing with which it was launched, also when a later one is known: its reduce tasks stay where
//! they are, save those that are named in a resend.
//!
//! Outputs above the memory limit are spilled, the oldest first. `finish_map` and `collect_resend` may block on the
//! file system, without the lock. An output that was spilled and is lost is named, so that its task runs again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use tidemill_types::{Attempt, BatchTime, ExecutorId, JobId, RoutingVersion, StageId, TaskKey};

use self::routing::JobRouting;
use crate::compact::compact_together;
use crate::memory::{MemoryBudget, MemoryKind};
use crate::shelf::{Handle, Shelf};
use crate::spill::SpillDir;
use crate::{Error, Result};

mod routing;
#[cfg(test)]
mod tests;

pub use routing::{Exchange, RoutingTable};

/// The rows of one map task for one executor.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    pub to: ExecutorId,
    /// Unique among all that this executor sends.
    pub number: u64,
    /// The task that made the rows.
    pub map: TaskKey,
    pub attempt: Attempt,
    pub routing_version: RoutingVersion,
    /// The partitions that it is for, ascending.
    pub targets: Vec<u32>,
    /// Rows by partition, ascending; partitions without rows may be missing.
    pub parts: Vec<(u32, RecordBatch)>,
}

/// What is to be sent again.
#[derive(Debug, Default)]
pub struct Resent {
    pub deliveries: Vec<Delivery>,
    /// Map partitions whose output was kept and is lost: their tasks have to run again.
    pub lost: Vec<u32>,
}

/// The sending side of the exchanges of one executor.
pub struct ExchangeRouter {
    state: Mutex<State>,
    /// Rows by task; written and read under `state` for membership, without it for files.
    outputs: Shelf<TaskKey>,
}

#[derive(Default)]
struct State {
    jobs: HashMap<JobId, JobOutputs>,
    /// Numbers the next delivery.
    next: u64,
}

#[derive(Default)]
struct JobOutputs {
    routing: JobRouting,
    /// By task; a task's batch is in its key.
    kept: BTreeMap<TaskKey, Kept>,
}

/// An output on the shelf: one batch for each partition.
struct Kept {
    attempt: Attempt,
    partitions: Arc<[u32]>,
}

/// Where rows of one map go, by executor: the partitions, ascending.
type Destinations = BTreeMap<ExecutorId, Vec<u32>>;

impl ExchangeRouter {
    #[must_use]
    pub fn new(budget: &Arc<MemoryBudget>, spill: Option<Arc<SpillDir>>) -> Self {
        Self {
            state: Mutex::default(),
            outputs: Shelf::new(Arc::clone(budget), budget.limits().map_outputs, spill),
        }
    }

    /// Says what is behind each stage of `job` that ends in an exchange.
    pub fn install_job(&self, job: JobId, exchanges: HashMap<StageId, Exchange>) {
        self.state
            .lock()
            .jobs
            .entry(job)
            .or_default()
            .routing
            .install(exchanges);
    }

    /// Makes a routing known. Batches that are launched with its version go by it.
    pub fn change_routing(&self, job: JobId, version: RoutingVersion, table: RoutingTable) {
        self.state
            .lock()
            .jobs
            .entry(job)
            .or_default()
            .routing
            .change(version, table);
    }

    /// A batch is launched, or launched again with a later routing. One that was forgotten is open again after it.
    pub fn launch(&self, job: JobId, batch: BatchTime, version: RoutingVersion) {
        self.state
            .lock()
            .jobs
            .entry(job)
            .or_default()
            .routing
            .launch(batch, version);
    }

    /// The latest routing version that is known for `job`.
    #[must_use]
    pub fn routing_version(&self, job: JobId) -> RoutingVersion {
        self.state
            .lock()
            .jobs
            .get(&job)
            .map(|job| job.routing.latest())
            .unwrap_or_default()
    }

    /// Keeps what a map task has made and says where to push it: one delivery for every executor that reads from it,
    /// whether there are rows for it or not. With `only`, just these partitions are pushed; all are kept.
    ///
    /// Nothing is kept or pushed for a batch that is forgotten.
    pub fn finish_map(
        &self,
        map: TaskKey,
        attempt: Attempt,
        parts: Vec<(u32, RecordBatch)>,
        only: Option<&[u32]>,
    ) -> Result<Vec<Delivery>> {
        let parts = tidy(parts)?;
        let deliveries = {
            let mut state = self.state.lock();
            let State { jobs, next } = &mut *state;
            let no_route = || Error::NoRoute {
                job: map.job,
                stage: map.stage,
            };
            let job = jobs.get_mut(&map.job).ok_or_else(no_route)?;
            if job.routing.is_forgotten(map.batch) {
                return Ok(Vec::new());
            }
            let version = job.routing.batch_version(map.batch);
            let destinations = job
                .routing
                .destinations(map.batch, map.stage, only)
                .ok_or_else(no_route)?;
            // All attempts make the same rows, so the first stays.
            job.kept.entry(map).or_insert_with(|| {
                let batches = parts.iter().map(|(_, rows)| rows.clone()).collect();
                self.outputs.insert(map, MemoryKind::MapOutputs, batches);
                Kept {
                    attempt,
                    partitions: parts.iter().map(|(partition, _)| *partition).collect(),
                }
            });
            deliver(destinations, next, map, attempt, version, &parts)
        };
        self.outputs.relieve();
        Ok(deliveries)
    }

    /// Sends `partitions` of the exchange behind `from_stage` to where routing `version` has them from now on, and
    /// returns what the maps that have ended here have for them. Maps that end later push there by themselves.
    pub fn collect_resend(
        &self,
        job: JobId,
        batch: BatchTime,
        from_stage: StageId,
        partitions: &[u32],
        version: RoutingVersion,
    ) -> Result<Resent> {
        let collected = {
            let mut state = self.state.lock();
            let no_route = || Error::NoRoute { job, stage: from_stage };
            let entry = state.jobs.get_mut(&job).ok_or_else(no_route)?;
            entry
                .routing
                .redirect(batch, from_stage, partitions, version)
                .ok_or_else(no_route)?;
            let destinations = entry
                .routing
                .destinations(batch, from_stage, Some(partitions))
                .ok_or_else(no_route)?;
            let handles = entry
                .kept_of(job, batch, from_stage)
                .filter_map(|(map, kept)| {
                    Some((
                        *map,
                        kept.attempt,
                        Arc::clone(&kept.partitions),
                        self.outputs.handle(map)?,
                    ))
                })
                .collect::<Vec<_>>();
            (destinations, handles)
        };
        let (destinations, handles) = collected;
        let mut resent = Resent::default();
        for (map, attempt, kept, handle) in handles {
            match load(&kept, partitions, &handle) {
                Ok(parts) => {
                    let next = &mut self.state.lock().next;
                    resent
                        .deliveries
                        .extend(deliver(destinations.clone(), next, map, attempt, version, &parts));
                }
                Err(error) => {
                    tracing::warn!(%map, %error, "a kept map output is lost");
                    self.drop_output(map);
                    resent.lost.push(map.partition);
                }
            }
        }
        Ok(resent)
    }

    /// The maps of a stage whose output is kept here, ascending.
    #[must_use]
    pub fn kept_maps(&self, job: JobId, batch: BatchTime, stage: StageId) -> Vec<u32> {
        let state = self.state.lock();
        let kept = state
            .jobs
            .get(&job)
            .map(|entry| entry.kept_of(job, batch, stage).map(|(map, _)| map.partition).collect());
        kept.unwrap_or_default()
    }

    /// Forgets the outputs of `job` of all batches before `before`, save those that were opened again.
    pub fn forget_before(&self, job: JobId, before: BatchTime) {
        self.forget(job, |routing| routing.forget_before(before));
    }

    /// Forgets one batch, in particular one that was opened again.
    pub fn forget_batch(&self, job: JobId, batch: BatchTime) {
        self.forget(job, |routing| routing.forget_batch(batch));
    }

    /// Forgets all of `job`.
    pub fn forget_job(&self, job: JobId) {
        let taken: Vec<_> = {
            let mut state = self.state.lock();
            let removed = state.jobs.remove(&job);
            removed
                .iter()
                .flat_map(|job| job.kept.keys())
                .filter_map(|map| self.outputs.take(map))
                .collect()
        };
        drop(taken);
    }

    fn forget(&self, job: JobId, change: impl FnOnce(&mut JobRouting)) {
        let mut taken = Vec::new();
        {
            let mut state = self.state.lock();
            let Some(JobOutputs { routing, kept }) = state.jobs.get_mut(&job) else {
                return;
            };
            change(routing);
            kept.retain(|map, _| {
                let forgotten = routing.is_forgotten(map.batch);
                if forgotten {
                    taken.extend(self.outputs.take(map));
                }
                !forgotten
            });
        }
        drop(taken);
    }

    fn drop_output(&self, map: TaskKey) {
        let taken = {
            let mut state = self.state.lock();
            if let Some(job) = state.jobs.get_mut(&map.job) {
                job.kept.remove(&map);
            }
            self.outputs.take(&map)
        };
        drop(taken);
    }
}

impl JobOutputs {
    fn kept_of(&self, job: JobId, batch: BatchTime, stage: StageId) -> impl Iterator<Item = (&TaskKey, &Kept)> {
        let map = |partition| TaskKey {
            job,
            batch,
            stage,
            partition,
        };
        self.kept.range(map(0)..=map(u32::MAX))
    }
}

/// The parts that have rows, ascending, without input text that they hold but do not use.
fn tidy(mut parts: Vec<(u32, RecordBatch)>) -> Result<Vec<(u32, RecordBatch)>> {
    parts.retain(|(_, rows)| rows.num_rows() > 0);
    parts.sort_by_key(|(partition, _)| *partition);
    let (partitions, rows): (Vec<u32>, Vec<RecordBatch>) = parts.into_iter().unzip();
    Ok(partitions.into_iter().zip(compact_together(rows)?).collect())
}

fn load(kept: &[u32], partitions: &[u32], handle: &Handle) -> Result<Vec<(u32, RecordBatch)>> {
    let batches = handle.load()?;
    let parts = kept.iter().copied().zip(batches.iter());
    Ok(parts
        .filter(|(partition, _)| partitions.contains(partition))
        .map(|(p, rows)| (p, rows.clone()))
        .collect())
}

fn deliver(
    destinations: Destinations,
    next: &mut u64,
    map: TaskKey,
    attempt: Attempt,
    routing_version: RoutingVersion,
    parts: &[(u32, RecordBatch)],
) -> Vec<Delivery> {
    destinations
        .into_iter()
        .map(|(to, targets)| {
            let number = *next;
            *next += 1;
            let parts = parts
                .iter()
                .filter(|(partition, _)| targets.binary_search(partition).is_ok())
                .cloned();
            Delivery {
                to,
                number,
                map,
                attempt,
                routing_version,
                parts: parts.collect(),
                targets,
            }
        })
        .collect()
}
