//! Summaries as tables.

use std::time::Duration;

use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use tidemill_client::{AccumulatorSummary, BroadcastSummary, Bucket, ExecutorSummary, JobDetail, JobSummary, Reading};

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_header(header);
    table
}

fn short(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1000.0;
    if ms < 10.0 {
        format!("{ms:.1} ms")
    } else {
        format!("{ms:.0} ms")
    }
}

pub(crate) fn jobs(jobs: &[JobSummary]) -> String {
    if jobs.is_empty() {
        return "no jobs".to_owned();
    }
    let mut table = table(&[
        "id",
        "name",
        "state",
        "interval",
        "batches",
        "queued",
        "total delay",
        "rows",
        "lost rows",
    ]);
    for job in jobs {
        table.add_row([
            job.id.to_string(),
            job.name.clone(),
            job.state.to_string(),
            short(job.batch_interval),
            job.completed_batches.to_string(),
            job.queued_batches.to_string(),
            short(job.delays.total),
            job.input_rows.to_string(),
            job.lost_rows.to_string(),
        ]);
    }
    table.to_string()
}

/// Whether the job keeps up, in a sentence.
fn keeping_up(job: &JobSummary) -> String {
    if job.state.is_over() {
        return format!("{} after {} batches", job.state, job.completed_batches);
    }
    if job.last_batch.is_none() {
        return "no batch is completed yet".to_owned();
    }
    let load = 100.0 * job.delays.processing.as_secs_f64() / job.batch_interval.as_secs_f64().max(0.001);
    if job.queued_batches > 1 {
        format!(
            "falling behind: {} batches are queued, the last took {load:.0} % of the interval",
            job.queued_batches
        )
    } else {
        format!("keeping up: the last batch took {load:.0} % of the interval")
    }
}

pub(crate) fn job(detail: &JobDetail) -> String {
    let job = &detail.summary;
    let mut text = format!("job {} ({}): {}\n{}\n", job.id, job.name, job.state, keeping_up(job));
    if let Some(error) = &job.error {
        text.push_str(&format!("error: {error}\n"));
    }
    if let Some(error) = &job.journal_error {
        text.push_str(&format!("outputs wait for the driver's journal: {error}\n"));
    }
    if job.lost_rows > 0 {
        text.push_str(&format!("{} received rows were lost with an executor\n", job.lost_rows));
    }
    let mut batches = table(&[
        "batch",
        "state",
        "rows",
        "scheduling delay",
        "processing time",
        "total delay",
        "error",
    ]);
    for batch in detail.batches.iter().take(10) {
        batches.add_row([
            batch.time.to_string(),
            batch.state.clone(),
            batch.input_rows.to_string(),
            short(batch.delays.scheduling),
            short(batch.delays.processing),
            short(batch.delays.total),
            batch.error.clone().unwrap_or_default(),
        ]);
    }
    text.push_str(&format!("\n{batches}\n"));
    let mut stages = table(&["stage", "partitions", "executors", "what"]);
    for stage in &detail.stages {
        let mut executors: Vec<u32> = stage.executors.iter().map(|id| id.0).collect();
        executors.sort_unstable();
        executors.dedup();
        let executors: Vec<String> = executors.iter().map(u32::to_string).collect();
        stages.add_row([
            stage.id.to_string(),
            stage.partitions.to_string(),
            executors.join(" "),
            stage.description.clone(),
        ]);
    }
    text.push_str(&format!("\n{stages}\n"));
    if !detail.receivers.is_empty() {
        let mut receivers = table(&[
            "stream",
            "receiver",
            "executor",
            "rows",
            "rows/s at most",
            "malformed",
            "restarts",
            "last message",
        ]);
        for receiver in &detail.receivers {
            receivers.add_row([
                receiver.stream.clone(),
                receiver.state.clone(),
                receiver.executor.map(|id| id.to_string()).unwrap_or_default(),
                receiver.rows.to_string(),
                receiver.rate_limit.map(|rate| rate.to_string()).unwrap_or_default(),
                receiver.malformed_rows.to_string(),
                receiver.restarts.to_string(),
                receiver.message.clone().unwrap_or_default(),
            ]);
        }
        text.push_str(&format!("\n{receivers}\n"));
    }
    if !detail.accumulators.is_empty() {
        text.push_str(&format!("\n{}\n", accumulators(&detail.accumulators)));
    }
    if !detail.tables.is_empty() {
        text.push_str(&format!("\ntables: {}\n", detail.tables.join(", ")));
    }
    if !detail.broadcasts.is_empty() {
        text.push_str(&format!("\n{}\n", broadcasts(&detail.broadcasts)));
    }
    text
}

