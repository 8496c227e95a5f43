//! Reading an entry, batch by batch.

use std::hash::Hash;
use std::sync::Arc;

use arrow::array::RecordBatch;
use tidemill_types::Medium;

use super::{Entry, InMemory, Place, Shelf};
use crate::memory::Charge;
use crate::spill::SpillFile;
use crate::{Error, Result};

/// Batches that can be read without the shelf's lock. While they are in memory they stay there.
pub(crate) struct Handle<K: Copy + Eq + Hash + Send + Sync + 'static> {
    shelf: Arc<Shelf<K>>,
    key: K,
    number: u64,
    source: Source,
    /// Of an entry in a file that may go back to memory: what it would count there.
    returns: Option<u64>,
    kind: crate::memory::MemoryKind,
}

enum Source {
    Memory(Arc<InMemory>),
    File(Arc<SpillFile>),
}

impl<K: Copy + Eq + Hash + Send + Sync + 'static> Handle<K> {
    pub(super) fn new(shelf: Arc<Shelf<K>>, key: K, entry: &Entry) -> Self {
        let source = match &entry.place {
            Place::Memory(held) | Place::Both(held, _) => Source::Memory(Arc::clone(held)),
            Place::File(file) => Source::File(Arc::clone(file)),
        };
        Self {
            shelf,
            key,
            number: entry.number,
            source,
            returns: (entry.medium != Medium::Disk).then_some(entry.bytes),
            kind: entry.kind,
        }
    }

    pub(crate) fn is_in_memory(&self) -> bool {
        matches!(self.source, Source::Memory(_))
    }

    pub(crate) fn len(&self) -> usize {
        match &self.source {
            Source::Memory(held) => held.batches.len(),
            Source::File(file) => file.batches(),
        }
    }

    /// One batch; reads a file if they were spilled. If the file is lost, so is the entry.
    pub(crate) fn batch(&self, number: usize) -> Result<RecordBatch> {
        match &self.source {
            Source::Memory(held) => {
                let batch = held.batches.get(number).cloned();
                batch.ok_or_else(|| Error::malformed(format!("an entry has no batch {number}")))
            }
            Source::File(file) => file
                .read_batch(number)
                .inspect_err(|_| self.shelf.lose(self.key, self.number)),
        }
    }

    /// All batches, one after the other. Read to the end, those from a file are in memory too, if there is room.
    pub(crate) fn rows(self) -> Rows<K> {
        let room = match (&self.source, self.returns) {
            (Source::File(_), Some(bytes)) => self.shelf.budget.try_charge(self.kind, bytes),
            _ => None,
        };
        Rows {
            returning: room.map(|charge| (charge, Vec::new())),
            handle: self,
            next: 0,
        }
    }
}

pub(crate) struct Rows<K: Copy + Eq + Hash + Send + Sync + 'static> {
    handle: Handle<K>,
    next: usize,
    returning: Option<(Charge, Vec<RecordBatch>)>,
}

impl<K: Copy + Eq + Hash + Send + Sync + 'static> Iterator for Rows<K> {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.handle.len() {
            if let Some((charge, batches)) = self.returning.take() {
                let held = Arc::new(InMemory { batches, charge });
                self.handle.shelf.promote(&self.handle.key, self.handle.number, held);
            }
            return None;
        }
        let batch = self.handle.batch(self.next);
        match &batch {
            Ok(batch) => {
                self.next += 1;
                if let Some((_, batches)) = &mut self.returning {
                    batches.push(batch.clone());
                }
            }
            Err(_) => {
                self.next = usize::MAX;
                self.returning = None;
            }
        }
        Some(batch)
    }
}
