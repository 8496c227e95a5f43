//! Values of broadcast variables: one copy on this executor, in each version that a batch can name.
//!
//! ```text
//!  OfferBroadcast ─► collect: pieces from peers and the driver ─► decoded once ─► BroadcastHeld ─► tasks read it
//!                     ▲ a batch needs what was dropped from memory                  └─ pieces for others
//! ```

mod collect;

use std::sync::Arc;

use dashmap::DashMap;
use tidemill_dstream::Shape;
use tidemill_engine::BroadcastValue;
use tidemill_rpc::convert;
use tidemill_rpc::driver as wire;
use tidemill_rpc::driver::attach_request::Event as Report;
use tidemill_storage::{Manifest, MemoryBudget, PieceStore, VersionKey};
use tidemill_types::{BroadcastId, FailureKind, JobId, TaskFailure};
use tracing::{debug, error};

use self::collect::Collector;
use crate::batch::Need;
use crate::event::Event;
use crate::event_loop::EventLoop;

/// What is known of a version that the driver has.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    shape: Shape,
    manifest: Manifest,
}

/// The values of this executor.
pub(crate) struct Broadcasts {
    pub(crate) pieces: PieceStore,
    offers: DashMap<VersionKey, Offer>,
    values: DashMap<VersionKey, Arc<BroadcastValue>>,
}

impl Broadcasts {
    pub(crate) fn new(budget: &Arc<MemoryBudget>) -> Self {
        Self {
            pieces: PieceStore::new(Arc::clone(budget)),
            offers: DashMap::new(),
            values: DashMap::new(),
        }
    }

    /// A value that is here.
    pub(crate) fn value(&self, key: VersionKey) -> Option<Arc<BroadcastValue>> {
        self.values.get(&key).map(|value| Arc::clone(&value))
    }

    /// Whether the version was offered and not dropped since.
    fn is_offered(&self, key: VersionKey) -> bool {
        self.offers.contains_key(&key)
    }

    /// Takes a value unless it was dropped while it was on its way.
    fn put(&self, key: VersionKey, value: BroadcastValue) -> bool {
        // While the offer is looked at it cannot be dropped.
        match self.offers.get(&key) {
            Some(_offer) => {
                self.values.insert(key, Arc::new(value));
                true
            }
            None => {
                self.pieces.drop_versions(|version| *version == key);
                false
            }
        }
    }

    /// Lets go of versions; tasks that use one still have it.
    fn drop_versions(&self, unpersist: bool, which: impl Fn(&VersionKey) -> bool) {
        if !unpersist {
            self.offers.retain(|key, _| !which(key));
        }
        self.values.retain(|key, _| !which(key));
        self.pieces.drop_versions(which);
    }

    /// Nothing is collected any more.
    pub(crate) fn clear(&self) {
        self.drop_versions(false, |_| true);
    }

    pub(crate) fn forget_job(&self, job: JobId) {
        self.drop_versions(false, |key| key.job == job);
    }

    pub(crate) fn counts(&self) -> wire::PieceCounts {
        let counts = self.pieces.counts();
        wire::PieceCounts {
            bytes: counts.bytes,
            from_driver: counts.from_driver,
            from_peers: counts.from_peers,
            sent: counts.sent,
            corrupt: counts.corrupt,
        }
    }
}

impl EventLoop {
    pub(crate) fn offer_broadcast(&mut self, offer: wire::OfferBroadcast) {
        let Some(node) = &self.node else { return };
        let key = VersionKey {
            job: JobId(offer.job),
            broadcast: BroadcastId(offer.broadcast),
            version: offer.version,
        };
        let shape = convert::broadcast_shape(offer.shape());
        let (Some(shape), Some(manifest)) = (shape, Manifest::checked(offer.bytes, offer.checksums)) else {
            return self.report_held(key, "the offer cannot be read".to_owned());
        };
        node.broadcasts.offers.insert(key, Offer { shape, manifest });
        self.collect_broadcast(key);
    }

    /// Gets a version that was offered, if it is not on its way.
    pub(crate) fn collect_broadcast(&mut self, key: VersionKey) {
        let Some(node) = self.node.clone() else { return };
        let Some(offer) = node.broadcasts.offers.get(&key).map(|offer| offer.clone()) else {
            return;
        };
        if self.collecting.contains_key(&key) {
            return;
        }
        let (events, epoch) = (self.events.clone(), self.epoch);
        let collector = Collector {
            node,
            driver: self.options.driver.clone(),
            key,
            offer,
        };
        let collecting = tokio::spawn(async move {
            let result = collector.run().await;
            // The loop ends only with the process.
            let _ = events.send(Event::BroadcastCollected { epoch, key, result });
        });
        self.collecting.insert(key, collecting.abort_handle());
    }

    pub(crate) fn on_broadcast_collected(&mut self, key: VersionKey, result: Option<Result<(), String>>) {
        self.collecting.remove(&key);
        let failure = match result {
            Some(Ok(())) => {
                self.report_held(key, String::new());
                return self.satisfy(Need::Broadcast(key));
            }
            Some(Err(error)) => {
                error!(job = %key.job, broadcast = %key.broadcast, version = key.version, error, "a broadcast value is of no use");
                self.report_held(key, error.clone());
                error
            }
            None => "it was dropped".to_owned(),
        };
        let message = format!("broadcast {} in version {}: {failure}", key.broadcast, key.version);
        for task in self.waiting.remove(&Need::Broadcast(key)).unwrap_or_default() {
            self.on_task_finished(task, Err(TaskFailure::new(FailureKind::InputLost, message.clone())));
        }
    }

    fn report_held(&mut self, key: VersionKey, error: String) {
        self.report(Report::BroadcastHeld(wire::BroadcastHeld {
            job: key.job.0,
            broadcast: key.broadcast.0,
            version: key.version,
            error,
        }));
    }

    pub(crate) fn drop_broadcast(&mut self, drop: &wire::DropBroadcast) {
        let Some(node) = &self.node else { return };
        let key = VersionKey {
            job: JobId(drop.job),
            broadcast: BroadcastId(drop.broadcast),
            version: drop.version,
        };
        debug!(job = %key.job, broadcast = %key.broadcast, version = key.version, drop.unpersist, "broadcast value dropped");
        node.broadcasts.drop_versions(drop.unpersist, |version| *version == key);
    }
}
