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
//! A delivery names rows, it does not hold them: [`ExchangeRouter::load`] gets them when it is their turn to be sent, from
//! memory or from a file. So what waits to be sent takes no memory that could not be had for something else. An output
//! that was spilled and is lost is [`Error::SpillLost`]; its task has to run again.
//!
//! [`OutputWriter`], `finish_map` and `load` may block on the file system, without the lock.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use tidemill_types::{Attempt, BatchTime, ExecutorId, JobId, Medium, RoutingVersion, StageId, TaskKey};

use self::routing::JobRouting;
use crate::memory::{MemoryBudget, MemoryKind};
use crate::shelf::{self, Draft, Gone, Shelf};
use crate::spill::SpillDir;
use crate::{Error, Result, sliced_bytes};

mod routing;
#[cfg(test)]
mod tests;

pub use routing::{Exchange, RoutingTable};

/// The rows of one map task for one executor, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// What its rows take.
    pub bytes: u64,
}

/// Rows by partition, ascending; several of a partition in the order in which they were made.
pub type Parts = Vec<(u32, RecordBatch)>;

/// The sending side of the exchanges of one executor.
pub struct ExchangeRouter {
    state: Mutex<State>,
    /// Rows by task; written and read under `state` for membership, without it for files.
    outputs: Arc<Shelf<TaskKey>>,
    budget: Arc<MemoryBudget>,
}

/// Kept outputs may go to files, and are not let go of otherwise.
struct Owner;

impl shelf::Owner<TaskKey> for Owner {
    fn is_droppable(&self, _: &TaskKey) -> bool {
        false
    }

    /// Whoever reads it is told too.
    fn lost(&self, map: TaskKey, _: Gone) {
        tracing::warn!(%map, "a kept map output is lost");
    }
}

/// They give way before everything else: nobody reads them unless something fails.
const RECLAIM_ORDER: u8 = 0;

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

/// An output on the shelf.
struct Kept {
    attempt: Attempt,
    /// Of each of its batches the partition and the bytes, in the order in which they were made.
    runs: Arc<[(u32, u64)]>,
}

/// Collects what a map task makes. See [`ExchangeRouter::finish_map`].
pub struct OutputWriter {
    draft: Draft,
    runs: Vec<(u32, u64)>,
}

impl OutputWriter {
    /// Takes rows for a partition; an error if neither memory nor disk has room for them.
    pub fn push(&mut self, partition: u32, rows: RecordBatch) -> Result<()> {
        if rows.num_rows() > 0 {
            self.runs.push((partition, sliced_bytes(&rows)));
            self.draft.push(rows)?;
        }
        Ok(())
    }
}

/// Where rows of one map go, by executor: the partitions, ascending.
type Destinations = BTreeMap<ExecutorId, Vec<u32>>;

impl ExchangeRouter {
    #[must_use]
    pub fn new(budget: &Arc<MemoryBudget>, spill: Option<Arc<SpillDir>>) -> Self {
        Self {
            state: Mutex::default(),
            outputs: Shelf::new(Arc::clone(budget), spill, RECLAIM_ORDER, Owner),
            budget: Arc::clone(budget),
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

    /// Begins the output of a map task.
    #[must_use]
    pub fn write_output(&self) -> OutputWriter {
        OutputWriter {
            draft: self.outputs.draft(MemoryKind::MapOutputs, Medium::MemoryAndDisk),
            runs: Vec::new(),
        }
    }

    /// Keeps what a map task has made and says where to push it: one delivery for every executor that reads from it,
    /// whether there are rows for it or not. With `only`, just these partitions are pushed; all are kept.
    ///
    /// Nothing is kept or pushed for a batch that is forgotten.
    pub fn finish_map(
        &self,
        map: TaskKey,
        attempt: Attempt,
        output: OutputWriter,
        only: Option<&[u32]>,
    ) -> Result<Vec<Delivery>> {
        let content = output.draft.finish()?;
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
            // All attempts make the same rows, so the first stays, unless it is lost.
            if !self.outputs.contains(&map) {
                self.outputs
                    .place(map, MemoryKind::MapOutputs, Medium::MemoryAndDisk, content);
                let runs = output.runs.into();
                job.kept.insert(map, Kept { attempt, runs });
            }
            let kept = job.kept.get(&map).ok_or_else(no_route)?;
            deliver(destinations, next, map, attempt, version, kept)
        };
        self.budget.relieve();
        if self.outputs.is_over_full() {
            self.drop_output(map);
            return Err(Error::Full {
                bytes: deliveries.iter().map(|delivery| delivery.bytes).sum(),
                memory: self.budget.describe(),
                disk: "the directory for spilled data is full",
            });
        }
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
    ) -> Result<Vec<Delivery>> {
        let mut state = self.state.lock();
        let State { jobs, next } = &mut *state;
        let no_route = || Error::NoRoute { job, stage: from_stage };
        let entry = jobs.get_mut(&job).ok_or_else(no_route)?;
        entry
            .routing
            .redirect(batch, from_stage, partitions, version)
            .ok_or_else(no_route)?;
        let destinations = entry
            .routing
            .destinations(batch, from_stage, Some(partitions))
            .ok_or_else(no_route)?;
        let kept = entry.kept_of(job, batch, from_stage);
        let deliveries =
            kept.flat_map(|(map, kept)| deliver(destinations.clone(), next, *map, kept.attempt, version, kept));
        Ok(deliveries.collect())
    }

    /// The rows of a delivery; `None` if its batch is forgotten meanwhile. An output whose file is lost is forgotten.
    pub fn load(&self, delivery: &Delivery) -> Result<Option<Parts>> {
        let (handle, runs) = {
            let state = self.state.lock();
            let kept = state
                .jobs
                .get(&delivery.map.job)
                .and_then(|job| job.kept.get(&delivery.map));
            let Some((kept, handle)) = kept.zip(self.outputs.open(&delivery.map)) else {
                return Ok(None);
            };
            (handle, Arc::clone(&kept.runs))
        };
        let mut wanted: Vec<(u32, usize)> = runs
            .iter()
            .enumerate()
            .filter(|(_, (partition, _))| delivery.targets.binary_search(partition).is_ok())
            .map(|(number, (partition, _))| (*partition, number))
            .collect();
        wanted.sort_unstable();
        let parts = wanted
            .into_iter()
            .map(|(partition, number)| Ok((partition, handle.batch(number)?)));
        match parts.collect::<Result<Parts>>() {
            Ok(parts) => Ok(Some(parts)),
            Err(error) => {
                self.drop_output(delivery.map);
                Err(error)
            }
        }
    }

    /// Whether loading a delivery reads a file, which async callers then do elsewhere.
    #[must_use]
    pub fn is_spilled(&self, delivery: &Delivery) -> bool {
        self.outputs
            .open(&delivery.map)
            .is_some_and(|handle| !handle.is_in_memory())
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

fn deliver(
    destinations: Destinations,
    next: &mut u64,
    map: TaskKey,
    attempt: Attempt,
    routing_version: RoutingVersion,
    kept: &Kept,
) -> Vec<Delivery> {
    destinations
        .into_iter()
        .map(|(to, targets)| {
            let number = *next;
            *next += 1;
            let runs = kept.runs.iter();
            let runs = runs.filter(|(partition, _)| targets.binary_search(partition).is_ok());
            Delivery {
                to,
                number,
                map,
                attempt,
                routing_version,
                bytes: runs.map(|(_, bytes)| bytes).sum(),
                targets,
            }
        })
        .collect()
}
