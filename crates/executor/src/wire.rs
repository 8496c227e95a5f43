//! Frames to messages and back.

use tidemill_rpc::shuffle as wire;
use tidemill_storage::{EncodedFrame, FrameHead};
use tidemill_types::{Attempt, BatchTime, ExecutorId, Generation, JobId, RoutingVersion, StageId};

pub(crate) fn encode_frame(sequence: u64, generation: Generation, frame: EncodedFrame) -> wire::Frame {
    let head = frame.head;
    wire::Frame {
        sequence,
        generation: generation.0,
        job: head.job.0,
        batch_time_ms: head.batch.0,
        from_stage: head.from_stage.0,
        map_partition: head.map_partition,
        attempt: head.attempt.0,
        routing_version: head.routing_version.0,
        index: head.index,
        last: head.last,
        runs: frame
            .runs
            .into_iter()
            .map(|(partition, rows)| wire::PartitionRun { partition, rows })
            .collect(),
        header: frame.header,
        body: frame.body,
        oldest: head.oldest,
        targets: head.targets.to_vec(),
        delivery: head.delivery,
    }
}

/// A frame that came from `source`.
pub(crate) fn decode_frame(source: ExecutorId, frame: wire::Frame) -> EncodedFrame {
    EncodedFrame {
        head: FrameHead {
            job: JobId(frame.job),
            batch: BatchTime(frame.batch_time_ms),
            from_stage: StageId(frame.from_stage),
            map_partition: frame.map_partition,
            attempt: Attempt(frame.attempt),
            routing_version: RoutingVersion(frame.routing_version),
            source,
            delivery: frame.delivery,
            targets: frame.targets.into(),
            index: frame.index,
            last: frame.last,
            oldest: frame.oldest,
        },
        runs: frame.runs.into_iter().map(|run| (run.partition, run.rows)).collect(),
        header: frame.header,
        body: frame.body,
    }
}
