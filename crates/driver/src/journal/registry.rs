//! What all records come to: the jobs that have not ended, each with what is needed to go on with it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tidemill_journal::Recovered;
use tidemill_rpc::journal as wire;
use tidemill_rpc::journal::record::Record as Kind;
use tidemill_types::{BatchTime, JobId};

use crate::error::Error;

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Registry {
    next_job: u32,
    jobs: BTreeMap<u32, wire::Job>,
}

impl Registry {
    /// What was recovered: the snapshot, and the records behind it.
    ///
    /// # Errors
    /// [`Error::Record`] for what this build cannot read: to leave it out would be to forget what was decided.
    pub(crate) fn replay(recovered: &Recovered) -> Result<Self, Error> {
        let unreadable = |sequence: u64, reason: String| Error::Record { sequence, reason };
        let mut registry = match &recovered.snapshot {
            Some((up_to, state)) => {
                Self::decode(state.clone()).map_err(|error| unreadable(*up_to, error.to_string()))?
            }
            None => Self::default(),
        };
        for (sequence, bytes) in &recovered.records {
            let record = wire::Record::decode(bytes.clone());
            let record = record.map_err(|error| unreadable(*sequence, error.to_string()))?;
            let later = || unreadable(*sequence, "it is of a later version".to_owned());
            registry.apply(record.record.ok_or_else(later)?);
        }
        Ok(registry)
    }

    pub(super) fn decode(state: Bytes) -> Result<Self, prost::DecodeError> {
        let snapshot = wire::Snapshot::decode(state)?;
        let jobs = snapshot.jobs.into_iter();
        Ok(Self {
            next_job: snapshot.next_job,
            jobs: jobs
                .filter_map(|job| Some((job.submitted.as_ref()?.job, job)))
                .collect(),
        })
    }

    pub(super) fn encode(&self) -> Bytes {
        let snapshot = wire::Snapshot {
            next_job: self.next_job,
            jobs: self.jobs.values().cloned().collect(),
        };
        snapshot.encode_to_vec().into()
    }

    pub(crate) fn next_job(&self) -> JobId {
        JobId(self.next_job.max(1))
    }

    pub(super) fn jobs(&self) -> impl Iterator<Item = &wire::Job> {
        self.jobs.values()
    }

    pub(super) fn job(&self, job: JobId) -> Option<&wire::Job> {
        self.jobs.get(&job.0)
    }

    pub(super) fn apply(&mut self, record: Kind) {
        match record {
            Kind::JobSubmitted(submitted) => {
                self.next_job = self.next_job.max(submitted.job.saturating_add(1));
                let job = wire::Job {
                    submitted: Some(submitted),
                    ..wire::Job::default()
                };
                self.jobs.insert(submitted_id(&job), job);
            }
            Kind::JobEnded(ended) => drop(self.jobs.remove(&ended.job)),
            Kind::BatchAllocated(allocated) => {
                if let Some(job) = self.jobs.get_mut(&allocated.job) {
                    on_allocated(job, allocated);
                }
            }
            Kind::BatchSkipped(skipped) => {
                if let Some(job) = self.jobs.get_mut(&skipped.job) {
                    on_skipped(job, &skipped);
                }
            }
            Kind::StateSaved(saved) => {
                if let Some(job) = self.jobs.get_mut(&saved.job) {
                    job.states.retain(|state| state.stage != saved.stage);
                    job.states.push(saved);
                }
            }
            Kind::BatchPrepared(prepared) => {
                if let Some(job) = self.jobs.get_mut(&prepared.job) {
                    job.prepared = Some(prepared);
                }
            }
            Kind::BatchCommitted(committed) => {
                if let Some(job) = self.jobs.get_mut(&committed.job) {
                    on_committed(job, &committed);
                }
            }
            Kind::BroadcastUpdated(updated) => {
                let job = self.jobs.get_mut(&updated.job);
                let definition = job.and_then(|job| job.submitted.as_mut()?.definition.as_mut());
                let values = definition.map(|definition| &mut definition.broadcasts);
                let value = values.and_then(|values| values.get_mut(updated.broadcast as usize));
                if let (Some(value), Some(new)) = (value, updated.value) {
                    if new.destroyed {
                        // Its columns are those that the job is compiled with.
                        value.destroyed = true;
                    } else {
                        *value = new;
                    }
                }
            }
        }
    }

    /// Lets go of a job's batches before an index. One is kept: it says when zero time was.
    pub(super) fn forget(&mut self, job: JobId, before: i64) {
        if let Some(job) = self.jobs.get_mut(&job.0) {
            let last = job.batches.last().map_or(i64::MIN, index);
            job.batches
                .retain(|batch| index(batch) >= before || index(batch) == last);
        }
    }
}

/// When the job's batches began, as its first one says.
pub(super) fn zero_time(job: &wire::Job) -> Option<BatchTime> {
    let allocated = job.batches.first()?.allocated.as_ref()?;
    let graph = job.submitted.as_ref()?.definition.as_ref()?.graph.as_ref()?;
    let interval = i64::try_from(Duration::from_millis(graph.batch_interval_ms).as_millis()).ok()?;
    Some(BatchTime(allocated.batch_time_ms - allocated.index * interval))
}

fn submitted_id(job: &wire::Job) -> u32 {
    job.submitted.as_ref().map_or(0, |submitted| submitted.job)
}

fn index(batch: &wire::Batch) -> i64 {
    batch.allocated.as_ref().map_or(0, |allocated| allocated.index)
}

fn on_allocated(job: &mut wire::Job, mut allocated: wire::BatchAllocated) {
    job.positions = std::mem::take(&mut allocated.positions);
    let batch = wire::Batch {
        allocated: Some(allocated),
        skipped: false,
    };
    put(job, batch);
}

fn on_skipped(job: &mut wire::Job, skipped: &wire::BatchSkipped) {
    job.prepared
        .take_if(|prepared| prepared.batch_time_ms == skipped.batch_time_ms);
    // Nobody asks for its input any more, and it may have got none.
    let allocated = wire::BatchAllocated {
        job: skipped.job,
        batch_time_ms: skipped.batch_time_ms,
        index: skipped.index,
        ..wire::BatchAllocated::default()
    };
    let batch = wire::Batch {
        allocated: Some(allocated),
        skipped: true,
    };
    put(job, batch);
    pass_skipped(job);
}

fn put(job: &mut wire::Job, batch: wire::Batch) {
    match job.batches.binary_search_by_key(&index(&batch), index) {
        Ok(at) => job.batches[at] = batch,
        Err(at) => job.batches.insert(at, batch),
    }
}

/// Batches are committed in order, so those before it are done with.
fn on_committed(job: &mut wire::Job, committed: &wire::BatchCommitted) {
    let time = committed.batch_time_ms;
    if let Some(prepared) = job.prepared.take_if(|prepared| prepared.batch_time_ms == time) {
        job.totals = prepared.totals;
    }
    let is_it = |batch: &&wire::Batch| {
        let allocated = batch.allocated.as_ref();
        allocated.is_some_and(|allocated| allocated.batch_time_ms == time)
    };
    if let Some(index) = job.batches.iter().find(is_it).map(index) {
        job.completed = job.completed.max(index);
        pass_skipped(job);
    }
}

fn pass_skipped(job: &mut wire::Job) {
    let next = |batch: &&wire::Batch, completed: i64| batch.skipped && index(batch) == completed + 1;
    while job.batches.iter().any(|batch| next(&batch, job.completed)) {
        job.completed += 1;
    }
}
