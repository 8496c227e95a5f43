//! The values of one executor, by version.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use tidemill_types::{BroadcastId, JobId};

use super::{Assembly, Manifest, Piece};
use crate::memory::{MemoryBudget, MemoryKind};

/// A version of a broadcast variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionKey {
    pub job: JobId,
    pub broadcast: BroadcastId,
    pub version: u32,
}

/// Who got what, since the executor registered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PieceCounts {
    /// In memory now.
    pub bytes: u64,
    pub from_driver: u64,
    pub from_peers: u64,
    /// Given to others.
    pub sent: u64,
    /// Came damaged.
    pub corrupt: u64,
}

/// What an executor has of broadcast values, whole and in pieces.
#[derive(Debug)]
pub struct PieceStore {
    budget: Arc<MemoryBudget>,
    values: DashMap<VersionKey, Arc<Assembly>>,
    from_driver: AtomicU64,
    from_peers: AtomicU64,
    sent: AtomicU64,
    corrupt: AtomicU64,
}

impl PieceStore {
    #[must_use]
    pub fn new(budget: Arc<MemoryBudget>) -> Self {
        Self {
            budget,
            values: DashMap::new(),
            from_driver: AtomicU64::new(0),
            from_peers: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            corrupt: AtomicU64::new(0),
        }
    }

    /// The value, begun if nothing of it is here.
    #[must_use]
    pub fn begin(&self, key: VersionKey, manifest: &Manifest) -> Arc<Assembly> {
        let begun = self.values.entry(key);
        Arc::clone(&begun.or_insert_with(|| Arc::new(Assembly::new(manifest.clone(), &self.budget))))
    }

    /// A piece for somebody else.
    #[must_use]
    pub fn give(&self, key: VersionKey, piece: u32) -> Option<Piece> {
        let value = Arc::clone(&*self.values.get(&key)?);
        let piece = value.piece(piece)?;
        self.sent.fetch_add(1, Ordering::Relaxed);
        Some(piece)
    }

    /// Lets go of versions. Whoever uses one still has it.
    pub fn drop_versions(&self, which: impl Fn(&VersionKey) -> bool) {
        self.values.retain(|key, _| !which(key));
    }

    pub fn count_piece(&self, from_driver: bool) {
        let counter = if from_driver {
            &self.from_driver
        } else {
            &self.from_peers
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_corrupt(&self) {
        self.corrupt.fetch_add(1, Ordering::Relaxed);
    }

    #[must_use]
    pub fn counts(&self) -> PieceCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PieceCounts {
            bytes: self.budget.used(MemoryKind::Broadcasts),
            from_driver: read(&self.from_driver),
            from_peers: read(&self.from_peers),
            sent: read(&self.sent),
            corrupt: read(&self.corrupt),
        }
    }
}
