//! Broadcast variables over real gRPC: versions at batch borders, pieces from peers, what fails and what goes on.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use tidemill_client::dstream::{BroadcastFormat, Shape};
use tidemill_client::{
    AttachedFile, Broadcast, BroadcastSummary, BroadcastUpdate, Client, Error, JobEvent, JobState, StreamingContext,
    SubmitOptions,
};
use tidemill_config::ByteSize;
use tidemill_local::LocalCluster;
use tidemill_testkit::{Proxy, TestCluster, config, eventually, rows};

use crate::support::{job, outcome};

const DEADLINE: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_millis(100);
const PIECE: usize = 4 << 20;

/// A job without an end that counts the records of each batch by the value of the variable `v`.
fn counting(value: Broadcast) -> StreamingContext {
    let ctx = StreamingContext::new("counting", INTERVAL);
    ctx.partitions(6);
    ctx.broadcast("v", value);
    ctx.generate(600, "{index}")
        .map([("v", "broadcast_value('v')")])
        .reduce_by_key("v", [("n", "count(*)")])
        .print();
    ctx
}

/// The job's variable, once something is true of it.
async fn awaited(client: &Client, what: &str, is_so: impl Fn(&BroadcastSummary) -> bool) -> Result<BroadcastSummary> {
    eventually(DEADLINE, what, || async {
        let all = client.broadcasts("counting").await.map_err(|error| error.to_string())?;
        let first = all.into_iter().next().ok_or("none")?;
        if is_so(&first) {
            Ok(first)
        } else {
            Err(format!("{first:?}"))
        }
    })
    .await
}

/// What batches printed so far, by time. Every batch has all its records under one value.
async fn batches(client: &Client, until: impl Fn(&BTreeMap<i64, String>) -> bool) -> Result<BTreeMap<i64, String>> {
    let mut events = client.follow("counting", true).await?;
    let mut found = BTreeMap::new();
    let all = async {
        while let Some(event) = events.next().await {
            match event? {
                JobEvent::Printed(batch) => {
                    let rows = rows(&batch.rows);
                    assert_eq!(rows.len(), 1, "batch {} is of several versions: {rows:?}", batch.time);
                    let (value, count) = rows[0].rsplit_once('|').context("two columns")?;
                    assert_eq!(count, "60", "batch {}", batch.time);
                    found.insert(batch.time.0, value.to_owned());
                }
                JobEvent::Batch(batch) => assert_eq!(batch.error, None, "batch {}", batch.time),
                JobEvent::Ended(summary) => anyhow::bail!("the job ended: {summary:?}"),
            }
            if until(&found) {
                return Ok(());
            }
        }
        anyhow::bail!("the driver ended")
    };
    tokio::time::timeout(DEADLINE, all).await.context("not in time")??;
    Ok(found)
}

async fn completed(client: &Client) -> Result<u64> {
    Ok(client.job("counting").await?.summary.completed_batches)
}

/// Waits for a few batches more, all of which succeed.
async fn goes_on(client: &Client) -> Result<()> {
    let before = completed(client).await?;
    eventually(DEADLINE, "more batches", || async {
        let summary = client.job("counting").await.map_err(|error| error.to_string())?.summary;
        assert_eq!(summary.failed_batches, 0, "{summary:?}");
        if summary.completed_batches > before + 3 {
            Ok(())
        } else {
            Err(format!("{summary:?}"))
        }
    })
    .await
}

fn test_config() -> Result<tidemill_config::Config> {
    let mut config = config()?;
    config.executor.slots = 2;
    Ok(config)
}

