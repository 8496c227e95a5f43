//! Runs of whole jobs on a cluster in this process, without waiting for the clock, with all that they print.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use tidemill_client::{AttachedFile, Client, JobEvent, JobState, PrintedBatch, SubmitOptions};
use tidemill_config::{Config, Loader};
use tidemill_dstream::JobGraph;
use tidemill_local::{LocalCluster, Registry};

use crate::rows;

/// A run may print so much before it is followed.
const RETAINED_PRINTS: usize = 100_000;

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

impl From<&PrintedBatch> for Batch {
    fn from(printed: &PrintedBatch) -> Self {
        Self {
            time: printed.time.0,
            stream: printed.stream.clone(),
            rows: rows(&printed.rows),
        }
    }
}

/// The built-in settings, untouched by this process's environment, except that no print is forgotten.
///
/// # Errors
/// Never in a released build: the defaults are valid.
pub fn config() -> Result<Config> {
    let mut config = Loader::new().environment(HashMap::new()).load()?;
    config.driver.retained_prints = RETAINED_PRINTS;
    Ok(config)
}

/// A cluster in this process for one job after the other, or several at once.
pub struct TestCluster {
    cluster: LocalCluster,
    client: Client,
}

impl TestCluster {
    /// A driver and `executors` executors.
    ///
    /// # Errors
    /// A port or a thread cannot be had.
    pub async fn start(executors: u32) -> Result<Self> {
        Self::of_build(executors, &Registry::default()).await
    }

    /// The same of a build with functions of its own.
    ///
    /// # Errors
    /// A port or a thread cannot be had.
    pub async fn of_build(executors: u32, registry: &Registry) -> Result<Self> {
        let cluster = LocalCluster::of_build(&config()?, executors, registry).await?;
        let client = cluster.client().await?;
        Ok(Self { cluster, client })
    }

    /// A client of the driver.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Runs a job, batch after batch, until its input has ended; with `batches`, for so many. Gives what it printed.
    ///
    /// # Errors
    /// The job is refused or fails.
    pub async fn run(&self, graph: &JobGraph, batches: Option<u64>) -> Result<Vec<PrintedBatch>> {
        self.run_with(graph, &[], batches).await
    }

    /// The same with files that travel with the job.
    ///
    /// # Errors
    /// The job is refused or fails.
    pub async fn run_with(
        &self,
        graph: &JobGraph,
        files: &[AttachedFile],
        batches: Option<u64>,
    ) -> Result<Vec<PrintedBatch>> {
        let options = SubmitOptions {
            batches,
            no_wait: true,
            overwrite: false,
        };
        let submitted = self.client.submit(graph, files, options).await?;
        let mut events = self.client.follow(&submitted.job.to_string(), true).await?;
        let mut printed = Vec::new();
        loop {
            match events.next().await.context("the driver ended")?? {
                JobEvent::Printed(batch) => printed.push(batch),
                JobEvent::Batch(_) => {}
                JobEvent::Ended(summary) if summary.state == JobState::Failed => {
                    bail!("the job failed: {}", summary.error.unwrap_or_default())
                }
                JobEvent::Ended(_) => return Ok(printed),
            }
        }
    }

    /// Stops the driver, then the executors.
    pub async fn stop(self) {
        self.cluster.stop().await;
    }
}

/// Runs a job on its own cluster of `executors` executors, without waiting for the clock; with `batches`, for so many.
/// Gives its printed batches in order.
///
/// # Errors
/// The job is refused or fails.
pub async fn run_to_end(graph: &JobGraph, executors: u32, batches: Option<u64>) -> Result<Vec<Batch>> {
    let cluster = TestCluster::start(executors).await?;
    let printed = cluster.run(graph, batches).await;
    cluster.stop().await;
    Ok(printed?.iter().map(Batch::from).collect())
}
