//! A join of two streams beside DataFusion alone over the same rows.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use tidemill_bench::{Figure, Random};
use tidemill_client::StreamingContext;
use tokio::task::block_in_place;

use crate::Size;
use crate::blocks::blocks;
use crate::in_memory::Job;

const PARTITIONS: usize = 2;
const ROWS: u64 = 500_000;
const TARGET_RATIO: f64 = 0.7;

pub(crate) async fn run(size: Size) -> Result<()> {
    let runs = size.pick(5, 15);
    eprintln!("join: {runs} times {ROWS} rows with {ROWS} rows");
    let mut random = Random::new(9);
    // A row of each side meets one of the other on average.
    let mut side = |name: &str| -> Result<Vec<Vec<RecordBatch>>> {
        let mut lines = String::new();
        for _ in 0..ROWS {
            writeln!(lines, "{name}{}", random.below(ROWS))?;
        }
        blocks(lines.into_bytes(), PARTITIONS)
    };
    let (left, right) = (side("key")?, side("key")?);

    let context = StreamingContext::new("join", Duration::from_secs(1));
    context.partitions(PARTITIONS as u32);
    let right_stream = context.queue_stream(vec![Vec::<String>::new()]);
    context
        .queue_stream(vec![Vec::<String>::new()])
        .join(&right_stream, "value")
        .count()
        .print_rows(1);
    let mut job = Job::compile(&context.graph()?, PARTITIONS as u32).await?;
    let alone = Alone::new(&left, &right)?;
    let (mut engine, mut datafusion) = (Vec::new(), Vec::new());
    for run in 0..=runs {
        let started = Instant::now();
        let expected = alone.count().await?;
        let alone_time = started.elapsed();
        let started = Instant::now();
        let rows = block_in_place(|| job.run_streams(&[&left, &right], PARTITIONS))?.rows;
        let engine_time = started.elapsed();
        ensure!(
            count(&rows)? == expected,
            "the engine joined other rows than DataFusion"
        );
        if run > 0 {
            engine.push(2.0 * ROWS as f64 / engine_time.as_secs_f64());
            datafusion.push(2.0 * ROWS as f64 / alone_time.as_secs_f64());
        }
    }
    Figure::new("join", "rows_per_s", "rows/s", &engine)
        .baseline(&datafusion)
        .target(TARGET_RATIO)
        .note("both sides' rows, counted after the join; baseline: DataFusion in this process, as many partitions")
        .print();
    Ok(())
}

/// The same as a query over tables in memory.
struct Alone(SessionContext);

impl Alone {
    fn new(left: &[Vec<RecordBatch>], right: &[Vec<RecordBatch>]) -> Result<Self> {
        let mut config = SessionConfig::new().with_target_partitions(PARTITIONS);
        // What streams are planned with: both sides by key.
        config.options_mut().optimizer.hash_join_single_partition_threshold = 0;
        config.options_mut().optimizer.hash_join_single_partition_threshold_rows = 0;
        let context = SessionContext::new_with_config(config);
        for (name, rows) in [("l", left), ("r", right)] {
            let schema = rows.iter().flatten().next().context("no rows")?.schema();
            context.register_table(name, Arc::new(MemTable::try_new(schema, rows.to_vec())?))?;
        }
        Ok(Self(context))
    }

    async fn count(&self) -> Result<i64> {
        let query = "SELECT count(*) FROM l JOIN r ON l.value = r.value";
        count(&self.0.sql(query).await?.collect().await?)
    }
}

fn count(rows: &[RecordBatch]) -> Result<i64> {
    let row = rows.iter().find(|rows| rows.num_rows() > 0).context("no count")?;
    let counts = row.column(0).as_primitive_opt::<Int64Type>();
    Ok(counts.context("the count is no number")?.value(0))
}