#[tokio::test(flavor = "multi_thread")]
async fn values_come_from_everywhere_and_are_asked_in_every_way() -> Result<()> {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("words.txt"), "the\r\na\n")?;
    std::fs::write(dir.path().join("countries.csv"), "code,name\nAT,Austria\nKE,Kenya\n")?;
    std::fs::write(
        dir.path().join("people.json"),
        "{\"id\": 1, \"name\": \"ann\"}\n{\"id\": 2, \"name\": \"bob\"}\n",
    )?;
    std::fs::write(dir.path().join("model.bin"), [0, 159, 146])?;
    let graph = job(
        r#"
name: everywhere
batch_interval: 1s
partitions: 3
broadcasts:
  words: {file: DIR/words.txt}
  countries: {file: DIR/countries.csv, as: map}
  people: {file: DIR/people.json}
  model: {file: DIR/model.bin, format: bytes}
  limit_: {value: 2}
  scores: {map: [[1, 0.5], [2, 1]]}
  names: {query: "SELECT upper(name) FROM people WHERE id > 0 ORDER BY id", as: list}
streams:
  lines:
    source: {queue: {lines: [[the, AT, ANN, tide]]}}
  asked:
    from: lines
    steps:
      - map:
          value: value
          is_word: "broadcast_contains('words', value)"
          country: "broadcast_get('countries', value, '-')"
          is_name: "broadcast_contains('names', value)"
          score: "broadcast_get('scores', length(value) - 2)"
          model: "encode(broadcast_value('model'), 'hex')"
      - filter: "length(value) >= broadcast_value('limit_')"
  joined:
    from: lines
    steps:
      - map: {name: lower(value)}
      - join: {with: people, on: name}
outputs:
  - print: {from: asked}
  - print: {from: joined}
"#,
        dir.path(),
    )?;
    let cluster = TestCluster::start(3).await?;
    let ended = outcome(cluster.client(), &graph).await?;
    assert_eq!(ended.error(), "");
    let printed: Vec<Vec<String>> = ended.printed.iter().map(|batch| batch.sorted()).collect();
    assert_eq!(
        printed[0],
        [
            "ANN|false|-|true|0.5|009f92",
            "AT|false|Austria|false||009f92",
            "the|true|-|false|0.5|009f92",
            "tide|false|-|false|1.0|009f92",
        ]
    );
    assert_eq!(printed[1], ["ann|1"]);
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_is_used_by_all_tasks_of_a_batch_alike() -> Result<()> {
    let cluster = LocalCluster::start(&test_config()?, 3).await?;
    let client = cluster.client().await?;
    let ctx = counting(Broadcast::scalar(0_i64).updatable());
    let handle = ctx.start(&client, SubmitOptions::default()).await?;
    batches(&client, |found| !found.is_empty()).await?;
    for value in 1..=6_i64 {
        let version = handle.update_broadcast("v", Broadcast::scalar(value)).await?;
        assert_eq!(version, value as u32 + 1);
        if value % 2 == 0 {
            awaited(&client, "the version in use", |v| v.version == Some(version)).await?;
        }
    }
    let found = batches(&client, |found| {
        found.values().next_back().is_some_and(|value| value == "6")
    })
    .await?;
    let values: Vec<i64> = found.values().map(|value| value.parse()).collect::<Result<_, _>>()?;
    assert!(values.is_sorted(), "{values:?}");
    assert_eq!(values[0], 0);
    // What no batch can ask for any more is gone.
    let v = awaited(&client, "one version", |v| v.kept_versions == 1).await?;
    assert_eq!((v.version, v.newest, v.executors.len()), (Some(7), 7, 3));
    let detail = client.job("counting").await?;
    assert_eq!(detail.broadcasts.len(), 1);
    // The same value is not a new version.
    assert_eq!(handle.update_broadcast("v", Broadcast::scalar(6_i64)).await?, 7);
    let other = handle
        .update_broadcast("v", Broadcast::scalar("six"))
        .await
        .unwrap_err();
    assert!(other.to_string().contains("its columns have changed"), "{other}");
    handle.stop(false).await?;
    cluster.stop().await;
    Ok(())
}

/// Replaces a file as a whole.
fn replace(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, text)?;
    std::fs::rename(&new, path)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_vanishes_leaves_its_last_version_and_a_warning() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("v.txt");
    std::fs::write(&file, "first")?;
    let cluster = LocalCluster::start(&test_config()?, 3).await?;
    let client = cluster.client().await?;
    let value = Broadcast::file(file.display().to_string()).shaped(Shape::Scalar);
    let ctx = counting(value.reload(Duration::from_millis(20)));
    let handle = ctx.start(&client, SubmitOptions::default()).await?;
    batches(&client, |found| found.values().any(|value| value == "first")).await?;
    replace(&file, "the second one")?;
    batches(&client, |found| found.values().any(|value| value == "the second one")).await?;
    std::fs::remove_file(&file)?;
    let v = awaited(&client, "a warning", |v| v.warning.is_some()).await?;
    assert!(
        v.warning
            .context("a warning")?
            .contains("is gone; the last version stays")
    );
    assert_eq!(v.version, Some(2));
    goes_on(&client).await?;
    replace(&file, "third")?;
    batches(&client, |found| found.values().any(|value| value == "third")).await?;
    let v = awaited(&client, "no warning", |v| v.version == Some(3)).await?;
    assert_eq!(v.warning, None);
    let refused = handle.update_broadcast("v", Broadcast::scalar("x")).await.unwrap_err();
    assert!(
        refused.to_string().contains("give it `updatable: true` in the job"),
        "{refused}"
    );
    handle.stop(false).await?;
    cluster.stop().await;
    Ok(())
}

