//! The values that the driver has for executors, and who has which of their pieces.
//!
//! Shared by the event loop, which puts versions here and takes them away, and the service that gives pieces out. Of
//! scheduling nothing is here.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use tidemill_rpc::driver as wire;
use tidemill_rpc::plan::BroadcastShape;
use tidemill_scheduler::pieces::{PieceTotals, PieceTracker};
use tidemill_storage::VersionKey;
use tidemill_types::ExecutorId;
use tokio::sync::Notify;

use super::load::LoadedBroadcast;

/// All versions that executors may ask for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shelf {
    versions: Arc<RwLock<HashMap<VersionKey, Arc<Shelved>>>>,
    /// Those that are registered: a process that was declared lost has nothing for others, whatever it says.
    executors: Arc<RwLock<BTreeSet<ExecutorId>>>,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Shelved {
    pub(crate) loaded: LoadedBroadcast,
    pub(crate) tracker: Mutex<PieceTracker>,
    /// Something that an executor waits for may be there now.
    pub(crate) changed: Notify,
}

impl Shelf {
    pub(crate) fn put(&self, key: VersionKey, loaded: LoadedBroadcast) -> Arc<Shelved> {
        let seed = u64::from(key.job.0) << 32 | u64::from(key.version);
        let shelved = Arc::new(Shelved {
            tracker: Mutex::new(PieceTracker::new(loaded.manifest.pieces(), seed)),
            loaded,
            changed: Notify::new(),
        });
        self.versions.write().insert(key, Arc::clone(&shelved));
        shelved
    }

    pub(crate) fn get(&self, key: VersionKey) -> Option<Arc<Shelved>> {
        self.versions.read().get(&key).cloned()
    }

    pub(crate) fn remove(&self, key: VersionKey) {
        self.versions.write().remove(&key);
    }

    /// Bytes of all values.
    pub(crate) fn bytes(&self) -> u64 {
        self.versions
            .read()
            .values()
            .map(|shelved| shelved.loaded.bytes())
            .sum()
    }

    /// An executor has come.
    pub(crate) fn register(&self, executor: ExecutorId) {
        self.executors.write().insert(executor);
    }

    /// Lets an executor collect a version, if it is registered.
    pub(crate) fn join(&self, shelved: &Shelved, executor: ExecutorId, held: &[u32], at_once: u32) -> bool {
        // Held until it has joined, so that it is lost afterwards or not let in.
        let executors = self.executors.read();
        let known = executors.contains(&executor);
        if known {
            shelved.tracker.lock().join(executor, held, at_once);
            shelved.changed.notify_waiters();
        }
        known
    }

    /// An executor is gone, and what it had.
    pub(crate) fn lose(&self, executor: ExecutorId) {
        self.executors.write().remove(&executor);
        for shelved in self.versions.read().values() {
            shelved.lose(executor);
        }
    }
}

impl Shelved {
    /// An executor has nothing of it any more.
    pub(crate) fn lose(&self, executor: ExecutorId) {
        self.tracker.lock().lose(executor);
        self.changed.notify_waiters();
    }

    pub(crate) fn totals(&self) -> PieceTotals {
        self.tracker.lock().totals()
    }

    /// What executors are told of it.
    pub(crate) fn offer(&self, key: VersionKey) -> wire::OfferBroadcast {
        wire::OfferBroadcast {
            job: key.job.0,
            broadcast: key.broadcast.0,
            version: key.version,
            shape: BroadcastShape::from(self.loaded.shape).into(),
            bytes: self.loaded.bytes(),
            checksums: self.loaded.manifest.checksums.clone(),
        }
    }
}
