//! Received blocks and the partitions of remembered datasets.
//!
//! Both stay until the driver says that no batch can ask for them. In memory up to a limit; above it, what was put
//! first is moved to files and read from there, which costs time but is not visible otherwise. When files are at
//! their limit too, the store is full and receivers stop reading; datasets are taken all the same, since refusing
//! them could only fail their batch.
//!
//! `put_*`, `block` and `dataset` may block on the file system. Neither a block nor a dataset partition is changed
//! after it was put; putting it again replaces it by the same rows.

use std::sync::Arc;

use arrow::array::RecordBatch;
use tidemill_types::{BatchTime, BlockId, DatasetId, JobId};

use crate::Result;
use crate::compact::compact_together;
use crate::memory::{MemoryBudget, MemoryKind};
use crate::shelf::Shelf;
use crate::spill::SpillDir;

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

/// Where the store takes memory and disk from.
#[derive(Clone, Debug)]
pub struct BlockStoreOptions {
    pub budget: Arc<MemoryBudget>,
    /// Without it, nothing is spilled.
    pub spill: Option<Arc<SpillDir>>,
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
    shelf: Shelf<Key>,
    budget: Arc<MemoryBudget>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Block(BlockId),
    Dataset(DatasetKey),
}

impl BlockStore {
    #[must_use]
    pub fn new(options: BlockStoreOptions) -> Self {
        let BlockStoreOptions { budget, spill } = options;
        Self {
            shelf: Shelf::new(Arc::clone(&budget), budget.limits().blocks, spill),
            budget,
        }
    }

    /// Stores what a receiver has cut.
    pub fn put_block(&self, id: BlockId, batches: Vec<RecordBatch>) -> Stored {
        self.put(Key::Block(id), MemoryKind::Blocks, batches)
    }

    /// The batches of a block, `None` if it is not here, an error (and then `None`) if it was spilled and is lost.
    pub fn block(&self, id: BlockId) -> Result<Option<Arc<[RecordBatch]>>> {
        self.shelf.get(&Key::Block(id))
    }

    #[must_use]
    pub fn has_block(&self, id: BlockId) -> bool {
        self.shelf.contains(&Key::Block(id))
    }

    /// Rows and bytes of a block.
    #[must_use]
    pub fn block_size(&self, id: BlockId) -> Option<Stored> {
        self.shelf.item(&Key::Block(id)).map(Stored::from)
    }

    /// Stores a partition of a dataset. Strings are copied out of input buffers that they use little of: a window
    /// would otherwise hold the text of all its batches.
    pub fn put_dataset(&self, key: DatasetKey, batches: Vec<RecordBatch>) -> Result<Stored> {
        Ok(self.put(Key::Dataset(key), MemoryKind::Datasets, compact_together(batches)?))
    }

    /// The batches of a partition, `None` if it is not here, an error (and then `None`) if it was spilled and is lost.
    pub fn dataset(&self, key: DatasetKey) -> Result<Option<Arc<[RecordBatch]>>> {
        self.shelf.get(&Key::Dataset(key))
    }

    #[must_use]
    pub fn has_dataset(&self, key: DatasetKey) -> bool {
        self.shelf.contains(&Key::Dataset(key))
    }

    /// Whether receivers have to stop: memory is used up, and nothing can be spilled.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.shelf.is_full()
    }

    /// Waits until a block of `bytes` has room. A block that is larger than the limit goes into an empty store.
    pub async fn wait_for_room(&self, bytes: u64) {
        self.shelf.wait_for_room(bytes).await;
    }

    /// Forgets these blocks, and returns how many of them were here.
    pub fn forget_blocks(&self, ids: &[BlockId]) -> usize {
        ids.iter().filter(|id| self.shelf.remove(&Key::Block(**id))).count()
    }

    /// Forgets the datasets of `job` of all batches before `remember_from`.
    pub fn forget_datasets_before(&self, job: JobId, remember_from: BatchTime) -> usize {
        self.forget(job, remember_from, |_| false)
    }

    /// Forgets the datasets of `job` of all batches before `remember_from`, and its blocks that are `done`.
    pub fn forget(&self, job: JobId, remember_from: BatchTime, done: impl Fn(BlockId) -> bool) -> usize {
        self.shelf.retain(|key| match key {
            Key::Block(id) => id.job != job || !done(*id),
            Key::Dataset(key) => key.job != job || key.batch >= remember_from,
        })
    }

    /// Forgets all that belongs to `job`.
    pub fn forget_job(&self, job: JobId) -> usize {
        self.shelf.retain(|key| match key {
            Key::Block(id) => id.job != job,
            Key::Dataset(key) => key.job != job,
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
                Key::Block(id) => inventory.blocks.push((id, item.into())),
                Key::Dataset(key) => inventory.datasets.push((key, item.into())),
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

    fn put(&self, key: Key, kind: MemoryKind, batches: Vec<RecordBatch>) -> Stored {
        let (rows, bytes) = self.shelf.insert(key, kind, batches);
        self.shelf.relieve();
        Stored { rows, bytes }
    }
}

impl From<crate::shelf::Item> for Stored {
    fn from(item: crate::shelf::Item) -> Self {
        Self {
            rows: item.rows,
            bytes: item.bytes,
        }
    }
}
