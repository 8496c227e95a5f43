//! Broadcast variables on the driver: their values, their versions, who holds them.
//!
//! The scheduler decides which version a batch uses and when one is needed no more; here the values are kept and given
//! out until then. A new version is offered to all executors at once, and takes effect when the scheduler says so.

mod load;
mod shelf;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidemill_dstream::{BroadcastDef, BroadcastSource, nearest};
use tidemill_engine::TableData;
use tidemill_rpc::control;
use tidemill_rpc::driver as wire;
use tidemill_rpc::driver::attach_response::Command;
use tidemill_scheduler::Event as SchedulerEvent;
use tidemill_scheduler::pieces::PieceTotals;
use tidemill_storage::VersionKey;
use tidemill_types::{BroadcastId, ExecutorId, JobId};
use tonic::Status;
use tracing::{error, info, warn};

pub(crate) use self::load::{LoadedBroadcast, forget_inline, load, load_all, no_room};
pub(crate) use self::shelf::{Shelf, Shelved};
pub(crate) use self::watch::watch;
use crate::event_loop::EventLoop;
use crate::journal;

/// A broadcast variable of a job.
#[derive(Debug)]
pub(crate) struct BroadcastRecord {
    name: String,
    changes: bool,
    schema: SchemaRef,
    newest: u32,
    /// Those that batches can name, and the newest.
    versions: BTreeMap<u32, Arc<Shelved>>,
    /// Who said that it holds which version.
    held: BTreeMap<u32, BTreeSet<ExecutorId>>,
    destroyed: bool,
    /// Why the value is not newer.
    warning: String,
    /// Pieces of versions that are kept no more.
    past: PieceTotals,
}

/// What is needed to make a new version.
#[derive(Debug)]
pub(crate) struct UpdateTarget {
    pub(crate) job: JobId,
    pub(crate) broadcast: BroadcastId,
    pub(crate) def: BroadcastDef,
    /// What a query can name.
    pub(crate) tables: Vec<TableData>,
    pub(crate) room: u64,
}

impl BroadcastRecord {
    fn totals(&self) -> PieceTotals {
        self.versions
            .values()
            .map(|shelved| shelved.totals())
            .fold(self.past, add)
    }

    /// Forgets a version; true if it was there.
    fn forget(&mut self, version: u32) -> bool {
        self.held.remove(&version);
        match self.versions.remove(&version) {
            Some(shelved) => {
                self.past = add(self.past, shelved.totals());
                true
            }
            None => false,
        }
    }

    fn summary(&self, current: Option<u32>) -> control::BroadcastSummary {
        let totals = self.totals();
        let newest = self.versions.get(&self.newest);
        let held = self.held.get(&self.newest);
        control::BroadcastSummary {
            name: self.name.clone(),
            shape: newest.map_or_else(String::new, |shelved| shelved.loaded.shape.name().to_owned()),
            version: current,
            newest: self.newest,
            rows: newest.map_or(0, |shelved| shelved.loaded.rows),
            bytes: newest.map_or(0, |shelved| shelved.loaded.bytes()),
            executors: held.map_or_else(Vec::new, |held| held.iter().map(|id| id.0).collect()),
            pieces_from_driver: totals.from_driver,
            pieces_from_peers: totals.from_peers,
            pieces_corrupt: totals.corrupt,
            warning: self.warning.clone(),
            kept_versions: self.versions.len() as u32,
        }
    }
}

fn add(a: PieceTotals, b: PieceTotals) -> PieceTotals {
    PieceTotals {
        from_driver: a.from_driver + b.from_driver,
        from_peers: a.from_peers + b.from_peers,
        corrupt: a.corrupt + b.corrupt,
    }
}

impl EventLoop {
    /// Bytes of broadcast values that every executor has room for, beside those that there are.
    pub(crate) fn broadcast_room(&self) -> u64 {
        let least = self.sessions.iter().map(|(_, session)| session.broadcast_memory).min();
        let limit = least.unwrap_or(self.options.broadcast_memory);
        limit.saturating_sub(self.shelf.bytes())
    }

