//! Spreads a task's rows over the partitions of the next stage.

use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use datafusion::physical_expr::PhysicalExpr;
use tidemill_types::{FailureKind, TaskFailure, TaskKey};

use crate::error::task_failure;
use crate::keyed::hash::{hash_keys, partition};
use crate::template::Spread;

/// Belongs to one task attempt and is fed its batches in order: where a row goes is a function of the task and of the
/// row's keys or position, so that every attempt sends the same rows to the same places.
pub struct Partitioner(Kind);

enum Kind {
    /// By the pinned hash of these expressions.
    Hash {
        keys: Vec<Arc<dyn PhysicalExpr>>,
        partitions: u32,
    },
    RoundRobin {
        partitions: u32,
        next: u32,
    },
    One,
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
            Spread::Hash { keys, partitions } => Kind::Hash {
                keys: keys.clone(),
                partitions: *partitions,
            },
        }))
    }

    /// The batch's rows by partition, ascending; a partition without rows is left out.
    pub fn partition(&mut self, batch: &RecordBatch) -> Result<Vec<(u32, RecordBatch)>, TaskFailure> {
        if batch.num_rows() == 0 {
            return Ok(Vec::new());
        }
        match &mut self.0 {
            Kind::One => Ok(vec![(0, batch.clone())]),
            Kind::RoundRobin { partitions, next } => round_robin(batch, *partitions, next),
            Kind::Hash { keys, partitions } => by_hash(batch, keys, *partitions).map_err(|error| task_failure(&error)),
        }
    }
}

/// One gathering of the rows by partition, of which each partition is a slice.
fn by_hash(
    batch: &RecordBatch,
    keys: &[Arc<dyn PhysicalExpr>],
    partitions: u32,
) -> datafusion::error::Result<Vec<(u32, RecordBatch)>> {
    let columns = keys
        .iter()
        .map(|key| key.evaluate(batch)?.into_array(batch.num_rows()))
        .collect::<datafusion::error::Result<Vec<_>>>()?;
    let targets: Vec<u32> = hash_keys(&columns)?
        .into_iter()
        .map(|hash| partition(hash, partitions))
        .collect();
    // Counting sort, stable: the rows of a partition stay in order.
    let mut ends = vec![0u32; partitions as usize + 1];
    for target in &targets {
        ends[*target as usize + 1] += 1;
    }
    for i in 1..ends.len() {
        ends[i] += ends[i - 1];
    }
    let bounds = ends.clone();
    let mut order = vec![0u32; targets.len()];
    for (row, target) in targets.iter().enumerate() {
        let place = &mut ends[*target as usize];
        order[*place as usize] = row as u32;
        *place += 1;
    }
    let gathered = take_record_batch(batch, &UInt32Array::from(order))?;
    let parts = (0..partitions).filter_map(|target| {
        let (begin, end) = (bounds[target as usize] as usize, bounds[target as usize + 1] as usize);
        (begin < end).then(|| (target, gathered.slice(begin, end - begin)))
    });
    Ok(parts.collect())
}

/// Row `i` of a task goes to partition `(own partition + i) % partitions`.
fn round_robin(batch: &RecordBatch, partitions: u32, next: &mut u32) -> Result<Vec<(u32, RecordBatch)>, TaskFailure> {
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
