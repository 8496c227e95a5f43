//! Received blocks and the partitions of remembered datasets.
//!
//! Both stay until the driver says that no batch can ask for them. What nobody has looked at for longest moves to files
//! when memory runs short and is read from there, which costs time but is not visible otherwise; datasets may also be
//! kept in memory or in files alone ([`Medium`]). When files are at their limit too, the store is full: receivers stop
//! reading, and datasets are refused, which fails their batch.
//!
//! What is gone before its time, because it was to stay in memory or because its file is damaged, is told to the
//! [`BlockStoreOptions::lost`] function, and can be made again.
//!
//! `put_*`, [`DatasetWriter`] and the rows of an entry may block on the file system. Neither a block nor a dataset
//! partition is changed after it was put; putting it again replaces it by the same rows.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use tidemill_types::{BatchTime, BlockId, DatasetId, JobId, Medium};

use crate::memory::{MemoryBudget, MemoryKind};
use crate::shelf::{self, Draft, Gone, Shelf};
use crate::spill::SpillDir;
use crate::{Error, Result};

#[cfg(test)]
mod tests;

/// A partition of a dataset of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatasetKey {
    pub job: JobId,
    pub dataset: DatasetId,
    pub batch: BatchTime,
    pub partition: u32,
}

/// What was stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    pub rows: u64,
    pub bytes: u64,
}

/// Where the store takes memory and disk from, and whom it tells.
pub struct BlockStoreOptions {
    pub budget: Arc<MemoryBudget>,
    /// Without it, nothing is spilled.
    pub spill: Option<Arc<SpillDir>>,
    /// Is told of what is gone before its time. Called without locks, from any thread: it should only pass it on.
    pub lost: Arc<dyn Fn(Stowed, Gone) + Send + Sync>,
}

/// What a store holds, for reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Ascending.
    pub blocks: Vec<(BlockId, Stored)>,
    /// Ascending.
    pub datasets: Vec<(DatasetKey, Stored)>,
    /// Bytes in memory of blocks and of datasets.
    pub memory_bytes: u64,
    /// Bytes, as they would take in memory, of what stands in files.
    pub spilled_bytes: u64,
}

pub struct BlockStore {
    shelf: Arc<Shelf<Stowed>>,
    budget: Arc<MemoryBudget>,
    unfinished: Unfinished,
}

/// What an entry of the store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stowed {
    Block(BlockId),
    Dataset(DatasetKey),
}

/// The oldest unfinished batch of each job: what it or a later one makes must not be let go of, since readers of the
/// same batch are about to ask for it.
type Unfinished = Arc<Mutex<HashMap<JobId, BatchTime>>>;

struct Owner {
    lost: Arc<dyn Fn(Stowed, Gone) + Send + Sync>,
    unfinished: Unfinished,
}

impl shelf::Owner<Stowed> for Owner {
    fn is_droppable(&self, key: &Stowed) -> bool {
        match key {
            Stowed::Block(_) => false,
            Stowed::Dataset(key) => {
                let oldest = self.unfinished.lock().get(&key.job).copied();
                oldest.is_some_and(|oldest| key.batch < oldest)
            }
        }
    }

    fn lost(&self, key: Stowed, why: Gone) {
        (self.lost)(key, why);
    }
}

/// Blocks and datasets give way behind kept map outputs, which nobody reads unless something fails.
const RECLAIM_ORDER: u8 = 1;

impl BlockStore {
    #[must_use]
    pub fn new(options: BlockStoreOptions) -> Self {
        let BlockStoreOptions { budget, spill, lost } = options;
        if let Some(spill) = &spill {
            let budget = Arc::downgrade(&budget);
            spill.on_freed(move || {
                if let Some(budget) = budget.upgrade() {
                    budget.notify();
                }
            });
        }
        let unfinished = Unfinished::default();
        let owner = Owner {
            lost,
            unfinished: Arc::clone(&unfinished),
        };
        Self {
            shelf: Shelf::new(Arc::clone(&budget), spill, RECLAIM_ORDER, owner),
            budget,
            unfinished,
        }
    }