    /// Takes the first versions of a job's variables.
    pub(crate) fn take_broadcasts(
        &mut self,
        job: JobId,
        defs: &[BroadcastDef],
        loaded: Vec<LoadedBroadcast>,
    ) -> Result<Vec<BroadcastRecord>, Status> {
        let bytes: u64 = loaded.iter().map(LoadedBroadcast::bytes).sum();
        let room = self.broadcast_room();
        if bytes > room {
            return Err(Status::resource_exhausted(no_room(bytes, room)));
        }
        let all = (0..).map(BroadcastId).zip(defs.iter().zip(loaded));
        let records = all.map(|(broadcast, (def, loaded))| {
            let key = VersionKey {
                job,
                broadcast,
                version: 1,
            };
            BroadcastRecord {
                name: def.name.clone(),
                changes: def.changes(),
                schema: Arc::clone(&loaded.schema),
                newest: 1,
                versions: BTreeMap::from([(1, self.shelf.put(key, loaded))]),
                held: BTreeMap::new(),
                destroyed: false,
                warning: String::new(),
                past: PieceTotals::default(),
            }
        });
        Ok(records.collect())
    }

    /// Offers all that there is of a job to an executor that has come.
    pub(crate) fn offer_broadcasts(&mut self, executor: ExecutorId, job: JobId) {
        let Some(record) = self.jobs.get(&job) else { return };
        let mut offers = Vec::new();
        for (broadcast, record) in (0..).map(BroadcastId).zip(&record.broadcasts) {
            for (version, shelved) in &record.versions {
                let key = VersionKey {
                    job,
                    broadcast,
                    version: *version,
                };
                offers.push(shelved.offer(key));
            }
        }
        for offer in offers {
            self.sessions.send(executor, Command::OfferBroadcast(offer));
        }
    }

    fn broadcast_record(&mut self, job: JobId, broadcast: BroadcastId) -> Option<&mut BroadcastRecord> {
        self.jobs.get_mut(&job)?.broadcasts.get_mut(broadcast.0 as usize)
    }

    /// A reloadable file has changed.
    pub(crate) fn on_broadcast_read(
        &mut self,
        job: JobId,
        broadcast: BroadcastId,
        loaded: Result<LoadedBroadcast, String>,
    ) {
        let offered = match loaded {
            Ok(loaded) => self.offer_version(job, broadcast, loaded).map(|_| ()),
            Err(message) => Err(Status::unavailable(message)),
        };
        if let (Err(status), Some(record)) = (offered, self.broadcast_record(job, broadcast))
            && !record.destroyed
        {
            warn!(%job, broadcast = record.name, reason = status.message(), "a broadcast value was not read again");
            status.message().clone_into(&mut record.warning);
        }
    }

    /// Offers a new value to all executors, and gives its version; that of the newest if it is the same value.
    pub(crate) fn offer_version(
        &mut self,
        job: JobId,
        broadcast: BroadcastId,
        loaded: LoadedBroadcast,
    ) -> Result<u32, Status> {
        let (bytes, room) = (loaded.bytes(), self.broadcast_room());
        let ended = || Status::failed_precondition("the job has ended");
        let live = self.jobs.get(&job).is_some_and(|record| record.ended.is_none());
        let record = self
            .broadcast_record(job, broadcast)
            .filter(|_| live)
            .ok_or_else(ended)?;
        if record.destroyed {
            return Err(destroyed(&record.name));
        }
        if loaded.schema != record.schema {
            let message = format!("its columns have changed: they are {}", columns(&loaded.schema));
            let message = format!("{message}, and were {}", columns(&record.schema));
            return Err(Status::invalid_argument(message));
        }
        let newest = record.versions.get(&record.newest);
        if newest.is_some_and(|newest| newest.loaded.manifest == loaded.manifest) {
            record.warning.clear();
            return Ok(record.newest);
        }
        if bytes > room {
            return Err(Status::resource_exhausted(no_room(bytes, room)));
        }
        record.newest += 1;
        record.warning.clear();
        let (version, name) = (record.newest, record.name.clone());
        let key = VersionKey {
            job,
            broadcast,
            version,
        };
        self.record_of(job, |_| journal::broadcast_updated(job, broadcast, Some(&loaded)));
        let shelved = self.shelf.put(key, loaded);
        let offer = shelved.offer(key);
        if let Some(record) = self.broadcast_record(job, broadcast) {
            record.versions.insert(version, shelved);
        }
        let executors: Vec<ExecutorId> = self.sessions.iter().map(|(id, _)| id).collect();
        for executor in executors {
            self.sessions.send(executor, Command::OfferBroadcast(offer.clone()));
        }
        info!(%job, broadcast = name, version, bytes, "new version of a broadcast variable");
        self.schedule(SchedulerEvent::BroadcastOffered {
            job,
            broadcast,
            version,
        });
        Ok(version)
    }

