//! Batches by key, of which those that nobody has looked at for longest go to files when memory runs short.
//!
//! ```text
//!   put ─► memory ──── written ────► file ◄── read: also back in memory, if there is room ──► both
//!             └── may not go to files ──► dropped, and its owner is told
//! ```
//! Whoever reads an entry does not see where it is. Files are written and read without the lock, so an entry may be
//! removed or replaced meanwhile: it is known by the number of its put, and what was written for one that is gone is
//! thrown away.
//!
//! What is being read is never evicted: its memory would stay where it is. What is marked as *due* goes last.
//!
//! A failing disk does not lose anything: entries stay in memory above the limit, and the shelf is full.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Weak};

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use tidemill_types::Medium;

use crate::Result;
use crate::memory::{Charge, MemoryBudget, MemoryKind, Reclaim};
use crate::spill::{SpillDir, SpillFile};

mod draft;
mod rows;
#[cfg(test)]
mod tests;

pub(crate) use draft::{Content, Draft};
pub(crate) use rows::Handle;

pub(crate) struct Shelf<K> {
    state: Mutex<State<K>>,
    budget: Arc<MemoryBudget>,
    spill: Option<Arc<SpillDir>>,
    owner: Box<dyn Owner<K>>,
}

/// Who has put the entries there.
pub(crate) trait Owner<K>: Send + Sync {
    /// Whether an entry that may not go to files may be let go of.
    fn is_droppable(&self, key: &K) -> bool;

    /// An entry is gone: it was let go of, or its file is lost.
    fn lost(&self, key: K, why: Gone);
}

/// Why an entry is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It was kept in memory alone, and there was no room.
    Dropped,
    /// Its file is missing or damaged.
    FileLost,
}

struct State<K> {
    entries: HashMap<K, Entry>,
    /// In memory and not being written, by kind: what goes first stands in front.
    candidates: HashMap<MemoryKind, BTreeMap<Order, K>>,
    /// Numbers puts and looks.
    clock: u64,
    /// The last write failed, and nothing was removed since.
    stuck: bool,
}

/// When an entry goes: those that are due behind all others, and else by the last look at them.
type Order = (bool, u64);

struct Entry {
    number: u64,
    kind: MemoryKind,
    medium: Medium,
    rows: u64,
    /// In memory, also while it is not.
    bytes: u64,
    place: Place,
    touched: u64,
    due: u32,
    /// Its place among the candidates.
    order: Option<Order>,
}

#[derive(Clone)]
enum Place {
    Memory(Arc<InMemory>),
    File(Arc<SpillFile>),
    Both(Arc<InMemory>, Arc<SpillFile>),
}

/// Batches and the memory that they count.
pub(crate) struct InMemory {
    pub(crate) batches: Vec<RecordBatch>,
    #[expect(dead_code, reason = "held for its drop")]
    charge: Charge,
}

/// A removed entry.
pub(crate) struct Taken(#[expect(dead_code, reason = "held for its drop")] Entry);

/// What one entry is, for inventories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) kind: MemoryKind,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    pub(crate) spilled: bool,
}

/// What [`Shelf::evict_one`] came to.
enum Evicted {
    Freed(u64),
    /// An entry was in the way: there may be others.
    Nothing,
    /// There is nothing that can go.
    No,
}

