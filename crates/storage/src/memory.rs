//! How much memory an executor's data takes, by kind.
//!
//! A [`Charge`] is the right to hold some bytes; dropping it gives them back, so that no path can forget to. Limits
//! are enforced by the stores: the shuffle asks before it takes ([`MemoryBudget::try_charge`]), the others take and
//! spill what is over.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemoryKind {
    /// Received blocks.
    Blocks,
    /// Remembered partitions of datasets.
    Datasets,
    /// Frames that reduce tasks wait for or read.
    Shuffle,
    /// Outputs of map tasks, kept for another push.
    MapOutputs,
    /// Values of broadcast variables; the driver sees to it that they fit.
    Broadcasts,
}

impl MemoryKind {
    pub const ALL: [Self; 5] = [
        Self::Blocks,
        Self::Datasets,
        Self::Shuffle,
        Self::MapOutputs,
        Self::Broadcasts,
    ];
}

impl fmt::Display for MemoryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blocks => "blocks",
            Self::Datasets => "datasets",
            Self::Shuffle => "shuffle",
            Self::MapOutputs => "map outputs",
            Self::Broadcasts => "broadcasts",
        })
    }
}

/// Bytes in memory, above which data is spilled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Received blocks and datasets together.
    pub blocks: u64,
    pub shuffle: u64,
    pub map_outputs: u64,
}

/// The memory account of one executor.
#[derive(Debug)]
pub struct MemoryBudget {
    limits: MemoryLimits,
    used: [Gauge; 5],
}

#[derive(Debug, Default)]
struct Gauge {
    now: AtomicU64,
    peak: AtomicU64,
}

impl MemoryBudget {
    #[must_use]
    pub fn new(limits: MemoryLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            used: Default::default(),
        })
    }

    #[must_use]
    pub fn limits(&self) -> MemoryLimits {
        self.limits
    }

    /// Bytes of `kind` in memory now.
    #[must_use]
    pub fn used(&self, kind: MemoryKind) -> u64 {
        self.gauge(kind).now.load(Ordering::Acquire)
    }

    /// The most bytes of `kind` that were in memory at once.
    #[must_use]
    pub fn peak(&self, kind: MemoryKind) -> u64 {
        self.gauge(kind).peak.load(Ordering::Acquire)
    }

    /// Bytes of all kinds in memory now.
    #[must_use]
    pub fn total(&self) -> u64 {
        MemoryKind::ALL.into_iter().map(|kind| self.used(kind)).sum()
    }

    /// Takes `bytes` whatever the limit.
    #[must_use]
    pub fn charge(self: &Arc<Self>, kind: MemoryKind, bytes: u64) -> Charge {
        let gauge = self.gauge(kind);
        let now = gauge.now.fetch_add(bytes, Ordering::AcqRel) + bytes;
        gauge.peak.fetch_max(now, Ordering::AcqRel);
        Charge {
            budget: Arc::clone(self),
            kind,
            bytes,
        }
    }

    /// Takes `bytes` if `kind` alone stays within its limit with them.
    #[must_use]
    pub fn try_charge(self: &Arc<Self>, kind: MemoryKind, bytes: u64) -> Option<Charge> {
        let limit = self.limit(kind);
        let gauge = self.gauge(kind);
        let before = gauge
            .now
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
                now.checked_add(bytes).filter(|after| *after <= limit)
            })
            .ok()?;
        gauge.peak.fetch_max(before + bytes, Ordering::AcqRel);
        Some(Charge {
            budget: Arc::clone(self),
            kind,
            bytes,
        })
    }

    fn limit(&self, kind: MemoryKind) -> u64 {
        match kind {
            MemoryKind::Blocks | MemoryKind::Datasets => self.limits.blocks,
            MemoryKind::Shuffle => self.limits.shuffle,
            MemoryKind::MapOutputs => self.limits.map_outputs,
            MemoryKind::Broadcasts => u64::MAX,
        }
    }

    fn gauge(&self, kind: MemoryKind) -> &Gauge {
        &self.used[kind as usize]
    }
}

/// Bytes taken from a [`MemoryBudget`] until this is dropped.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<MemoryBudget>,
    kind: MemoryKind,
    bytes: u64,
}

impl Charge {
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.gauge(self.kind).now.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: MemoryLimits = MemoryLimits {
        blocks: 100,
        shuffle: 10,
        map_outputs: 20,
    };

    #[test]
    fn a_dropped_charge_gives_its_bytes_back() {
        let budget = MemoryBudget::new(LIMITS);
        let first = budget.charge(MemoryKind::Blocks, 70);
        let second = budget.charge(MemoryKind::Blocks, 70);
        assert_eq!(budget.used(MemoryKind::Blocks), 140);
        drop(first);
        assert_eq!(budget.used(MemoryKind::Blocks), 70);
        drop(second);
        assert_eq!((budget.total(), budget.peak(MemoryKind::Blocks)), (0, 140));
    }

    #[test]
    fn the_limit_is_reached_but_not_passed() {
        let budget = MemoryBudget::new(LIMITS);
        let all = budget.try_charge(MemoryKind::Shuffle, 10);
        assert!(all.is_some());
        assert!(budget.try_charge(MemoryKind::Shuffle, 1).is_none());
        assert!(budget.try_charge(MemoryKind::Shuffle, u64::MAX).is_none());
        drop(all);
        assert!(budget.try_charge(MemoryKind::Shuffle, 1).is_some());
        assert_eq!(budget.peak(MemoryKind::Shuffle), 10);
    }
}
