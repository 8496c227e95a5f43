//! The receiving side of the shuffle: collects frames until a reduce task has all of its input.
//!
//! Frames are kept by (job, batch, sending stage) until their batch is forgotten, so that a second attempt of a reduce
//! task reads the same rows again. They may arrive before the launch message that makes them expected.
//!
//! Memory is bounded by what the budget has for shuffles, without a way to wait for each other in a circle:
//! - A frame of its job's oldest unfinished batch comes without credit and is always admitted, into memory while there
//!   is room, else into a local file.
//! - Any other frame uses up credit of its sender until its batch is forgotten. Should the windows given out and the
//!   frames of oldest batches together exceed what there is, such a frame goes to a file too, and keeps its credit.
//!
//! Ownership: one lock around plain data. Events are emitted with no lock held, by the thread that caused them: they
//! should only pass a message on. [`ShuffleStore::admit`] and the rows of [`ShuffleStore::open`] may block on the file
//! system.
//!
//! Failure: a frame that was spilled and is lost makes its whole delivery lost. Whoever reads it is told whose it was,
//! and the partition becomes ready again when another delivery of that map has come.

use std::sync::Arc;

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use tidemill_types::{Attempt, BatchTime, ExecutorId, JobId, RoutingVersion, StageId, TaskKey};

use self::credit::CreditBook;
use self::inlet::Inlet;
use self::state::{Place, Rows, State, Stored};
use crate::frame::{Frame, FrameHead, Run};
use crate::memory::{MemoryBudget, MemoryKind};
use crate::spill::SpillDir;
use crate::{Error, Result};

mod credit;
mod forgotten;
mod inlet;
#[cfg(test)]
mod inlet_tests;
mod state;
#[cfg(test)]
mod stress;
#[cfg(test)]
mod tests;

/// A partition of a shuffle slot that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShuffleReady {
    pub job: JobId,
    pub batch: BatchTime,
    pub from_stage: StageId,
    pub partition: u32,
}

/// What the store tells its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShuffleEvent {
    /// All expected maps have sent for this partition. Once for each, and again if its input was lost or reset.
    Ready(ShuffleReady),
    /// There is credit for `source`: [`ShuffleStore::take_credit`]. Not repeated until it is taken.
    Credit { source: ExecutorId },
}

/// What happened to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    InMemory,
    Spilled,
    Dropped(DropReason),
}

/// Why a frame was not kept. All of these happen in correct operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// The same frame is here.
    Duplicate,
    /// Other attempts or deliveries were complete before.
    Superseded,
    /// Its batch or job is forgotten.
    Late,
}

/// Where the store takes memory, disk and credit from, and whom it tells.
pub struct ShuffleOptions {
    pub budget: Arc<MemoryBudget>,
    /// Without it, a frame that does not fit is an error.
    pub spill: Option<Arc<SpillDir>>,
    /// Bytes that each source may have here on credit. All windows together should be well below what there is.
    pub window: u64,
    pub events: Arc<dyn Fn(ShuffleEvent) + Send + Sync>,
}

pub struct ShuffleStore {
    state: Arc<Mutex<State>>,
    credit: Arc<CreditBook>,
    budget: Arc<MemoryBudget>,
    spill: Option<Arc<SpillDir>>,
    events: Arc<dyn Fn(ShuffleEvent) + Send + Sync>,
}

impl ShuffleStore {
    #[must_use]
    pub fn new(options: ShuffleOptions) -> Self {
        let ShuffleOptions {
            budget,
            spill,
            window,
            events,
        } = options;
        let nudge = {
            let events = Arc::clone(&events);
            Arc::new(move |source| events(ShuffleEvent::Credit { source }))
        };
        Self {
            state: Arc::default(),
            credit: CreditBook::new(window, nudge),
            budget,
            spill,
            events,
        }
    }

    /// Says which maps of a stage send in a batch, and which partitions this executor reads. May be said again, with
    /// further partitions that it takes over. A batch that was forgotten is open again after it.
    pub fn expect(&self, job: JobId, batch: BatchTime, from_stage: StageId, maps: &[u32], partitions: &[u32]) {
        let ready = {
            let mut state = self.state.lock();
            if state.removed.contains(&job) {
                return;
            }
            state
                .open(job, batch)
                .inlets
                .entry(from_stage)
                .or_default()
                .expect(maps, partitions)
        };
        self.report(job, batch, from_stage, ready);
    }

    /// Whether [`ShuffleStore::admit`] is about to write a file for `frame`, which async callers then do elsewhere.
    #[must_use]
    pub fn would_spill(&self, frame: &Frame) -> bool {
        !frame.runs.is_empty() && !self.budget.has_room(MemoryKind::Shuffle, frame.bytes)
    }

