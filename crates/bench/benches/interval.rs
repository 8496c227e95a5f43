//! The shortest batch interval that the job of the overhead bench keeps up with.

use std::time::Duration;

use anyhow::Result;
use tidemill_bench::{Figure, median};

use crate::Size;
use crate::cluster;
use crate::observe::{Span, milliseconds, observe};
use crate::overhead::{EXECUTORS, job};

const INTERVALS_MS: [u64; 6] = [500, 200, 100, 50, 20, 10];
const TARGET_MS: f64 = 10.0;
const WARM_UP: Duration = Duration::from_secs(1);

pub(crate) async fn run(size: Size) -> Result<()> {
    let time = size.pick(Duration::from_secs(5), Duration::from_secs(30));
    let cluster = cluster::start(EXECUTORS, 1).await?;
    let client = cluster.client().await?;
    let mut shortest = f64::NAN;
    for interval in INTERVALS_MS.map(Duration::from_millis) {
        eprintln!("interval: {interval:?} for {time:?}");
        let batches = |time: Duration| (time.as_millis() / interval.as_millis()) as usize;
        let span = Span {
            warm_up: batches(WARM_UP).max(1),
            batches: batches(time),
            limit: time + interval,
        };
        let observed = observe(&client, &job(interval)?, span, &[]).await?;
        let queued = observed.queued(interval);
        let keeps_up = observed.keeps_up(interval);
        let metric = format!("scheduling_delay_growth_ms_at_{}ms", interval.as_millis());
        Figure::new("interval", &metric, "ms", &[observed.growth_ms()])
            .note(format!(
                "over {} batches; median processing time {:.2} ms; {queued} batches queued at the end; {}",
                observed.batches.len(),
                median(&observed.processing_ms()),
                if keeps_up { "keeps up" } else { "does not keep up" }
            ))
            .print();
        if !keeps_up {
            break;
        }
        shortest = milliseconds(interval);
    }
    Figure::new("interval", "shortest_stable_interval_ms", "ms", &[shortest])
        .target(TARGET_MS)
        .print();
    Ok(())
}