    pub(crate) fn on_broadcast_held(&mut self, executor: ExecutorId, held: &wire::BroadcastHeld) {
        let (job, broadcast, version) = (JobId(held.job), BroadcastId(held.broadcast), held.version);
        let Some(record) = self.broadcast_record(job, broadcast) else {
            return;
        };
        if !held.error.is_empty() {
            error!(%job, %executor, broadcast = record.name, version, error = held.error, "a broadcast value cannot be used");
            record.warning = format!(
                "version {version} cannot be used by executor {executor}: {}",
                held.error
            );
            return;
        }
        if record.versions.contains_key(&version) {
            record.held.entry(version).or_default().insert(executor);
        }
        self.schedule(SchedulerEvent::BroadcastHeld {
            job,
            executor,
            broadcast,
            version,
        });
    }

    /// No batch can name a version any more.
    pub(crate) fn drop_version(&mut self, job: JobId, broadcast: BroadcastId, version: u32) {
        let key = VersionKey {
            job,
            broadcast,
            version,
        };
        self.shelf.remove(key);
        if self
            .broadcast_record(job, broadcast)
            .is_some_and(|record| record.forget(version))
        {
            self.send_drop(key, false);
        }
    }

    fn send_drop(&mut self, key: VersionKey, unpersist: bool) {
        let drop = wire::DropBroadcast {
            job: key.job.0,
            broadcast: key.broadcast.0,
            version: key.version,
            unpersist,
        };
        let executors: Vec<ExecutorId> = self.sessions.iter().map(|(id, _)| id).collect();
        for executor in executors {
            self.sessions.send(executor, Command::DropBroadcast(drop));
        }
    }

    /// Values of a job that has ended, whose executors are told to forget all of it.
    pub(crate) fn forget_broadcasts(&mut self, job: JobId) {
        let Some(record) = self.jobs.get_mut(&job) else { return };
        for (broadcast, record) in (0..).map(BroadcastId).zip(&mut record.broadcasts) {
            for version in record.versions.keys().copied().collect::<Vec<_>>() {
                self.shelf.remove(VersionKey {
                    job,
                    broadcast,
                    version,
                });
                record.forget(version);
            }
        }
    }

    /// An executor is gone, and what it held.
    pub(crate) fn lose_holder(&mut self, executor: ExecutorId) {
        self.shelf.lose(executor);
        for record in self.jobs.values_mut().flat_map(|record| &mut record.broadcasts) {
            record.held.values_mut().for_each(|held| {
                held.remove(&executor);
            });
        }
    }

    // === control ===

    pub(crate) fn broadcast_summaries(&self, job: JobId) -> Vec<control::BroadcastSummary> {
        let Some(record) = self.jobs.get(&job) else {
            return Vec::new();
        };
        let current: BTreeMap<BroadcastId, u32> = self
            .scheduler
            .job(job)
            .map(|view| view.broadcasts.into_iter().collect())
            .unwrap_or_default();
        let all = (0..).map(BroadcastId).zip(&record.broadcasts);
        all.map(|(broadcast, record)| record.summary(current.get(&broadcast).copied()))
            .collect()
    }

