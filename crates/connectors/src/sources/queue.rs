//! The queue source: one item a batch, then empty batches.

use tidemill_dstream::{InputItem, QueueItem};

use super::spread::{self, InputFile, human_bytes};
use super::{AllocateRequest, Allocation, InputPlanner};
use crate::Error;

/// Item `k` belongs to batch `k`, counted from 1, whatever was allocated before.
pub(super) struct QueuePlanner {
    items: Vec<QueueItem>,
}

impl QueuePlanner {
    pub(super) fn new(items: &[QueueItem]) -> Self {
        Self { items: items.to_vec() }
    }
}

impl InputPlanner for QueuePlanner {
    fn allocate(&mut self, request: &AllocateRequest) -> Result<Allocation, Error> {
        let items = self.items.len();
        let index = usize::try_from(request.index).unwrap_or(0);
        let exhausted = index >= items;
        let Some(item) = index.checked_sub(1).and_then(|at| self.items.get(at)) else {
            return Ok(Allocation::empty(request.partitions, exhausted, "the queue is empty"));
        };
        let allocation = match item {
            QueueItem::Lines(lines) => Allocation {
                partitions: spread_lines(lines, request.partitions),
                rows: Some(lines.len() as u64),
                exhausted,
                description: format!("item {index} of {items}: {} lines", lines.len()),
            },
            QueueItem::File(path) => {
                let file = InputFile::stat(path)?;
                Allocation {
                    description: format!("item {index} of {items}: {path}, {}", human_bytes(file.bytes)),
                    partitions: spread::in_order(vec![file.piece()], request.partitions),
                    rows: None,
                    exhausted,
                }
            }
        };
        Ok(allocation)
    }
}

/// Runs of equal length, in order.
fn spread_lines(lines: &[String], partitions: u32) -> Vec<Vec<InputItem>> {
    let partitions = partitions.max(1) as usize;
    (0..partitions)
        .map(|partition| {
            let from = lines.len() * partition / partitions;
            let until = lines.len() * (partition + 1) / partitions;
            match &lines[from..until] {
                [] => Vec::new(),
                run => vec![InputItem::Lines(run.to_vec())],
            }
        })
        .collect()
}
