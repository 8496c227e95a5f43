//! Results as JSON. Fields are only ever added; times are milliseconds, delays microseconds.

use std::path::Path;

use anyhow::Result;
use arrow::array::RecordBatch;
use arrow::json::ArrayWriter;
use serde_json::{Value, json};
use tidemill_client::{
    AccumulatorBatch, AccumulatorSummary, BatchSummary, BroadcastSummary, Bucket, Delays, ExecutorSummary, JobDetail,
    JobSummary, KindSummary, PrintedBatch, Reading, Scalar, StorageSummary, Submitted,
};

pub(crate) fn submitted(submitted: &Submitted, name: &str) -> Result<String> {
    text(&json!({"id": submitted.job.0, "name": name, "warnings": submitted.warnings}))
}

pub(crate) fn jobs(jobs: &[JobSummary]) -> Result<String> {
    text(&Value::Array(jobs.iter().map(summary_value).collect()))
}

pub(crate) fn summary(job: &JobSummary) -> Result<String> {
    text(&summary_value(job))
}

pub(crate) fn job(detail: &JobDetail) -> Result<String> {
    let receivers = detail.receivers.iter().map(|receiver| {
        json!({
            "stream": receiver.stream,
            "state": receiver.state,
            "executor": receiver.executor.map(|id| id.0),
            "rows": receiver.rows,
            "restarts": receiver.restarts,
            "malformed_rows": receiver.malformed_rows,
            "rate_limit": receiver.rate_limit,
            "message": receiver.message,
        })
    });
    let stages = detail.stages.iter().map(|stage| {
        json!({
            "id": stage.id.0,
            "partitions": stage.partitions,
            "description": stage.description,
            "executors": stage.executors.iter().map(|id| id.0).collect::<Vec<_>>(),
        })
    });
    let remembered = detail
        .remembered
        .iter()
        .map(|stream| json!({"stream": stream.stream, "level": stream.level, "batches": stream.batches}));
    text(&json!({
        "summary": summary_value(&detail.summary),
        "batches": detail.batches.iter().map(batch).collect::<Vec<_>>(),
        "receivers": receivers.collect::<Vec<_>>(),
        "stages": stages.collect::<Vec<_>>(),
        "tables": detail.tables,
        "accumulators": detail.accumulators.iter().map(accumulator).collect::<Vec<_>>(),
        "broadcasts": detail.broadcasts.iter().map(broadcast).collect::<Vec<_>>(),
        "remembered": remembered.collect::<Vec<_>>(),
    }))
}

pub(crate) fn accumulators(accumulators: &[AccumulatorSummary]) -> Result<String> {
    text(&Value::Array(accumulators.iter().map(accumulator).collect()))
}

/// The accumulators of a job that has run here, on one line.
pub(crate) fn closing(accumulators: &[AccumulatorSummary]) -> Result<String> {
    let accumulators: Vec<Value> = accumulators.iter().map(accumulator).collect();
    Ok(json!({"accumulators": accumulators}).to_string())
}

fn accumulator(accumulator: &AccumulatorSummary) -> Value {
    let batch = |batch: &AccumulatorBatch| json!({"batch_time": batch.time.0, "reading": reading(&batch.reading)});
    json!({
        "name": accumulator.name,
        "kind": accumulator.kind,
        "type": accumulator.value_type,
        "listed": accumulator.listed,
        "total": reading(&accumulator.total),
        "batches": accumulator.batches.iter().map(batch).collect::<Vec<_>>(),
    })
}

fn reading(reading: &Reading) -> Value {
    let bucket = |bucket: &Bucket| json!({"bound": bucket.bound, "count": bucket.count});
    json!({
        "value": reading.value.as_ref().map(scalar),
        "count": reading.count,
        "nan": reading.nan,
        "buckets": reading.buckets.iter().map(bucket).collect::<Vec<_>>(),
        "values": reading.values.iter().map(scalar).collect::<Vec<_>>(),
        "problem": reading.problem,
    })
}

/// JSON has no infinite numbers, dates and times: they are texts.
fn scalar(scalar: &Scalar) -> Value {
    match scalar {
        Scalar::Boolean(value) => json!(value),
        Scalar::Integer(value) => json!(value),
        Scalar::Float(value) if value.is_finite() => json!(value),
        other => json!(other.to_string()),
    }
}

pub(crate) fn broadcasts(broadcasts: &[BroadcastSummary]) -> Result<String> {
    text(&Value::Array(broadcasts.iter().map(broadcast).collect()))
}

pub(crate) fn broadcast_change(name: &str, version: Option<u32>) -> Result<String> {
    text(&json!({"name": name, "version": version}))
}

fn broadcast(broadcast: &BroadcastSummary) -> Value {
    json!({
        "name": broadcast.name,
        "shape": broadcast.shape,
        "version": broadcast.version,
        "newest": broadcast.newest,
        "kept_versions": broadcast.kept_versions,
        "rows": broadcast.rows,
        "bytes": broadcast.bytes,
        "executors": broadcast.executors.iter().map(|id| id.0).collect::<Vec<_>>(),
        "pieces_from_driver": broadcast.pieces_from_driver,
        "pieces_from_peers": broadcast.pieces_from_peers,
        "pieces_corrupt": broadcast.pieces_corrupt,
        "warning": broadcast.warning,
    })
}

