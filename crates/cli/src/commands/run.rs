//! Jobs in this process: run, validate, explain.

use anyhow::Result;
use tidemill_client::{Client, SubmitOptions, resolve_paths};
use tidemill_config::Config;
use tidemill_engine::Registry;
use tidemill_local::LocalCluster;

use super::follow::{Printer, follow_to_end};
use super::job_file;
use crate::args::{JobFile, Output, RunLimits};
use crate::render::{json, tables};

/// What a cluster in this process is started with.
#[derive(Clone, Copy)]
pub(crate) struct Embedded<'a> {
    pub(crate) config: &'a Config,
    pub(crate) registry: &'a Registry,
}

impl Embedded<'_> {
    /// With the journal that the job wants. Without a job that does, there is none: opening the journal of a driver that
    /// runs would end it.
    async fn start(self, executors: u32, checkpoint: Option<&str>) -> Result<LocalCluster> {
        let mut config = self.config.clone();
        match checkpoint {
            None => config.journal.url.clear(),
            Some(place) if config.journal.url.is_empty() => {
                config.journal.url = format!("{}/journal", place.trim_end_matches('/'));
            }
            Some(_) => {}
        }
        Ok(LocalCluster::of_build(&config, executors, self.registry).await?)
    }
}

pub(crate) async fn run(
    embedded: Embedded<'_>,
    job: &JobFile,
    limits: &RunLimits,
    executors: u32,
    output: Output,
) -> Result<()> {
    let loaded = job_file::load(job)?;
    let graph = resolve_paths(loaded.graph.clone(), &loaded.base);
    let checkpoint = graph.options.checkpoint.as_deref();
    let cluster = embedded.start(executors, checkpoint).await?;
    let client = cluster.client().await?;
    let options = SubmitOptions {
        batches: limits.batches,
        no_wait: limits.no_wait,
        overwrite: limits.overwrite,
    };
    let job = match going_on(&client, &graph.name, checkpoint).await? {
        Some(job) => {
            eprintln!("{} goes on from its checkpoint, as it was submitted", graph.name);
            job
        }
        None => {
            let submitted = client.submit(&graph, &[], options).await;
            let submitted = submitted.map_err(|error| loaded.locate(error))?;
            for warning in &submitted.warnings {
                eprintln!("warning: {warning}");
            }
            submitted.job.to_string()
        }
    };
    let result = follow_to_end(&client, &job, Printer::Rows(output)).await;
    let counted = print_accumulators(&client, &job, output).await;
    cluster.stop().await;
    result.and(counted)
}

/// The number of a job that the journal brought back.
async fn going_on(client: &Client, name: &str, checkpoint: Option<&str>) -> Result<Option<String>> {
    if checkpoint.is_none() {
        return Ok(None);
    }
    let jobs = client.jobs().await?;
    let live = jobs.iter().find(|job| job.name == name && !job.state.is_over());
    Ok(live.map(|job| job.id.to_string()))
}

/// What the job has counted, if it has named accumulators.
async fn print_accumulators(client: &Client, job: &str, output: Output) -> Result<()> {
    let accumulators = client.accumulators(job, false, 0).await?;
    if accumulators.is_empty() {
        return Ok(());
    }
    match output {
        Output::Table => println!("{}", tables::accumulators(&accumulators)),
        Output::Json => println!("{}", json::closing(&accumulators)?),
    }
    Ok(())
}

pub(crate) async fn validate(embedded: Embedded<'_>, job: &JobFile, output: Output) -> Result<()> {
    explained(embedded, job).await?;
    match output {
        Output::Table => println!("{} is valid", job.file.display()),
        Output::Json => println!("{}", json::valid(&job.file)?),
    }
    Ok(())
}

pub(crate) async fn explain(embedded: Embedded<'_>, job: &JobFile, output: Output) -> Result<()> {
    let text = explained(embedded, job).await?;
    match output {
        Output::Table => println!("{text}"),
        Output::Json => println!("{}", json::explained(&job.file, &text)?),
    }
    Ok(())
}

/// Compiles the job as a cluster of this machine's size would.
async fn explained(embedded: Embedded<'_>, job: &JobFile) -> Result<String> {
    let loaded = job_file::load(job)?;
    let graph = resolve_paths(loaded.graph.clone(), &loaded.base);
    let cluster = embedded.start(1, None).await?;
    let text = cluster
        .client()
        .await?
        .explain(&graph, &[])
        .await
        .map_err(|error| loaded.locate(error));
    cluster.stop().await;
    text
}
