//! Running a job for a while and watching its batches.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use tidemill_bench::{median, rise};
use tidemill_client::{BatchSummary, Client, JobEvent, JobState, SubmitOptions};
use tidemill_dstream::JobGraph;
use tokio::time::{Instant, timeout_at};

use crate::cluster::cpu_seconds;

/// How long the first batch may take to come, and the job to end.
const PATIENCE: Duration = Duration::from_secs(60);
/// A rise of the scheduling delay by less than this is the noise of a busy machine.
const NOISE: Duration = Duration::from_millis(5);
/// Batches that may wait when a job is said to keep up.
const QUEUED_BATCHES: f64 = 2.0;

/// For how long a job is watched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// Batches that are not looked at.
    pub(crate) warm_up: usize,
    /// Batches that are.
    pub(crate) batches: usize,
    /// The end comes at this time after the warm-up, also if batches are missing.
    pub(crate) limit: Duration,
}

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    pub(crate) batches: Vec<BatchSummary>,
    /// Processor time while these batches were worked on, by process.
    pub(crate) cpu_seconds: Vec<f64>,
}

/// Submits the job, watches it, and stops it.
pub(crate) async fn observe(client: &Client, graph: &JobGraph, span: Span, processes: &[u32]) -> Result<Observed> {
    let submitted = client.submit(graph, &[], SubmitOptions::default()).await?;
    let job = submitted.job.to_string();
    let mut events = client.follow(&job, true).await?;
    let mut observed = Observed::default();
    let mut warm_up = span.warm_up;
    let mut deadline = Instant::now() + PATIENCE + span.limit;
    let mut cpu_before = Vec::new();
    while observed.batches.len() < span.batches {
        let Ok(event) = timeout_at(deadline, events.next()).await else {
            break;
        };
        match event.context("the driver ended")?? {
            JobEvent::Batch(batch) if warm_up > 0 => {
                if let Some(error) = batch.error {
                    bail!("batch {}: {error}", batch.time);
                }
                warm_up -= 1;
                if warm_up == 0 {
                    deadline = Instant::now() + span.limit;
                    cpu_before = processes.iter().map(|process| cpu_seconds(*process)).collect();
                }
            }
            JobEvent::Batch(batch) => observed.batches.push(batch),
            JobEvent::Printed(_) => {}
            JobEvent::Ended(summary) => bail!("the job ended: {}", summary.error.unwrap_or_default()),
        }
    }
    let cpu_after = processes.iter().map(|process| cpu_seconds(*process));
    observed.cpu_seconds = cpu_after
        .zip(cpu_before)
        .map(|(after, before)| after - before)
        .collect();
    client.stop(&job, true).await?;
    let ended = tokio::time::timeout(PATIENCE, async {
        while let Some(event) = events.next().await {
            if let JobEvent::Ended(summary) = event? {
                return Ok(summary);
            }
        }
        bail!("the driver ended")
    });
    let ended = ended.await.context("the job does not stop")??;
    if ended.state == JobState::Failed {
        bail!("the job failed: {}", ended.error.unwrap_or_default());
    }
    if observed.batches.is_empty() {
        bail!("no batch was completed within {:?}", span.limit);
    }
    Ok(observed)
}

pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

impl Observed {
    pub(crate) fn total_ms(&self) -> Vec<f64> {
        let delays = self.batches.iter().map(|batch| batch.delays.total);
        delays.map(milliseconds).collect()
    }

    pub(crate) fn scheduling_ms(&self) -> Vec<f64> {
        let delays = self.batches.iter().map(|batch| batch.delays.scheduling);
        delays.map(milliseconds).collect()
    }

    pub(crate) fn processing_ms(&self) -> Vec<f64> {
        let delays = self.batches.iter().map(|batch| batch.delays.processing);
        delays.map(milliseconds).collect()
    }

    /// By how much the scheduling delay grew while the job was watched.
    pub(crate) fn growth_ms(&self) -> f64 {
        rise(&self.scheduling_ms())
    }

    /// Batches that waited in the end.
    pub(crate) fn queued(&self, interval: Duration) -> f64 {
        let delays = self.scheduling_ms();
        let last = delays.len() - (delays.len() / 10).max(1);
        (median(&delays[last..]) / milliseconds(interval)).floor()
    }

    /// Whether batches are done as fast as they come.
    pub(crate) fn keeps_up(&self, interval: Duration) -> bool {
        let limit = milliseconds(interval);
        self.growth_ms() <= (limit / 2.0).max(milliseconds(NOISE))
            && self.queued(interval) <= QUEUED_BATCHES
            && median(&self.processing_ms()) <= limit
    }

    pub(crate) fn rows(&self) -> u64 {
        self.batches.iter().map(|batch| batch.input_rows).sum()
    }

    /// Input rows a second of the time that the batches cover.
    pub(crate) fn rows_per_second(&self, interval: Duration) -> f64 {
        self.rows() as f64 / (self.batches.len() as f64 * interval.as_secs_f64())
    }
}
