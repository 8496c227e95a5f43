//! Batches by key, the oldest of which move to files when memory runs short.
//!
//! An entry is in memory, in memory and being written, or in a file; whoever reads it does not see the difference.
//! Files are written and read without the lock, so an entry may be removed or replaced meanwhile: it is known by the
//! number of its put, and what was written for one that is gone is thrown away.
//!
//! A failing disk does not lose anything: entries stay in memory above the limit, and the shelf is full.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::memory::{Charge, MemoryBudget, MemoryKind};
use crate::spill::{SpillDir, SpillFile};
use crate::{Result, retained_bytes};

#[cfg(test)]
mod tests;

pub(crate) struct Shelf<K> {
    state: Mutex<State<K>>,
    budget: Arc<MemoryBudget>,
    limit: u64,
    spill: Option<Arc<SpillDir>>,
    room: Notify,
}

struct State<K> {
    entries: HashMap<K, Entry>,
    /// In memory and not being written, in the order of their puts.
    candidates: BTreeMap<u64, K>,
    next: u64,
    /// Bytes in memory, less those that are being written.
    settled: u64,
    /// Bytes in memory.
    memory: u64,
    /// The last write failed, and nothing was removed since.
    stuck: bool,
}

struct Entry {
    number: u64,
    kind: MemoryKind,
    rows: u64,
    /// In memory, also while it is not.
    bytes: u64,
    place: Place,
}

#[derive(Clone)]
enum Place {
    Memory(
        Arc<[RecordBatch]>,
        #[expect(dead_code, reason = "held for its drop")] Arc<Charge>,
    ),
    File(Arc<SpillFile>),
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

/// Batches that can be read without the shelf's lock.
#[derive(Clone)]
pub(crate) struct Handle(Place);

impl Handle {
    /// The batches; reads a file if they were spilled.
    pub(crate) fn load(&self) -> Result<Arc<[RecordBatch]>> {
        match &self.0 {
            Place::Memory(batches, _) => Ok(Arc::clone(batches)),
            Place::File(file) => Ok(file.read()?.into()),
        }
    }
}

impl<K: Copy + Eq + Hash> Shelf<K> {
    pub(crate) fn new(budget: Arc<MemoryBudget>, limit: u64, spill: Option<Arc<SpillDir>>) -> Self {
        Self {
            state: Mutex::new(State {
                entries: HashMap::new(),
                candidates: BTreeMap::new(),
                next: 0,
                settled: 0,
                memory: 0,
                stuck: false,
            }),
            budget,
            limit,
            spill,
            room: Notify::new(),
        }
    }

    /// Puts `batches` in memory and returns their rows and bytes. Call [`Shelf::relieve`] after it, without locks.
    pub(crate) fn insert(&self, key: K, kind: MemoryKind, batches: Vec<RecordBatch>) -> (u64, u64) {
        let rows = batches.iter().map(|batch| batch.num_rows() as u64).sum();
        let bytes = retained_bytes(&batches);
        let charge = Arc::new(self.budget.charge(kind, bytes));
        let place = Place::Memory(batches.into(), charge);
        let replaced = {
            let mut state = self.state.lock();
            let replaced = state.remove(&key);
            let number = state.next;
            state.next += 1;
            state.settled += bytes;
            state.memory += bytes;
            state.candidates.insert(number, key);
            let entry = Entry {
                number,
                kind,
                rows,
                bytes,
                place,
            };
            state.entries.insert(key, entry);
            replaced
        };
        drop(replaced);
        (rows, bytes)
    }

    /// Writes the oldest entries to files until the rest fits. Blocks on the file system if there is something to do.
    pub(crate) fn relieve(&self) {
        let Some(spill) = &self.spill else { return };
        while !spill.is_full() {
            let Some((key, number, batches)) = self.begin_spill() else {
                return;
            };
            let Some(schema) = batches.first().map(RecordBatch::schema) else {
                // Without batches there is nothing in memory either; begin_spill took it off the candidates.
                continue;
            };
            let written = spill.write(&schema, &batches);
            drop(batches);
            let failed = written.as_ref().err().map(ToString::to_string);
            let freed = self.end_spill(key, number, written.ok());
            drop(freed);
            if let Some(error) = failed {
                tracing::warn!(error, "cannot spill, so data stays in memory");
                return;
            }
            self.room.notify_waiters();
        }
    }

