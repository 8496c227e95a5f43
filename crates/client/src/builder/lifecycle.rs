//! The life of a context: it is built, started once, and stopped.
//!
//! ```text
//!   INITIALIZED ── start ──► ACTIVE ── stop, or the job's end is seen ──► STOPPED
//!        └──────────────── stop, or a start that fails ──────────────────────▲
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidemill_dstream::{Diagnostic, Diagnostics};
use tidemill_types::BatchTime;

use super::{DStream, Job, StreamingContext, lower};
use crate::client::{Client, SubmitOptions};
use crate::error::{Error, Result};
use crate::handle::JobHandle;
use crate::summary::RememberedBatch;

/// Where a [`StreamingContext`] is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContextState {
    /// Streams and outputs can be added.
    Initialized,
    /// It was started: its job runs, and nothing can be added or changed.
    Active,
    /// It was stopped, its start failed, or its job's end was seen. It cannot be started again.
    Stopped,
}

#[derive(Clone, Debug, Default)]
pub(super) enum Phase {
    #[default]
    Initialized,
    /// The job is on its way to the driver.
    Starting,
    Active(Started),
    /// With its job, if it had one.
    Stopped(Option<Started>),
}

#[derive(Clone, Debug)]
pub(super) struct Started {
    handle: JobHandle,
    /// The streams' names in the graph, by node.
    streams: Arc<HashMap<usize, String>>,
}

impl Job {
    /// Something is about to change: a fault once the context was started or stopped.
    pub(super) fn change(&mut self, what: &str) -> &mut Self {
        let why = match self.phase {
            Phase::Initialized => return self,
            Phase::Starting | Phase::Active(_) => "started",
            Phase::Stopped(_) => "stopped",
        };
        let message = format!("{what} after the context was {why}: nothing can be added or changed then");
        self.faults.push(Diagnostic::new(None, "", message));
        self
    }
}

/// Ends a start that was given up as one that failed.
struct Starting<'a>(&'a Mutex<Job>);

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        let mut job = self.0.lock();
        if matches!(job.phase, Phase::Starting) {
            job.phase = Phase::Stopped(None);
        }
    }
}

impl StreamingContext {
    #[must_use]
    pub fn state(&self) -> ContextState {
        match self.job.lock().phase {
            Phase::Initialized => ContextState::Initialized,
            Phase::Starting | Phase::Active(_) => ContextState::Active,
            Phase::Stopped(_) => ContextState::Stopped,
        }
    }

    /// Submits the job to the cluster of a client. From here on nothing can be added or changed: what is tried
    /// nevertheless is a fault, which [`await_termination`](Self::await_termination) reports.
    ///
    /// A context is started once. If that fails it is stopped: build another one.
    ///
    /// # Errors
    /// [`Error::Lifecycle`] if it was started or stopped before; all faults of the job as [`Error::Rejected`]; what
    /// [`Client::submit`] says.
    pub async fn start(&self, client: &Client, options: SubmitOptions) -> Result<JobHandle> {
        let refused = |reason: &str| Err(Error::Lifecycle(reason.to_owned()));
        match &mut self.job.lock().phase {
            phase @ Phase::Initialized => *phase = Phase::Starting,
            Phase::Starting | Phase::Active(_) => return refused("the context was started already"),
            Phase::Stopped(_) => return refused("the context was stopped: build another one to start again"),
        }
        let _starting = Starting(&self.job);
        let graph = self.graph().map_err(Error::Rejected)?;
        let handle = client.start(&graph, &[], options).await?;
        let mut job = self.job.lock();
        let streams = lower::names(&job).into_iter().enumerate();
        let streams = streams.filter_map(|(node, name)| Some((node, name?)));
        job.phase = Phase::Active(Started {
            handle: handle.clone(),
            streams: Arc::new(streams.collect()),
        });
        Ok(handle)
    }

    /// Waits until the job has ended or a batch of it has failed; see [`JobHandle::await_termination`].
    ///
    /// # Errors
    /// What failed first; [`Error::Rejected`] with what was tried to change after the start; [`Error::Lifecycle`] if the
    /// context was not started.
    pub async fn await_termination(&self) -> Result<()> {
        let Some(started) = self.started()? else {
            return Ok(());
        };
        let ended = started.handle.await_termination().await;
        if ended.is_ok() {
            self.ended();
        }
        self.check_changes()?;
        ended.map(|_| ())
    }