impl<K: Copy + Eq + Hash + Send + Sync + 'static> Shelf<K> {
    /// A shelf that gives way to others; the lower its `order` the sooner.
    pub(crate) fn new(
        budget: Arc<MemoryBudget>,
        spill: Option<Arc<SpillDir>>,
        order: u8,
        owner: impl Owner<K> + 'static,
    ) -> Arc<Self> {
        let shelf = Arc::new(Self {
            state: Mutex::new(State {
                entries: HashMap::new(),
                candidates: HashMap::new(),
                clock: 0,
                stuck: false,
            }),
            budget,
            spill,
            owner: Box::new(owner),
        });
        let reclaimer: Weak<Self> = Arc::downgrade(&shelf);
        shelf.budget.add_reclaimer(order, reclaimer);
        shelf
    }

    /// Collects batches of one kind for an entry.
    pub(crate) fn draft(&self, kind: MemoryKind, medium: Medium) -> Draft {
        Draft::new(&self.budget, self.spill.as_ref(), kind, medium)
    }

    /// Puts `batches` in memory, whatever the limit, and returns their rows and bytes. Call [`MemoryBudget::relieve`]
    /// after it, without locks.
    pub(crate) fn insert(&self, key: K, kind: MemoryKind, batches: Vec<RecordBatch>) -> (u64, u64) {
        let content = Content::in_memory(&self.budget, kind, batches);
        let size = (content.rows, content.bytes);
        self.place(key, kind, Medium::MemoryAndDisk, content);
        size
    }

    /// Puts what was collected.
    pub(crate) fn place(&self, key: K, kind: MemoryKind, medium: Medium, content: Content) {
        let Content { rows, bytes, place } = content;
        let replaced = {
            let mut state = self.state.lock();
            let replaced = state.remove(&key);
            let number = state.tick();
            let entry = Entry {
                number,
                kind,
                medium,
                rows,
                bytes,
                place,
                touched: number,
                due: 0,
                order: None,
            };
            state.entries.insert(key, entry);
            state.reorder(&key);
            replaced
        };
        drop(replaced);
    }

    pub(crate) fn contains(&self, key: &K) -> bool {
        self.state.lock().entries.contains_key(key)
    }

    /// The batches of `key`, to be read without the shelf's lock.
    pub(crate) fn open(self: &Arc<Self>, key: &K) -> Option<Handle<K>> {
        let mut state = self.state.lock();
        let now = state.tick();
        let entry = state.entries.get_mut(key)?;
        entry.touched = now;
        let handle = Handle::new(Arc::clone(self), *key, entry);
        state.reorder(key);
        Some(handle)
    }

    /// All batches of `key`. If they were spilled and are lost, the entry is gone after the error.
    pub(crate) fn get(self: &Arc<Self>, key: &K) -> Result<Option<Vec<RecordBatch>>> {
        match self.open(key) {
            None => Ok(None),
            Some(handle) => handle.rows().collect::<Result<_>>().map(Some),
        }
    }

    /// Has the entry of `key` go last until the mark is dropped.
    pub(crate) fn due(self: &Arc<Self>, key: K) -> Option<Due<K>> {
        let mut state = self.state.lock();
        let entry = state.entries.get_mut(&key)?;
        entry.due += 1;
        let number = entry.number;
        state.reorder(&key);
        Some(Due {
            shelf: Arc::clone(self),
            key,
            number,
        })
    }

    pub(crate) fn remove(&self, key: &K) -> bool {
        self.take(key).is_some()
    }

    /// Removes an entry and returns it, for a caller with a lock of its own: dropping it may remove a file.
    pub(crate) fn take(&self, key: &K) -> Option<Taken> {
        let removed = self.state.lock().remove(key);
        self.freed(removed.is_some());
        removed.map(Taken)
    }

    /// Removes the entries whose key is not to be kept, and returns how many these were.
    pub(crate) fn retain(&self, mut keep: impl FnMut(&K) -> bool) -> usize {
        let removed: Vec<Entry> = {
            let mut state = self.state.lock();
            let gone: Vec<K> = state.entries.keys().filter(|key| !keep(key)).copied().collect();
            gone.iter().filter_map(|key| state.remove(key)).collect()
        };
        let count = removed.len();
        drop(removed);
        self.freed(count > 0);
        count
    }

    fn freed(&self, any: bool) {
        if any {
            self.state.lock().stuck = false;
            self.budget.notify();
        }
    }

    /// Whether there is no room for `kind`, neither in memory nor in files.
    pub(crate) fn is_full(&self, kind: MemoryKind) -> bool {
        !self.budget.has_room(kind, 1) && !self.can_spill()
    }

    /// Whether more is in memory than there may be, and nothing of it can go to files.
    pub(crate) fn is_over_full(&self) -> bool {
        self.budget.excess() > 0 && !self.can_spill()
    }

    /// Waits until `bytes` more of `kind` have room. What is larger than the limit fits while there is no other.
    pub(crate) async fn wait_for_room(&self, kind: MemoryKind, bytes: u64) {
        loop {
            let freed = self.budget.freed();
            tokio::pin!(freed);
            // Registered before the look, so that what is freed between look and await is not missed.
            freed.as_mut().enable();
            if self.budget.has_room(kind, bytes) || self.budget.used(kind) == 0 || self.can_spill() {
                return;
            }
            freed.await;
        }
    }

    pub(crate) fn can_spill(&self) -> bool {
        self.spill.as_ref().is_some_and(|spill| !spill.is_full()) && !self.state.lock().stuck
    }

    /// All entries, in no order.
    pub(crate) fn items(&self) -> Vec<(K, Item)> {
        let state = self.state.lock();
        state.entries.iter().map(|(key, entry)| (*key, entry.item())).collect()
    }

    pub(crate) fn item(&self, key: &K) -> Option<Item> {
        self.state.lock().entries.get(key).map(Entry::item)
    }

    // === eviction ===

    /// Moves the first candidate of `kinds` out of memory.
    fn evict_one(&self, below_floors: bool) -> Evicted {
        let writing = {
            let mut state = self.state.lock();
            let Some((key, order)) = self.first_candidate(&state, below_floors) else {
                return Evicted::No;
            };
            let State {
                entries, candidates, ..
            } = &mut *state;
            let Some(entry) = entries.get_mut(&key) else {
                return Evicted::No;
            };
            candidates.entry(entry.kind).or_default().remove(&order);
            entry.order = None;
            match &entry.place {
                Place::File(_) => return Evicted::Nothing,
                Place::Both(_, file) => {
                    let file = Place::File(Arc::clone(file));
                    let left = std::mem::replace(&mut entry.place, file);
                    let bytes = entry.bytes;
                    drop(state);
                    drop(left);
                    return Evicted::Freed(bytes);
                }
                Place::Memory(_)
                    if entry.medium == Medium::Memory && entry.due == 0 && self.owner.is_droppable(&key) =>
                {
                    let removed = state.remove(&key);
                    drop(state);
                    let (bytes, kind) = removed
                        .as_ref()
                        .map_or((0, MemoryKind::Datasets), |e| (e.bytes, e.kind));
                    drop(removed);
                    self.budget.count_dropped(kind);
                    self.owner.lost(key, Gone::Dropped);
                    return Evicted::Freed(bytes);
                }
                Place::Memory(held) => (key, entry.number, entry.kind, entry.bytes, Arc::clone(held)),
            }
        };
        let (key, number, kind, bytes, held) = writing;
        let (Some(spill), Some(schema)) = (&self.spill, held.batches.first().map(RecordBatch::schema)) else {
            // Without batches there is nothing in memory either, and it is off the candidates now.
            return Evicted::Nothing;
        };
        let leaving = self.budget.leaving(bytes);
        let written = spill.write(kind, &schema, &held.batches);
        drop(held);
        let failed = written.as_ref().err().map(ToString::to_string);
        let freed = self.end_eviction(key, number, written.ok());
        let evicted = freed.is_some();
        drop(freed);
        drop(leaving);
        if let Some(error) = failed {
            tracing::warn!(error, "cannot spill, so data stays in memory");
            return Evicted::No;
        }
        if evicted {
            self.budget.count_evicted(kind);
        }
        Evicted::Freed(bytes)
    }

    /// What goes next, of kinds that are above their floors or of all.
    fn first_candidate(&self, state: &State<K>, below_floors: bool) -> Option<(K, Order)> {
        let can_write = !state.stuck && self.spill.as_ref().is_some_and(|spill| !spill.is_full());
        let kinds = state.candidates.iter();
        let kinds = kinds.filter(|(kind, _)| below_floors || self.budget.above_floor(**kind) > 0);
        let firsts = kinds.filter_map(|(_, candidates)| {
            let can_go = |key: &K| {
                state
                    .entries
                    .get(key)
                    .is_some_and(|entry| self.can_go(key, entry, can_write))
            };
            candidates.iter().find(|(_, key)| can_go(key))
        });
        firsts
            .min_by_key(|(order, _)| **order)
            .map(|(order, key)| (*key, *order))
    }

    fn can_go(&self, key: &K, entry: &Entry, can_write: bool) -> bool {
        match &entry.place {
            Place::File(_) => true,
            // One of the counts is the entry's own.
            Place::Both(held, _) => Arc::strong_count(held) == 1,
            Place::Memory(held) => {
                let drops = entry.medium == Medium::Memory && entry.due == 0 && self.owner.is_droppable(key);
                Arc::strong_count(held) == 1 && (can_write || drops)
            }
        }
    }

    fn end_eviction(&self, key: K, number: u64, file: Option<SpillFile>) -> Option<Place> {
        let mut state = self.state.lock();
        if file.is_none() {
            state.stuck = true;
        }
        let entry = state.entries.get_mut(&key).filter(|entry| entry.number == number)?;
        match file {
            Some(file) => Some(std::mem::replace(&mut entry.place, Place::File(Arc::new(file)))),
            None => {
                state.reorder(&key);
                None
            }
        }
    }

    /// What was read back from a file stays in memory too.
    fn promote(&self, key: &K, number: u64, held: Arc<InMemory>) {
        let mut state = self.state.lock();
        let entry = state.entries.get_mut(key).filter(|entry| entry.number == number);
        if let Some(entry) = entry
            && let Place::File(file) = &entry.place
        {
            entry.place = Place::Both(held, Arc::clone(file));
            state.reorder(key);
        }
    }

    /// The file of an entry is lost.
    fn lose(&self, key: K, number: u64) {
        let removed = {
            let mut state = self.state.lock();
            let is_it = state.entries.get(&key).is_some_and(|entry| entry.number == number);
            if is_it { state.remove(&key) } else { None }
        };
        if removed.is_some() {
            drop(removed);
            self.owner.lost(key, Gone::FileLost);
        }
    }
}

