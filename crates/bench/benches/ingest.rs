//! Lines a second through one socket receiver, at a rate that stays stable at batches of a second, beside a bare
//! reader of the same sender.
//!
//! The sender first sends as fast as lines are taken. If the job does not keep up with that, it sends at falling rates
//! until the job does.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tidemill_bench::{Figure, median, text};
use tidemill_client::{Client, DStream, StreamingContext};
use tidemill_dstream::JobGraph;
use tokio::task::block_in_place;

use crate::Size;
use crate::bare;
use crate::cluster;
use crate::observe::{Span, observe};
use crate::sender::Sender;

const INTERVAL: Duration = Duration::from_secs(1);
const SLOTS: u32 = 2;
/// The text that is sent again and again.
const LINES: usize = 200_000;
/// Each rate is so much of the one that was not stable.
const STEP: f64 = 0.9;
const MAX_STEPS: usize = 8;
/// What a job that did nothing without a limit is taken to have been sent, in lines a second.
const FIRST_LIMIT: f64 = 2e6;
const READER_TIME: Duration = Duration::from_secs(2);

const COUNT_TARGET_RATIO: f64 = 0.5;
const WORDS_TARGET: f64 = 1e6;

pub(crate) async fn run(size: Size) -> Result<()> {
    let text = Arc::new(text(LINES, 2));
    let span = Span {
        warm_up: 2,
        batches: size.pick(6, 20),
        limit: size.pick(Duration::from_secs(9), Duration::from_secs(30)),
    };
    let cluster = cluster::start(1, SLOTS).await?;
    let client = cluster.client().await?;
    let reader = || -> Result<f64> {
        let sender = Sender::repeat(Arc::clone(&text), None)?;
        block_in_place(|| bare::read_lines(sender.address(), READER_TIME))
    };
    let mut bare = vec![reader()?];
    let counted = stable_rate(&client, &text, span, "count", &|lines| lines.count()).await?;
    bare.push(reader()?);
    let words = stable_rate(&client, &text, span, "words", &|lines| {
        lines
            .flat_map([("word", "string_to_array(value, ' ')")])
            .reduce_by_key("word", [("count", "count(*)")])
            .transform("SELECT word, count FROM input ORDER BY count DESC, word LIMIT 10")
    })
    .await?;
    bare.push(reader()?);
    Figure::new("ingest", "count_lines_per_s", "lines/s", &[counted.rate])
        .baseline(&bare)
        .target(COUNT_TARGET_RATIO)
        .note(counted.note())
        .print();
    Figure::new("ingest", "wordcount_lines_per_s", "lines/s", &[words.rate])
        .target(WORDS_TARGET)
        .note(words.note())
        .print();
    Ok(())
}

struct Stable {
    rate: f64,
    /// The sender's limit.
    limit: Option<f64>,
    processing_ms: f64,
    stable: bool,
}

impl Stable {
    fn note(&self) -> String {
        let sender = match self.limit {
            None => "as fast as they were taken".to_owned(),
            Some(limit) => format!("{limit:.0} a second"),
        };
        let stable = if self.stable {
            ""
        } else {
            "; NOT STABLE at any rate that was tried"
        };
        format!(
            "sent {sender}; median processing time {:.0} ms{stable}",
            self.processing_ms
        )
    }
}

fn job(name: &str, sender: &Sender, steps: &impl Fn(&DStream) -> DStream) -> Result<JobGraph> {
    let context = StreamingContext::new(name, INTERVAL);
    context.partitions(SLOTS);
    let lines = context.socket_text_stream("127.0.0.1", sender.address().port());
    steps(&lines).name("result").table("result");
    Ok(context.graph()?)
}

/// The highest rate that was tried and that the job keeps up with.
async fn stable_rate(
    client: &Client,
    text: &Arc<Vec<u8>>,
    span: Span,
    name: &str,
    steps: &impl Fn(&DStream) -> DStream,
) -> Result<Stable> {
    let mut limit = None;
    let mut step = 0;
    loop {
        eprintln!("ingest: {name} at {limit:?} lines a second");
        let sender = Sender::repeat(Arc::clone(text), limit)?;
        let observed = observe(client, &job(name, &sender, steps)?, span, &[]).await?;
        let found = Stable {
            rate: observed.rows_per_second(INTERVAL),
            limit,
            processing_ms: median(&observed.processing_ms()),
            // Empty batches keep up with anything.
            stable: observed.rows() > 0 && observed.keeps_up(INTERVAL),
        };
        step += 1;
        if found.stable || step > MAX_STEPS {
            return Ok(found);
        }
        // What was processed in the time that it took is about what can be. If no batch was done in time, half may be.
        let seconds = observed.processing_ms().iter().sum::<f64>() / 1000.0;
        let able = if observed.rows() > 0 && seconds > 0.0 {
            observed.rows() as f64 / seconds
        } else {
            limit.unwrap_or(FIRST_LIMIT) / 2.0
        };
        limit = Some(limit.unwrap_or(f64::MAX).min(able) * STEP);
    }
}
