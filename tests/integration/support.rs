//! What several modules need: a job run to its end on a cluster that stays, files as they were saved.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use tidemill_client::job_file::{ParseOptions, parse};
use tidemill_client::{BatchSummary, Client, JobEvent, JobSummary, SubmitOptions};
use tidemill_dstream::JobGraph;
use tidemill_testkit::{Batch, rows};

/// A job that has ended, however it did.
pub(crate) struct Outcome {
    pub(crate) summary: JobSummary,
    pub(crate) printed: Vec<Batch>,
    /// Completed and failed, in order.
    pub(crate) batches: Vec<BatchSummary>,
}

impl Outcome {
    /// Why the job failed; empty if it did not.
    pub(crate) fn error(&self) -> &str {
        self.summary.error.as_deref().unwrap_or_default()
    }

    /// The printed rows by batch, sorted.
    pub(crate) fn rows(&self) -> Vec<(i64, Vec<String>)> {
        self.printed.iter().map(|batch| (batch.time, batch.sorted())).collect()
    }
}

pub(crate) fn no_wait() -> SubmitOptions {
    SubmitOptions {
        no_wait: true,
        ..SubmitOptions::default()
    }
}

/// Runs a job, batch after batch, and stays with it until it has ended.
pub(crate) async fn outcome(client: &Client, graph: &JobGraph) -> Result<Outcome> {
    let submitted = client.submit(graph, &[], no_wait()).await?;
    let mut events = client.follow(&submitted.job.to_string(), true).await?;
    let mut printed = Vec::new();
    loop {
        match events.next().await.context("the driver ended")?? {
            JobEvent::Printed(batch) => printed.push(Batch {
                time: batch.time.0,
                stream: batch.stream,
                rows: rows(&batch.rows),
            }),
            // Those before the first message are missing: the job's own list has them all.
            JobEvent::Batch(_) => {}
            JobEvent::Ended(summary) => {
                let mut batches = client.job(&submitted.job.to_string()).await?.batches;
                batches.reverse();
                return Ok(Outcome {
                    summary,
                    printed,
                    batches,
                });
            }
        }
    }
}

/// A job file in which `DIR` stands for a directory.
pub(crate) fn job(yaml: &str, directory: &Path) -> Result<JobGraph> {
    let text = yaml.replace("DIR", &directory.display().to_string());
    Ok(parse(&text, &ParseOptions::default())?)
}

/// All lines of a batch's directory, decompressed by the files' names, in the order of the files and sorted.
pub(crate) fn saved(directory: &Path) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(|| format!("{} is not there", directory.display()))? {
        let path = entry?.path();
        let file = std::fs::File::open(&path)?;
        let mut text = String::new();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("gz") => flate2::read::GzDecoder::new(file).read_to_string(&mut text)?,
            Some("zst") => zstd::Decoder::new(file)?.read_to_string(&mut text)?,
            Some("txt" | "csv" | "json") => std::io::BufReader::new(file).read_to_string(&mut text)?,
            other => bail!("{} has the unknown ending {other:?}", path.display()),
        };
        lines.extend(text.lines().map(str::to_owned));
    }
    lines.sort();
    Ok(lines)
}
