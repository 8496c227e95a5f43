//! Jobs in this process: run, validate, explain.

use anyhow::Result;
use tidemill_client::{SubmitOptions, resolve_paths};
use tidemill_config::Config;
use tidemill_local::LocalCluster;

use super::follow::{Printer, follow_to_end};
use super::job_file;
use crate::args::{JobFile, Output, RunLimits};
use crate::render::json;

pub(crate) async fn run(
    config: &Config,
    job: &JobFile,
    limits: &RunLimits,
    executors: u32,
    output: Output,
) -> Result<()> {
    let loaded = job_file::load(job)?;
    let graph = resolve_paths(loaded.graph.clone(), &loaded.base);
    let cluster = LocalCluster::start(config, executors).await?;
    let client = cluster.client().await?;
    let options = SubmitOptions {
        batches: limits.batches,
        no_wait: limits.no_wait,
        overwrite: limits.overwrite,
    };
    let submitted = client
        .submit(&graph, &[], options)
        .await
        .map_err(|error| loaded.locate(error))?;
    for warning in &submitted.warnings {
        eprintln!("warning: {warning}");
    }
    let result = follow_to_end(&client, &submitted.job.to_string(), Printer::Rows(output)).await;
    cluster.stop().await;
    result
}

pub(crate) async fn validate(config: &Config, job: &JobFile, output: Output) -> Result<()> {
    explained(config, job).await?;
    match output {
        Output::Table => println!("{} is valid", job.file.display()),
        Output::Json => println!("{}", json::valid(&job.file)?),
    }
    Ok(())
}

pub(crate) async fn explain(config: &Config, job: &JobFile, output: Output) -> Result<()> {
    let text = explained(config, job).await?;
    match output {
        Output::Table => println!("{text}"),
        Output::Json => println!("{}", json::explained(&job.file, &text)?),
    }
    Ok(())
}

/// Compiles the job as a cluster of this machine's size would.
async fn explained(config: &Config, job: &JobFile) -> Result<String> {
    let loaded = job_file::load(job)?;
    let graph = resolve_paths(loaded.graph.clone(), &loaded.base);
    let cluster = LocalCluster::start(config, 1).await?;
    let text = cluster
        .client()
        .await?
        .explain(&graph, &[])
        .await
        .map_err(|error| loaded.locate(error));
    cluster.stop().await;
    text
}
