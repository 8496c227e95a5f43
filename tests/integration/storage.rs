//! What executors hold when memory is short: kept at levels, on disk, on another executor, and lost on the way.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tidemill::{Determinism, Registry};
use tidemill_client::{Client, JobState, StorageLevel, StreamingContext, SubmitOptions};
use tidemill_config::{ByteSize, Config};
use tidemill_engine::arrow::array::ArrayRef;
use tidemill_engine::arrow::datatypes::DataType;
use tidemill_local::LocalCluster;
use tidemill_testkit::{config, eventually, rows};
use tidemill_types::BatchTime;

use crate::support::{job, outcome};

const DEADLINE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

/// A build with a function that counts the rows that it is asked for.
fn counting() -> Result<(Registry, Arc<AtomicU64>)> {
    let calls = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&calls);
    let costly = move |columns: &[ArrayRef]| -> Result<ArrayRef, tidemill::BoxError> {
        counter.fetch_add(columns[0].len() as u64, Ordering::AcqRel);
        Ok(Arc::clone(&columns[0]))
    };
    let registry = Registry::builder()
        .scalar(
            "costly",
            Determinism::Deterministic,
            [DataType::Utf8View],
            DataType::Utf8View,
            costly,
        )
        .build()?;
    Ok((registry, calls))
}

fn small(memory: u64, directory: &Path) -> Result<Config> {
    let mut config = config()?;
    config.executor.memory = ByteSize(memory);
    config.storage.directory = directory.display().to_string();
    Ok(config)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_five_outputs_read_is_computed_once_a_batch_at_every_level() -> Result<()> {
    let levels = StorageLevel::names().map(|level| format!("persist: {level}"));
    for persist in levels.into_iter().chain([String::new()]) {
        let text = format!(
            "
name: five
batch_interval: 1s
partitions: 3
streams:
  lines: {{source: {{queue: {{lines: [[a, b, c], [], [d, e]]}}}}}}
  costly:
    from: lines
    {persist}
    steps:
      - map: {{text: {{native: costly}}}}
  counted: {{from: costly, steps: [count]}}
  upper: {{from: costly, steps: [{{map: {{text: upper(text)}}}}]}}
  pairs: {{from: costly, steps: [{{window: {{length: 2s}}}}]}}
outputs:
  - print: {{from: costly}}
  - print: {{from: counted}}
  - print: {{from: upper}}
  - print: {{from: pairs}}
  - table: {{from: costly, name: latest, query: SELECT max(text) AS text FROM costly}}
"
        );
        let (registry, calls) = counting()?;
        let cluster = LocalCluster::of_build(&config()?, 2, &registry).await?;
        let dir = tempfile::tempdir()?;
        let ended = outcome(&cluster.client().await?, &job(&text, dir.path())?).await?;
        cluster.stop().await;
        assert_eq!(ended.summary.state, JobState::Finished, "{persist}: {}", ended.error());
        assert_eq!(calls.load(Ordering::Acquire), 5, "{persist}");
        let of = |stream: &str| -> Vec<Vec<String>> {
            let batches = ended.printed.iter().filter(|batch| batch.stream == stream);
            batches.map(tidemill_testkit::Batch::sorted).collect()
        };
        let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(of("upper"), [texts(&["A", "B", "C"]), texts(&[]), texts(&["D", "E"])]);
        assert_eq!(of("counted"), [texts(&["3"]), texts(&["0"]), texts(&["2"])]);
        assert_eq!(
            of("pairs"),
            [texts(&["a", "b", "c"]), texts(&["a", "b", "c"]), texts(&["d", "e"])]
        );
    }
    Ok(())
}

/// The files of spilled data below a directory.
fn spilled(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(directory) = open.pop() {
        // A directory may go while it is read.
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "arrow") {
                files.push(path);
            }
        }
    }
    files
}

/// Damages one file after the other, each in another way, until it is told to stop; counts them.
fn damage(directory: PathBuf, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut damaged = 0;
        while !stop.load(Ordering::Acquire) {
            let files = spilled(&directory);
            let Some(file) = files.get(damaged as usize % files.len().max(1)) else {
                std::thread::yield_now();
                continue;
            };
            // It may have gone meanwhile.
            let done = match damaged % 3 {
                0 => std::fs::remove_file(file),
                1 => std::fs::File::options()
                    .write(true)
                    .open(file)
                    .and_then(|file| file.set_len(file.metadata()?.len() / 2)),
                _ => std::fs::read(file).and_then(|mut bytes| {
                    let middle = bytes.len() / 2;
                    bytes.iter_mut().skip(middle).take(1).for_each(|byte| *byte ^= 0xff);
                    std::fs::write(file, bytes)
                }),
            };
            damaged += u64::from(done.is_ok());
            // The job is to make progress between two faults.
            std::thread::sleep(Duration::from_millis(300));
        }
        damaged
    })
}