    /// Takes in a frame. Blocks on the file system if it has to be spilled.
    pub fn admit(&self, frame: Frame) -> Result<Admission> {
        let Frame { head, runs, bytes } = frame;
        // Held from here on, so that whatever becomes of the frame its credit returns.
        let credit = (!head.oldest).then(|| self.credit.arrived(head.source, bytes));
        check_runs(&head, &runs)?;
        if let Some(reason) = self.judge(&head)? {
            return Ok(Admission::Dropped(reason));
        }
        let place = self.place(runs, bytes)?;
        let admission = match &place {
            Place::Memory(..) => Admission::InMemory,
            Place::File(..) => Admission::Spilled,
        };
        let stored = Stored { place, credit };
        let inserted = {
            let mut state = self.state.lock();
            // While the frame was written, its twin may have come or its batch been forgotten.
            match state.judge(&head)? {
                Some(reason) => Err((stored, reason)),
                None => {
                    let batch = state.open(head.job, head.batch);
                    batch.version = batch.version.max(head.routing_version);
                    Ok(batch.inlets.entry(head.from_stage).or_default().insert(&head, stored))
                }
            }
        };
        match inserted {
            Ok(inserted) => {
                drop(inserted.given_up);
                self.report(head.job, head.batch, head.from_stage, inserted.ready);
                Ok(admission)
            }
            Err((unused, reason)) => {
                drop(unused);
                Ok(Admission::Dropped(reason))
            }
        }
    }

    /// The rows for a partition, in ascending order of maps, each in the order in which it was made. Can be read again
    /// until the batch is forgotten. Blocks on the file system if frames were spilled.
    pub fn read(&self, job: JobId, batch: BatchTime, from_stage: StageId, partition: u32) -> Result<Vec<RecordBatch>> {
        self.open(job, batch, from_stage, partition)?.collect()
    }

    /// The same, frame by frame.
    pub fn open(&self, job: JobId, batch: BatchTime, from_stage: StageId, partition: u32) -> Result<ShuffleRows> {
        let incomplete = |missing| Error::Incomplete {
            job,
            batch,
            from_stage,
            partition,
            missing,
        };
        let state = self.state.lock();
        let inlet = state
            .inlet(job, batch, from_stage)
            .ok_or_else(|| incomplete(Vec::new()))?;
        let parts = inlet.read(partition).map_err(incomplete)?;
        let frames = parts.into_iter().flat_map(|part| {
            let (map, delivery) = (part.map_partition, part.delivery);
            let rows = part.payload.rows_for(partition).into_iter();
            rows.map(move |rows| (map, delivery, rows))
        });
        Ok(ShuffleRows {
            frames: frames.collect::<Vec<_>>().into_iter(),
            state: Arc::clone(&self.state),
            job,
            batch,
            from_stage,
        })
    }

    /// The expected maps that have not sent for all expected partitions, ascending.
    #[must_use]
    pub fn missing(&self, job: JobId, batch: BatchTime, from_stage: StageId) -> Vec<u32> {
        let state = self.state.lock();
        state
            .inlet(job, batch, from_stage)
            .map(Inlet::missing)
            .unwrap_or_default()
    }

    /// Drops what arrived, because the stage is run again from `first_attempt` on with other results: earlier attempts
    /// do not count any more. What is expected stays, and is reported again.
    pub fn reset(&self, job: JobId, batch: BatchTime, from_stage: StageId, first_attempt: Attempt) {
        let dropped = {
            let mut state = self.state.lock();
            if state.removed.contains(&job) {
                return;
            }
            state
                .open(job, batch)
                .inlets
                .entry(from_stage)
                .or_default()
                .reset(first_attempt)
        };
        drop(dropped);
    }

    /// Forgets the batches of `job` before `before`, save those that were opened again and are still expected.
    /// `version` is the latest routing that this executor knows.
    pub fn forget_before(&self, job: JobId, before: BatchTime, version: RoutingVersion) {
        let dropped = {
            let mut state = self.state.lock();
            if state.removed.contains(&job) {
                return;
            }
            let frames = state.jobs.entry(job).or_default();
            frames.forgotten.all_before(before, version);
            let gone: Vec<BatchTime> = frames
                .batches
                .range(..before)
                .filter(|(_, frames)| !frames.reopened || frames.is_stray(version))
                .map(|(batch, _)| *batch)
                .collect();
            gone.iter()
                .filter_map(|batch| frames.batches.remove(batch))
                .collect::<Vec<_>>()
        };
        drop(dropped);
    }