    fn begin_spill(&self) -> Option<(K, u64, Arc<[RecordBatch]>)> {
        let mut state = self.state.lock();
        if state.settled <= self.limit {
            return None;
        }
        let (number, key) = state.candidates.pop_first()?;
        let entry = state.entries.get(&key)?;
        let Place::Memory(batches, _) = &entry.place else {
            return None;
        };
        let (bytes, batches) = (entry.bytes, Arc::clone(batches));
        state.settled -= bytes;
        Some((key, number, batches))
    }

    fn end_spill(&self, key: K, number: u64, file: Option<SpillFile>) -> Option<Place> {
        let mut state = self.state.lock();
        let State {
            entries,
            candidates,
            settled,
            memory,
            stuck,
            ..
        } = &mut *state;
        let entry = entries.get_mut(&key).filter(|entry| entry.number == number)?;
        match file {
            Some(file) => {
                *memory -= entry.bytes;
                *stuck = false;
                Some(std::mem::replace(&mut entry.place, Place::File(Arc::new(file))))
            }
            None => {
                *settled += entry.bytes;
                *stuck = true;
                candidates.insert(number, key);
                None
            }
        }
    }

    pub(crate) fn contains(&self, key: &K) -> bool {
        self.state.lock().entries.contains_key(key)
    }

    pub(crate) fn handle(&self, key: &K) -> Option<Handle> {
        self.state
            .lock()
            .entries
            .get(key)
            .map(|entry| Handle(entry.place.clone()))
    }

    /// The batches of `key`. If they were spilled and are lost, the entry is gone after the error.
    pub(crate) fn get(&self, key: &K) -> Result<Option<Arc<[RecordBatch]>>> {
        let Some(handle) = self.handle(key) else {
            return Ok(None);
        };
        match handle.load() {
            Ok(batches) => Ok(Some(batches)),
            Err(error) => {
                self.remove(key);
                Err(error)
            }
        }
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
        self.freed(!removed.is_empty());
        removed.len()
    }

    fn freed(&self, any: bool) {
        if any {
            self.state.lock().stuck = false;
            self.room.notify_waiters();
        }
    }

    /// Whether there is no room, neither in memory nor in files.
    pub(crate) fn is_full(&self) -> bool {
        let state = self.state.lock();
        state.memory >= self.limit && !self.can_spill(&state)
    }

    /// Waits until `bytes` more have room. What is larger than the limit fits into an empty shelf.
    pub(crate) async fn wait_for_room(&self, bytes: u64) {
        loop {
            let freed = self.room.notified();
            tokio::pin!(freed);
            // Registered before the look, so that what is freed between look and await is not missed.
            freed.as_mut().enable();
            if self.has_room(bytes) {
                return;
            }
            freed.await;
        }
    }

    fn has_room(&self, bytes: u64) -> bool {
        let state = self.state.lock();
        state.memory == 0 || state.memory.saturating_add(bytes) <= self.limit || self.can_spill(&state)
    }

    fn can_spill(&self, state: &State<K>) -> bool {
        !state.stuck && self.spill.as_ref().is_some_and(|spill| !spill.is_full())
    }

    /// All entries, in no order.
    pub(crate) fn items(&self) -> Vec<(K, Item)> {
        let state = self.state.lock();
        state.entries.iter().map(|(key, entry)| (*key, entry.item())).collect()
    }

    pub(crate) fn item(&self, key: &K) -> Option<Item> {
        self.state.lock().entries.get(key).map(Entry::item)
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
    fn remove(&mut self, key: &K) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        if matches!(entry.place, Place::Memory(..)) {
            self.memory -= entry.bytes;
            // Otherwise it is being written, and was taken off already.
            if self.candidates.remove(&entry.number).is_some() {
                self.settled -= entry.bytes;
            }
        }
        Some(entry)
    }
}
