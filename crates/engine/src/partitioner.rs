//! Spreads a task's rows over the partitions of the next stage.

use arrow::array::RecordBatch;
use datafusion::physical_plan::metrics::Time;
use datafusion::physical_plan::repartition::BatchPartitioner;
use tidemill_types::{FailureKind, TaskFailure, TaskKey};

use crate::error::task_failure;
use crate::template::Spread;

/// Belongs to one task attempt and is fed its batches in order: where a row goes is a function of the task and of the
/// row's keys or position, so that every attempt sends the same rows to the same places.
pub struct Partitioner(Kind);

enum Kind {
    /// DataFusion's hash, whose seed is fixed: all processes of one build agree.
    Hash(Box<BatchPartitioner>),
    RoundRobin {
        partitions: u32,
        next: u32,
    },
    One,
    Failed(TaskFailure),
}

impl Partitioner {
    pub(crate) fn new(spread: &Spread, key: TaskKey) -> Option<Self> {
        Some(Self(match spread {
            Spread::Keep => return None,
            Spread::Single | Spread::Broadcast => Kind::One,
            Spread::RoundRobin { partitions } if *partitions > 1 => Kind::RoundRobin {
                partitions: *partitions,
                next: key.partition % partitions,
            },
            Spread::RoundRobin { .. } => Kind::One,
            Spread::Hash { partitions: 1, .. } => Kind::One,
            Spread::Hash { keys, partitions } => {
                match BatchPartitioner::new_hash_partitioner(keys.clone(), *partitions as usize, Time::new()) {
                    Ok(partitioner) => Kind::Hash(Box::new(partitioner)),
                    Err(error) => Kind::Failed(task_failure(&error)),
                }
            }
        }))
    }

    /// The batch's rows by partition, ascending; a partition without rows is left out.
    pub fn partition(&mut self, batch: &RecordBatch) -> Result<Vec<(u32, RecordBatch)>, TaskFailure> {
        if batch.num_rows() == 0 {
            return Ok(Vec::new());
        }
        match &mut self.0 {
            Kind::One => Ok(vec![(0, batch.clone())]),
            Kind::Failed(failure) => Err(failure.clone()),
            Kind::RoundRobin { partitions, next } => round_robin(batch, *partitions, next),
            Kind::Hash(partitioner) => {
                let mut out = Vec::new();
                partitioner
                    .partition(batch.clone(), |partition, rows| {
                        out.push((partition as u32, rows));
                        Ok(())
                    })
                    .map_err(|error| task_failure(&error))?;
                Ok(out)
            }
        }
    }
}

/// Row `i` of a task goes to partition `(own partition + i) % partitions`.
fn round_robin(batch: &RecordBatch, partitions: u32, next: &mut u32) -> Result<Vec<(u32, RecordBatch)>, TaskFailure> {
    use arrow::array::UInt32Array;
    use arrow::compute::take_record_batch;

    let rows = u32::try_from(batch.num_rows())
        .map_err(|_| TaskFailure::new(FailureKind::Internal, "a batch of more than 2^32 rows"))?;
    let first = *next;
    *next = (first + rows % partitions) % partitions;
    let mut out = Vec::with_capacity(partitions as usize);
    for partition in 0..partitions {
        let skip = (partition + partitions - first) % partitions;
        let indices: UInt32Array = (skip..rows).step_by(partitions as usize).collect();
        if !indices.is_empty() {
            let rows = take_record_batch(batch, &indices).map_err(|error| task_failure(&error.into()))?;
            out.push((partition, rows));
        }
    }
    Ok(out)
}