    /// Stores what a receiver has cut.
    pub fn put_block(&self, id: BlockId, batches: Vec<RecordBatch>) -> Stored {
        let (rows, bytes) = self.shelf.insert(Stowed::Block(id), MemoryKind::Blocks, batches);
        self.budget.relieve();
        Stored { rows, bytes }
    }

    /// The batches of a block, `None` if it is not here, an error (and then `None`) if it was spilled and is lost.
    pub fn block(&self, id: BlockId) -> Result<Option<Vec<RecordBatch>>> {
        self.shelf.get(&Stowed::Block(id))
    }

    /// Whether storing a block of `bytes` is about to write a file, which async callers then do elsewhere.
    #[must_use]
    pub fn would_spill(&self, bytes: u64) -> bool {
        !self.budget.has_room(MemoryKind::Blocks, bytes)
    }

    #[must_use]
    pub fn has_block(&self, id: BlockId) -> bool {
        self.shelf.contains(&Stowed::Block(id))
    }

    /// Rows and bytes of a block.
    #[must_use]
    pub fn block_size(&self, id: BlockId) -> Option<Stored> {
        self.shelf.item(&Stowed::Block(id)).map(Stored::from)
    }

    /// Stores a partition of a dataset in memory, or in files what has no room there.
    pub fn put_dataset(&self, key: DatasetKey, batches: Vec<RecordBatch>) -> Result<Stored> {
        let mut writer = self.write_dataset(key, Medium::default());
        for batch in batches {
            writer.push(batch)?;
        }
        writer.finish()
    }

    /// Begins a partition of a dataset. It is there when the writer is finished. Strings are copied out of input buffers
    /// that they use little of: a window would otherwise hold the text of all its batches.
    #[must_use]
    pub fn write_dataset(&self, key: DatasetKey, medium: Medium) -> DatasetWriter {
        DatasetWriter {
            draft: self.shelf.draft(MemoryKind::Datasets, medium),
            shelf: Arc::clone(&self.shelf),
            budget: Arc::clone(&self.budget),
            key,
            medium,
        }
    }

    /// The batches of a partition, `None` if it is not here, an error (and then `None`) if it was spilled and is lost.
    pub fn dataset(&self, key: DatasetKey) -> Result<Option<Vec<RecordBatch>>> {
        self.shelf.get(&Stowed::Dataset(key))
    }

    /// The same, batch by batch.
    #[must_use]
    pub fn rows(&self, what: Stowed) -> Option<StoredRows> {
        let handle = self.shelf.open(&what)?;
        Some(StoredRows(Box::new(handle.rows())))
    }

    /// Has something go to files behind everything else until the mark is dropped: a task is about to read it.
    #[must_use]
    pub fn mark_due(&self, what: Stowed) -> Option<DueMark> {
        self.shelf.due(what).map(|due| DueMark(Box::new(due)))
    }

    #[must_use]
    pub fn has_dataset(&self, key: DatasetKey) -> bool {
        self.shelf.contains(&Stowed::Dataset(key))
    }

