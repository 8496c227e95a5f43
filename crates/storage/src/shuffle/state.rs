//! What a shuffle store holds: plain data behind its lock.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use tidemill_types::{BatchTime, JobId, RoutingVersion, StageId};

use super::DropReason;
use super::credit::CreditHold;
use super::forgotten::Forgotten;
use super::inlet::{Inlet, Verdict};
use crate::frame::{FrameHead, Run};
use crate::memory::Charge;
use crate::spill::SpillFile;
use crate::{Error, Result};

#[derive(Default)]
pub(super) struct State {
    pub(super) jobs: HashMap<JobId, JobFrames>,
    /// Jobs that were removed: their late frames are dropped. Numbers of jobs are not used again.
    pub(super) removed: HashSet<JobId>,
}

#[derive(Default)]
pub(super) struct JobFrames {
    pub(super) batches: BTreeMap<BatchTime, BatchFrames>,
    pub(super) forgotten: Forgotten,
}

#[derive(Default)]
pub(super) struct BatchFrames {
    pub(super) inlets: BTreeMap<StageId, Inlet<Stored>>,
    /// The batch was forgotten once and is run again.
    pub(super) reopened: bool,
    /// The latest routing version that a frame went by.
    pub(super) version: RoutingVersion,
}

/// A frame's rows. Dropped outside of the store's lock, since that returns credit.
pub(super) struct Stored {
    pub(super) place: Place,
    #[expect(dead_code, reason = "held for its drop")]
    pub(super) credit: Option<CreditHold>,
}

pub(super) enum Place {
    Memory(
        Arc<[Run]>,
        #[expect(dead_code, reason = "held for its drop")] Option<Charge>,
    ),
    /// The partition of each run; the file has one batch for each.
    File(Arc<[u32]>, Arc<SpillFile>),
}

impl State {
    pub(super) fn open(&mut self, job: JobId, batch: BatchTime) -> &mut BatchFrames {
        let frames = self.jobs.entry(job).or_default();
        let reopened = frames.forgotten.version(batch).is_some();
        frames.batches.entry(batch).or_insert_with(|| BatchFrames {
            reopened,
            ..BatchFrames::default()
        })
    }

    pub(super) fn inlet(&self, job: JobId, batch: BatchTime, from_stage: StageId) -> Option<&Inlet<Stored>> {
        self.jobs.get(&job)?.batches.get(&batch)?.inlets.get(&from_stage)
    }

    pub(super) fn inlet_mut(
        &mut self,
        job: JobId,
        batch: BatchTime,
        from_stage: StageId,
    ) -> Option<&mut Inlet<Stored>> {
        self.jobs
            .get_mut(&job)?
            .batches
            .get_mut(&batch)?
            .inlets
            .get_mut(&from_stage)
    }

    pub(super) fn judge(&self, head: &FrameHead) -> Result<Option<DropReason>> {
        if self.removed.contains(&head.job) {
            return Ok(Some(DropReason::Late));
        }
        let Some(job) = self.jobs.get(&head.job) else {
            return Ok(None);
        };
        let Some(batch) = job.batches.get(&head.batch) else {
            let late = job.forgotten.is_late(head.batch, head.routing_version);
            return Ok(late.then_some(DropReason::Late));
        };
        match batch
            .inlets
            .get(&head.from_stage)
            .map_or(Verdict::Wanted, |inlet| inlet.judge(head))
        {
            Verdict::Wanted => Ok(None),
            Verdict::Duplicate => Ok(Some(DropReason::Duplicate)),
            Verdict::Superseded => Ok(Some(DropReason::Superseded)),
            Verdict::Malformed(reason) => Err(Error::malformed(reason)),
        }
    }
}

impl BatchFrames {
    /// Whether nobody asked for these frames, and they went by a routing that is past.
    pub(super) fn is_stray(&self, version: RoutingVersion) -> bool {
        self.version < version && !self.inlets.values().any(Inlet::is_expected)
    }
}

/// Rows of one partition in one frame.
pub(super) enum Rows {
    Memory(RecordBatch),
    /// One of the file's batches.
    File(Arc<SpillFile>, usize),
}

impl Stored {
    pub(super) fn rows_for(&self, partition: u32) -> Vec<Rows> {
        match &self.place {
            Place::File(partitions, file) => {
                let runs = partitions.iter().enumerate().filter(|(_, run)| **run == partition);
                runs.map(|(number, _)| Rows::File(Arc::clone(file), number)).collect()
            }
            Place::Memory(runs, _) => {
                let runs = runs.iter().filter(|run| run.partition == partition);
                runs.map(|run| Rows::Memory(run.rows.clone())).collect()
            }
        }
    }
}
