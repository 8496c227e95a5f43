//! What partitions of stages keep from batch to batch, and where it is while no task uses it.
//!
//! ```text
//!   in memory ── room is needed ──► files (state)        a task that needs it has it read back;
//!             └─ room is needed ──► nothing (an index)   an index is made again of its panes
//! ```
//! Ownership: a [`TaskMemory`] is one partition's; a task holds an entry's lock while it changes it, so a partition's
//! batches go one after the other, and what is locked does not give way.
//!
//! Failure: state whose file is lost is gone: [`Slot::kept`] says so, and every later batch fails until a saved one is put in
//! its place.

use std::any::Any;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use datafusion::error::{DataFusionError, Result};
use parking_lot::Mutex;
use tidemill_storage::{Charge, MemoryBudget, MemoryKind, Reclaim, SpillDir};
use tidemill_types::{FailureKind, JobId, SlotId, StageId, TaskFailure};

use crate::state::Versions;

/// The memory of one partition of one stage of one job, held by its executor and given to the partition's task of every
/// batch. Each operator that keeps something has an entry.
#[derive(Default)]
pub struct TaskMemory {
    entries: Mutex<HashMap<MemoryKey, Entry>>,
    /// Those of the state, for whoever does not wait for a task that is at work on it.
    versions: Arc<Mutex<Versions>>,
    /// Windows do without their indexes.
    state_only: bool,
    home: Option<Arc<Home>>,
    /// When it was last used, by the clock of its home.
    touched: AtomicU64,
}

/// What there is of the state that a batch has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateHere {
    /// No state at all.
    Nothing,
    /// That of another batch.
    Another,
    /// State that was on disk and cannot be read.
    Lost,
    /// A task can go on with it.
    Here,
}

/// What an entry belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum MemoryKey {
    /// The window whose panes come by this slot.
    Window(SlotId),
    /// The stage's state operator, of which it has one at most.
    State,
}

pub(crate) type Entry = Arc<Mutex<Slot>>;

/// Something that is kept.
pub(crate) trait Kept: Any + Send {
    /// Bytes held.
    fn size(&self) -> usize;

    /// Writes it to files; `None`: it can be made again of what its tasks read, so nothing is written.
    fn freeze(&self, spill: &Arc<SpillDir>) -> Result<Option<Box<dyn Frozen>>>;

    fn as_any(&mut self) -> &mut dyn Any;
}

/// Something that was kept and is in files now.
pub(crate) trait Frozen: Send {
    fn thaw(&self) -> Result<Box<dyn Kept>>;
}

/// The place of what an operator keeps.
#[derive(Default)]
pub(crate) struct Slot {
    place: Place,
    charge: Option<Charge>,
}

#[derive(Default)]
enum Place {
    #[default]
    Nothing,
    Memory(Box<dyn Kept>),
    /// With the bytes that it counts in memory.
    Files(Box<dyn Frozen>, u64),
    /// Its files could not be read; why.
    Lost(String),
}

impl Slot {
    /// What is kept, from files if it is there. An error if it is lost, or if there is no memory for it.
    pub(crate) fn kept(&mut self) -> Result<Option<&mut dyn Kept>> {
        if let Place::Files(frozen, bytes) = &self.place {
            let bytes = *bytes;
            if let Some(charge) = &mut self.charge
                && !charge.grow(bytes)
            {
                return Err(no_memory(bytes, charge));
            }
            match frozen.thaw() {
                Ok(kept) => self.place = Place::Memory(kept),
                Err(error) => {
                    if let Some(charge) = &mut self.charge {
                        charge.resize(0);
                    }
                    let reason = error.strip_backtrace();
                    tracing::error!(reason, "state that was on disk is lost");
                    self.place = Place::Lost(reason);
                }
            }
        }
        match &mut self.place {
            Place::Nothing => Ok(None),
            Place::Memory(kept) => Ok(Some(kept.as_mut())),
            Place::Lost(reason) => {
                let message = format!("state that was on disk is lost: {reason}");
                Err(external(TaskFailure::new(FailureKind::External, message)))
            }
            Place::Files(..) => datafusion::common::internal_err!("state that was read is not there"),
        }
    }

    pub(crate) fn put(&mut self, kept: Box<dyn Kept>) {
        self.place = Place::Memory(kept);
    }

