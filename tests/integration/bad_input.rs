//! What is refused, and how it is said.

use std::time::{Duration, Instant};

use anyhow::Result;
use tidemill_client::job_file::{ParseOptions, parse};
use tidemill_client::{Client, Error, StreamingContext, SubmitOptions};
use tidemill_dstream::StreamInput;
use tidemill_local::LocalCluster;
use tidemill_testkit::{config, run_to_end};

/// What the driver says of a job with these steps over `lines`.
async fn refused(client: &Client, steps: &str) -> Result<String> {
    let text = format!(
        "name: bad\nbatch_interval: 1s\nstreams:\n  lines: {{source: {{queue: {{lines: [[a]]}}}}}}\n  out:\n    from: lines\n    steps:\n{steps}outputs:\n  - print: {{from: out}}\n"
    );
    let graph = match parse(&text, &ParseOptions::default()) {
        Ok(graph) => graph,
        Err(diagnostics) => return Ok(diagnostics.to_string()),
    };
    match client.submit(&graph, &[], SubmitOptions::default()).await {
        Err(Error::Rejected(diagnostics)) => Ok(diagnostics.to_string()),
        other => anyhow::bail!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_job_is_refused_with_line_operator_column_and_a_hint() -> Result<()> {
    let cluster = LocalCluster::start(&config()?, 1).await?;
    let client = cluster.client().await?;
    let cases = [
        ("      - fitler: \"value <> ''\"\n", "line 8", "fitler", "filter"),
        ("      - filter: \"valeu <> ''\"\n", "line 8", "valeu", "value"),
        ("      - map: {word: \"lowr(value)\"}\n", "line 8", "lowr", "lower"),
        ("      - filter: \"length(value)\"\n", "line 8", "filter", "Boolean"),
        ("      - flat_map: {word: value}\n", "line 8", "flat_map", "list"),
        ("      - window: {length: 1500ms}\n", "line 8", "window", "multiple"),
        ("      - union: {with: [lnies]}\n", "line 8", "lnies", "lines"),
        (
            "      - transform: \"SELECT nope FROM input\"\n",
            "line 8",
            "nope",
            "value",
        ),
        ("      - map: {n: \"value + interval '1 day'\"}\n", "line 8", "map", ""),
    ];
    for (steps, line, name, hint) in cases {
        let text = refused(&client, steps).await?;
        for part in [line, name, hint] {
            assert!(text.contains(part), "{steps}: `{part}` is not in: {text}");
        }
    }
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_is_not_there_is_said_so_within_five_seconds() -> Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    drop(listener);
    let started = Instant::now();
    let error = Client::connect(&address).await.expect_err("nobody listens");
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(
        error.to_string().contains(&address) && started.elapsed() < Duration::from_secs(6),
        "{error}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_names_the_address() -> Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let mut config = config()?;
    config.driver.bind = listener.local_addr()?.to_string();
    let error = tidemill_driver::start(tidemill_driver::Options::from(&config))
        .await
        .expect_err("in use");
    assert!(error.to_string().contains(&config.driver.bind), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_in_the_data_fails_the_batch_with_its_cause() -> Result<()> {
    let ctx = StreamingContext::new("cast", Duration::from_secs(1));
    ctx.queue_stream(vec![vec!["1"], vec!["one"]])
        .map([("n", "CAST(value AS BIGINT)")])
        .print();
    let error = run_to_end(&ctx.graph()?, 1, None).await.expect_err("not a number");
    assert!(
        error.to_string().contains("one") && error.to_string().contains("2000"),
        "{error}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_of_another_protocol_version_is_told_what_to_do() -> Result<()> {
    use tidemill_rpc::driver::attach_request::Event;
    use tidemill_rpc::driver::attach_response::Command;
    use tidemill_rpc::driver::driver_service_client::DriverServiceClient;
    use tidemill_rpc::driver::{AttachRequest, Register};

    let cluster = LocalCluster::start(&config()?, 1).await?;
    let mut service = DriverServiceClient::connect(format!("http://{}", cluster.address())).await?;
    let register = Register {
        protocol_version: 999,
        ..Register::default()
    };
    let first = AttachRequest {
        sequence: 0,
        acknowledged: 0,
        event: Some(Event::Register(register)),
    };
    let mut answers = service.attach(futures::stream::iter([first])).await?.into_inner();
    let answer = answers.message().await?.and_then(|message| message.command);
    let Some(Command::Refused(refused)) = answer else {
        anyhow::bail!("not refused: {answer:?}")
    };
    assert!(
        refused.reason.contains("999") && refused.reason.contains("same release"),
        "{}",
        refused.reason
    );
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_written_is_refused_at_submission() -> Result<()> {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("file"), "not a directory")?;
    let ctx = StreamingContext::new("unwritable", Duration::from_secs(1));
    let path = dir.path().join("file/out").display().to_string();
    ctx.queue_stream(vec![vec!["a"]])
        .save(path.clone(), tidemill_dstream::FileFormat::Text);
    let error = run_to_end(&ctx.graph()?, 1, None).await.expect_err("not writable");
    assert!(error.to_string().contains(&path), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_driver_checks_graphs_that_no_job_file_was_checked_for() -> Result<()> {
    let cluster = LocalCluster::start(&config()?, 1).await?;
    let client = cluster.client().await?;
    let ctx = StreamingContext::new("faulty", Duration::from_secs(1));
    let lines = ctx.queue_stream(vec![vec!["a"]]).name("lines");
    let first = lines.filter("value <> ''").name("first");
    first.filter("value <> ''").name("second").print();
    let good = ctx.graph()?;

    let mut cycle = good.clone();
    for stream in &mut cycle.streams {
        if stream.name == "first" {
            stream.input = StreamInput::From("second".to_owned());
        }
    }
    let mut silent = good.clone();
    silent.outputs.clear();
    for (graph, parts) in [(cycle, ["first", "second"]), (silent, ["no output", "print"])] {
        let refused = client.submit(&graph, &[], SubmitOptions::default()).await;
        let Err(Error::Rejected(diagnostics)) = refused else {
            anyhow::bail!("not refused: {refused:?}")
        };
        let text = diagnostics.to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }
    client.submit(&good, &[], SubmitOptions::default()).await?;
    cluster.stop().await;
    Ok(())
}
