//! What the control service says of jobs, batches and executors.

use std::time::Duration;

use tidemill_rpc::control;
use tidemill_rpc::driver::{self, ReceiverState};
use tidemill_scheduler::{BatchState, BatchStats, BatchView, ExecutorView, JobEnd, JobState, JobView};
use tidemill_types::{BatchTime, ExecutorId};

use crate::job::JobRecord;
use crate::session::Session;

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

pub(crate) fn job(view: &JobView<'_>) -> control::JobSummary {
    let (state, error) = match view.state {
        JobState::Pending => (control::JobState::Pending, String::new()),
        JobState::Running => (control::JobState::Running, String::new()),
        JobState::Stopping => (control::JobState::Stopping, String::new()),
        JobState::Ended(JobEnd::Finished) => (control::JobState::Finished, String::new()),
        JobState::Ended(JobEnd::Stopped) => (control::JobState::Stopped, String::new()),
        JobState::Ended(JobEnd::Failed(error)) => (control::JobState::Failed, error.clone()),
    };
    let (last, stats) = view.last.cloned().unwrap_or_default();
    control::JobSummary {
        id: view.id.0,
        name: view.name.to_owned(),
        state: state.into(),
        batch_interval_ms: u64::try_from(view.interval.as_millis()).unwrap_or(u64::MAX),
        completed_batches: view.completed_batches,
        queued_batches: view.queued_batches,
        input_rows: view.input_rows,
        last_batch_time_ms: last.0,
        scheduling_delay_micros: micros(stats.scheduling_delay),
        processing_time_micros: micros(stats.processing_time),
        total_delay_micros: micros(stats.total_delay),
        lost_rows: view.lost_rows,
        failed_batches: view.failed_batches,
        submitted_ms: view.submitted / 1000,
        error,
        sources_held: view.held,
        ..control::JobSummary::default()
    }
}

pub(crate) fn completed_batch(batch: BatchTime, stats: &BatchStats) -> control::BatchSummary {
    control::BatchSummary {
        batch_time_ms: batch.0,
        state: "completed".to_owned(),
        input_rows: stats.input_rows,
        scheduling_delay_micros: micros(stats.scheduling_delay),
        processing_time_micros: micros(stats.processing_time),
        total_delay_micros: micros(stats.total_delay),
        error: String::new(),
        attempts_failed: stats.failed_attempts,
    }
}

pub(crate) fn failed_batch(batch: BatchTime, error: &str) -> control::BatchSummary {
    control::BatchSummary {
        batch_time_ms: batch.0,
        state: "failed".to_owned(),
        error: error.to_owned(),
        ..control::BatchSummary::default()
    }
}

fn open_batch(view: &BatchView) -> control::BatchSummary {
    let state = match view.state {
        BatchState::Due | BatchState::Allocating | BatchState::Ready => "queued",
        BatchState::Running => "processing",
        BatchState::Committing => "committing",
    };
    control::BatchSummary {
        batch_time_ms: view.time.0,
        state: state.to_owned(),
        input_rows: view.input_rows,
        attempts_failed: view.failed_attempts,
        ..control::BatchSummary::default()
    }
}

/// Batches shown by default.
const SHOWN_BATCHES: usize = 100;

pub(crate) fn job_detail(
    summary: control::JobSummary,
    view: Option<&JobView<'_>>,
    record: &JobRecord,
    tables: Vec<String>,
    broadcasts: Vec<control::BroadcastSummary>,
) -> control::GetJobResponse {
    let open = view.map_or(&[][..], |view| view.batches.as_slice());
    let batches = open
        .iter()
        .rev()
        .map(open_batch)
        .chain(record.batches.iter().rev().cloned());
    let receivers = record.receivers.iter().map(|(id, receiver)| {
        let placed = view.and_then(|view| view.receivers.iter().find(|placed| placed.id == *id));
        control::ReceiverSummary {
            stream: receiver.stream.clone(),
            state: receiver_state(receiver.state).to_owned(),
            executor: placed.and_then(|placed| placed.executor).map(|executor| executor.0),
            rows: placed.map_or(0, |placed| placed.rows),
            restarts: receiver.restarts,
            message: receiver.message.clone(),
            malformed_rows: receiver.malformed_rows,
            rate_limit: placed.and_then(|placed| placed.rate),
        }
    });
    let stages = record.compiled.plan.stages.iter().map(|stage| {
        let owners = view.and_then(|view| view.stages.iter().find(|(id, _)| *id == stage.id));
        control::StageSummary {
            id: stage.id.0,
            partitions: stage.partitions,
            description: stage.description.clone(),
            executors: owners.map_or_else(Vec::new, |(_, owners)| owners.iter().map(|id| id.0).collect()),
        }
    });
    let remembered = record.compiled.remembered.iter();
    let remembered = remembered.filter(|(_, dataset)| !record.unpersisted.contains(dataset));
    let streams = remembered.filter_map(|(name, dataset)| {
        let plan = record.compiled.plan.dataset(*dataset)?;
        Some(control::RememberedSummary {
            stream: name.clone(),
            level: plan.level.name().to_owned(),
            batches: plan.remember,
        })
    });
    control::GetJobResponse {
        remembered: streams.collect(),
        summary: Some(summary),
        batches: batches.take(SHOWN_BATCHES).collect(),
        receivers: receivers.collect(),
        stages: stages.collect(),
        tables,
        accumulators: record.accumulators.summaries(false, 0),
        broadcasts,
    }
}

fn receiver_state(state: ReceiverState) -> &'static str {
    match state {
        ReceiverState::Unspecified => "unknown",
        ReceiverState::Starting => "starting",
        ReceiverState::Active => "active",
        ReceiverState::Restarting => "restarting",
        ReceiverState::Stopped => "stopped",
    }
}

pub(crate) fn executor(
    id: ExecutorId,
    session: &Session,
    view: Option<&ExecutorView>,
    receivers: u32,
) -> control::ExecutorSummary {
    let pieces = session.heartbeat.pieces.unwrap_or_default();
    control::ExecutorSummary {
        broadcast_bytes: pieces.bytes,
        pieces_from_driver: pieces.from_driver,
        pieces_from_peers: pieces.from_peers,
        pieces_sent: pieces.sent,
        pieces_corrupt: pieces.corrupt,
        id: id.0,
        state: "active".to_owned(),
        host: session.host.clone(),
        data_address: session.data_address.clone(),
        slots: session.slots,
        running_tasks: session.heartbeat.running_tasks,
        queued_tasks: session.heartbeat.queued_tasks,
        completed_tasks: view.map_or(0, |view| view.completed_tasks),
        failed_tasks: view.map_or(0, |view| view.failed_tasks),
        memory_bytes: session.heartbeat.memory_bytes,
        spilled_bytes: session.heartbeat.spilled_bytes,
        receivers,
        registered_ms: session.registered,
        storage: session.heartbeat.storage.as_ref().map(storage),
    }
}

fn storage(report: &driver::StorageReport) -> control::StorageSummary {
    let kind = |kind: &driver::KindReport| control::KindSummary {
        kind: kind.kind.clone(),
        memory_bytes: kind.memory_bytes,
        peak_bytes: kind.peak_bytes,
        disk_bytes: kind.disk_bytes,
        evicted: kind.evicted,
        dropped: kind.dropped,
    };
    control::StorageSummary {
        memory_limit: report.memory_limit,
        peak_bytes: report.peak_bytes,
        disk_limit: report.disk_limit,
        spilled_files: report.spilled_files,
        written_bytes: report.written_bytes,
        lost_files: report.lost_files,
        kinds: report.kinds.iter().map(kind).collect(),
    }
}
