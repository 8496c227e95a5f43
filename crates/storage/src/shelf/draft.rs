//! Collecting the batches of an entry: in memory as long as there is room, in a file from then on.

use std::sync::Arc;

use arrow::array::RecordBatch;
use tidemill_types::Medium;

use super::{InMemory, Place};
use crate::compact::compact_together;
use crate::memory::{Charge, MemoryBudget, MemoryKind};
use crate::spill::{SpillDir, SpillWriter};
use crate::{Error, Result, retained_bytes, sliced_bytes};

/// The share of all memory up to which one entry drives others out while it is collected.
const LARGEST_SHARE: u64 = 4;

/// What is collected for an entry. Dropping it gives it up.
pub(crate) struct Draft {
    budget: Arc<MemoryBudget>,
    spill: Option<Arc<SpillDir>>,
    kind: MemoryKind,
    charge: Charge,
    batches: Vec<RecordBatch>,
    file: Option<SpillWriter>,
    /// It belongs into a file.
    to_disk: bool,
    rows: u64,
    bytes: u64,
}

/// What was collected.
pub(crate) struct Content {
    pub(crate) rows: u64,
    /// In memory, also while it is not.
    pub(crate) bytes: u64,
    pub(super) place: Place,
}

impl Content {
    /// Batches in memory, whatever the limit.
    pub(crate) fn in_memory(budget: &Arc<MemoryBudget>, kind: MemoryKind, batches: Vec<RecordBatch>) -> Self {
        let bytes = retained_bytes(&batches);
        let charge = budget.charge(kind, bytes);
        Self {
            rows: batches.iter().map(|batch| batch.num_rows() as u64).sum(),
            bytes,
            place: Place::Memory(Arc::new(InMemory { batches, charge })),
        }
    }
}

impl Draft {
    pub(super) fn new(
        budget: &Arc<MemoryBudget>,
        spill: Option<&Arc<SpillDir>>,
        kind: MemoryKind,
        medium: Medium,
    ) -> Self {
        Self {
            budget: Arc::clone(budget),
            spill: spill.cloned(),
            kind,
            charge: budget.charge(kind, 0),
            batches: Vec::new(),
            file: None,
            to_disk: medium == Medium::Disk && spill.is_some(),
            rows: 0,
            bytes: 0,
        }
    }

    pub(crate) fn push(&mut self, batch: RecordBatch) -> Result<()> {
        let bytes = sliced_bytes(&batch);
        self.rows += batch.num_rows() as u64;
        self.bytes += bytes;
        if !self.to_disk && self.file.is_none() && self.take(bytes) {
            self.batches.push(batch);
            return Ok(());
        }
        if self.file.is_none() {
            let spill = self
                .spill
                .as_ref()
                .ok_or_else(|| self.full("there is nowhere to spill to"))?;
            let mut file = spill
                .begin(self.kind, &batch.schema())
                .map_err(|error| self.explain(error))?;
            for batch in std::mem::take(&mut self.batches) {
                file.push(&batch).map_err(|error| self.explain(error))?;
            }
            self.charge.resize(0);
            self.file = Some(file);
        }
        match &mut self.file {
            Some(file) => file.push(&batch).map_err(|error| match error {
                Error::SpillFull { .. } => full(&self.budget, self.bytes, "the directory for spilled data is full"),
                other => other,
            }),
            None => Ok(()),
        }
    }

    pub(crate) fn finish(mut self) -> Result<Content> {
        if let Some(file) = self.file.take() {
            return Ok(Content {
                rows: self.rows,
                bytes: self.bytes,
                place: Place::File(Arc::new(file.finish()?)),
            });
        }
        let batches = compact_together(std::mem::take(&mut self.batches))?;
        let bytes = retained_bytes(&batches);
        self.charge.resize(bytes);
        Ok(Content {
            rows: self.rows,
            bytes,
            place: Place::Memory(Arc::new(InMemory {
                batches,
                charge: self.charge,
            })),
        })
    }

    /// Whether there is memory for `bytes` more.
    fn take(&mut self, bytes: u64) -> bool {
        if self.spill.is_some() && self.charge.bytes() + bytes > self.budget.limits().total / LARGEST_SHARE {
            return false;
        }
        self.charge.grow(bytes)
    }

    fn explain(&self, error: Error) -> Error {
        match error {
            Error::SpillFull { .. } => self.full("the directory for spilled data is full"),
            other => other,
        }
    }

    fn full(&self, disk: &'static str) -> Error {
        full(&self.budget, self.bytes, disk)
    }
}

pub(super) fn full(budget: &MemoryBudget, bytes: u64, disk: &'static str) -> Error {
    Error::Full {
        bytes,
        memory: budget.describe(),
        disk,
    }
}
