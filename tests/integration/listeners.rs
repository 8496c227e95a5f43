//! What a listener hears of a job's batches, receivers and outputs.

use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use tidemill_client::{JobHandle, JobState, ListenerEvent, OutputOperationInfo, StreamingContext, SubmitOptions};
use tidemill_dstream::{FailurePolicy, FileFormat};
use tidemill_local::LocalCluster;
use tidemill_testkit::{Feed, config};

use crate::support::no_wait;

const SECOND: Duration = Duration::from_secs(1);

/// All that a listener hears until the job has ended.
async fn heard(handle: &JobHandle) -> Result<Vec<ListenerEvent>> {
    let mut events = handle.listen().await?;
    let mut heard = Vec::new();
    while let Some(event) = events.next().await {
        heard.push(event?);
    }
    Ok(heard)
}

/// Events in a word, with the batch's number where there is one.
fn words(events: &[ListenerEvent]) -> Vec<String> {
    let output = |what: &str, output: &OutputOperationInfo| format!("{what} {} {}", output.time.0 / 1000, output.name);
    let word = |event: &ListenerEvent| match event {
        ListenerEvent::StreamingStarted { .. } => "streaming".to_owned(),
        ListenerEvent::BatchSubmitted(batch) => format!("submitted {}", batch.time.0 / 1000),
        ListenerEvent::BatchStarted(batch) => format!("started {}", batch.time.0 / 1000),
        ListenerEvent::BatchCompleted(batch) => format!("completed {}", batch.time.0 / 1000),
        ListenerEvent::OutputOperationStarted(info) => output("begin", info),
        ListenerEvent::OutputOperationCompleted(info) => output("end", info),
        ListenerEvent::ReceiverStarted(_) => "receiver started".to_owned(),
        ListenerEvent::ReceiverError(_) => "receiver error".to_owned(),
        ListenerEvent::ReceiverStopped(_) => "receiver stopped".to_owned(),
        ListenerEvent::AccumulatorsUpdated(updated) => format!("accumulated {}", updated.time.0 / 1000),
        ListenerEvent::Ended(_) => "ended".to_owned(),
    };
    events.iter().map(word).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_run_one_after_the_other_in_definition_order_batch_by_batch() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let cluster = LocalCluster::start(&config()?, 2).await?;
    let ctx = StreamingContext::new("ordered", SECOND);
    ctx.partitions(2);
    let lines = ctx.queue_stream([vec!["a", "b"], vec![], vec!["c"]]).name("lines");
    lines.save(dir.path().join("out").display().to_string(), FileFormat::Text);
    lines.count().table("counts");
    lines.print();
    let handle = cluster.start_job(&ctx, no_wait()).await?;
    let events = heard(&handle).await?;
    let mut expected = vec!["streaming".to_owned()];
    for batch in 1..=3 {
        for word in [
            "submitted B",
            "started B",
            "begin B save",
            "end B save",
            "begin B counts",
            "begin B print",
            "end B print",
            "end B counts",
            "completed B",
        ] {
            expected.push(word.replace('B', &batch.to_string()));
        }
    }
    expected.push("ended".to_owned());
    assert_eq!(words(&events), expected);

    let completed: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            ListenerEvent::BatchCompleted(batch) => Some(batch),
            _ => None,
        })
        .collect();
    assert_eq!(
        completed.iter().map(|batch| batch.records).collect::<Vec<_>>(),
        [2, 0, 1]
    );
    let first = completed.first().context("a batch")?;
    let input = first.inputs.first().context("an input")?;
    assert_eq!(
        (input.name.as_str(), input.records, input.description.as_str()),
        ("lines", Some(2), "2 lines")
    );
    let (start, end) = (
        first.processing_start_time.context("a start")?,
        first.processing_end_time.context("an end")?,
    );
    assert!(first.submission_time <= start && start <= end, "{first:?}");
    assert_eq!(first.scheduling_delay, start.duration_since(first.submission_time).ok());
    assert_eq!(first.processing_delay, end.duration_since(start).ok());
    assert_eq!(first.total_delay, end.duration_since(first.submission_time).ok());
    let outputs: Vec<(u32, &str)> = first
        .outputs
        .iter()
        .map(|output| (output.id.0, output.description.as_str()))
        .collect();
    assert_eq!(
        outputs,
        [(0, "save of lines"), (1, "table of stream_1"), (2, "print of lines")]
    );
    assert!(
        first
            .outputs
            .iter()
            .all(|output| output.duration().is_some() && output.failure.is_none())
    );
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_fails_is_completed_with_its_cause_and_later_ones_go_on() -> Result<()> {
    let cluster = LocalCluster::start(&config()?, 1).await?;
    let ctx = StreamingContext::new("failing", SECOND);
    ctx.on_batch_failure(FailurePolicy::Skip);
    let lines = ctx
        .queue_stream([vec!["1"], vec!["2"], vec!["three"], vec!["4"]])
        .name("lines");
    lines.map([("n", "CAST(value AS BIGINT)")]).name("numbers").print();
    let handle = cluster.start_job(&ctx, no_wait()).await?;
    let events = heard(&handle).await?;
    let failures: Vec<(i64, Option<&str>)> = events
        .iter()
        .filter_map(|event| match event {
            ListenerEvent::BatchCompleted(batch) => Some((batch.time.0 / 1000, batch.failure.as_deref())),
            _ => None,
        })
        .collect();
    assert_eq!(
        failures.iter().map(|(batch, _)| *batch).collect::<Vec<_>>(),
        [1, 2, 3, 4]
    );
    for (batch, failure) in failures {
        assert_eq!(
            failure.is_some_and(|failure| failure.contains("three")),
            batch == 3,
            "{batch}: {failure:?}"
        );
    }
    let begun: Vec<String> = words(&events)
        .into_iter()
        .filter(|word| word.starts_with("begin"))
        .collect();
    assert_eq!(begun, ["begin 1 print", "begin 2 print", "begin 4 print"]);
    let Some(ListenerEvent::Ended(summary)) = events.last() else {
        panic!("{:?}", events.last());
    };
    assert_eq!(summary.state, JobState::Finished);
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_hears_a_receiver_start_fail_and_stop() -> Result<()> {
    let cluster = LocalCluster::start(&config()?, 1).await?;
    let feed = Feed::listen().await?;
    let ctx = StreamingContext::new("receiving", Duration::from_millis(100));
    ctx.partitions(1);
    ctx.socket_text_stream("127.0.0.1", feed.address()?.port())
        .name("lines")
        .print();
    let handle = cluster.start_job(&ctx, SubmitOptions::default()).await?;
    let mut events = handle.listen().await?;
    let connection = feed.send(b"a\nb\n").await?;
    let (mut connection, mut told, mut described) = (Some(connection), Vec::new(), Vec::new());
    while let Some(event) = events.next().await {
        match event? {
            ListenerEvent::ReceiverStarted(info) => {
                assert!(
                    info.active && info.stream == "lines" && !info.location.is_empty(),
                    "{info:?}"
                );
                told.push("started");
            }
            ListenerEvent::ReceiverError(info) => {
                assert!(
                    !info.active && info.last_error.is_some() && info.last_error_time.is_some(),
                    "{info:?}"
                );
                told.push("error");
                handle.stop(true).await?;
            }
            ListenerEvent::ReceiverStopped(info) => {
                assert!(!info.active, "{info:?}");
                told.push("stopped");
            }
            ListenerEvent::BatchCompleted(batch) => {
                described.extend(batch.inputs.iter().filter(|input| input.records == Some(2)).cloned());
                if !described.is_empty() {
                    // The source closes: the receiver starts over.
                    connection.take();
                }
            }
            _ => {}
        }
    }
    assert_eq!(told, ["started", "error", "stopped"]);
    let described = described.first().context("the batch with the lines")?;
    assert_eq!(described.description, "1 block on executor 1");
    cluster.stop().await;
    Ok(())
}