    /// The same for at most so long: whether the job has ended by then.
    ///
    /// # Errors
    /// As [`await_termination`](Self::await_termination).
    pub async fn await_termination_or_timeout(&self, timeout: Duration) -> Result<bool> {
        match tokio::time::timeout(timeout, self.await_termination()).await {
            Ok(ended) => ended.map(|()| true),
            Err(_) => Ok(false),
        }
    }

    /// Stops the job and waits until it has ended: gracefully after all that was received and is due, or at once. A
    /// context that is stopped stays so, and one that was not started cannot be any more.
    ///
    /// # Errors
    /// [`Error::Lifecycle`] while it is starting; what [`JobHandle::stop`] says.
    pub async fn stop(&self, graceful: bool) -> Result<()> {
        let started = match &mut self.job.lock().phase {
            phase @ Phase::Initialized => {
                *phase = Phase::Stopped(None);
                return Ok(());
            }
            Phase::Starting => return Err(Error::Lifecycle("the context is being started".to_owned())),
            Phase::Stopped(_) => return Ok(()),
            Phase::Active(started) => started.clone(),
        };
        started.handle.stop(graceful).await?;
        self.ended();
        Ok(())
    }

    /// The job, to ask more of it.
    ///
    /// # Errors
    /// [`Error::Lifecycle`] if the context was not started.
    pub fn handle(&self) -> Result<JobHandle> {
        match self.started()? {
            Some(started) => Ok(started.handle),
            None => Err(Error::Lifecycle("the context was stopped without a job".to_owned())),
        }
    }

    /// `None` if it was stopped before it had a job.
    fn started(&self) -> Result<Option<Started>> {
        self.check_changes()?;
        match &self.job.lock().phase {
            Phase::Initialized | Phase::Starting => Err(Error::Lifecycle("the context was not started".to_owned())),
            Phase::Active(started) => Ok(Some(started.clone())),
            Phase::Stopped(started) => Ok(started.clone()),
        }
    }

    fn ended(&self) {
        let mut job = self.job.lock();
        if let Phase::Active(started) = &job.phase {
            job.phase = Phase::Stopped(Some(started.clone()));
        }
    }

    /// What was tried to change after the start.
    fn check_changes(&self) -> Result<()> {
        let job = self.job.lock();
        let late = matches!(job.phase, Phase::Active(_) | Phase::Stopped(Some(_)));
        if late && !job.faults.is_empty() {
            return Err(Error::Rejected(Diagnostics(job.faults.clone())));
        }
        Ok(())
    }
}

impl DStream {
    /// Keeps the stream's batches no longer than windows need them, also if it was persisted. A stream that has not been
    /// started is not persisted at all then.
    ///
    /// # Errors
    /// What [`Client::unpersist`] says.
    pub async fn unpersist(&self) -> Result<()> {
        let context = StreamingContext {
            job: Arc::clone(&self.job),
        };
        if !matches!(context.started(), Ok(Some(_))) {
            self.job.lock().nodes[self.node].persist = None;
            return Ok(());
        }
        let (handle, name) = self.remembered_as()?;
        handle.unpersist(&name).await
    }

    /// The stream's batches from one time to another, both included and floored to its slide, as long as the job
    /// [remembers](StreamingContext::remember) them; see [`Client::slice`].
    ///
    /// # Errors
    /// [`Error::Lifecycle`] before the start, or if the stream is only a step of another one: give it a name. What
    /// [`Client::slice`] says.
    pub async fn slice(&self, from: BatchTime, to: BatchTime) -> Result<Vec<RememberedBatch>> {
        let (handle, name) = self.remembered_as()?;
        handle.slice(&name, from, to).await
    }

    /// The job, and the stream's name in it.
    fn remembered_as(&self) -> Result<(JobHandle, String)> {
        let context = StreamingContext {
            job: Arc::clone(&self.job),
        };
        let Some(started) = context.started()? else {
            return Err(Error::Lifecycle("the context was stopped without a job".to_owned()));
        };
        let Some(name) = started.streams.get(&self.node) else {
            let reason =
                "the stream is a step of another one and not remembered by itself: give it a name, or persist it";
            return Err(Error::Lifecycle(reason.to_owned()));
        };
        Ok((started.handle.clone(), name.clone()))
    }
}
