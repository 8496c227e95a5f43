//! Where that is which a job keeps from batch to batch and others may read: states, remembered streams.

use tidemill_types::{BatchTime, DatasetId, ExecutorId, StageId};

use super::Job;

/// The version of a state that the last completed batch left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateVersion {
    pub index: i64,
    pub batch: BatchTime,
    /// By partition.
    pub owners: Vec<ExecutorId>,
}

/// A completed batch of a dataset that is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RememberedBatch {
    pub index: i64,
    pub batch: BatchTime,
    /// By partition; `None` for a part that is lost and not made again yet.
    pub holders: Vec<Option<ExecutorId>>,
}

/// Batches are asked for that are not remembered any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forgotten {
    /// The first that is remembered.
    pub since: BatchTime,
}

impl Job {
    /// `None` before the first batch, and while nobody owns its partitions.
    pub(crate) fn state_version(&self, stage: StageId) -> Option<StateVersion> {
        let index = *self.state_of.get(&stage)?;
        let partitions = self.spec.plan.stage(stage)?.partitions;
        let owners = (0..partitions).map(|partition| self.owner(stage, partition));
        Some(StateVersion {
            index,
            batch: self.time_of(index),
            owners: owners.collect::<Option<_>>()?,
        })
    }

    /// The completed batches of a dataset that are remembered, oldest first: those of these times, both floored to the
    /// dataset's slide and both included, or all. Skipped batches have no rows and are not among them.
    pub(crate) fn remembered(
        &self,
        dataset: DatasetId,
        range: Option<(BatchTime, BatchTime)>,
    ) -> Result<Vec<RememberedBatch>, Forgotten> {
        let Some(dataset) = self.spec.plan.dataset(dataset) else {
            return Ok(Vec::new());
        };
        let stage = self.spec.plan.stage(dataset.stage);
        let every = stage.map_or(1, |stage| i64::from(stage.every.max(1)));
        let oldest = (self.oldest_unfinished() - i64::from(dataset.remember) + 1).max(1);
        let slides = |index: i64| index.div_euclid(every) * every;
        let (first, last) = match range {
            None => (oldest, i64::MAX),
            Some((from, to)) => {
                let first = slides(self.index_of(from)).max(1);
                if first < oldest {
                    let since = self.time_of(oldest + (every - oldest % every) % every);
                    return Err(Forgotten { since });
                }
                (first, slides(self.index_of(to)))
            }
        };
        if first > last {
            return Ok(Vec::new());
        }
        let completed = self.history.range(first..=last);
        let completed = completed.filter(|(index, history)| !history.absent && *index % every == 0);
        let batches = completed.map(|(index, _)| RememberedBatch {
            index: *index,
            batch: self.time_of(*index),
            holders: (0..dataset.partitions)
                .map(|partition| {
                    self.parts.holder(super::parts::Part {
                        index: *index,
                        dataset: dataset.id,
                        partition,
                    })
                })
                .collect(),
        });
        Ok(batches.collect())
    }
}
