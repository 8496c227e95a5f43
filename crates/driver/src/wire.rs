//! The scheduler's nouns to messages and back.

use std::time::Duration;

use tidemill_dstream::accumulator::AccumulatorState;
use tidemill_rpc::convert;
use tidemill_rpc::driver::attach_response::Command;
use tidemill_rpc::driver::{self as wire, output_report};
use tidemill_scheduler::{
    DatasetPart, Launch, OutputPart, OutputPayload, StoredBlock, TaskLaunch, TaskOutcome, TaskSuccess,
};
use tidemill_types::{
    AccumulatorId, Attempt, BatchTime, BlockId, DatasetId, ExecutorId, FailureKind, JobId, OutputId, ReceiverId,
    RoutingVersion, StageId, TaskFailure, TaskKey,
};

pub(crate) fn launch(launch: Launch) -> Command {
    Command::LaunchBatch(wire::LaunchBatch {
        job: launch.job.0,
        plan_version: launch.plan.0,
        routing_version: launch.routing.0,
        batch_time_ms: launch.batch.0,
        index: launch.index,
        tasks: launch.tasks.into_iter().map(task_launch).collect(),
        expectations: launch
            .expectations
            .into_iter()
            .map(|expectation| wire::ShuffleExpectation {
                from_stage: expectation.from_stage.0,
                map_partitions: expectation.map_partitions,
            })
            .collect(),
        oldest_batch_ms: launch.oldest.0,
        remember_from_ms: launch.remember_from.0,
        restore: launch.restore,
        tables: launch
            .tables
            .into_iter()
            .map(|(name, version)| wire::TableVersion { name, version })
            .collect(),
        broadcasts: launch
            .broadcasts
            .into_iter()
            .map(|(broadcast, version)| wire::BroadcastVersion {
                broadcast: broadcast.0,
                version,
            })
            .collect(),
        absent_batches_ms: launch.absent.into_iter().map(|batch| batch.0).collect(),
        forget_blocks: launch.forget_blocks.into_iter().map(block_ref).collect(),
        save_state: launch.save_state,
        state_bases: launch
            .state_bases
            .into_iter()
            .map(|(stage, batch)| wire::StateBase {
                stage: stage.0,
                batch_time_ms: batch.0,
            })
            .collect(),
    })
}

fn block_ref(id: BlockId) -> wire::BlockRef {
    wire::BlockRef {
        receiver: id.receiver.0,
        executor: id.executor.0,
        session: id.session,
        sequence: id.sequence,
        rows: 0,
    }
}

fn task_launch(task: TaskLaunch) -> wire::TaskLaunch {
    wire::TaskLaunch {
        stage: task.stage.0,
        partition: task.partition,
        attempt: task.attempt.0,
        inputs: task
            .inputs
            .into_iter()
            .map(|input| wire::SourceInput {
                slot: input.slot.0,
                partition: input.partition,
                items: input.items.iter().map(wire::InputItem::from).collect(),
            })
            .collect(),
        only_targets: task.only_targets,
    }
}

pub(crate) fn routing(job: JobId, version: RoutingVersion, stages: Vec<(StageId, Vec<ExecutorId>)>) -> Command {
    Command::Routing(wire::Routing {
        job: job.0,
        version: version.0,
        stages: stages
            .into_iter()
            .map(|(stage, executors)| wire::StageRouting {
                stage: stage.0,
                executors: executors.into_iter().map(|executor| executor.0).collect(),
            })
            .collect(),
    })
}

pub(crate) fn fetch_datasets(job: JobId, parts: Vec<(DatasetPart, ExecutorId)>) -> Command {
    Command::FetchDatasets(wire::FetchDatasets {
        job: job.0,
        datasets: parts
            .into_iter()
            .map(|(part, executor)| wire::DatasetLocation {
                dataset: part.dataset.0,
                batch_time_ms: part.batch.0,
                partition: part.partition,
                executor: executor.0,
            })
            .collect(),
    })
}

pub(crate) fn dataset_part(location: &wire::DatasetLocation) -> DatasetPart {
    DatasetPart {
        dataset: DatasetId(location.dataset),
        batch: BatchTime(location.batch_time_ms),
        partition: location.partition,
    }
}

pub(crate) fn data_lost(executor: ExecutorId, lost: wire::DataLost) -> tidemill_scheduler::Event {
    let job = JobId(lost.job);
    let output = |output: &wire::LostOutput| TaskKey {
        job,
        batch: BatchTime(output.batch_time_ms),
        stage: StageId(output.stage),
        partition: output.partition,
    };
    let block = |block: &wire::BlockRef| BlockId {
        job,
        receiver: ReceiverId(block.receiver),
        executor: ExecutorId(block.executor),
        session: block.session,
        sequence: block.sequence,
    };
    tidemill_scheduler::Event::DataLost {
        executor,
        job,
        datasets: lost.datasets.iter().map(dataset_part).collect(),
        outputs: lost.outputs.iter().map(output).collect(),
        blocks: lost.blocks.iter().map(block).collect(),
    }
}

pub(crate) fn stored_block(
    job: JobId,
    receiver: ReceiverId,
    executor: ExecutorId,
    session: u32,
    block: wire::StoredBlock,
) -> StoredBlock {
    StoredBlock {
        id: BlockId {
            job,
            receiver,
            executor,
            session,
            sequence: block.sequence,
        },
        rows: block.rows,
        bytes: block.bytes,
        border: BatchTime(block.border_ms),
    }
}

pub(crate) fn task_outcome(report: wire::TaskReport) -> TaskOutcome {
    TaskOutcome {
        stage: StageId(report.stage),
        partition: report.partition,
        attempt: Attempt(report.attempt),
        result: task_result(report),
    }
}

fn task_result(report: wire::TaskReport) -> Result<TaskSuccess, TaskFailure> {
    let damaged = |error: convert::Error| TaskFailure::new(FailureKind::Internal, error.to_string());
    if let Some(failure) = report.failure {
        return Err(TaskFailure::try_from(failure).unwrap_or_else(damaged));
    }
    let partition = report.partition;
    let deltas = report.deltas.into_iter().map(accumulator_delta);
    Ok(TaskSuccess {
        input_rows: report.input_rows,
        output_rows: report.output_rows,
        wait: Duration::from_micros(report.wait_micros),
        run: Duration::from_micros(report.run_micros),
        sent_bytes: report.sent_bytes,
        local_bytes: report.local_bytes,
        outputs: report
            .outputs
            .into_iter()
            .map(|output| output_part(partition, output))
            .collect(),
        deltas: deltas.collect::<Result<_, _>>().map_err(damaged)?,
    })
}

fn accumulator_delta(delta: wire::AccumulatorDelta) -> Result<(AccumulatorId, AccumulatorState), convert::Error> {
    let state = delta.state.unwrap_or_default();
    Ok((AccumulatorId(delta.accumulator), state.try_into()?))
}

fn output_part(partition: u32, report: wire::OutputReport) -> OutputPart {
    OutputPart {
        output: OutputId(report.output),
        partition,
        rows: report.rows,
        payload: match report.data {
            Some(output_report::Data::Ipc(ipc)) => OutputPayload::Ipc(ipc),
            Some(output_report::Data::File(file)) => OutputPayload::File {
                staged: file.staged,
                name: file.name,
                bytes: file.bytes,
            },
            None => OutputPayload::Empty,
        },
    }
}

/// A diagnostic list as the status of a refused submission.
pub(crate) fn refused(diagnostics: &tidemill_dstream::Diagnostics) -> tonic::Status {
    convert::diagnostics_status(diagnostics)
}
