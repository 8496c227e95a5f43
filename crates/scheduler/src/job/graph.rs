//! Questions to a stage of the plan.

use tidemill_dstream::plan::{SlotKind, SlotPlan, StageOutput, StagePlan};
use tidemill_types::{DatasetId, StageId};

/// The slots that a task reads, with the slot's partition.
pub(super) fn reads(stage: &StagePlan, partition: u32) -> impl Iterator<Item = (&SlotPlan, u32)> {
    let reads = stage.reads.get(partition as usize).map_or(&[][..], Vec::as_slice);
    reads.iter().filter_map(|read| {
        let slot = stage.slots.iter().find(|slot| slot.id == read.slot)?;
        Some((slot, read.partition))
    })
}

pub(super) fn reads_sources(stage: &StagePlan) -> bool {
    let mut slots = stage.slots.iter();
    slots.any(|slot| matches!(slot.kind, SlotKind::Source { .. }))
}

/// The stages whose exchanges a stage reads.
pub(super) fn sending_stages(stage: &StagePlan) -> impl Iterator<Item = StageId> {
    stage.slots.iter().filter_map(|slot| match slot.kind {
        SlotKind::Shuffle { from } => Some(from),
        SlotKind::Source { .. } | SlotKind::Dataset { .. } | SlotKind::Table { .. } => None,
    })
}

/// The shuffle partitions that a task reads, by sending stage.
pub(super) fn shuffle_reads(stage: &StagePlan, partition: u32) -> impl Iterator<Item = (StageId, u32)> {
    reads(stage, partition).filter_map(|(slot, partition)| match slot.kind {
        SlotKind::Shuffle { from } => Some((from, partition)),
        SlotKind::Source { .. } | SlotKind::Dataset { .. } | SlotKind::Table { .. } => None,
    })
}

/// Whether a task can run anywhere: it reads nothing that is sent to or kept at its partition's owner, and what it
/// makes goes to the owners of other partitions.
pub(super) fn runs_anywhere(stage: &StagePlan, partition: u32) -> bool {
    matches!(stage.output, StageOutput::Exchange { .. })
        && reads(stage, partition)
            .all(|(slot, _)| matches!(slot.kind, SlotKind::Source { .. } | SlotKind::Table { .. }))
}

/// The dataset that a stage's rows stay in.
pub(super) fn dataset_of(stage: &StagePlan) -> Option<DatasetId> {
    match stage.output {
        StageOutput::Result { dataset, .. } => dataset,
        StageOutput::Exchange { .. } => None,
    }
}
