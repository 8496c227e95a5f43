//! The inputs of one task, found by the plan's leaves at execution.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use tidemill_types::{FailureKind, SlotId, TaskFailure, TaskKey};

use crate::broadcast::BroadcastValues;
use crate::memory::TaskMemory;
use crate::state::At;

/// What a task reads and as whom it runs.
pub struct TaskBinding {
    pub key: TaskKey,
    /// Every slot partition that the plan's `reads` name for the task's partition; an empty input is present too.
    pub inputs: HashMap<(SlotId, u32), SlotInput>,
    /// The index of the batch since zero time.
    pub index: i64,
    /// The index of the batch before it in which the stage ran, those that were skipped left out; `None` for its first.
    pub previous: Option<i64>,
    /// What the task's partition keeps from batch to batch. Without it windows are computed anew, and state fails.
    pub memory: Option<Arc<TaskMemory>>,
    /// The values of broadcast variables that its batch uses.
    pub broadcasts: Arc<BroadcastValues>,
}

/// One slot partition's rows.
pub enum SlotInput {
    Batches(Vec<RecordBatch>),
    /// Read as the task goes, on the thread that polls it.
    Reader(Rows),
    /// The same, and it can be read again.
    Opener(Arc<dyn Fn() -> Result<Rows, TaskFailure> + Send + Sync>),
    /// Remembered batches, each of which is read when it is asked for.
    Panes(Arc<Panes>),
}

/// Rows as they are read.
pub type Rows = Box<dyn Iterator<Item = Result<RecordBatch, TaskFailure>> + Send>;

/// The remembered batches of a slot, by their index since zero time.
pub struct Panes {
    indices: Vec<i64>,
    open: Box<OpenPane>,
}

type OpenPane = dyn Fn(i64) -> Result<Rows, TaskFailure> + Send + Sync;

impl Panes {
    /// `indices` are the batches that there are, oldest first.
    pub fn new(
        indices: Vec<i64>,
        load: impl Fn(i64) -> Result<Vec<RecordBatch>, TaskFailure> + Send + Sync + 'static,
    ) -> Self {
        Self::opened_by(indices, move |index| Ok(Box::new(load(index)?.into_iter().map(Ok))))
    }

    /// The same with batches that are read as the task goes.
    pub fn opened_by(
        indices: Vec<i64>,
        open: impl Fn(i64) -> Result<Rows, TaskFailure> + Send + Sync + 'static,
    ) -> Self {
        Self {
            indices,
            open: Box::new(open),
        }
    }

    /// The rows of a batch; none if it is not there.
    pub(crate) fn load(&self, index: i64) -> Result<Vec<RecordBatch>, TaskFailure> {
        match self.indices.binary_search(&index) {
            Ok(_) => (self.open)(index)?.collect(),
            Err(_) => Ok(Vec::new()),
        }
    }

    /// The rows of all batches, oldest first.
    pub(crate) fn all(self: Arc<Self>) -> Rows {
        let batches = self.indices.clone().into_iter();
        Box::new(batches.flat_map(move |index| -> Rows {
            match (self.open)(index) {
                Ok(rows) => rows,
                Err(failure) => Box::new(std::iter::once(Err(failure))),
            }
        }))
    }
}

/// The inputs as an extension of the task's session configuration, the one way by which a plan that is shared by all
/// tasks of a stage can reach what belongs to one task.
pub(crate) struct Inputs {
    slots: Mutex<HashMap<(SlotId, u32), SlotInput>>,
    at: At,
    memory: Option<Arc<TaskMemory>>,
}

impl Inputs {
    pub(crate) fn new(binding: TaskBinding) -> Self {
        Self {
            slots: Mutex::new(binding.inputs),
            at: At {
                index: binding.index,
                previous: binding.previous,
                time: binding.key.batch,
            },
            memory: binding.memory,
        }
    }

    /// The batch that the task is of.
    pub(crate) fn at(&self) -> At {
        self.at
    }

    pub(crate) fn memory(&self) -> Option<&TaskMemory> {
        self.memory.as_deref()
    }

    /// The remembered batches that a slot partition has, if that is what it has.
    pub(crate) fn panes(&self, slot: SlotId, partition: u32) -> Option<Arc<Panes>> {
        match self.slots.lock().get(&(slot, partition)) {
            Some(SlotInput::Panes(panes)) => Some(Arc::clone(panes)),
            _ => None,
        }
    }

    /// The input of a slot partition. Batches can be asked for again, a reader only once.
    pub(crate) fn open(&self, slot: SlotId, partition: u32) -> Result<SlotInput, TaskFailure> {
        let mut inputs = self.slots.lock();
        match inputs.get(&(slot, partition)) {
            Some(SlotInput::Batches(batches)) => return Ok(SlotInput::Batches(batches.clone())),
            Some(SlotInput::Panes(panes)) => return Ok(SlotInput::Panes(Arc::clone(panes))),
            Some(SlotInput::Opener(open)) => return Ok(SlotInput::Opener(Arc::clone(open))),
            Some(SlotInput::Reader(_)) | None => {}
        }
        inputs.remove(&(slot, partition)).ok_or_else(|| {
            TaskFailure::new(
                FailureKind::Internal,
                format!("slot {slot} partition {partition} is not bound, or was read before"),
            )
        })
    }
}
