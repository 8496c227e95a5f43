//! Records from what happens, and back.

use bytes::Bytes;
use prost::Message;
use tidemill_dstream::accumulator::{AccumulatorState, Ledger};
use tidemill_rpc::convert::{self, input_item};
use tidemill_rpc::journal as wire;
use tidemill_rpc::journal::prepared_part::Data;
use tidemill_rpc::journal::record::Record as Kind;
use tidemill_rpc::{driver, plan};
use tidemill_scheduler::{OutputCommit, OutputPart, OutputPayload, RecordedBatch, Resume, StreamInput};
use tidemill_types::{BatchTime, BroadcastId, Generation, JobId, OutputId, StageId, StreamId};

use crate::broadcasts::LoadedBroadcast;

fn record(kind: Kind) -> wire::Record {
    wire::Record { record: Some(kind) }
}

// === what happens ===

pub(crate) fn submitted(submitted: wire::JobSubmitted) -> wire::Record {
    record(Kind::JobSubmitted(submitted))
}

pub(crate) fn ended(job: JobId) -> wire::Record {
    record(Kind::JobEnded(wire::JobEnded { job: job.0 }))
}

pub(crate) fn allocated(
    job: JobId,
    batch: BatchTime,
    index: i64,
    inputs: &[StreamInput],
    positions: Vec<wire::SourcePosition>,
) -> wire::Record {
    let partition = |items: &Vec<_>| wire::PartitionInput {
        items: items.iter().map(driver::InputItem::from).collect(),
    };
    let inputs = inputs.iter().map(|input| wire::StreamInput {
        stream: input.stream.0,
        partitions: input.partitions.iter().map(partition).collect(),
        rows: input.rows,
        exhausted: input.exhausted,
    });
    record(Kind::BatchAllocated(wire::BatchAllocated {
        job: job.0,
        batch_time_ms: batch.0,
        index,
        inputs: inputs.collect(),
        positions,
    }))
}

pub(crate) fn source_position(stream: StreamId, position: Vec<u8>) -> wire::SourcePosition {
    wire::SourcePosition {
        stream: stream.0,
        position: position.into(),
    }
}

pub(crate) fn skipped(job: JobId, batch: BatchTime, index: i64) -> wire::Record {
    record(Kind::BatchSkipped(wire::BatchSkipped {
        job: job.0,
        batch_time_ms: batch.0,
        index,
    }))
}

pub(crate) fn state_saved(job: JobId, stage: StageId, batch: BatchTime, index: i64) -> wire::Record {
    record(Kind::StateSaved(wire::StateSaved {
        job: job.0,
        stage: stage.0,
        batch_time_ms: batch.0,
        index,
    }))
}

pub(crate) fn prepared(
    job: JobId,
    batch: BatchTime,
    outputs: &[OutputCommit],
    totals: &Ledger,
    generation: Generation,
) -> wire::Record {
    let part = |part: &OutputPart| wire::PreparedPart {
        partition: part.partition,
        rows: part.rows,
        data: match &part.payload {
            OutputPayload::Empty => None,
            OutputPayload::Ipc(ipc) => Some(Data::Ipc(ipc.clone())),
            OutputPayload::File { staged, name, bytes } => Some(Data::File(wire::StagedFile {
                staged: staged.clone(),
                name: name.clone(),
                bytes: *bytes,
            })),
        },
    };
    let outputs = outputs.iter().map(|output| wire::PreparedOutput {
        output: output.output.0,
        parts: output.parts.iter().map(part).collect(),
    });
    record(Kind::BatchPrepared(wire::BatchPrepared {
        job: job.0,
        batch_time_ms: batch.0,
        outputs: outputs.collect(),
        totals: totals.states().iter().map(plan::AccumulatorState::from).collect(),
        generation: generation.0,
    }))
}

pub(crate) fn committed(job: JobId, batch: BatchTime) -> wire::Record {
    record(Kind::BatchCommitted(wire::BatchCommitted {
        job: job.0,
        batch_time_ms: batch.0,
    }))
}

/// A new value, or `None` for one that was destroyed.
pub(crate) fn broadcast_updated(job: JobId, broadcast: BroadcastId, value: Option<&LoadedBroadcast>) -> wire::Record {
    let destroyed = || wire::BroadcastValue {
        destroyed: true,
        ..wire::BroadcastValue::default()
    };
    record(Kind::BroadcastUpdated(wire::BroadcastUpdated {
        job: job.0,
        broadcast: broadcast.0,
        value: Some(value.map_or_else(destroyed, broadcast_value)),
    }))
}

pub(crate) fn broadcast_value(loaded: &LoadedBroadcast) -> wire::BroadcastValue {
    wire::BroadcastValue {
        shape: plan::BroadcastShape::from(loaded.shape).into(),
        value: loaded.value.clone(),
        destroyed: false,
    }
}

// === and back ===

pub(super) fn encode(record: &wire::Record) -> Bytes {
    record.encode_to_vec().into()
}

/// What a driver before this one handed to its committer.
pub(super) fn outputs(outputs: Vec<wire::PreparedOutput>) -> Vec<OutputCommit> {
    let commit = |prepared: wire::PreparedOutput| {
        let output = OutputId(prepared.output);
        let part = |part: wire::PreparedPart| OutputPart {
            output,
            partition: part.partition,
            rows: part.rows,
            payload: match part.data {
                None => OutputPayload::Empty,
                Some(Data::Ipc(ipc)) => OutputPayload::Ipc(ipc),
                Some(Data::File(file)) => OutputPayload::File {
                    staged: file.staged,
                    name: file.name,
                    bytes: file.bytes,
                },
            },
        };
        OutputCommit {
            output,
            parts: prepared.parts.into_iter().map(part).collect(),
        }
    };
    outputs.into_iter().map(commit).collect()
}

pub(super) fn states(totals: Vec<plan::AccumulatorState>) -> Result<Vec<AccumulatorState>, convert::Error> {
    totals.into_iter().map(AccumulatorState::try_from).collect()
}

/// What the scheduler has to know of a job's past; `None` for a job without any.
pub(super) fn resume(job: &wire::Job) -> Result<Option<Resume>, convert::Error> {
    let Some(zero_time) = super::registry::zero_time(job) else {
        return Ok(None);
    };
    let batches = job.batches.iter().filter_map(|batch| {
        let allocated = batch.allocated.as_ref()?;
        let inputs = stream_inputs(JobId(allocated.job), &allocated.inputs);
        Some(inputs.map(|inputs| RecordedBatch {
            index: allocated.index,
            inputs,
            skipped: batch.skipped,
        }))
    });
    let states = job.states.iter().map(|saved| (StageId(saved.stage), saved.index));
    Ok(Some(Resume {
        zero_time,
        completed: job.completed,
        batches: batches.collect::<Result<_, _>>()?,
        state_bases: states.collect(),
    }))
}

fn stream_inputs(job: JobId, inputs: &[wire::StreamInput]) -> Result<Vec<StreamInput>, convert::Error> {
    let partition = |partition: &wire::PartitionInput| {
        let items = partition.items.iter().cloned();
        items.map(|item| input_item(job, item)).collect::<Result<Vec<_>, _>>()
    };
    let input = |input: &wire::StreamInput| {
        Ok(StreamInput {
            stream: StreamId(input.stream),
            partitions: input.partitions.iter().map(partition).collect::<Result<_, _>>()?,
            rows: input.rows,
            exhausted: input.exhausted,
        })
    };
    inputs.iter().map(input).collect()
}