    /// Counts what it has become. An error if that is more than there can be.
    pub(crate) fn settle(&mut self) -> Result<()> {
        let Place::Memory(kept) = &self.place else {
            return Ok(());
        };
        let bytes = kept.size() as u64;
        let Some(charge) = &mut self.charge else { return Ok(()) };
        if bytes > charge.bytes() && !charge.grow(bytes - charge.bytes()) {
            let error = no_memory(bytes, charge);
            // It is there all the same.
            charge.resize(bytes);
            return Err(error);
        }
        charge.resize(bytes);
        Ok(())
    }

    fn is_lost(&self) -> bool {
        matches!(self.place, Place::Lost(_))
    }

    fn size(&self) -> usize {
        match &self.place {
            Place::Memory(kept) => kept.size(),
            _ => 0,
        }
    }

    /// Lets go of memory; returns how much.
    fn give_way(&mut self, home: &Home) -> u64 {
        let Place::Memory(kept) = &self.place else { return 0 };
        let bytes = self.charge.as_ref().map_or(0, Charge::bytes);
        if bytes == 0 {
            return 0;
        }
        match kept.freeze(&home.spill) {
            Ok(Some(frozen)) => {
                self.place = Place::Files(frozen, bytes);
                home.evicted.fetch_add(1, Ordering::Relaxed);
            }
            Ok(None) => {
                self.place = Place::Nothing;
                home.budget.count_dropped(MemoryKind::State);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot spill state, so it stays in memory");
                return 0;
            }
        }
        if let Some(charge) = &mut self.charge {
            charge.resize(0);
        }
        bytes
    }
}

fn no_memory(bytes: u64, charge: &Charge) -> DataFusionError {
    let message = format!(
        "{bytes} bytes of state of one partition have no room in memory ({}): give executors more memory \
         (executor.memory), or use more partitions",
        charge.budget().describe()
    );
    external(TaskFailure::new(FailureKind::Resource, message))
}

fn external(failure: TaskFailure) -> DataFusionError {
    DataFusionError::External(Box::new(failure))
}

impl TaskMemory {
    pub(crate) fn entry(&self, key: MemoryKey) -> Entry {
        if let Some(home) = &self.home {
            self.touched.store(home.tick(), Ordering::Relaxed);
        }
        let slot = || {
            let charge = self.home.as_ref().map(|home| home.budget.charge(MemoryKind::State, 0));
            Arc::new(Mutex::new(Slot {
                place: Place::Nothing,
                charge,
            }))
        };
        Arc::clone(self.entries.lock().entry(key).or_insert_with(slot))
    }

    /// The place of the index of a window whose panes come by `slot`, if windows have one here.
    pub(crate) fn index(&self, slot: SlotId) -> Option<Entry> {
        (!self.state_only).then(|| self.entry(MemoryKey::Window(slot)))
    }

    pub(crate) fn versions(&self) -> Arc<Mutex<Versions>> {
        Arc::clone(&self.versions)
    }

    /// Its state alone: for a task that makes again what an earlier batch has left, which must not have the windows'
    /// indexes go back.
    #[must_use]
    pub fn state_only(&self) -> Arc<Self> {
        let state = self.entry(MemoryKey::State);
        Arc::new(Self {
            entries: Mutex::new(HashMap::from([(MemoryKey::State, state)])),
            versions: Arc::clone(&self.versions),
            state_only: true,
            ..Self::default()
        })
    }

    /// Puts a state here that is that of a batch.
    pub(crate) fn put_state(&self, index: i64, kept: Box<dyn Kept>) -> Result<()> {
        let entry = self.entry(MemoryKey::State);
        let mut slot = entry.lock();
        slot.put(kept);
        *self.versions.lock() = Versions::loaded(index);
        slot.settle()
    }

    /// What is here of the state that a batch has left. It does not wait for a task that is at work on the state.
    #[must_use]
    pub fn state_here(&self, index: i64) -> StateHere {
        let entry = self.entries.lock().get(&MemoryKey::State).cloned();
        let lost = entry.is_some_and(|entry| entry.try_lock().is_some_and(|slot| slot.is_lost()));
        let versions = *self.versions.lock();
        match versions.find(index) {
            _ if lost => StateHere::Lost,
            Some(_) => StateHere::Here,
            None if versions == Versions::default() => StateHere::Nothing,
            None => StateHere::Another,
        }
    }