    /// Forgets one batch, in particular one that was opened again.
    pub fn forget_batch(&self, job: JobId, batch: BatchTime, version: RoutingVersion) {
        let dropped = {
            let mut state = self.state.lock();
            if state.removed.contains(&job) {
                return;
            }
            let frames = state.jobs.entry(job).or_default();
            frames.forgotten.one(batch, version);
            frames.batches.remove(&batch)
        };
        drop(dropped);
    }

    /// Forgets all of `job`, for good.
    pub fn forget_job(&self, job: JobId) {
        let dropped = {
            let mut state = self.state.lock();
            state.removed.insert(job);
            state.jobs.remove(&job)
        };
        drop(dropped);
    }

    /// A connection from `source` begins (for the executor itself: its sender exists). Returns the credit that it has
    /// from now on; what it was given before is void.
    #[must_use]
    pub fn open_source(&self, source: ExecutorId) -> u64 {
        self.credit.open(source)
    }

    /// Credit to give to `source` now.
    #[must_use]
    pub fn take_credit(&self, source: ExecutorId) -> u64 {
        self.credit.take(source)
    }

    /// `source` was lost: it will send nothing more. What it sent completely stays.
    pub fn close_source(&self, source: ExecutorId) {
        let dropped = {
            let mut state = self.state.lock();
            let inlets = state.jobs.values_mut().flat_map(|job| job.batches.values_mut());
            let inlets = inlets.flat_map(|batch| batch.inlets.values_mut());
            inlets.flat_map(|inlet| inlet.abandon(source)).collect::<Vec<_>>()
        };
        drop(dropped);
        self.credit.close(source);
    }

    /// Changes the window of every source, when executors come and go.
    pub fn set_window(&self, window: u64) {
        self.credit.set_window(window);
    }

    fn judge(&self, head: &FrameHead) -> Result<Option<DropReason>> {
        self.state.lock().judge(head)
    }

    fn place(&self, runs: Vec<Run>, bytes: u64) -> Result<Place> {
        if runs.is_empty() {
            return Ok(Place::Memory(Arc::default(), None));
        }
        if let Some(charge) = self.budget.acquire(MemoryKind::Shuffle, bytes) {
            return Ok(Place::Memory(runs.into(), Some(charge)));
        }
        let full = |disk| Error::Full {
            bytes,
            memory: self.budget.describe(),
            disk,
        };
        let spill = self
            .spill
            .as_ref()
            .ok_or_else(|| full("there is nowhere to spill to"))?;
        let partitions = runs.iter().map(|run| run.partition).collect();
        let rows: Vec<RecordBatch> = runs.into_iter().map(|run| run.rows).collect();
        let file = spill.write(MemoryKind::Shuffle, &rows[0].schema(), &rows);
        let file = file.map_err(|error| match error {
            Error::SpillFull { .. } => full("the directory for spilled data is full"),
            other => other,
        })?;
        Ok(Place::File(partitions, Arc::new(file)))
    }

    fn report(&self, job: JobId, batch: BatchTime, from_stage: StageId, ready: Vec<u32>) {
        for partition in ready {
            (self.events)(ShuffleEvent::Ready(ShuffleReady {
                job,
                batch,
                from_stage,
                partition,
            }));
        }
    }
}

/// The rows of a partition.
pub struct ShuffleRows {
    frames: std::vec::IntoIter<(u32, (ExecutorId, u64), Rows)>,
    state: Arc<Mutex<State>>,
    job: JobId,
    batch: BatchTime,
    from_stage: StageId,
}

impl Iterator for ShuffleRows {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let (map_partition, delivery, rows) = self.frames.next()?;
        let read = match rows {
            Rows::Memory(rows) => Ok(rows),
            Rows::File(file, number) => file.read_batch(number),
        };
        Some(read.map_err(|source| {
            self.frames = Vec::new().into_iter();
            let dropped = {
                let mut state = self.state.lock();
                let inlet = state.inlet_mut(self.job, self.batch, self.from_stage);
                inlet.map(|inlet| inlet.discard(map_partition, delivery))
            };
            drop(dropped);
            Error::MapInputLost {
                map: TaskKey {
                    job: self.job,
                    batch: self.batch,
                    stage: self.from_stage,
                    partition: map_partition,
                },
                source: Box::new(source),
            }
        }))
    }
}

fn check_runs(head: &FrameHead, runs: &[Run]) -> Result<()> {
    if runs.iter().any(|run| !head.targets.contains(&run.partition)) {
        return Err(Error::malformed("rows for a partition that the frame is not for"));
    }
    Ok(())
}
