//! The input of one batch by stream, and what of it is lost with an executor.
//!
//! A block that is gone, most often with the only executor that held it, stays named until a task has to read it: a map
//! that has sent its rows on does not need it any more. It is counted as lost when it is taken out, so once.

use std::collections::{BTreeMap, BTreeSet};

use tidemill_dstream::InputItem;
use tidemill_dstream::plan::{SlotKind, StagePlan};
use tidemill_types::{BlockId, ExecutorId, SlotId, StreamId};

use crate::action::{InputInfo, TaskInput};
use crate::event::StreamInput;

#[derive(Clone, Debug, Default)]
pub(crate) struct Inputs {
    by_stream: BTreeMap<StreamId, StreamInput>,
}

/// Received blocks that are gone, by the executor that held them.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    pub(crate) by_executor: BTreeMap<ExecutorId, Loss>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Loss {
    pub(crate) blocks: u64,
    pub(crate) rows: u64,
}

impl Losses {
    pub(crate) fn add(&mut self, executor: ExecutorId, rows: u64) {
        let loss = self.by_executor.entry(executor).or_default();
        loss.blocks += 1;
        loss.rows += rows;
    }
}

impl Inputs {
    pub(crate) fn add(&mut self, inputs: impl IntoIterator<Item = StreamInput>) {
        self.by_stream
            .extend(inputs.into_iter().map(|input| (input.stream, input)));
    }

    pub(crate) fn streams(&self) -> impl Iterator<Item = &StreamInput> {
        self.by_stream.values()
    }

    /// No stream will have more.
    pub(crate) fn are_exhausted(&self) -> bool {
        !self.by_stream.is_empty() && self.by_stream.values().all(|input| input.exhausted)
    }

    /// The rows of all streams, if every source said how many it has.
    pub(crate) fn rows(&self) -> Option<u64> {
        self.by_stream.values().map(|input| input.rows).sum()
    }

    /// What there is of each stream.
    pub(crate) fn describe(&self) -> Vec<InputInfo> {
        let info = |input: &StreamInput| InputInfo {
            stream: input.stream,
            rows: input.rows,
            description: description(input.partitions.iter().flatten()),
        };
        self.by_stream.values().map(info).collect()
    }

    fn items(&self, stream: StreamId, partition: u32) -> &[InputItem] {
        let input = self.by_stream.get(&stream);
        input
            .and_then(|input| input.partitions.get(partition as usize))
            .map_or(&[], Vec::as_slice)
    }

    /// The source inputs of a task.
    pub(crate) fn of_task(&self, stage: &StagePlan, partition: u32) -> Vec<TaskInput> {
        source_reads(stage, partition)
            .map(|read| TaskInput {
                slot: read.slot,
                partition: read.partition,
                items: self.items(read.stream, read.partition).to_vec(),
            })
            .collect()
    }

    pub(crate) fn is_empty_for(&self, stage: &StagePlan, partition: u32) -> bool {
        source_reads(stage, partition).all(|read| self.items(read.stream, read.partition).is_empty())
    }

    /// The executor that holds the first block of a task's input.
    pub(crate) fn holder(&self, stage: &StagePlan, partition: u32) -> Option<ExecutorId> {
        source_reads(stage, partition)
            .flat_map(|read| self.items(read.stream, read.partition))
            .find_map(block_holder)
    }

    /// The received blocks.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = BlockId> {
        let items = self
            .by_stream
            .values()
            .flat_map(|input| input.partitions.iter().flatten());
        items.filter_map(|item| match item {
            InputItem::Block { id, .. } => Some(*id),
            InputItem::File(_) | InputItem::Lines(_) | InputItem::Generate { .. } => None,
        })
    }

    /// Takes out all blocks that are gone.
    pub(crate) fn lose(&mut self, gone: impl Fn(&BlockId) -> bool, losses: &mut Losses) {
        for input in self.by_stream.values_mut() {
            for partition in 0..input.partitions.len() {
                lose_blocks(input, partition, &gone, losses);
            }
        }
    }

    /// Takes out the blocks that are gone from what one task reads.
    pub(crate) fn lose_of_task(
        &mut self,
        stage: &StagePlan,
        partition: u32,
        gone: impl Fn(&BlockId) -> bool,
        losses: &mut Losses,
    ) {
        for read in source_reads(stage, partition) {
            if let Some(input) = self.by_stream.get_mut(&read.stream) {
                lose_blocks(input, read.partition as usize, &gone, losses);
            }
        }
    }
}

/// Files that are named.
const NAMED_FILES: usize = 5;

/// Items in words: `2 blocks on executor 1`, `3 files: a.txt, b.txt, c.txt`.
fn description<'a>(items: impl Iterator<Item = &'a InputItem>) -> String {
    let mut files: BTreeSet<&str> = BTreeSet::new();
    let mut holders: BTreeSet<ExecutorId> = BTreeSet::new();
    let (mut blocks, mut lines, mut generated) = (0_usize, 0_usize, 0_u64);
    for item in items {
        match item {
            InputItem::Block { id, .. } => {
                blocks += 1;
                holders.insert(id.executor);
            }
            InputItem::File(range) => drop(files.insert(&range.path)),
            InputItem::Lines(some) => lines += some.len(),
            InputItem::Generate { from, until } => generated += until.saturating_sub(*from),
        }
    }
    let count = |n: u64, what: &str| match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    };
    let mut parts = Vec::new();
    if blocks > 0 {
        let holders: Vec<String> = holders.iter().map(ExecutorId::to_string).collect();
        parts.push(format!(
            "{} on executor {}",
            count(blocks as u64, "block"),
            holders.join(", ")
        ));
    }
    if !files.is_empty() {
        let mut names: Vec<&str> = files.iter().copied().take(NAMED_FILES).collect();
        if files.len() > NAMED_FILES {
            names.push("...");
        }
        parts.push(format!("{}: {}", count(files.len() as u64, "file"), names.join(", ")));
    }
    if lines > 0 {
        parts.push(count(lines as u64, "line"));
    }
    if generated > 0 {
        parts.push(count(generated, "generated line"));
    }
    if parts.is_empty() {
        "nothing".to_owned()
    } else {
        parts.join(", ")
    }
}

fn lose_blocks(input: &mut StreamInput, partition: usize, gone: impl Fn(&BlockId) -> bool, losses: &mut Losses) {
    let Some(items) = input.partitions.get_mut(partition) else {
        return;
    };
    let known = &mut input.rows;
    items.retain(|item| match item {
        InputItem::Block { id, rows } if gone(id) => {
            losses.add(id.executor, *rows);
            *known = known.map(|known| known.saturating_sub(*rows));
            false
        }
        _ => true,
    });
}

fn block_holder(item: &InputItem) -> Option<ExecutorId> {
    match item {
        InputItem::Block { id, .. } => Some(id.executor),
        InputItem::File(_) | InputItem::Lines(_) | InputItem::Generate { .. } => None,
    }
}

struct SourceRead {
    slot: SlotId,
    stream: StreamId,
    partition: u32,
}

fn source_reads(stage: &StagePlan, partition: u32) -> impl Iterator<Item = SourceRead> {
    super::graph::reads(stage, partition).filter_map(|(slot, partition)| match slot.kind {
        SlotKind::Source { stream } => Some(SourceRead {
            slot: slot.id,
            stream,
            partition,
        }),
        SlotKind::Shuffle { .. } | SlotKind::Dataset { .. } | SlotKind::Table { .. } => None,
    })
}