    /// What is needed to give a variable another value; `refresh` takes it from where the first one came.
    pub(crate) fn update_target(&self, job: &str, name: &str, refresh: bool) -> Result<UpdateTarget, Status> {
        let (id, broadcast) = self.find_broadcast(job, name)?;
        let job = self.jobs.get(&id).ok_or_else(|| self.unknown_job(job))?;
        if job.ended.is_some() {
            return Err(Status::failed_precondition("the job has ended"));
        }
        let record = &job.broadcasts[broadcast.0 as usize];
        if record.destroyed {
            return Err(destroyed(name));
        }
        let def = job.graph.broadcasts[broadcast.0 as usize].clone();
        if !(def.updatable || (refresh && record.changes)) {
            return Err(Status::failed_precondition(format!(
                "broadcast `{name}` keeps its value while the job runs (give it `updatable: true` in the job)"
            )));
        }
        if refresh && !matches!(def.source, BroadcastSource::File { .. } | BroadcastSource::Query(_)) {
            return Err(Status::failed_precondition(format!(
                "the value of broadcast `{name}` stood in the job and cannot be read again (give it a new one)"
            )));
        }
        let internal = |message: String| Status::internal(message);
        let mut tables = Vec::new();
        if refresh {
            for table in job.tables.values() {
                let rows = tidemill_engine::decode_ipc(&table.ipc);
                let (schema, batches) = rows.map_err(|error| internal(error.to_string()))?;
                tables.push(TableData {
                    name: table.name.clone(),
                    schema,
                    batches,
                });
            }
            for other in &job.broadcasts[..broadcast.0 as usize] {
                if let Some(newest) = other.versions.get(&other.newest).filter(|_| !other.destroyed) {
                    tables.push(newest.loaded.table(&other.name).map_err(internal)?);
                }
            }
        }
        Ok(UpdateTarget {
            job: id,
            broadcast,
            def,
            tables,
            room: self.broadcast_room(),
        })
    }

    fn find_broadcast(&self, job: &str, name: &str) -> Result<(JobId, BroadcastId), Status> {
        let id = self.find(job).ok_or_else(|| self.unknown_job(job))?;
        let records = self
            .jobs
            .get(&id)
            .map_or(&[][..], |record| record.broadcasts.as_slice());
        if let Some(place) = records.iter().position(|record| record.name == name) {
            return Ok((id, BroadcastId(place as u32)));
        }
        let names: Vec<&str> = records.iter().map(|record| record.name.as_str()).collect();
        let hint = match nearest(name, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if names.is_empty() => "it has none".to_owned(),
            None => format!("it has {}", names.join(", ")),
        };
        Err(Status::not_found(format!(
            "job {id} has no broadcast `{name}` ({hint})"
        )))
    }

    pub(crate) fn destroy_broadcast(&mut self, job: JobId, broadcast: BroadcastId) {
        if let Some(record) = self.broadcast_record(job, broadcast) {
            record.destroyed = true;
            "it was destroyed".clone_into(&mut record.warning);
        }
        // What batches on their way still name is dropped after them.
        self.schedule(SchedulerEvent::BroadcastDestroyed { job, broadcast });
    }

    /// Drops a value from the executors' memory, or for ever.
    pub(crate) fn give_up_broadcast(&mut self, job: &str, name: &str, destroy: bool) -> Result<(), Status> {
        let (job, broadcast) = self.find_broadcast(job, name)?;
        let Some(record) = self.broadcast_record(job, broadcast) else {
            return Ok(());
        };
        if record.destroyed {
            return Err(destroyed(name));
        }
        if destroy {
            info!(%job, broadcast = name, "broadcast variable destroyed");
            self.record_of(job, |_| journal::broadcast_updated(job, broadcast, None));
            self.destroy_broadcast(job, broadcast);
            return Ok(());
        }
        record.held.clear();
        let versions: Vec<(u32, Arc<Shelved>)> = record
            .versions
            .iter()
            .map(|(version, shelved)| (*version, Arc::clone(shelved)))
            .collect();
        let executors: Vec<ExecutorId> = self.sessions.iter().map(|(id, _)| id).collect();
        for (version, shelved) in versions {
            executors.iter().for_each(|executor| shelved.lose(*executor));
            let key = VersionKey {
                job,
                broadcast,
                version,
            };
            self.send_drop(key, true);
        }
        Ok(())
    }
}

fn destroyed(name: &str) -> Status {
    Status::failed_precondition(format!("broadcast `{name}` was destroyed"))
}

fn columns(schema: &SchemaRef) -> String {
    let columns = schema.fields().iter();
    let columns: Vec<String> = columns
        .map(|field| format!("{} {}", field.name(), field.data_type()))
        .collect();
    columns.join(", ")
}
