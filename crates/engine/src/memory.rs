//! What a partition of a stage keeps from batch to batch.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tidemill_types::SlotId;

/// The memory of one partition of one stage of one job, held by its executor and given to the partition's task of every
/// batch. Each operator that keeps something has an entry.
///
/// A task holds an entry's lock while it changes it, so a partition's batches go one after the other.
#[derive(Default)]
pub struct TaskMemory {
    entries: Mutex<HashMap<MemoryKey, Entry>>,
}

/// What an entry belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum MemoryKey {
    /// The window whose panes come by this slot.
    Window(SlotId),
    /// The stage's state operator, of which it has one at most.
    State,
}

pub(crate) type Entry = Arc<Mutex<Option<Box<dyn Kept>>>>;

/// Something that is kept.
pub(crate) trait Kept: Any + Send {
    /// Bytes held.
    fn size(&self) -> usize;

    fn as_any(&mut self) -> &mut dyn Any;
}

impl TaskMemory {
    pub(crate) fn entry(&self, key: MemoryKey) -> Entry {
        Arc::clone(self.entries.lock().entry(key).or_default())
    }

    /// Bytes held by what no task is changing at this moment.
    #[must_use]
    pub fn size(&self) -> usize {
        let entries: Vec<Entry> = self.entries.lock().values().cloned().collect();
        let sizes = entries.iter().filter_map(|entry| {
            let entry = entry.try_lock()?;
            entry.as_ref().map(|kept| kept.size())
        });
        sizes.sum()
    }
}