/// A value in a cell: of a histogram its buckets, of a value that cannot be had the reason.
fn cell(reading: &Reading) -> String {
    if let Some(problem) = &reading.problem {
        return problem.clone();
    }
    if !reading.buckets.is_empty() {
        let bucket = |bucket: &Bucket| match bucket.bound {
            Some(bound) => format!("≤ {bound}: {}", bucket.count),
            None => format!("more: {}", bucket.count),
        };
        return reading.buckets.iter().map(bucket).collect::<Vec<_>>().join(", ");
    }
    reading.value.as_ref().map_or_else(String::new, ToString::to_string)
}

pub(crate) fn accumulators(accumulators: &[AccumulatorSummary]) -> String {
    if accumulators.is_empty() {
        return "no accumulators".to_owned();
    }
    let mut totals = table(&["accumulator", "kind", "value", "values added", "NaN left out"]);
    for accumulator in accumulators {
        totals.add_row([
            accumulator.name.clone(),
            accumulator.kind.clone(),
            cell(&accumulator.total),
            accumulator.total.count.to_string(),
            accumulator.total.nan.to_string(),
        ]);
    }
    let mut text = totals.to_string();
    if accumulators.iter().any(|accumulator| !accumulator.batches.is_empty()) {
        let mut batches = table(&["accumulator", "batch", "value", "values added"]);
        for accumulator in accumulators {
            for batch in &accumulator.batches {
                batches.add_row([
                    accumulator.name.clone(),
                    batch.time.to_string(),
                    cell(&batch.reading),
                    batch.reading.count.to_string(),
                ]);
            }
        }
        text.push_str(&format!("\n\n{batches}"));
    }
    text
}

pub(crate) fn broadcasts(broadcasts: &[BroadcastSummary]) -> String {
    if broadcasts.is_empty() {
        return "no broadcast variables".to_owned();
    }
    let mut table = table(&[
        "broadcast",
        "shape",
        "version",
        "newest",
        "rows",
        "bytes",
        "executors",
        "pieces by driver",
        "by executors",
        "corrupt",
        "warning",
    ]);
    for broadcast in broadcasts {
        let executors: Vec<String> = broadcast.executors.iter().map(ToString::to_string).collect();
        table.add_row([
            broadcast.name.clone(),
            broadcast.shape.clone(),
            broadcast.version.map(|version| version.to_string()).unwrap_or_default(),
            broadcast.newest.to_string(),
            broadcast.rows.to_string(),
            tidemill_config::ByteSize(broadcast.bytes).to_string(),
            executors.join(" "),
            broadcast.pieces_from_driver.to_string(),
            broadcast.pieces_from_peers.to_string(),
            broadcast.pieces_corrupt.to_string(),
            broadcast.warning.clone().unwrap_or_default(),
        ]);
    }
    table.to_string()
}

pub(crate) fn executors(executors: &[ExecutorSummary]) -> String {
    if executors.is_empty() {
        return "no executors".to_owned();
    }
    let mut table = table(&[
        "id",
        "state",
        "address",
        "slots",
        "running",
        "queued",
        "completed",
        "failed",
        "memory",
        "disk",
        "receivers",
    ]);
    for executor in executors {
        table.add_row([
            executor.id.to_string(),
            executor.state.clone(),
            executor.data_address.clone(),
            executor.slots.to_string(),
            executor.running_tasks.to_string(),
            executor.queued_tasks.to_string(),
            executor.completed_tasks.to_string(),
            executor.failed_tasks.to_string(),
            memory(executor),
            bytes(executor.spilled_bytes),
            executor.receivers.to_string(),
        ]);
    }
    let mut text = table.to_string();
    let storages = executors.iter().filter_map(|executor| executor.storage.as_ref());
    let lost: u64 = storages.map(|storage| storage.lost_files).sum();
    let holders = executors
        .iter()
        .filter_map(|executor| Some((executor, executor.storage.as_ref()?)));
    let mut kinds = self::table(&["executor", "holds", "memory", "peak", "disk", "evicted", "dropped"]);
    for (executor, storage) in holders {
        for kind in storage
            .kinds
            .iter()
            .filter(|kind| kind.peak_bytes > 0 || kind.disk_bytes > 0)
        {
            kinds.add_row([
                executor.id.to_string(),
                kind.kind.replace('_', " "),
                bytes(kind.memory_bytes),
                bytes(kind.peak_bytes),
                bytes(kind.disk_bytes),
                kind.evicted.to_string(),
                kind.dropped.to_string(),
            ]);
        }
    }
    if kinds.row_count() > 0 {
        text.push_str(&format!("\n\n{kinds}"));
    }
    if lost > 0 {
        text.push_str(&format!("\n{lost} files of spilled data could not be read back"));
    }
    text
}

fn bytes(bytes: u64) -> String {
    tidemill_config::ByteSize(bytes).to_string()
}

/// What is in memory, of what may be.
fn memory(executor: &ExecutorSummary) -> String {
    match &executor.storage {
        Some(storage) => format!("{} of {}", bytes(executor.memory_bytes), bytes(storage.memory_limit)),
        None => bytes(executor.memory_bytes),
    }
}