/// Some pieces of text, each with the pattern in it, again and again.
fn large(pieces: usize, pattern: &[u8], salt: u8) -> Vec<u8> {
    let mut bytes: Vec<u8> = pattern
        .iter()
        .copied()
        .cycle()
        .take(pieces * PIECE - PIECE / 2)
        .collect();
    bytes[0] = salt;
    bytes
}

/// The job of [`counting`] beside a large value from a file.
fn with_large(file: &Path) -> StreamingContext {
    let ctx = StreamingContext::new("counting", INTERVAL);
    ctx.partitions(2);
    let value = Broadcast::file_as(file.display().to_string(), BroadcastFormat::Text);
    ctx.broadcast("v", value.shaped(Shape::Scalar).updatable());
    ctx.generate(600, "{index}")
        .map([("v", "octet_length(broadcast_value('v'))")])
        .reduce_by_key("v", [("n", "count(*)")])
        .print();
    ctx
}

fn content(bytes: Vec<u8>) -> BroadcastUpdate {
    BroadcastUpdate::Content {
        format: BroadcastFormat::Text,
        content: bytes.into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn executors_get_pieces_from_each_other_and_lose_nothing_with_one() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("v.bin");
    std::fs::write(&file, large(3, b"abc", 1))?;
    let mut cluster = LocalCluster::start(&test_config()?, 3).await?;
    let client = cluster.client().await?;
    let handle = with_large(&file).start(&client, SubmitOptions::default()).await?;
    batches(&client, |found| !found.is_empty()).await?;
    let v = awaited(&client, "all hold it", |v| v.executors.len() == 3).await?;
    assert_eq!((v.pieces_from_driver, v.pieces_from_peers), (3, 6));
    // One copy on each.
    let bytes = v.bytes;
    eventually(DEADLINE, "a copy on each executor", || async {
        let executors = client.executors().await.map_err(|error| error.to_string())?;
        let held: Vec<u64> = executors.iter().map(|executor| executor.broadcast_bytes).collect();
        if held == [bytes; 3] {
            Ok(())
        } else {
            Err(format!("{held:?}"))
        }
    })
    .await?;
    // One that comes late gets it from the others, before it gets work.
    cluster.add_executor().await?;
    let v = awaited(&client, "the late one holds it", |v| v.executors.len() == 4).await?;
    assert_eq!((v.pieces_from_driver, v.pieces_from_peers), (3, 9));
    goes_on(&client).await?;
    // While a version is on its way to all, one dies.
    let version = handle.update_broadcast("v", content(large(3, b"abc", 2))).await?;
    cluster.kill_executor(0);
    awaited(&client, "the version in use", |v| v.version == Some(version)).await?;
    goes_on(&client).await?;
    // Dropped from memory, it comes back with the next batch.
    client.unpersist_broadcast("counting", "v").await?;
    let v = awaited(&client, "it is back", |v| !v.executors.is_empty()).await?;
    assert_eq!(v.version, Some(version));
    goes_on(&client).await?;
    batches(&client, |found| found.len() > 3).await?;
    handle.stop(false).await?;
    eventually(DEADLINE, "nothing is held", || async {
        let executors = client.executors().await.map_err(|error| error.to_string())?;
        match executors.iter().all(|executor| executor.broadcast_bytes == 0) {
            true => Ok(()),
            false => Err(format!("{executors:?}")),
        }
    })
    .await?;
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_piece_is_taken_from_somebody_else_and_counted() -> Result<()> {
    const PATTERN: &[u8] = b"damaged on its way";
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("v.bin");
    std::fs::write(&file, large(1, b"sound", 1))?;
    let mut cluster = LocalCluster::start(&test_config()?, 1).await?;
    // What peers get from this one is damaged.
    let bind = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let proxy = Proxy::damaging(bind, PATTERN).await?;
    cluster.add_executor_behind(bind, proxy.address()).await?;
    cluster.await_executors(2).await?;
    let client = cluster.client().await?;
    let handle = with_large(&file).start(&client, SubmitOptions::default()).await?;
    batches(&client, |found| !found.is_empty()).await?;
    let before = awaited(&client, "both hold it", |v| v.executors.len() == 2).await?;
    assert_eq!(before.pieces_corrupt, 0);
    // Who asks whom is drawn: there are versions until somebody has asked the one behind the proxy.
    let mut versions = 1;
    let v = loop {
        versions += 1;
        handle.update_broadcast("v", content(large(4, PATTERN, 2))).await?;
        let v = awaited(&client, "the version in use", |v| v.version == Some(versions)).await?;
        if proxy.damaged() > 0 {
            break v;
        }
        assert!(versions < 50, "nobody asks the executor behind the proxy: {v:?}");
    };
    assert!(v.pieces_corrupt > 0, "{v:?}, {} damaged", proxy.damaged());
    assert_eq!(
        v.pieces_from_driver + v.pieces_from_peers,
        2 + 8 * u64::from(versions - 1)
    );
    goes_on(&client).await?;
    eventually(DEADLINE, "an executor tells of it", || async {
        let executors = client.executors().await.map_err(|error| error.to_string())?;
        let corrupt: u64 = executors.iter().map(|executor| executor.pieces.corrupt).sum();
        if corrupt == v.pieces_corrupt {
            Ok(())
        } else {
            Err(format!("{corrupt}"))
        }
    })
    .await?;
    handle.stop(false).await?;
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_destroyed_fails_the_batches_after_it_by_name() -> Result<()> {
    let cluster = LocalCluster::start(&test_config()?, 3).await?;
    let client = cluster.client().await?;
    let ctx = counting(Broadcast::scalar(0_i64).updatable());
    let handle = ctx.start(&client, SubmitOptions::default()).await?;
    batches(&client, |found| found.len() > 1).await?;
    let unknown = client.destroy_broadcast("counting", "w").await.unwrap_err();
    assert!(matches!(unknown, Error::NotFound(_)), "{unknown}");
    client.destroy_broadcast("counting", "v").await?;
    let again = client.destroy_broadcast("counting", "v").await.unwrap_err();
    assert!(again.to_string().contains("`v` was destroyed"), "{again}");
    let failed = handle.await_termination().await.unwrap_err().to_string();
    assert!(failed.contains("broadcast `v` was destroyed"), "{failed}");
    let summary = eventually(DEADLINE, "the end", || async {
        let summary = client.job("counting").await.map_err(|error| error.to_string())?.summary;
        if summary.state.is_over() {
            Ok(summary)
        } else {
            Err(summary.state.to_string())
        }
    })
    .await?;
    assert_eq!((summary.state, summary.failed_batches), (JobState::Failed, 1));
    let update = client
        .update_broadcast("counting", "v", Broadcast::scalar(1_i64))
        .await
        .unwrap_err();
    assert!(update.to_string().contains("has ended"), "{update}");
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_for_which_there_is_no_room_is_refused_with_the_figures() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("v.bin");
    std::fs::write(&file, vec![1; 3 << 20])?;
    let mut config = test_config()?;
    config.broadcast.memory = ByteSize::mib(2);
    let cluster = LocalCluster::start(&config, 2).await?;
    let client = cluster.client().await?;
    let refused = client
        .submit(&with_large(&file).graph()?, &[], SubmitOptions::default())
        .await
        .unwrap_err()
        .to_string();
    let message = "broadcasts.v: the value has 3.0 MiB, and executors have room for 2.0 MiB of broadcast values";
    assert!(refused.contains(message), "{refused}");
    assert!(refused.contains("raise broadcast.memory"), "{refused}");
    std::fs::write(&file, vec![1; 1 << 20])?;
    let handle = with_large(&file).start(&client, SubmitOptions::default()).await?;
    batches(&client, |found| !found.is_empty()).await?;
    // Beside the one that is used there is less.
    let refused = handle
        .update_broadcast("v", content(vec![2; 3 << 19]))
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("and executors have room for"), "{refused}");
    let endless = handle
        .update_broadcast("v", content(vec![2; 9 << 20]))
        .await
        .unwrap_err();
    assert!(endless.to_string().contains("and executors have room for"), "{endless}");
    goes_on(&client).await?;
    handle.stop(false).await?;
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_windows_old_batches_are_made_again_with_the_values_that_they_had() -> Result<()> {
    // Each record carries the value of its batch; a window of the last batches shows them side by side.
    let mut cluster = LocalCluster::start(&test_config()?, 3).await?;
    let client = cluster.client().await?;
    let ctx = StreamingContext::new("counting", INTERVAL);
    ctx.partitions(6);
    ctx.broadcast("v", Broadcast::scalar(0_i64).updatable());
    ctx.generate(600, "{index}")
        .map([("v", "broadcast_value('v')"), ("t", "batch_time()")])
        .window(INTERVAL * 10, None)
        .reduce_by_key(["t", "v"], [("n", "count(*)")])
        .print();
    let handle = ctx.start(&client, SubmitOptions::default()).await?;
    let mut events = client.follow("counting", true).await?;
    // By the time of a batch, the value that it was shown with.
    let mut shown: BTreeMap<String, String> = BTreeMap::new();
    let (mut printed, mut killed) = (0, false);
    let end = tokio::time::Instant::now() + DEADLINE;
    while printed < 60 {
        let event = tokio::time::timeout_at(end, events.next())
            .await
            .context("not in time")?;
        match event.context("the driver ended")?? {
            JobEvent::Printed(batch) => {
                printed += 1;
                for row in rows(&batch.rows) {
                    let (time, value) = row.split_once('|').context("columns")?;
                    let before = shown.entry(time.to_owned()).or_insert_with(|| value.to_owned());
                    assert_eq!(before, value, "the batch at {time} was shown with another value");
                    assert!(value.ends_with("|60"), "{row}");
                }
            }
            JobEvent::Batch(batch) => assert_eq!(batch.error, None),
            JobEvent::Ended(summary) => anyhow::bail!("{summary:?}"),
        }
        if printed % 3 == 0 {
            handle
                .update_broadcast("v", Broadcast::scalar(i64::from(printed)))
                .await?;
        }
        if printed > 20 && !killed {
            killed = true;
            cluster.kill_executor(1);
        }
    }
    let values: std::collections::BTreeSet<&String> = shown.values().collect();
    assert!(values.len() > 3, "{values:?}");
    handle.stop(false).await?;
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_program_and_files_of_a_submission_travel_with_the_job() -> Result<()> {
    let cluster = TestCluster::start(2).await?;
    let ctx = StreamingContext::new("travelling", Duration::from_secs(1));
    let names = arrow::array::StringArray::from(vec!["ann", "bob"]);
    let ids = arrow::array::Int64Array::from(vec![1, 2]);
    let columns: [(&str, arrow::array::ArrayRef); 2] =
        [("name", std::sync::Arc::new(names)), ("id", std::sync::Arc::new(ids))];
    let batch = arrow::array::RecordBatch::try_from_iter(columns)?;
    let people = ctx.broadcast("people", Broadcast::rows(&batch.schema(), &[batch])?.shaped(Shape::Map));
    let words = ctx.broadcast("words", Broadcast::file("words.txt"));
    let key = ctx.broadcast("secret", Broadcast::bytes(vec![7, 7]));
    let numbers = ctx.broadcast("numbers", Broadcast::list([Some(1_i64), None]));
    ctx.queue_stream([vec!["ann", "the"]])
        .map([
            ("id", people.get_or("value", "0")),
            ("is_word", words.contains("value")),
            ("key", format!("encode({}, 'hex')", key.value())),
            ("one", numbers.contains(&people.get("value"))),
        ])
        .print();
    let graph = ctx.graph()?;
    let files = [AttachedFile {
        path: "words.txt".to_owned(),
        content: "the\n".into(),
    }];
    let options = SubmitOptions {
        no_wait: true,
        ..SubmitOptions::default()
    };
    let submitted = cluster.client().submit(&graph, &files, options).await?;
    let mut events = cluster.client().follow(&submitted.job.to_string(), true).await?;
    let mut printed = Vec::new();
    while let Some(event) = events.next().await {
        match event? {
            JobEvent::Printed(batch) => printed.extend(rows(&batch.rows)),
            JobEvent::Batch(_) => {}
            JobEvent::Ended(summary) => assert_eq!(summary.error, None),
        }
    }
    printed.sort();
    assert_eq!(printed, ["0|true|0707|", "1|false|0707|true"]);
    cluster.stop().await;
    Ok(())
}
