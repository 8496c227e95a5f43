//! Looking at a cluster and stopping jobs.

use anyhow::Result;
use tidemill_client::Client;

use super::follow::watch;
use crate::args::Output;
use crate::render::{json, rows, tables};

pub(crate) async fn jobs(driver: &str, output: Output) -> Result<()> {
    let jobs = Client::connect(driver).await?.jobs().await?;
    match output {
        Output::Table => println!("{}", tables::jobs(&jobs)),
        Output::Json => println!("{}", json::jobs(&jobs)?),
    }
    Ok(())
}

pub(crate) async fn job(driver: &str, job: &str, follow: bool, output: Output) -> Result<()> {
    let client = Client::connect(driver).await?;
    if follow {
        return watch(&client, job, true, output).await;
    }
    let detail = client.job(job).await?;
    match output {
        Output::Table => println!("{}", tables::job(&detail)),
        Output::Json => println!("{}", json::job(&detail)?),
    }
    Ok(())
}

pub(crate) async fn stop(driver: &str, job: &str, now: bool, output: Output) -> Result<()> {
    let client = Client::connect(driver).await?;
    let before = client.job(job).await?.summary;
    if before.state.is_over() {
        anyhow::bail!(
            "job {} ({}) has ended already: {}",
            before.id,
            before.name,
            before.state
        );
    }
    let summary = client.stop(job, now).await?;
    match output {
        Output::Table => println!("job {} ({}) is {}", summary.id, summary.name, summary.state),
        Output::Json => println!("{}", json::summary(&summary)?),
    }
    Ok(())
}

pub(crate) async fn accumulators(driver: &str, job: &str, all: bool, batches: u32, output: Output) -> Result<()> {
    let accumulators = Client::connect(driver).await?.accumulators(job, all, batches).await?;
    match output {
        Output::Table => println!("{}", tables::accumulators(&accumulators)),
        Output::Json => println!("{}", json::accumulators(&accumulators)?),
    }
    Ok(())
}

pub(crate) async fn executors(driver: &str, output: Output) -> Result<()> {
    let executors = Client::connect(driver).await?.executors().await?;
    match output {
        Output::Table => println!("{}", tables::executors(&executors)),
        Output::Json => println!("{}", json::executors(&executors)?),
    }
    Ok(())
}

pub(crate) async fn unpersist(driver: &str, job: &str, stream: &str, output: Output) -> Result<()> {
    Client::connect(driver).await?.unpersist(job, stream).await?;
    match output {
        Output::Table => println!("stream {stream} of job {job} is not remembered any more"),
        Output::Json => println!("{}", json::unpersisted(job, stream)?),
    }
    Ok(())
}

pub(crate) async fn sql(driver: &str, query: &str, output: Output) -> Result<()> {
    let (schema, batches) = Client::connect(driver).await?.sql(query).await?;
    match output {
        Output::Table => println!("{}", rows::table(&schema, &batches)?),
        Output::Json => println!("{}", json::rows(&batches)?),
    }
    Ok(())
}