    /// Whether receivers have to stop: memory is used up, and nothing can be spilled.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.shelf.is_full(MemoryKind::Blocks)
    }

    /// Waits until a block of `bytes` has room. A block that is larger than the limit goes into an empty store.
    pub async fn wait_for_room(&self, bytes: u64) {
        self.shelf.wait_for_room(MemoryKind::Blocks, bytes).await;
    }

    /// Forgets these blocks, and returns how many of them were here.
    pub fn forget_blocks(&self, ids: &[BlockId]) -> usize {
        ids.iter().filter(|id| self.shelf.remove(&Stowed::Block(**id))).count()
    }

    /// Forgets the datasets of `job` of all batches before `remember_from`.
    pub fn forget_datasets_before(&self, job: JobId, remember_from: BatchTime) -> usize {
        self.shelf.retain(|key| match key {
            Stowed::Block(_) => true,
            Stowed::Dataset(key) => key.job != job || key.batch >= remember_from,
        })
    }

    /// Forgets one dataset of `job` of all batches before `from`.
    pub fn forget_dataset(&self, job: JobId, dataset: DatasetId, from: BatchTime) -> usize {
        self.shelf.retain(|key| match key {
            Stowed::Block(_) => true,
            Stowed::Dataset(key) => (key.job, key.dataset) != (job, dataset) || key.batch >= from,
        })
    }

    /// Batches of `job` before `oldest` are finished.
    pub fn set_oldest(&self, job: JobId, oldest: BatchTime) {
        let mut unfinished = self.unfinished.lock();
        let known = unfinished.entry(job).or_insert(oldest);
        *known = (*known).max(oldest);
    }

    /// Forgets all that belongs to `job`.
    pub fn forget_job(&self, job: JobId) -> usize {
        self.unfinished.lock().remove(&job);
        self.shelf.retain(|key| match key {
            Stowed::Block(id) => id.job != job,
            Stowed::Dataset(key) => key.job != job,
        })
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.shelf.retain(|_| false);
    }

    /// All that is here.
    #[must_use]
    pub fn inventory(&self) -> Inventory {
        let mut inventory = Inventory {
            memory_bytes: self.memory_bytes(),
            ..Inventory::default()
        };
        for (key, item) in self.shelf.items() {
            if item.spilled {
                inventory.spilled_bytes += item.bytes;
            }
            match key {
                Stowed::Block(id) => inventory.blocks.push((id, item.into())),
                Stowed::Dataset(key) => inventory.datasets.push((key, item.into())),
            }
        }
        inventory.blocks.sort_unstable_by_key(|(id, _)| *id);
        inventory.datasets.sort_unstable_by_key(|(key, _)| *key);
        inventory
    }

    /// Bytes of blocks and datasets in memory.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.budget.used(MemoryKind::Blocks) + self.budget.used(MemoryKind::Datasets)
    }
}

/// Collects a partition of a dataset.
pub struct DatasetWriter {
    draft: Draft,
    shelf: Arc<Shelf<Stowed>>,
    budget: Arc<MemoryBudget>,
    key: DatasetKey,
    medium: Medium,
}

impl DatasetWriter {
    /// Appends rows; an error if neither memory nor disk has room for them.
    pub fn push(&mut self, rows: RecordBatch) -> Result<()> {
        self.draft.push(rows)
    }

    /// Stores the partition.
    pub fn finish(self) -> Result<Stored> {
        let content = self.draft.finish()?;
        let stored = Stored {
            rows: content.rows,
            bytes: content.bytes,
        };
        let key = Stowed::Dataset(self.key);
        self.shelf.place(key, MemoryKind::Datasets, self.medium, content);
        self.budget.relieve();
        if self.shelf.is_over_full() {
            self.shelf.remove(&key);
            return Err(Error::Full {
                bytes: stored.bytes,
                memory: self.budget.describe(),
                disk: "the directory for spilled data is full",
            });
        }
        Ok(stored)
    }
}

/// The batches of an entry, which stays where it is meanwhile.
pub struct StoredRows(Box<dyn Iterator<Item = Result<RecordBatch>> + Send>);

impl Iterator for StoredRows {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

/// See [`BlockStore::mark_due`].
pub struct DueMark(#[expect(dead_code, reason = "held for its drop")] Box<dyn std::any::Any + Send + Sync>);

impl From<crate::shelf::Item> for Stored {
    fn from(item: crate::shelf::Item) -> Self {
        Self {
            rows: item.rows,
            bytes: item.bytes,
        }
    }
}
