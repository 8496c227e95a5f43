//! Submitting a job to a cluster.

use anyhow::Result;
use tidemill_client::{Client, SubmitOptions, attach_files};

use super::follow::watch;
use super::job_file;
use crate::args::{JobFile, Output, RunLimits};
use crate::render::json;

pub(crate) async fn submit(
    driver: &str,
    job: &JobFile,
    limits: &RunLimits,
    follow: bool,
    output: Output,
) -> Result<()> {
    let loaded = job_file::load(job)?;
    let files = attach_files(&loaded.graph, &loaded.base).map_err(|diagnostics| loaded.invalid(diagnostics))?;
    let client = Client::connect(driver).await?;
    let options = SubmitOptions {
        batches: limits.batches,
        no_wait: limits.no_wait,
        overwrite: limits.overwrite,
    };
    let submitted = client
        .submit(&loaded.graph, &files, options)
        .await
        .map_err(|error| loaded.locate(error))?;
    for warning in &submitted.warnings {
        eprintln!("warning: {warning}");
    }
    match output {
        Output::Table => println!("job {} ({}) submitted to {driver}", submitted.job, loaded.graph.name),
        Output::Json => println!("{}", json::submitted(&submitted, &loaded.graph.name)?),
    }
    if follow {
        watch(&client, &submitted.job.to_string(), true, output).await?;
    }
    Ok(())
}
