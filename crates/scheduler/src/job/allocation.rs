//! Which input belongs to which batch.
//!
//! A block is *unallocated* from the moment its receiver reports it until a batch claims it, and then *allocated* to
//! that batch for ever. Batches are allocated in order; a batch claims the blocks whose border is not after its time.
//!
//! ```text
//!        t-1            t   <- border          allocation of t
//!   ──────┼──────────────┼─────────────────────────┼──►
//!         │ blocks of t  │ blocks of t+1, reported before allocation: stay
//! ```

use std::collections::BTreeMap;

use tidemill_dstream::InputItem;
use tidemill_types::{BatchTime, ExecutorId, StreamId, TaskFailure};

use super::batch::{Batch, BatchState};
use super::{Job, JobState};
use crate::action::{Action, Notice};
use crate::event::{StoredBlock, StreamInput};
use crate::scheduler::Context;

impl Job {
    /// Gives due batches their input, oldest first. Returns whether any has got it.
    pub(super) fn allocate(&mut self, cx: &mut Context<'_>) -> bool {
        let first = self.next_allocation;
        while let Some((&index, batch)) = self.batches.range(self.next_allocation..).next() {
            if batch.state != BatchState::Due {
                break;
            }
            let (time, rest) = (batch.time, batch.rest);
            let deadline = batch.border_deadline(self.interval(), cx.options);
            if !self.receivers.have_reached(time) && cx.now < deadline {
                break;
            }
            let received = self.claim_blocks(cx, time);
            let is_received = |stream| received.iter().any(|input| input.stream == stream);
            let planned = self.spec.plan.streams.iter().any(|stream| !is_received(stream.id));
            let Some(batch) = self.batches.get_mut(&index) else {
                break;
            };
            batch.inputs.add(received);
            if planned && !rest {
                batch.state = BatchState::Allocating;
                let job = self.spec.id;
                cx.act(Action::Allocate {
                    job,
                    batch: time,
                    index,
                });
            } else {
                self.make_ready(cx, index);
            }
        }
        self.next_allocation > first
    }

    pub(crate) fn on_allocated(
        &mut self,
        cx: &mut Context<'_>,
        time: BatchTime,
        result: Result<Vec<StreamInput>, TaskFailure>,
    ) {
        let index = self.index_of(time);
        let asked = |batch: &&mut Batch| batch.time == time && batch.state == BatchState::Allocating;
        let Some(batch) = self.batches.get_mut(&index).filter(asked) else {
            return;
        };
        match result {
            Ok(inputs) => {
                // A job with receivers has no end of input.
                self.exhausted =
                    !inputs.is_empty() && inputs.iter().all(|input| input.exhausted) && self.spec.receivers.is_empty();
                batch.inputs.add(inputs);
                self.make_ready(cx, index);
            }
            Err(failure) => self.fail_batch(cx, index, &failure.to_string()),
        }
    }

    /// The batch has all its input.
    fn make_ready(&mut self, cx: &mut Context<'_>, index: i64) {
        let Some(batch) = self.batches.get_mut(&index) else {
            return;
        };
        batch.state = BatchState::Ready;
        self.next_allocation = index + 1;
        if self.spec.checkpoint_every.is_some() {
            cx.act(Action::RecordAllocated {
                job: self.spec.id,
                batch: batch.time,
                index,
                inputs: batch.inputs.streams().cloned().collect(),
            });
        }
        cx.act(Action::Publish(Notice::BatchSubmitted {
            job: self.spec.id,
            batch: batch.time,
            due: batch.due,
            inputs: batch.inputs.describe(),
        }));
    }

    fn claim_blocks(&mut self, cx: &Context<'_>, time: BatchTime) -> Vec<StreamInput> {
        let mut claimed: BTreeMap<StreamId, Vec<StoredBlock>> = BTreeMap::new();
        // Nothing will claim after the last batch.
        let all = self.state == JobState::Stopping && self.receivers.all_stopped();
        for (_, receiver) in self.receivers.iter_mut() {
            let blocks = claimed.entry(receiver.stream).or_default();
            while let Some(block) = receiver.unallocated.pop_front_if(|block| block.border <= time || all) {
                blocks.push(block);
            }
        }
        let input = |(stream, blocks): (StreamId, Vec<StoredBlock>)| {
            let plan = self.spec.plan.streams.iter().find(|plan| plan.id == stream);
            let partitions = plan.map_or(1, |plan| plan.partitions);
            StreamInput {
                stream,
                partitions: spread(&blocks, partitions, |executor| cx.slots(executor)),
                rows: Some(blocks.iter().map(|block| block.rows).sum()),
                exhausted: false,
            }
        };
        claimed.into_iter().map(input).collect()
    }
}

