//! Tasks, batches and jobs that fail, and what lives on.

use std::time::Duration;

use anyhow::{Context, Result};
use tidemill_client::{Client, JobState, StreamingContext, SubmitOptions};
use tidemill_dstream::{FailurePolicy, FileFormat, JobOptions, Source, TextFilesSource};
use tidemill_local::LocalCluster;
use tidemill_testkit::{config, eventually, rows, run_to_end};

use crate::support::{job, outcome};

const DEADLINE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

/// A job that counts generated lines in the table `alive.counts`.
async fn start_another(client: &Client) -> Result<()> {
    let ctx = StreamingContext::new("alive", Duration::from_millis(100));
    ctx.generate(1000, "{index}").count().table("counts");
    client.submit(&ctx.graph()?, &[], SubmitOptions::default()).await?;
    Ok(())
}

/// Waits for more batches of the other job, whose result is right.
async fn other_lives_on(client: &Client) -> Result<()> {
    let before = client.job("alive").await?.summary.completed_batches;
    eventually(DEADLINE, "batches of the other job", || async {
        let summary = client.job("alive").await.map_err(|error| error.to_string())?.summary;
        if summary.completed_batches > before + 2 {
            Ok(())
        } else {
            Err(format!("{summary:?}"))
        }
    })
    .await?;
    let (_, counts) = client.sql("SELECT count FROM alive.counts").await?;
    assert_eq!(rows(&counts), ["100"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_fails_ends_its_job_with_the_cause_and_nothing_else() -> Result<()> {
    let cluster = LocalCluster::start(&config()?, 2).await?;
    let client = cluster.client().await?;
    start_another(&client).await?;
    let cases = [
        ("10 / CAST(value AS BIGINT)", "Divide by zero"),
        ("CAST(3000000000 + CAST(value AS BIGINT) AS INT)", "3000000000"),
        ("CAST(concat(value, 'x') AS BIGINT)", "0x"),
    ];
    for (expression, cause) in cases {
        let ctx = StreamingContext::new("failing", SECOND);
        ctx.partitions(2);
        ctx.queue_stream([vec!["0".to_owned()]])
            .map([("n", expression)])
            .print();
        let ended = outcome(&client, &ctx.graph()?).await?;
        assert_eq!(ended.summary.state, JobState::Failed, "{expression}");
        assert!(
            ended.error().to_lowercase().contains(&cause.to_lowercase()),
            "{expression}: {}",
            ended.error()
        );
        assert!(
            ended.error().contains("1000"),
            "the batch is not named: {}",
            ended.error()
        );
        assert_eq!(
            (ended.summary.failed_batches, ended.printed.len()),
            (1, 0),
            "{expression}"
        );
    }
    other_lives_on(&client).await?;
    assert_eq!(client.executors().await?.len(), 2);
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_numbers_wrap_around_and_a_cast_can_be_tried() -> Result<()> {
    let ctx = StreamingContext::new("wrapping", SECOND);
    ctx.queue_stream([vec!["1".to_owned(), "one".to_owned()]])
        .map([("n", "TRY_CAST(value AS BIGINT) + 9223372036854775807")])
        .print();
    let printed = run_to_end(&ctx.graph()?, 1, None).await?;
    assert_eq!(printed[0].sorted(), ["", "-9223372036854775808"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_fails_is_skipped_and_later_windows_are_of_the_other_batches() -> Result<()> {
    let cluster = LocalCluster::start(&config()?, 2).await?;
    let client = cluster.client().await?;
    let batches = ["1", "2", "three", "4", "5", "6"].map(|line| vec![line.to_owned()]);
    let ctx = StreamingContext::new("skipping", SECOND);
    ctx.partitions(2).on_batch_failure(FailurePolicy::Skip);
    let numbers = ctx.queue_stream(batches).map([("n", "CAST(value AS BIGINT)")]);
    numbers.reduce([("n", "sum(n)")]).name("sums").print();
    numbers
        .window(SECOND * 3, None)
        .reduce([("n", "sum(n)")])
        .name("windows")
        .print();
    let ended = outcome(&client, &ctx.graph()?).await?;
    assert_eq!(ended.summary.state, JobState::Finished, "{}", ended.error());
    assert_eq!((ended.summary.completed_batches, ended.summary.failed_batches), (5, 1));
    let failed: Vec<_> = ended.batches.iter().filter(|batch| batch.state == "failed").collect();
    assert_eq!((failed.len(), failed[0].time.0), (1, 3000));
    assert!(
        failed[0].error.as_deref().unwrap_or_default().contains("three"),
        "{failed:?}"
    );
    let of = |stream: &str| -> Vec<(i64, String)> {
        let printed = ended.printed.iter().filter(|batch| batch.stream == stream);
        printed.map(|batch| (batch.time / 1000, batch.rows.join(","))).collect()
    };
    let expected = |rows: &[(i64, &str)]| -> Vec<(i64, String)> {
        rows.iter().map(|(time, row)| (*time, (*row).to_owned())).collect()
    };
    assert_eq!(
        of("sums"),
        expected(&[(1, "1"), (2, "2"), (4, "4"), (5, "5"), (6, "6")])
    );
    assert_eq!(
        of("windows"),
        expected(&[(1, "1"), (2, "3"), (4, "6"), (5, "9"), (6, "15")])
    );
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_has_as_many_attempts_as_the_job_says() -> Result<()> {
    for attempts in [1, 3] {
        let cluster = LocalCluster::start(&config()?, 2).await?;
        let client = cluster.client().await?;
        let ctx = StreamingContext::new("attempts", SECOND);
        ctx.options(JobOptions {
            partitions: Some(1),
            max_attempts: attempts,
            ..JobOptions::default()
        });
        ctx.queue_stream([vec!["x".to_owned()]])
            .map([("n", "CAST(value AS BIGINT)")])
            .print();
        let ended = outcome(&client, &ctx.graph()?).await?;
        assert_eq!(ended.summary.state, JobState::Failed);
        let failed: u64 = client
            .executors()
            .await?
            .iter()
            .map(|executor| executor.failed_tasks)
            .sum();
        assert_eq!(failed, u64::from(attempts), "{}", ended.error());
        cluster.stop().await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_vanishes_fails_its_batches_until_it_is_back() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("in.txt");
    let away = dir.path().join("away");
    std::fs::write(&file, "line\n".repeat(200_000))?;
    let cluster = LocalCluster::start(&config()?, 1).await?;
    let client = cluster.client().await?;
    let graph = job(
        "
name: vanishing
batch_interval: 100ms
partitions: 2
max_attempts: 1
on_batch_failure: skip
streams:
  lines: {source: {text_file: {path: DIR/in.txt, batch_lines: 20}}}
  counts: {from: lines, steps: [count]}
outputs:
  - table: {from: counts, name: counts}
",
        dir.path(),
    )?;
    client.submit(&graph, &[], SubmitOptions::default()).await?;
    let seen = |what: &'static str, enough: fn(u64, u64) -> bool| {
        let client = client.clone();
        async move {
            eventually(DEADLINE, what, || async {
                let detail = client.job("vanishing").await.map_err(|error| error.to_string())?;
                if enough(detail.summary.completed_batches, detail.summary.failed_batches) {
                    Ok(detail)
                } else {
                    Err(format!("{:?}", detail.summary))
                }
            })
            .await
        }
    };
    seen("a batch", |completed, _| completed > 0).await?;
    std::fs::rename(&file, &away)?;
    let detail = seen("a failed batch", |_, failed| failed > 0).await?;
    let failed = detail
        .batches
        .iter()
        .find(|batch| batch.state == "failed")
        .context("a failed batch")?;
    let error = failed.error.as_deref().unwrap_or_default();
    assert!(error.contains("in.txt") && error.contains("No such file"), "{error}");
    let completed = detail.summary.completed_batches;
    std::fs::rename(&away, &file)?;
    eventually(DEADLINE, "batches after it came back", || async {
        let summary = client
            .job("vanishing")
            .await
            .map_err(|error| error.to_string())?
            .summary;
        if summary.completed_batches > completed + 2 {
            Ok(())
        } else {
            Err(format!("{summary:?}"))
        }
    })
    .await?;
    let (_, counts) = client.sql("SELECT count FROM counts").await?;
    assert_eq!(rows(&counts), ["20"]);
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_fails_its_batch_and_what_is_no_file_is_left_out() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let input = dir.path().join("in");
    std::fs::create_dir_all(input.join("d.txt"))?;
    std::fs::write(input.join("a.txt"), "a\n")?;
    std::os::unix::fs::symlink("nowhere", input.join("b.txt"))?;
    // Permissions would mean nothing to a test that runs as root.
    std::fs::write(input.join("m.txt.gz"), "not compressed")?;
    let cluster = LocalCluster::start(&config()?, 1).await?;
    let client = cluster.client().await?;
    let source = |dir: String| {
        Source::TextFiles(TextFilesSource {
            dir,
            new_files_only: false,
            remember: SECOND * 60,
            files_per_batch: Some(1),
        })
    };
    let ctx = StreamingContext::new("unreadable", SECOND);
    ctx.partitions(1).on_batch_failure(FailurePolicy::Skip);
    ctx.source(source(input.display().to_string())).print();
    let ended = outcome(&client, &ctx.graph()?).await?;
    assert_eq!(ended.summary.state, JobState::Finished, "{}", ended.error());
    assert_eq!(ended.batches.len(), 2);
    assert_eq!(
        ended.printed.iter().map(|batch| batch.sorted()).collect::<Vec<_>>(),
        [["a"]]
    );
    let error = ended
        .batches
        .iter()
        .find_map(|batch| batch.error.clone())
        .unwrap_or_default();
    assert!(
        error.contains("cannot read input file") && error.contains("m.txt.gz"),
        "{error}"
    );

    let missing = dir.path().join("missing.txt").display().to_string();
    let ctx = StreamingContext::new("missing", SECOND);
    ctx.source(Source::Queue(vec![tidemill_dstream::QueueItem::File(missing.clone())]))
        .print();
    let ended = outcome(&client, &ctx.graph()?).await?;
    assert!(ended.error().contains(&missing), "{}", ended.error());
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_directory_that_becomes_unwritable_fails_its_batches_until_it_is_back() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (out, away) = (dir.path().join("out"), dir.path().join("away"));
    let cluster = LocalCluster::start(&config()?, 1).await?;
    let client = cluster.client().await?;
    start_another(&client).await?;
    let ctx = StreamingContext::new("saving", Duration::from_millis(100));
    ctx.options(JobOptions {
        max_attempts: 1,
        on_batch_failure: FailurePolicy::Skip,
        ..JobOptions::default()
    });
    ctx.generate(100, "{index}")
        .save(out.display().to_string(), FileFormat::Text);
    client.submit(&ctx.graph()?, &[], SubmitOptions::default()).await?;
    let seen = |what: &'static str, failed: u64, completed: u64| {
        let client = client.clone();
        async move {
            eventually(DEADLINE, what, || async {
                let detail = client.job("saving").await.map_err(|error| error.to_string())?;
                if detail.summary.failed_batches > failed && detail.summary.completed_batches > completed {
                    return Ok(detail);
                }
                Err(format!("{:?}", detail.summary))
            })
            .await
        }
    };
    eventually(DEADLINE, "a saved batch", || async {
        let summary = client.job("saving").await.map_err(|error| error.to_string())?.summary;
        if summary.completed_batches > 0 {
            Ok(())
        } else {
            Err(format!("{summary:?}"))
        }
    })
    .await?;
    std::fs::rename(&out, &away)?;
    std::fs::write(&out, "in the way")?;
    let detail = seen("a failed batch", 0, 0).await?;
    let failed = detail
        .batches
        .iter()
        .find(|batch| batch.state == "failed")
        .context("a failed batch")?;
    let error = failed.error.as_deref().unwrap_or_default();
    assert!(error.contains(&out.display().to_string()), "{error}");
    other_lives_on(&client).await?;
    std::fs::remove_file(&out)?;
    std::fs::rename(&away, &out)?;
    let completed = client.job("saving").await?.summary.completed_batches;
    seen("batches after it came back", 0, completed + 2).await?;
    cluster.stop().await;
    Ok(())
}
