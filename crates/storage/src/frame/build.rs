//! Cuts a delivery into frames.

use std::sync::Arc;

use arrow::array::RecordBatch;
use tidemill_types::ExecutorId;

use super::{FRAME_OVERHEAD, Frame, FrameHead, Run};
use crate::exchange::Delivery;
use crate::sliced_bytes;

/// Makes frames of about one size. The rows are sliced, not copied.
#[derive(Clone, Copy, Debug)]
pub struct FrameBuilder {
    source: ExecutorId,
    max_bytes: u64,
}

impl FrameBuilder {
    /// Large enough to make the cost of a message small, small enough for credit to be fair.
    pub const DEFAULT_BYTES: u64 = 2 * 1024 * 1024;

    /// For deliveries of `source`, in frames of up to `max_bytes`. A single row is never split, however large.
    #[must_use]
    pub fn new(source: ExecutorId, max_bytes: u64) -> Self {
        Self {
            source,
            max_bytes: max_bytes.max(1),
        }
    }

    /// The frames of `delivery`, whose rows are `parts`: at least one, the last one marked.
    #[must_use]
    pub fn build(&self, delivery: &Delivery, parts: &[(u32, RecordBatch)]) -> Vec<Frame> {
        let mut frames = Vec::new();
        let mut runs = Vec::new();
        let mut bytes = 0;
        for (partition, rows) in parts.iter().filter(|(_, rows)| rows.num_rows() > 0) {
            for piece in self.pieces(rows) {
                let size = sliced_bytes(&piece);
                if !runs.is_empty() && bytes + size > self.max_bytes {
                    frames.push((std::mem::take(&mut runs), std::mem::take(&mut bytes)));
                }
                bytes += size;
                runs.push(Run {
                    partition: *partition,
                    rows: piece,
                });
            }
        }
        if !runs.is_empty() || frames.is_empty() {
            frames.push((runs, bytes));
        }
        let last = frames.len() - 1;
        let targets: Arc<[u32]> = delivery.targets.clone().into();
        frames
            .into_iter()
            .enumerate()
            .map(|(index, (runs, bytes))| Frame {
                head: FrameHead {
                    job: delivery.map.job,
                    batch: delivery.map.batch,
                    from_stage: delivery.map.stage,
                    map_partition: delivery.map.partition,
                    attempt: delivery.attempt,
                    routing_version: delivery.routing_version,
                    source: self.source,
                    delivery: delivery.number,
                    targets: Arc::clone(&targets),
                    index: u32::try_from(index).unwrap_or(u32::MAX),
                    last: index == last,
                    oldest: false,
                },
                runs,
                bytes: bytes + FRAME_OVERHEAD,
            })
            .collect()
    }

    /// `rows` in slices that fit into a frame each, going by the mean size of a row.
    fn pieces(&self, rows: &RecordBatch) -> Vec<RecordBatch> {
        let count = rows.num_rows();
        let size = sliced_bytes(rows);
        let pieces = usize::try_from(size.div_ceil(self.max_bytes))
            .unwrap_or(usize::MAX)
            .clamp(1, count);
        // A run's rows are counted in 32 bits; rows without columns have no size.
        let step = count.div_ceil(pieces).min(u32::MAX as usize);
        (0..count)
            .step_by(step)
            .map(|from| rows.slice(from, step.min(count - from)))
            .collect()
    }
}
