//! Sources of files and of generated lines, and streams of several.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use tidemill_client::{StreamingContext, SubmitOptions};
use tidemill_dstream::{GenerateSource, Source};
use tidemill_local::LocalCluster;
use tidemill_testkit::{Batch, config, eventually, rows, run_to_end};

use crate::support::{job, no_wait, outcome};

const DEADLINE: Duration = Duration::from_secs(60);

fn gzip(path: &Path, text: &str) -> Result<()> {
    let mut file = flate2::write::GzEncoder::new(std::fs::File::create(path)?, flate2::Compression::fast());
    file.write_all(text.as_bytes())?;
    file.finish()?;
    Ok(())
}

fn lines(name: &str, count: usize) -> String {
    (0..count).map(|i| format!("{name}{i}\n")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_glob_of_plain_and_compressed_files_is_read_in_the_order_of_their_names() -> Result<()> {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("1.log"), lines("a", 50))?;
    gzip(&dir.path().join("2.log.gz"), &lines("b", 50))?;
    std::fs::write(
        dir.path().join("3.log.zst"),
        zstd::encode_all(lines("c", 50).as_bytes(), 1)?,
    )?;
    std::fs::write(dir.path().join("4.other"), lines("d", 50))?;
    let yaml = |rest: &str| {
        format!(
            "
name: glob
batch_interval: 1s
partitions: 2
streams:
  lines: {{source: {{text_file: {{path: 'DIR/*.log*'{rest}}}}}}}
outputs:
  - print: {{from: lines, rows: 1000}}
"
        )
    };
    let expected: Vec<String> = ["a", "b", "c"]
        .iter()
        .flat_map(|name| (0..50).map(move |i| format!("{name}{i}")))
        .collect();
    let whole = run_to_end(&job(&yaml(""), dir.path())?, 2, None).await?;
    assert_eq!(
        whole.iter().map(|batch| batch.rows.clone()).collect::<Vec<_>>(),
        std::slice::from_ref(&expected)
    );
    let pieces = run_to_end(&job(&yaml(", batch_lines: 40"), dir.path())?, 2, None).await?;
    let sizes: Vec<usize> = pieces.iter().map(|batch| batch.rows.len()).collect();
    assert_eq!(sizes, [40, 40, 40, 30]);
    assert_eq!(
        pieces.into_iter().flat_map(|batch| batch.rows).collect::<Vec<_>>(),
        expected
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_text_are_replaced_and_the_job_goes_on() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut state = 7_u64;
    let bytes: Vec<u8> = (0..200_000)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect();
    let newlines = bytes.iter().filter(|byte| **byte == b'\n').count();
    let count = newlines + usize::from(bytes.last() != Some(&b'\n'));
    let damaged = bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| std::str::from_utf8(line).is_err())
        .count();
    std::fs::write(dir.path().join("bytes"), &bytes)?;
    let graph = job(
        "
name: bytes
batch_interval: 1s
partitions: 3
streams:
  lines: {source: {queue: {files: [DIR/bytes]}}}
  counts:
    from: lines
    steps:
      - transform: \"SELECT count(*) AS n, count(*) FILTER (WHERE strpos(value, '\u{fffd}') > 0) AS damaged FROM input\"
outputs:
  - print: {from: counts}
",
        dir.path(),
    )?;
    let printed = run_to_end(&graph, 2, None).await?;
    assert_eq!(printed[0].rows, [format!("{count}|{damaged}")]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_union_has_the_rows_of_all_its_streams() -> Result<()> {
    let ctx = StreamingContext::new("union", Duration::from_secs(1));
    ctx.partitions(2);
    let batches = |name: &str| (1..=3).map(|batch| vec![format!("{name}{batch}")]).collect::<Vec<_>>();
    let paper = ctx.queue_stream(batches("paper"));
    let radio = ctx.queue_stream(batches("radio")).filter("value <> 'radio2'");
    let all = ctx.queue_stream(batches("wire")).union_all([&paper, &radio]);
    all.name("all").print();
    all.window(Duration::from_secs(2), None).count().name("counts").print();
    let printed = run_to_end(&ctx.graph()?, 2, None).await?;
    let of = |stream: &str| -> Vec<Vec<String>> {
        printed
            .iter()
            .filter(|batch| batch.stream == stream)
            .map(Batch::sorted)
            .collect()
    };
    assert_eq!(
        of("all"),
        [
            vec!["paper1", "radio1", "wire1"],
            vec!["paper2", "wire2"],
            vec!["paper3", "radio3", "wire3"]
        ]
    );
    assert_eq!(of("counts"), [["3"], ["5"], ["5"]]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_lines_depend_on_nothing_but_seed_and_time() -> Result<()> {
    let mut runs = Vec::new();
    for (executors, partitions, seed) in [(1, 1, 5), (2, 3, 5), (3, 8, 5), (1, 1, 6)] {
        let ctx = StreamingContext::new("generated", Duration::from_millis(300));
        ctx.partitions(partitions);
        ctx.source(Source::Generate(GenerateSource {
            rate: 1000,
            template: "{index} {batch_time} {user} {word} {hashtag} {int:1..9} {pick:a|b}".to_owned(),
            seed,
        }))
        .print_rows(1000);
        let printed = run_to_end(&ctx.graph()?, executors, Some(3)).await?;
        runs.push(printed.iter().map(|batch| batch.rows.clone()).collect::<Vec<_>>());
    }
    assert_eq!(runs[0].iter().map(Vec::len).collect::<Vec<_>>(), [300, 300, 300]);
    assert_eq!(runs[0], runs[1]);
    assert_eq!(runs[0], runs[2]);
    assert_ne!(runs[0], runs[3]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_read_again_when_its_file_changes() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let users = dir.path().join("users.csv");
    std::fs::write(&users, "id,name\n1,ann\n")?;
    let graph = job(
        "
name: reload
batch_interval: 100ms
partitions: 2
tables:
  users: {file: DIR/users.csv, reload: 50ms}
streams:
  lines: {source: {generate: {rate: 10, template: '1'}}}
  named:
    from: lines
    steps:
      - transform: \"SELECT DISTINCT name FROM input JOIN users ON CAST(value AS BIGINT) = id\"
outputs:
  - table: {from: named, name: named}
",
        dir.path(),
    )?;
    let cluster = LocalCluster::start(&config()?, 2).await?;
    let client = cluster.client().await?;
    client.submit(&graph, &[], SubmitOptions::default()).await?;
    let await_name = async |name: &str| {
        eventually(DEADLINE, "the name", || async {
            let (_, batches) = client
                .sql("SELECT name FROM named")
                .await
                .map_err(|error| error.to_string())?;
            let seen = rows(&batches);
            if seen == [name] {
                Ok(())
            } else {
                Err(format!("{seen:?}"))
            }
        })
        .await
    };
    await_name("ann").await?;
    // As a whole: a version that is half written could be read.
    std::fs::write(dir.path().join("next"), "id,name\n1,barbara\n")?;
    std::fs::rename(dir.path().join("next"), &users)?;
    await_name("barbara").await?;
    // Other columns are no version of this table; the last one stays in use.
    std::fs::write(dir.path().join("next"), "number\n1\n")?;
    std::fs::rename(dir.path().join("next"), &users)?;
    let before = client.job("reload").await?.summary.completed_batches;
    eventually(DEADLINE, "more batches", || async {
        let summary = client.job("reload").await.map_err(|error| error.to_string())?.summary;
        if summary.completed_batches > before + 3 {
            Ok(())
        } else {
            Err(format!("{summary:?}"))
        }
    })
    .await?;
    await_name("barbara").await?;
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shuffle_of_more_than_its_memory_is_right_with_two_batches_in_flight() -> Result<()> {
    const MEMORY: u64 = 2 << 20;
    const ROWS: usize = 20_000;
    const BATCHES: usize = 4;
    let mut config = config()?;
    config.executor.memory = tidemill_config::ByteSize(MEMORY);
    config.shuffle.window = tidemill_config::ByteSize(MEMORY);
    let cluster = LocalCluster::start(&config, 2).await?;
    let client = cluster.client().await?;
    let padding = "x".repeat(400);
    let batches = (0..BATCHES).map(|batch| {
        (0..ROWS)
            .map(|row| format!("{} {padding}", batch + row))
            .collect::<Vec<_>>()
    });
    // Both executors together have half of it.
    assert!(ROWS * padding.len() > 2 * 2 * MEMORY as usize - 1_000_000);
    let ctx = StreamingContext::new("shuffle", Duration::from_secs(1));
    ctx.options(tidemill_dstream::JobOptions {
        partitions: Some(64),
        concurrent_batches: 2,
        ..tidemill_dstream::JobOptions::default()
    });
    ctx.queue_stream(batches)
        .reduce_by_key("value", [("n", "count(*)")])
        .transform("SELECT count(*) AS keys, sum(n) AS total, min(CAST(split_part(value, ' ', 1) AS BIGINT)) AS least FROM input")
        .print();
    let ended = outcome(&client, &ctx.graph()?).await?;
    let expected: Vec<(i64, Vec<String>)> = (0..BATCHES)
        .map(|batch| ((batch as i64 + 1) * 1000, vec![format!("{ROWS}|{ROWS}|{batch}")]))
        .collect();
    assert_eq!((ended.rows(), ended.error()), (expected, ""));
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_waits_for_credit_goes_on_when_the_one_before_it_is_skipped() -> Result<()> {
    const MEMORY: u64 = 1 << 20;
    let mut config = config()?;
    config.shuffle.window = tidemill_config::ByteSize(MEMORY);
    let cluster = LocalCluster::start(&config, 2).await?;
    let client = cluster.client().await?;
    let padding = "x".repeat(400);
    let good: Vec<String> = (0..20_000).map(|row| format!("{row} {padding}")).collect();
    let ctx = StreamingContext::new("skipped", Duration::from_secs(1));
    ctx.options(tidemill_dstream::JobOptions {
        partitions: Some(4),
        concurrent_batches: 2,
        on_batch_failure: tidemill_dstream::FailurePolicy::Skip,
        ..tidemill_dstream::JobOptions::default()
    });
    ctx.queue_stream([vec!["bad".to_owned()], good])
        .map([("value", "value"), ("n", "CAST(split_part(value, ' ', 1) AS BIGINT)")])
        .reduce_by_key("value", [("n", "max(n)")])
        .transform("SELECT count(*) AS keys, sum(length(value)) > 8000000 AS whole, max(n) AS greatest FROM input")
        .print();
    let submitted = client.submit(&ctx.graph()?, &[], no_wait()).await?;
    let printed = eventually(DEADLINE, "the end of the job", || async {
        let summary = client
            .job(&submitted.job.to_string())
            .await
            .map_err(|error| error.to_string())?
            .summary;
        if summary.state.is_over() {
            Ok(summary)
        } else {
            Err(format!("{summary:?}"))
        }
    })
    .await?;
    assert_eq!((printed.completed_batches, printed.failed_batches), (1, 1));
    cluster.stop().await;
    Ok(())
}