impl<K: Copy + Eq + Hash + Send + Sync + 'static> Reclaim for Shelf<K> {
    fn reclaim(&self, bytes: u64, below_floors: bool) -> u64 {
        let mut freed = 0;
        while freed < bytes {
            match self.evict_one(below_floors) {
                Evicted::Freed(bytes) => freed += bytes,
                Evicted::Nothing => {}
                Evicted::No => break,
            }
        }
        freed
    }
}

impl Entry {
    fn item(&self) -> Item {
        Item {
            kind: self.kind,
            rows: self.rows,
            bytes: self.bytes,
            spilled: matches!(self.place, Place::File(_)),
        }
    }
}

impl<K: Copy + Eq + Hash> State<K> {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Gives an entry its place among the candidates.
    fn reorder(&mut self, key: &K) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let candidates = self.candidates.entry(entry.kind).or_default();
        if let Some(order) = entry.order.take() {
            candidates.remove(&order);
        }
        if !matches!(entry.place, Place::File(_)) {
            let order = (entry.due > 0, entry.touched);
            candidates.insert(order, *key);
            entry.order = Some(order);
        }
    }

    fn remove(&mut self, key: &K) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        if let (Some(order), Some(candidates)) = (entry.order, self.candidates.get_mut(&entry.kind)) {
            candidates.remove(&order);
        }
        Some(entry)
    }
}

/// Has an entry go last.
pub(crate) struct Due<K: Copy + Eq + Hash + Send + Sync + 'static> {
    shelf: Arc<Shelf<K>>,
    key: K,
    number: u64,
}

impl<K: Copy + Eq + Hash + Send + Sync + 'static> Drop for Due<K> {
    fn drop(&mut self) {
        let mut state = self.shelf.state.lock();
        let entry = state
            .entries
            .get_mut(&self.key)
            .filter(|entry| entry.number == self.number);
        if let Some(entry) = entry {
            entry.due -= 1;
            state.reorder(&self.key);
        }
    }
}
