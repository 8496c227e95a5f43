//! A job that was submitted, and what can be done with it.

use std::pin::Pin;
use std::time::Duration;

use tidemill_dstream::{JobGraph, nearest};
use tidemill_types::{BatchTime, JobId};
use tokio_stream::{Stream, StreamExt};

use crate::AttachedFile;
use crate::client::{Client, JobEvents, SubmitOptions};
use crate::error::{Error, Result};
use crate::listener::{AccumulatorsUpdated, ListenerEvent, ListenerEvents};
use crate::summary::{AccumulatorSummary, BatchFailure, JobEvent, JobState, JobSummary, RememberedBatch};

/// The accumulators of a job, batch by batch. It ends with the job, or after an error.
pub type AccumulatorUpdates = Pin<Box<dyn Stream<Item = Result<AccumulatorsUpdated>> + Send>>;

/// A job on a cluster. Clones are the same job; dropping them leaves it running.
#[derive(Clone, Debug)]
pub struct JobHandle {
    client: Client,
    job: JobId,
    warnings: Vec<String>,
}

impl Client {
    /// Submits a job and gives a handle to it.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub async fn start(&self, graph: &JobGraph, files: &[AttachedFile], options: SubmitOptions) -> Result<JobHandle> {
        let submitted = self.submit(graph, files, options).await?;
        Ok(JobHandle {
            client: self.clone(),
            job: submitted.job,
            warnings: submitted.warnings,
        })
    }
}

impl JobHandle {
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    #[must_use]
    pub fn id(&self) -> JobId {
        self.job
    }

    /// What the driver had to say of the job when it took it.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// # Errors
    /// As [`Client::job`].
    pub async fn summary(&self) -> Result<JobSummary> {
        Ok(self.client.job(&self.job.to_string()).await?.summary)
    }

    /// What the job prints and its batches, until it ends.
    ///
    /// # Errors
    /// As [`Client::follow`].
    pub async fn follow(&self, history: bool) -> Result<JobEvents> {
        self.client.follow(&self.job.to_string(), history).await
    }

    /// What happens to its batches, receivers and output operations; from the start if that is not long ago.
    ///
    /// # Errors
    /// As [`Client::listen`].
    pub async fn listen(&self) -> Result<ListenerEvents> {
        self.client.listen(&self.job.to_string()).await
    }

    /// All accumulators of the job, also those that are not listed, with what its last batches added.
    ///
    /// # Errors
    /// As [`Client::accumulators`].
    pub async fn accumulators(&self) -> Result<Vec<AccumulatorSummary>> {
        self.client.accumulators(&self.job.to_string(), true, u32::MAX).await
    }

    /// One of them by its name.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the job has none of that name.
    pub async fn accumulator(&self, name: &str) -> Result<AccumulatorSummary> {
        let mut all = self.accumulators().await?;
        match all.iter().position(|accumulator| accumulator.name == name) {
            Some(place) => Ok(all.swap_remove(place)),
            None => {
                let known = all.iter().map(|accumulator| accumulator.name.as_str());
                let hint = match nearest(name, known) {
                    Some(near) => format!(" (did you mean `{near}`?)"),
                    None => String::new(),
                };
                Err(Error::NotFound(format!(
                    "job {} has no accumulator `{name}`{hint}",
                    self.job
                )))
            }
        }
    }

    /// The accumulators after each batch, until the job ends; from the start if that is not long ago.
    ///
    /// # Errors
    /// As [`listen`](Self::listen).
    pub async fn accumulator_updates(&self) -> Result<AccumulatorUpdates> {
        let events = self.listen().await?;
        Ok(Box::pin(events.filter_map(|event| match event {
            Ok(ListenerEvent::AccumulatorsUpdated(updated)) => Some(Ok(updated)),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        })))
    }

    /// The batches of a remembered stream from one time to another, both included.
    ///
    /// # Errors
    /// As [`Client::slice`].
    pub async fn slice(&self, stream: &str, from: BatchTime, to: BatchTime) -> Result<Vec<RememberedBatch>> {
        self.client.slice(&self.job.to_string(), stream, from, to).await
    }

    /// Keeps a remembered stream's batches no longer than windows need them.
    ///
    /// # Errors
    /// As [`Client::unpersist`].
    pub async fn unpersist(&self, stream: &str) -> Result<()> {
        self.client.unpersist(&self.job.to_string(), stream).await
    }

    /// Waits until the job has ended, however it does, or has failed in a batch. What failed first is the error: a batch
    /// also if the job goes on after it, as its policy may say. Asked again it is the same error.
    ///
    /// # Errors
    /// [`Error::Failed`]; [`Error::Unreachable`] if the driver is gone.
    pub async fn await_termination(&self) -> Result<JobSummary> {
        // First the events, then the state: what happens in between is in either.
        let mut events = self.follow(false).await?;
        failure(self.summary().await?)?;
        while let Some(event) = events.next().await {
            match event? {
                JobEvent::Batch(batch) => {
                    if let Some(error) = batch.error {
                        let failure = BatchFailure {
                            time: batch.time,
                            error,
                        };
                        return Err(Error::failed(self.job, &failure));
                    }
                }
                JobEvent::Ended(summary) => return failure(summary),
                JobEvent::Printed(_) => {}
            }
        }
        Err(self.client.gone())
    }

    /// The same for at most so long: whether the job has ended by then.
    ///
    /// # Errors
    /// As [`await_termination`](Self::await_termination).
    pub async fn await_termination_or_timeout(&self, timeout: Duration) -> Result<bool> {
        match tokio::time::timeout(timeout, self.await_termination()).await {
            Ok(ended) => ended.map(|_| true),
            Err(_) => Ok(false),
        }
    }

    /// Stops the job and waits until it has ended. Gracefully: receivers stop, and what they have received and all batches
    /// that are due are processed first. A job that has ended stays as it is.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if the driver is gone.
    pub async fn stop(&self, graceful: bool) -> Result<JobSummary> {
        let mut events = self.follow(false).await?;
        self.client.stop(&self.job.to_string(), !graceful).await?;
        while let Some(event) = events.next().await {
            if let JobEvent::Ended(summary) = event? {
                return Ok(summary);
            }
        }
        Err(self.client.gone())
    }
}

/// The summary, or what failed first.
fn failure(summary: JobSummary) -> Result<JobSummary> {
    if let Some(failure) = &summary.first_failure {
        return Err(Error::failed(summary.id, failure));
    }
    match summary.state {
        JobState::Failed => Err(Error::Failed {
            job: summary.id,
            batch: None,
            message: summary.error.unwrap_or_default(),
        }),
        _ => Ok(summary),
    }
}
