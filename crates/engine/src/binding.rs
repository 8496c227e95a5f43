//! The inputs of one task, found by the plan's leaves at execution.

use std::collections::HashMap;

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use tidemill_types::{FailureKind, SlotId, TaskFailure, TaskKey};

/// What a task reads and as whom it runs.
pub struct TaskBinding {
    pub key: TaskKey,
    /// Every slot partition that the plan's `reads` name for the task's partition; an empty input is present too.
    pub inputs: HashMap<(SlotId, u32), SlotInput>,
}

/// One slot partition's rows.
pub enum SlotInput {
    Batches(Vec<RecordBatch>),
    /// Read as the task goes, on the thread that polls it.
    Reader(Box<dyn Iterator<Item = Result<RecordBatch, TaskFailure>> + Send>),
}

/// The inputs as an extension of the task's session configuration, the one way by which a plan that is shared by all
/// tasks of a stage can reach what belongs to one task.
pub(crate) struct Inputs(Mutex<HashMap<(SlotId, u32), SlotInput>>);

impl Inputs {
    pub(crate) fn new(inputs: HashMap<(SlotId, u32), SlotInput>) -> Self {
        Self(Mutex::new(inputs))
    }

    /// The input of a slot partition. Batches can be asked for again, a reader only once.
    pub(crate) fn open(&self, slot: SlotId, partition: u32) -> Result<SlotInput, TaskFailure> {
        let mut inputs = self.0.lock();
        match inputs.remove(&(slot, partition)) {
            Some(SlotInput::Batches(batches)) => {
                inputs.insert((slot, partition), SlotInput::Batches(batches.clone()));
                Ok(SlotInput::Batches(batches))
            }
            Some(reader @ SlotInput::Reader(_)) => Ok(reader),
            None => Err(TaskFailure::new(
                FailureKind::Internal,
                format!("slot {slot} partition {partition} is not bound, or was read before"),
            )),
        }
    }
}
