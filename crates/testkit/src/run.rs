//! Batch tables: a job over queued or bounded input, batch after batch.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use tidemill_client::{JobEvent, JobState, SubmitOptions};
use tidemill_config::{Config, Loader};
use tidemill_dstream::JobGraph;
use tidemill_local::LocalCluster;

use crate::rows;

/// The rows of one printed batch, columns separated by `|`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Milliseconds since zero time.
    pub time: i64,
    pub stream: String,
    pub rows: Vec<String>,
}

impl Batch {
    /// The rows in order, for streams that have none.
    #[must_use]
    pub fn sorted(&self) -> Vec<String> {
        let mut rows = self.rows.clone();
        rows.sort();
        rows
    }
}

/// The built-in settings, untouched by this process's environment.
///
/// # Errors
/// Never in a released build: the defaults are valid.
pub fn config() -> Result<Config> {
    Ok(Loader::new().environment(HashMap::new()).load()?)
}

/// Runs a job on its own cluster of `executors` executors, without waiting for the clock; with `batches`, for so many.
/// Gives its printed batches in order.
///
/// # Errors
/// The job is refused or fails.
pub async fn run_to_end(graph: &JobGraph, executors: u32, batches: Option<u64>) -> Result<Vec<Batch>> {
    let cluster = LocalCluster::start(&config()?, executors).await?;
    let printed = run_on(&cluster, graph, batches).await;
    cluster.stop().await;
    printed
}

/// The same on a cluster that is there, such as one of a build with functions of its own.
///
/// # Errors
/// The job is refused or fails.
pub async fn run_on(cluster: &LocalCluster, graph: &JobGraph, batches: Option<u64>) -> Result<Vec<Batch>> {
    let client = cluster.client().await?;
    let options = SubmitOptions {
        batches,
        no_wait: true,
        overwrite: false,
    };
    let submitted = client.submit(graph, &[], options).await?;
    let mut events = client.follow(&submitted.job.to_string(), true).await?;
    let mut printed = Vec::new();
    let ended = loop {
        match events.next().await.context("the driver ended")?? {
            JobEvent::Printed(batch) => printed.push(Batch {
                time: batch.time.0,
                stream: batch.stream,
                rows: rows(&batch.rows),
            }),
            JobEvent::Batch(_) => {}
            JobEvent::Ended(summary) => break summary,
        }
    };
    if ended.state == JobState::Failed {
        bail!("the job failed: {}", ended.error.unwrap_or_default());
    }
    Ok(printed)
}