    /// Bytes held in memory by what no task is changing at this moment.
    #[must_use]
    pub fn size(&self) -> usize {
        let entries: Vec<Entry> = self.entries.lock().values().cloned().collect();
        let sizes = entries.iter().filter_map(|entry| Some(entry.try_lock()?.size()));
        sizes.sum()
    }

    fn give_way(&self, home: &Home, missing: u64) -> u64 {
        let entries: Vec<Entry> = self.entries.lock().values().cloned().collect();
        let mut freed = 0;
        for entry in entries {
            if freed >= missing {
                break;
            }
            if let Some(mut slot) = entry.try_lock() {
                freed += slot.give_way(home);
            }
        }
        freed
    }
}

/// The memories of all partitions of an executor. They give way when others need room.
pub struct TaskMemories {
    home: Arc<Home>,
    by_partition: Mutex<HashMap<(JobId, StageId, u32), Arc<TaskMemory>>>,
}

struct Home {
    budget: Arc<MemoryBudget>,
    spill: Arc<SpillDir>,
    clock: AtomicU64,
    evicted: AtomicU64,
}

impl Home {
    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }
}

/// State gives way behind all else: the next batch needs it.
const RECLAIM_ORDER: u8 = 2;

/// After so many uses of each partition, one that was not used is not part of the round any more.
const STALE_ROUNDS: u64 = 4;

impl TaskMemories {
    #[must_use]
    pub fn new(budget: &Arc<MemoryBudget>, spill: &Arc<SpillDir>) -> Arc<Self> {
        let memories = Arc::new(Self {
            home: Arc::new(Home {
                budget: Arc::clone(budget),
                spill: Arc::clone(spill),
                clock: AtomicU64::new(0),
                evicted: AtomicU64::new(0),
            }),
            by_partition: Mutex::default(),
        });
        let reclaimer: Weak<Self> = Arc::downgrade(&memories);
        budget.add_reclaimer(RECLAIM_ORDER, reclaimer);
        memories
    }

    /// What a partition of a stage keeps.
    #[must_use]
    pub fn memory(&self, job: JobId, stage: StageId, partition: u32) -> Arc<TaskMemory> {
        let mut memories = self.by_partition.lock();
        let memory = memories.entry((job, stage, partition)).or_insert_with(|| {
            Arc::new(TaskMemory {
                home: Some(Arc::clone(&self.home)),
                ..TaskMemory::default()
            })
        });
        Arc::clone(memory)
    }

    /// The same if anything has been kept there.
    #[must_use]
    pub fn find(&self, job: JobId, stage: StageId, partition: u32) -> Option<Arc<TaskMemory>> {
        self.by_partition.lock().get(&(job, stage, partition)).cloned()
    }

    pub fn forget_job(&self, job: JobId) {
        let gone: Vec<_> = self
            .by_partition
            .lock()
            .extract_if(|(of, _, _), _| *of == job)
            .collect();
        drop(gone);
    }

    /// How often something went to files.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.home.evicted.load(Ordering::Relaxed)
    }

    /// All of them in the order in which they give way. Partitions take turns, batch after batch, so the one that was
    /// used last is needed last; only those that have not had a turn for long go before it.
    fn in_order(&self) -> Vec<Arc<TaskMemory>> {
        let mut memories: Vec<(u64, Arc<TaskMemory>)> = {
            let memories = self.by_partition.lock();
            let touched = |memory: &Arc<TaskMemory>| memory.touched.load(Ordering::Relaxed);
            memories
                .values()
                .map(|memory| (touched(memory), Arc::clone(memory)))
                .collect()
        };
        let round = memories.len() as u64 * STALE_ROUNDS;
        let now = self.home.clock.load(Ordering::Relaxed);
        memories.sort_by_key(|(touched, _)| {
            let stale = now.saturating_sub(*touched) > round;
            (!stale, Reverse(*touched))
        });
        memories.into_iter().map(|(_, memory)| memory).collect()
    }
}

impl Reclaim for TaskMemories {
    fn reclaim(&self, bytes: u64, below_floors: bool) -> u64 {
        let mut freed = 0;
        for memory in self.in_order() {
            if freed >= bytes || (!below_floors && self.home.budget.above_floor(MemoryKind::State) == 0) {
                break;
            }
            freed += memory.give_way(&self.home, bytes - freed);
        }
        freed
    }
}