pub(crate) fn executors(executors: &[ExecutorSummary]) -> Result<String> {
    let value = |executor: &ExecutorSummary| {
        json!({
            "id": executor.id.0,
            "state": executor.state,
            "host": executor.host,
            "data_address": executor.data_address,
            "slots": executor.slots,
            "running_tasks": executor.running_tasks,
            "queued_tasks": executor.queued_tasks,
            "completed_tasks": executor.completed_tasks,
            "failed_tasks": executor.failed_tasks,
            "memory_bytes": executor.memory_bytes,
            "spilled_bytes": executor.spilled_bytes,
            "receivers": executor.receivers,
            "registered_ms": executor.registered_ms,
            "broadcast_bytes": executor.broadcast_bytes,
            "pieces_from_driver": executor.pieces.from_driver,
            "pieces_from_peers": executor.pieces.from_peers,
            "pieces_sent": executor.pieces.sent,
            "pieces_corrupt": executor.pieces.corrupt,
            "storage": executor.storage.as_ref().map(storage),
        })
    };
    text(&Value::Array(executors.iter().map(value).collect()))
}

fn storage(storage: &StorageSummary) -> Value {
    let kind = |kind: &KindSummary| {
        let value = json!({
            "memory_bytes": kind.memory_bytes,
            "peak_bytes": kind.peak_bytes,
            "disk_bytes": kind.disk_bytes,
            "evicted": kind.evicted,
            "dropped": kind.dropped,
        });
        (kind.kind.clone(), value)
    };
    json!({
        "memory_limit": storage.memory_limit,
        "peak_bytes": storage.peak_bytes,
        "disk_limit": storage.disk_limit,
        "spilled_files": storage.spilled_files,
        "written_bytes": storage.written_bytes,
        "lost_files": storage.lost_files,
        "kinds": storage.kinds.iter().map(kind).collect::<serde_json::Map<_, _>>(),
    })
}

pub(crate) fn unpersisted(job: &str, stream: &str) -> Result<String> {
    text(&json!({"job": job, "stream": stream, "remembered": false}))
}

pub(crate) fn valid(file: &Path) -> Result<String> {
    text(&json!({"file": file.display().to_string(), "valid": true}))
}

pub(crate) fn explained(file: &Path, explanation: &str) -> Result<String> {
    text(&json!({"file": file.display().to_string(), "explanation": explanation}))
}

/// A look at a table, on one line.
pub(crate) fn top(table: &str, batches: &[RecordBatch], limit: usize) -> Result<String> {
    let mut rows: Vec<Value> = serde_json::from_str(&rows(batches)?)?;
    rows.truncate(limit);
    Ok(json!({"table": table, "rows": rows}).to_string())
}

/// A printed batch, on one line.
pub(crate) fn printed(printed: &PrintedBatch) -> Result<String> {
    let rows: Value = serde_json::from_str(&rows(&printed.rows)?)?;
    let value = json!({"batch_time": printed.time.0, "stream": printed.stream, "rows": rows, "more": printed.more});
    Ok(value.to_string())
}

/// Rows as an array of objects.
pub(crate) fn rows(batches: &[RecordBatch]) -> Result<String> {
    let mut writer = ArrayWriter::new(Vec::new());
    writer.write_batches(&batches.iter().collect::<Vec<_>>())?;
    writer.finish()?;
    let text = String::from_utf8(writer.into_inner())?;
    Ok(if text.is_empty() { "[]".to_owned() } else { text })
}

fn text(value: &Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)?)
}

fn summary_value(job: &JobSummary) -> Value {
    json!({
        "id": job.id.0,
        "name": job.name,
        "state": job.state.to_string(),
        "batch_interval_ms": job.batch_interval.as_millis() as u64,
        "completed_batches": job.completed_batches,
        "queued_batches": job.queued_batches,
        "failed_batches": job.failed_batches,
        "input_rows": job.input_rows,
        "lost_rows": job.lost_rows,
        "last_batch_time": job.last_batch.map(|time| time.0),
        "delays": delays(&job.delays),
        "submitted_ms": job.submitted_ms,
        "error": job.error,
        "sources_held": job.sources_held,
        "journal_error": job.journal_error,
    })
}

fn batch(batch: &BatchSummary) -> Value {
    json!({
        "batch_time": batch.time.0,
        "state": batch.state,
        "input_rows": batch.input_rows,
        "delays": delays(&batch.delays),
        "failed_attempts": batch.attempts_failed,
        "error": batch.error,
    })
}

fn delays(delays: &Delays) -> Value {
    json!({
        "scheduling_us": delays.scheduling.as_micros() as u64,
        "processing_us": delays.processing.as_micros() as u64,
        "total_us": delays.total.as_micros() as u64,
    })
}
