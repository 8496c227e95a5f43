//! What a batch costs beside its data: from the tick to the commit of a two-stage job over a hundred lines.
//!
//! A driver and four executors with one slot each are five processes on this machine. The lines are made by the map
//! tasks themselves, which takes microseconds; the result becomes a table.

use std::time::Duration;

use anyhow::Result;
use tidemill_bench::{Figure, percentile};
use tidemill_client::StreamingContext;
use tidemill_dstream::JobGraph;

use crate::Size;
use crate::cluster;
use crate::observe::{Observed, Span, observe};

pub(crate) const EXECUTORS: usize = 4;
pub(crate) const LINES_PER_BATCH: u64 = 100;
const INTERVAL: Duration = Duration::from_millis(50);
/// Batches until connections are open and memory is warm.
const WARM_UP: usize = 20;
const TEMPLATE: &str = "{word} {word} {word} {word} {word} {word} {word} {word} {word} {word}";

const P50_TARGET_MS: f64 = 3.0;
const P99_TARGET_MS: f64 = 6.0;

/// Words counted over a hundred lines a batch.
pub(crate) fn job(interval: Duration) -> Result<JobGraph> {
    let batches_per_second = 1.0 / interval.as_secs_f64();
    let context = StreamingContext::new("overhead", interval);
    context.partitions(EXECUTORS as u32);
    let counts = context
        .generate((LINES_PER_BATCH as f64 * batches_per_second) as u64, TEMPLATE)
        .flat_map([("word", "string_to_array(value, ' ')")])
        .reduce_by_key("word", [("count", "count(*)")])
        .name("counts");
    counts.table("counts");
    Ok(context.graph()?)
}

pub(crate) async fn run(size: Size) -> Result<()> {
    let runs = 3;
    let span = Span {
        warm_up: WARM_UP,
        batches: size.pick(200, 1000),
        limit: size.pick(Duration::from_secs(30), Duration::from_secs(150)),
    };
    eprintln!("overhead: {runs} runs of {} batches", span.batches);
    let cluster = cluster::start(EXECUTORS, 1).await?;
    let client = cluster.client().await?;
    let processes = cluster::processes(&cluster, EXECUTORS);
    let mut seen = Vec::new();
    for _ in 0..runs {
        seen.push(observe(&client, &job(INTERVAL)?, span, &processes).await?);
    }
    report(&seen);
    Ok(())
}

fn report(runs: &[Observed]) {
    let of_each = |figure: &dyn Fn(&Observed) -> f64| runs.iter().map(figure).collect::<Vec<f64>>();
    let figure = |metric: &str, unit: &str, values: &[f64]| Figure::new("overhead", metric, unit, values);
    let p50 = of_each(&|run| percentile(&run.total_ms(), 50.0));
    figure("tick_to_commit_ms_p50", "ms", &p50)
        .target(P50_TARGET_MS)
        .print();
    let p99 = of_each(&|run| percentile(&run.total_ms(), 99.0));
    figure("tick_to_commit_ms_p99", "ms", &p99)
        .target(P99_TARGET_MS)
        .print();
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    figure("tick_to_commit_ms_mean", "ms", &of_each(&|run| mean(&run.total_ms()))).print();
    let scheduling = of_each(&|run| percentile(&run.scheduling_ms(), 50.0));
    figure("tick_to_launch_ms_p50", "ms", &scheduling).print();
    let processing = of_each(&|run| percentile(&run.processing_ms(), 50.0));
    figure("launch_to_commit_ms_p50", "ms", &processing).print();

    let per_batch = |seconds: f64, run: &Observed| seconds * 1000.0 / run.batches.len() as f64;
    let driver = of_each(&|run| per_batch(run.cpu_seconds.first().copied().unwrap_or(f64::NAN), run));
    figure("driver_cpu_ms_per_batch", "ms", &driver).print();
    let executors = of_each(&|run| per_batch(run.cpu_seconds.iter().skip(1).sum(), run));
    figure("executors_cpu_ms_per_batch", "ms", &executors)
        .note(format!("of {EXECUTORS} executors together"))
        .print();

    let messages = (EXECUTORS + EXECUTORS + EXECUTORS * (EXECUTORS - 1)) as f64;
    figure("messages_per_batch", "messages", &[messages])
        .note(
            "by design, not counted: a launch and a report for each executor, a shuffle frame from each map task to \
             each other executor; acknowledgements, credits and heartbeats are not in it",
        )
        .print();
}
