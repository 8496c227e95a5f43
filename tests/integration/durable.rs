//! What a driver's journal keeps for the driver after it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use tidemill_client::{Client, JobState, JobSummary, SubmitOptions};
use tidemill_dstream::JobGraph;
use tidemill_local::LocalCluster;
use tidemill_testkit::{config, eventually};

use crate::support::job;

const DEADLINE: Duration = Duration::from_secs(30);

async fn cluster(directory: &Path) -> Result<LocalCluster> {
    let mut config = config()?;
    config.journal.url = directory.join("journal").display().to_string();
    Ok(LocalCluster::start(&config, 1).await?)
}

fn endless(name: &str, options: &str, directory: &Path) -> Result<JobGraph> {
    let yaml = format!(
        "
name: {name}
batch_interval: 100ms
{options}
streams:
  lines: {{source: {{generate: {{rate: 10, template: '{{index}}'}}}}}}
outputs:
  - print: {{from: lines}}
"
    );
    job(&yaml, directory)
}

async fn submit(client: &Client, graph: &JobGraph) -> Result<String> {
    let submitted = client.submit(graph, &[], SubmitOptions::default()).await?;
    Ok(submitted.job.to_string())
}

async fn jobs(client: &Client) -> Result<Vec<(String, String, JobState)>> {
    let jobs = client.jobs().await?.into_iter();
    Ok(jobs.map(|job| (job.id.to_string(), job.name, job.state)).collect())
}

/// Waits until a job has completed batches.
async fn running(client: &Client, job: &str) -> Result<JobSummary> {
    eventually(DEADLINE, "a completed batch", || async {
        let detail = client.job(job).await.map_err(|error| error.to_string())?;
        match detail.summary.completed_batches {
            0 => Err(format!("{:?}", detail.summary)),
            _ => Ok(detail.summary),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_wants_a_driver_with_a_journal() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let cluster = LocalCluster::start(&config()?, 1).await?;
    let graph = endless("durable", "checkpoint: DIR/cp", dir.path())?;
    let Err(error) = submit(&cluster.client().await?, &graph).await else {
        bail!("the job was taken")
    };
    let error = error.to_string();
    assert!(error.contains("the driver keeps no journal"), "{error}");
    assert!(error.contains("journal.url"), "{error}");
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_without_a_checkpoint_is_listed_once_as_ended_by_the_restart() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let first = cluster(dir.path()).await?;
    let client = first.client().await?;
    let job = submit(&client, &endless("fleeting", "", dir.path())?).await?;
    running(&client, &job).await?;
    first.stop().await;

    let second = cluster(dir.path()).await?;
    let listed = second.client().await?.jobs().await?;
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (listed[0].name.as_str(), listed[0].state),
        ("fleeting", JobState::Failed)
    );
    assert_eq!(
        listed[0].error.as_deref(),
        Some("the driver was restarted and the job has no checkpoint")
    );
    second.stop().await;

    let third = cluster(dir.path()).await?;
    assert_eq!(jobs(&third.client().await?).await?, []);
    third.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_with_a_checkpoint_keeps_its_name_and_number() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let graph = endless("durable", "checkpoint: DIR/cp", dir.path())?;
    let first = cluster(dir.path()).await?;
    let client = first.client().await?;
    let ended = submit(&client, &endless("stopped", "checkpoint: DIR/cp", dir.path())?).await?;
    let job = submit(&client, &graph).await?;
    client.stop(&ended, true).await?;
    running(&client, &job).await?;
    first.stop().await;

    let second = cluster(dir.path()).await?;
    let client = second.client().await?;
    let listed = jobs(&client).await?;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!((&listed[0].0, listed[0].1.as_str()), (&job, "durable"));
    running(&client, "durable").await?;
    let Err(error) = submit(&client, &graph).await else {
        bail!("the name was taken twice")
    };
    assert!(
        error.to_string().contains("a job named `durable` is running"),
        "{error}"
    );
    let next = submit(&client, &endless("next", "", dir.path())?).await?;
    assert!(next.parse::<u32>()? > job.parse::<u32>()?, "{next} after {job}");
    client.stop(&job, true).await?;
    second.stop().await;

    let third = cluster(dir.path()).await?;
    let names: Vec<String> = jobs(&third.client().await?)
        .await?
        .into_iter()
        .map(|job| job.1)
        .collect();
    assert_eq!(names, ["next"]);
    third.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_cannot_go_on_stays_in_the_journal_until_it_is_given_up() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let input = dir.path().join("in.txt");
    let lines: Vec<String> = (0..100_000).map(|i| i.to_string()).collect();
    std::fs::write(&input, lines.join("\n"))?;
    let graph = job(
        "
name: durable
batch_interval: 50ms
checkpoint: DIR/cp
streams:
  lines: {source: {text_file: {path: DIR/in.txt, batch_lines: 1}}}
outputs:
  - print: {from: lines}
",
        dir.path(),
    )?;
    let first = cluster(dir.path()).await?;
    submit(&first.client().await?, &graph).await?;
    first.stop().await;
    std::fs::remove_file(&input)?;

    let second = cluster(dir.path()).await?;
    let client = second.client().await?;
    let listed = client.jobs().await?;
    assert_eq!(listed[0].state, JobState::Failed);
    let error = listed[0].error.clone().unwrap_or_default();
    assert!(
        error.contains("cannot go on from its checkpoint: stream lines: "),
        "{error}"
    );
    assert!(error.contains("in.txt"), "{error}");
    let Err(error) = submit(&client, &endless("durable", "", dir.path())?).await else {
        bail!("the name was taken from a job that may still go on")
    };
    assert!(error.to_string().contains("tidemill stop durable"), "{error}");
    second.stop().await;

    // Mended, it goes on.
    std::fs::write(&input, lines.join("\n"))?;
    let third = cluster(dir.path()).await?;
    running(&third.client().await?, "durable").await?;
    third.stop().await;

    // Given up, it does not come back.
    std::fs::remove_file(&input)?;
    let fourth = cluster(dir.path()).await?;
    fourth.client().await?.stop("durable", false).await?;
    fourth.stop().await;
    std::fs::write(&input, "1")?;
    let fifth = cluster(dir.path()).await?;
    assert_eq!(jobs(&fifth.client().await?).await?, []);
    fifth.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_whose_journal_was_taken_over_stops() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut config = config()?;
    config.journal.url = dir.path().display().to_string();
    config.driver.min_executors_timeout = Duration::ZERO;
    "127.0.0.1:0".clone_into(&mut config.driver.bind);
    let mut old = tidemill_driver::start(tidemill_driver::Options::from(&config)).await?;
    let new = tidemill_driver::start(tidemill_driver::Options::from(&config)).await?;
    let client = Client::connect(&old.address().to_string()).await?;
    // It can accept nothing any more, and finds out when it records something.
    let graph = endless("late", "checkpoint: DIR/cp\npartitions: 1", dir.path())?;
    let Err(error) = submit(&client, &graph).await else {
        bail!("an old driver has taken a job")
    };
    let ended = tokio::time::timeout(DEADLINE, old.wait()).await?;
    let Err(reason) = ended else { bail!("it goes on") };
    assert_eq!(
        reason.to_string(),
        "a newer driver has taken over the journal (generation 2): this one must not go on",
        "and the client got: {error}"
    );
    assert_eq!(jobs(&Client::connect(&new.address().to_string()).await?).await?, []);
    new.stop().await;
    Ok(())
}