/// Spreads blocks over partitions so that a partition's blocks have one holder, a holder's blocks are used by no more
/// partitions than it has slots, and blocks keep their order over partitions.
fn spread(blocks: &[StoredBlock], partitions: u32, slots: impl Fn(ExecutorId) -> u32) -> Vec<Vec<InputItem>> {
    let partitions = partitions.max(1) as usize;
    let mut spread = vec![Vec::new(); partitions];
    let mut holders: Vec<(ExecutorId, Vec<&StoredBlock>)> = Vec::new();
    for block in blocks {
        match holders.iter_mut().find(|(executor, _)| *executor == block.id.executor) {
            Some((_, held)) => held.push(block),
            None => holders.push((block.id.executor, vec![block])),
        }
    }
    let share = (partitions / holders.len().max(1)).max(1);
    let mut first = 0;
    for (executor, held) in holders {
        let ways = share.min(slots(executor).max(1) as usize).min(held.len());
        let total: u64 = held.iter().map(|block| block.rows.max(1)).sum();
        let mut before = 0;
        for block in held {
            let way = (before * ways as u64 / total) as usize;
            before += block.rows.max(1);
            let item = InputItem::Block {
                id: block.id,
                rows: block.rows,
            };
            spread[(first + way) % partitions].push(item);
        }
        first += ways;
    }
    spread
}

#[cfg(test)]
mod tests {
    use tidemill_types::{BlockId, JobId, ReceiverId};

    use super::*;

    fn block(executor: u32, sequence: u64, rows: u64) -> StoredBlock {
        StoredBlock {
            id: BlockId {
                job: JobId(1),
                receiver: ReceiverId(0),
                executor: ExecutorId(executor),
                session: 1,
                sequence,
            },
            rows,
            bytes: rows * 80,
            border: BatchTime(1000),
        }
    }

    fn sequences(spread: &[Vec<InputItem>]) -> Vec<Vec<u64>> {
        let sequence = |item: &InputItem| match item {
            InputItem::Block { id, .. } => id.sequence,
            other => panic!("a block, not {other:?}"),
        };
        spread
            .iter()
            .map(|items| items.iter().map(sequence).collect())
            .collect()
    }

    #[test]
    fn blocks_of_one_holder_use_as_many_partitions_as_it_has_slots() {
        let blocks: Vec<StoredBlock> = (0..4).map(|i| block(1, i, 10)).collect();
        assert_eq!(
            sequences(&spread(&blocks, 4, |_| 2)),
            [vec![0, 1], vec![2, 3], vec![], vec![]]
        );
    }

    #[test]
    fn every_block_is_in_exactly_one_partition_and_a_partition_has_one_holder() {
        let blocks: Vec<StoredBlock> = (0..9).map(|i| block(1 + (i % 3) as u32, i, 1 + i)).collect();
        let spread = spread(&blocks, 6, |_| 2);
        let mut all: Vec<u64> = sequences(&spread).into_iter().flatten().collect();
        all.sort_unstable();
        assert_eq!(all, (0..9).collect::<Vec<u64>>());
        for items in spread {
            let holders: std::collections::BTreeSet<u32> = items
                .iter()
                .map(|item| match item {
                    InputItem::Block { id, .. } => id.executor.0,
                    other => panic!("a block, not {other:?}"),
                })
                .collect();
            assert!(holders.len() <= 1);
        }
    }

    #[test]
    fn more_holders_than_partitions_still_place_every_block() {
        let blocks: Vec<StoredBlock> = (0..5).map(|i| block(i as u32, i, 1)).collect();
        let all: usize = spread(&blocks, 2, |_| 2).iter().map(Vec::len).sum();
        assert_eq!(all, 5);
    }
}