async fn lost_files(client: &Client) -> Result<u64> {
    let executors = client.executors().await?;
    let storages = executors.iter().filter_map(|executor| executor.storage.as_ref());
    Ok(storages.map(|storage| storage.lost_files).sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_are_right_while_spilled_files_are_damaged_cut_and_removed() -> Result<()> {
    const BATCHES: u64 = 24;
    const ROWS: u64 = 5000;
    const WINDOW: u64 = 6;
    let dir = tempfile::tempdir()?;
    let cluster = LocalCluster::start(&small(2 << 20, dir.path())?, 3).await?;
    let client = cluster.client().await?;
    let ctx = StreamingContext::new("damaged", SECOND);
    ctx.partitions(4);
    // The rows themselves are remembered, for a window of all rows has no panes.
    ctx.generate(ROWS, format!("{{index}} {}", "x".repeat(400)))
        .map([("n", "CAST(split_part(value, ' ', 1) AS BIGINT)"), ("value", "value")])
        .name("numbers")
        .persist(StorageLevel::MEMORY_AND_DISK)
        .repartition(4)
        .window(SECOND * WINDOW as u32, None)
        .transform("SELECT count(*) AS rows, sum(n) AS total, sum(length(value)) > 0 AS text FROM input")
        .print();
    let stop = Arc::new(AtomicBool::new(false));
    let damaging = damage(dir.path().to_path_buf(), Arc::clone(&stop));
    let options = SubmitOptions {
        no_wait: true,
        batches: Some(BATCHES),
        ..SubmitOptions::default()
    };
    let submitted = client.submit(&ctx.graph()?, &[], options).await?;
    let name = submitted.job.to_string();
    let summary = eventually(DEADLINE * 3, "the end of the job", || async {
        let summary = client.job(&name).await.map_err(|error| error.to_string())?.summary;
        if summary.state.is_over() {
            Ok(summary)
        } else {
            Err(format!("{summary:?}"))
        }
    })
    .await;
    stop.store(true, Ordering::Release);
    let damaged = damaging.join().expect("the damage ends");
    let summary = summary?;
    assert_eq!((summary.state, summary.error), (JobState::Finished, None));
    assert!(damaged > 10, "only {damaged} files were damaged");
    let printed = client.follow(&name, true).await?;
    let printed: Vec<_> = futures::StreamExt::collect::<Vec<_>>(printed).await;
    let mut seen = Vec::new();
    for event in printed {
        if let tidemill_client::JobEvent::Printed(batch) = event? {
            seen.push((batch.time.0 / 1000, rows(&batch.rows)));
        }
    }
    let expected = (1..=BATCHES).map(|batch| {
        let (from, until) = (batch.saturating_sub(WINDOW) * ROWS, batch * ROWS);
        let total: u64 = (from..until).sum();
        (batch as i64, vec![format!("{}|{total}|true", until - from)])
    });
    assert_eq!(seen, expected.collect::<Vec<_>>());
    eventually(DEADLINE, "the count of lost files", || async {
        match lost_files(&client).await {
            Ok(lost) if lost > 0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    cluster.stop().await;
    Ok(())
}

/// Waits until so many batches are completed; the time of the last.
async fn completed(client: &Client, job: &str, batches: u64) -> Result<BatchTime> {
    eventually(DEADLINE, "batches", || async {
        let summary = client.job(job).await.map_err(|error| error.to_string())?.summary;
        match summary.last_batch {
            Some(last) if summary.completed_batches >= batches => Ok(last),
            _ => Err(format!("{summary:?}")),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persisted_stream_can_be_asked_for_until_it_is_unpersisted() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let cluster = LocalCluster::start(&small(64 << 20, dir.path())?, 2).await?;
    let client = cluster.client().await?;
    for level in StorageLevel::ALL {
        let ctx = StreamingContext::new(level.name(), Duration::from_millis(100));
        ctx.partitions(2);
        let lines = ctx.generate(100, "{index}").name("lines").persist(level);
        lines.count().print();
        let handle = cluster.start_job(&ctx, SubmitOptions::default()).await?;
        let last = completed(&client, level.name(), 5).await?;
        let sliced = lines.slice(last, last).await?;
        assert_eq!(
            sliced.iter().map(|batch| rows(&batch.rows).len()).sum::<usize>(),
            10,
            "{level}"
        );
        let query = format!("SELECT count(*) FROM {}_streams.lines", level.name());
        let (_, counted) = client.sql(&query).await?;
        assert!(rows(&counted)[0].parse::<u64>()? >= 10, "{level}");
        let detail = client.job(level.name()).await?;
        let remembered: Vec<_> = detail
            .remembered
            .iter()
            .map(|s| (s.stream.as_str(), s.level.as_str()))
            .collect();
        assert_eq!(remembered, [("lines", level.name())]);

        lines.unpersist().await?;
        let error = lines.slice(last, last).await.expect_err("unpersisted").to_string();
        assert!(error.contains("it was unpersisted"), "{error}");
        assert!(client.sql(&query).await.is_err());
        let before = client.job(level.name()).await?.summary.completed_batches;
        completed(&client, level.name(), before + 2).await?;
        let error = handle.unpersist("line").await.expect_err("unknown").to_string();
        assert!(error.contains("did you mean `lines`?"), "{error}");
        ctx.stop(false).await?;
    }
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_executor_has_a_copy_of_is_not_computed_again() -> Result<()> {
    const ROWS: u64 = 100;
    let (registry, calls) = counting()?;
    let mut cluster = LocalCluster::of_build(&config()?, 3, &registry).await?;
    let client = cluster.client().await?;
    let text = "
name: copied
batch_interval: 100ms
partitions: 6
remember: 60s
streams:
  lines: {source: {generate: {rate: 1000, template: '{index}'}}}
  costly:
    from: lines
    persist: memory_2
    steps:
      - map: {text: {native: costly}}
      - repartition: {partitions: 6}
outputs:
  - print: {from: costly, rows: 1}
";
    client
        .submit(&job(text, Path::new("."))?, &[], SubmitOptions::default())
        .await?;
    let last = completed(&client, "copied", 30).await?;
    cluster.kill_executor(1);
    completed(&client, "copied", 60).await?;
    let sliced = client.slice("copied", "costly", BatchTime(last.0 - 2000), last).await?;
    assert_eq!(sliced.len(), 21);
    for batch in &sliced {
        assert_eq!(rows(&batch.rows).len() as u64, ROWS, "batch {}", batch.time);
    }
    client.stop("copied", false).await?;
    let summary = eventually(DEADLINE, "the end", || async {
        let summary = client.job("copied").await.map_err(|error| error.to_string())?.summary;
        if summary.state.is_over() {
            Ok(summary)
        } else {
            Err(format!("{summary:?}"))
        }
    })
    .await?;
    // Without copies, a third of thirty batches would have been made again, most of each.
    let again = calls.load(Ordering::Acquire) - summary.completed_batches * ROWS;
    assert!(again <= 5 * ROWS, "{again} rows were computed again");
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_neither_memory_nor_disk_has_room_a_batch_fails_with_numbers_and_others_go_on() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut config = small(8 << 20, dir.path())?;
    config.storage.disk = ByteSize(4 << 20);
    let cluster = LocalCluster::start(&config, 2).await?;
    let client = cluster.client().await?;
    let long = "x".repeat(4000);
    let jobs: [(&str, &str, u32); 3] = [
        // All values of one key in one list.
        (
            "group",
            "- map: {key: \"'one'\", value: value}\n      - group_by_key: {key: key}",
            1,
        ),
        // Neither side of a join fits.
        (
            "join",
            "- map: {key: value, left: \"1\"}\n      - join: {with: other, on: key}\n      - count",
            1,
        ),
        // More state than one partition may have.
        (
            "state",
            "- map: {key: value, n: \"1\"}\n      - update_state_by_key: {key: key, values: {n: sum(n)}, state: {total: n}}\n      - count",
            1,
        ),
    ];
    for (name, steps, partitions) in jobs {
        let text = format!(
            "
name: {name}
batch_interval: 1s
partitions: {partitions}
max_attempts: 2
streams:
  lines: {{source: {{generate: {{rate: 10000, template: '{{index}} {long}'}}}}}}
  other: {{from: lines, steps: [{{map: {{key: value, right: \"1\"}}}}]}}
  result:
    from: lines
    steps:
      {steps}
outputs:
  - print: {{from: result, rows: 1}}
"
        );
        let options = SubmitOptions {
            no_wait: true,
            batches: Some(2),
            ..SubmitOptions::default()
        };
        client.submit(&job(&text, dir.path())?, &[], options).await?;
        let summary = eventually(DEADLINE * 2, "the end of the job", || async {
            let summary = client.job(name).await.map_err(|error| error.to_string())?.summary;
            if summary.state.is_over() {
                Ok(summary)
            } else {
                Err(format!("{summary:?}"))
            }
        })
        .await?;
        let error = summary.error.context(name)?;
        assert_eq!(summary.state, JobState::Failed, "{name}");
        assert!(error.contains("out of resources"), "{name}: {error}");
        assert!(
            error.contains("executor.memory") && error.contains("bytes"),
            "{name}: {error}"
        );
        assert_eq!(client.executors().await?.len(), 2, "{name}: executors live on");
    }
    let ctx = StreamingContext::new("small", SECOND);
    ctx.queue_stream([vec!["a".to_owned()]]).print();
    let ended = outcome(&client, &ctx.graph()?).await?;
    assert_eq!(ended.rows(), [(1000, vec!["a".to_owned()])], "{}", ended.error());
    cluster.stop().await;
    Ok(())
}
