//! The driver's handle to its journal.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tidemill_journal::{Backend, Journal, JournalEvent, JournalOptions, Recovered};
use tidemill_rpc::journal as wire;
use tidemill_types::JobId;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;

use super::records;
use super::registry::Registry;
use crate::event::Event;

/// Records between two snapshots.
const SNAPSHOT_RECORDS: u32 = 2000;

/// The journal ended before what was waited for was durable: a newer driver has taken over, or this one stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

/// Appends records and keeps what they come to. Cheap to clone; the event loop and the jobs' committers have one each.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    journal: Journal,
    state: Arc<Mutex<State>>,
    durable: watch::Receiver<u64>,
}

#[derive(Debug)]
struct State {
    registry: Registry,
    /// The sequence of the last record.
    last: u64,
    since_snapshot: u32,
    /// What stands for all records up to a sequence that is not durable yet.
    snapshot: Option<(u64, Bytes)>,
}

impl Recorder {
    /// Goes on behind what was recovered, which `registry` is.
    pub(crate) fn start<B: Backend>(
        backend: B,
        recovered: &Recovered,
        registry: Registry,
        events: UnboundedSender<Event>,
    ) -> Self {
        let (journal, told) = Journal::start(backend, recovered, JournalOptions::default());
        let last = recovered.next() - 1;
        let (sender, durable) = watch::channel(last);
        tokio::spawn(pass_on(told, sender, events));
        let state = State {
            registry,
            last,
            since_snapshot: u32::try_from(recovered.records.len()).unwrap_or(u32::MAX),
            snapshot: None,
        };
        Self {
            journal,
            state: Arc::new(Mutex::new(state)),
            durable,
        }
    }

    /// Takes a record, and gives the sequence up to which the journal has to be durable for it to be.
    pub(crate) fn append(&self, record: wire::Record) -> u64 {
        // Under the lock, so that the registry takes records in the order of the journal.
        let mut state = self.state.lock();
        let sequence = self.journal.append(records::encode(&record));
        state.last = sequence;
        state.since_snapshot = state.since_snapshot.saturating_add(1);
        if let Some(kind) = record.record {
            state.registry.apply(kind);
        }
        sequence
    }

    /// The sequence of the last record.
    pub(crate) fn last(&self) -> u64 {
        self.state.lock().last
    }

    /// Waits until all records up to a sequence are durable.
    pub(crate) async fn durable(&self, sequence: u64) -> Result<(), Gone> {
        let mut durable = self.durable.clone();
        let reached = durable.wait_for(|up_to| *up_to >= sequence).await;
        reached.map(|_| ()).map_err(|_| Gone)
    }

    /// Waits a while until all that there is is durable.
    pub(crate) async fn flush(&self, limit: Duration) {
        let last = self.last();
        if tokio::time::timeout(limit, self.durable(last)).await.is_err() {
            tracing::warn!("the driver ends before all that it has recorded is durable");
        }
    }

    /// Everything up to a sequence is durable. From time to time a snapshot is made, without the batches that `needed`
    /// says nobody will ask for: those before the index that it gives for a job.
    pub(crate) fn on_durable(&self, up_to: u64, needed: impl Fn(JobId) -> Option<i64>) {
        let mut state = self.state.lock();
        if state.since_snapshot >= SNAPSHOT_RECORDS {
            let jobs: Vec<JobId> = state.registry.jobs().filter_map(id).collect();
            for job in jobs {
                if let Some(first) = needed(job) {
                    state.registry.forget(job, first);
                }
            }
            state.since_snapshot = 0;
            state.snapshot = Some((state.last, state.registry.encode()));
        }
        if let Some((sequence, bytes)) = state.snapshot.take_if(|(sequence, _)| *sequence <= up_to) {
            self.journal.snapshot(sequence, bytes);
        }
    }

    pub(super) fn registry(&self) -> Registry {
        self.state.lock().registry.clone()
    }

    pub(super) fn job(&self, job: JobId) -> Option<wire::Job> {
        self.state.lock().registry.job(job).cloned()
    }

    /// Whether a job has not ended, as far as the journal says.
    pub(crate) fn has(&self, job: JobId) -> bool {
        self.state.lock().registry.job(job).is_some()
    }

    /// The job of a name that has not ended, as far as the journal says.
    pub(crate) fn live_job(&self, name: &str) -> Option<JobId> {
        let state = self.state.lock();
        let named = |job: &&wire::Job| job.submitted.as_ref().is_some_and(|submitted| submitted.name == name);
        state.registry.jobs().find(named).and_then(id)
    }
}

fn id(job: &wire::Job) -> Option<JobId> {
    Some(JobId(job.submitted.as_ref()?.job))
}

/// Tells those who wait for a sequence, and the event loop, until the journal ends.
async fn pass_on(
    mut told: UnboundedReceiver<JournalEvent>,
    durable: watch::Sender<u64>,
    events: UnboundedSender<Event>,
) {
    while let Some(event) = told.recv().await {
        if let JournalEvent::Durable { up_to } = event {
            durable.send_replace(up_to);
        }
        // Without its loop the driver ends, and what it has recorded is still written.
        let _ = events.send(Event::Journal(event));
    }
}
