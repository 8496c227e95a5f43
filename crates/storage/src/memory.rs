//! One budget in bytes for all that an executor holds, and who holds how much of it.
//!
//! ```text
//!   ├─────────────────────────────── total ───────────────────────────────┤
//!   │ blocks │ datasets │ map outputs │ state ┊ free ┊ shuffle │   tasks   │
//!     these yield: what nobody looks at goes          these do not: they take
//!     to files when another needs the room            what the floors of others leave
//! ```
//! - A [`Charge`] is the right to hold some bytes; dropping it gives them back, so that no path can forget to.
//! - Every kind has a *floor*, a share that is its own whenever it asks for it. What is free beyond the floors is for
//!   whoever comes first.
//! - Kinds that *yield* may take all that is free, for they are made to give it back: they register a [`Reclaim`].
//!   Kinds that do not yield leave room for the floors of all others.
//!
//! [`MemoryBudget::try_charge`] looks at the numbers alone; [`MemoryBudget::acquire`] also has others give way, which may
//! block on the file system; [`MemoryBudget::charge`] takes in any case, and [`MemoryBudget::relieve`] makes up for it.

use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

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
    /// What operators keep of each key, and the indexes of windows.
    State,
    /// What running tasks work with.
    Tasks,
}

const KINDS: usize = MemoryKind::ALL.len();

impl MemoryKind {
    pub const ALL: [Self; 7] = [
        Self::Blocks,
        Self::Datasets,
        Self::Shuffle,
        Self::MapOutputs,
        Self::Broadcasts,
        Self::State,
        Self::Tasks,
    ];

    /// Whether what is held can go to files while nobody looks at it.
    fn yields(self) -> bool {
        match self {
            Self::Blocks | Self::Datasets | Self::MapOutputs | Self::State => true,
            Self::Shuffle | Self::Broadcasts | Self::Tasks => false,
        }
    }

    /// Its floor, in hundredths of the total. All of them together leave a third to whoever needs it.
    fn floor_percent(self) -> u64 {
        match self {
            // A receiver must go on while the rest works.
            Self::Blocks => 10,
            Self::Datasets => 10,
            Self::Shuffle => 15,
            // Nobody reads these unless something fails.
            Self::MapOutputs => 2,
            Self::State => 10,
            Self::Tasks => 20,
            // The driver sees to it that they fit, and most jobs have none.
            Self::Broadcasts => 0,
        }
    }

    /// Its name in summaries.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Blocks => "blocks",
            Self::Datasets => "datasets",
            Self::Shuffle => "shuffle",
            Self::MapOutputs => "map_outputs",
            Self::State => "state",
            Self::Tasks => "tasks",
            Self::Broadcasts => "broadcasts",
        }
    }
}

impl fmt::Display for MemoryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How much there is, and what of it is each kind's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimits {
    pub total: u64,
    floors: [u64; KINDS],
}

impl MemoryLimits {
    /// `total` bytes with the usual floors.
    #[must_use]
    pub fn of(total: u64) -> Self {
        Self {
            total,
            // In this order nothing overflows, and a total below 100 bytes has no floors.
            floors: MemoryKind::ALL.map(|kind| total / 100 * kind.floor_percent()),
        }
    }

    /// `total` bytes for whoever comes first.
    #[must_use]
    pub fn without_floors(total: u64) -> Self {
        Self {
            total,
            floors: [0; KINDS],
        }
    }

    #[must_use]
    pub fn floor(&self, kind: MemoryKind) -> u64 {
        self.floors[kind as usize]
    }
}

/// Something that holds memory which others may need more.
pub trait Reclaim: Send + Sync {
    /// Lets go of about `bytes` that nobody looks at, of kinds that are above their floors (or of all, `below_floors`),
    /// and says of how many. May block on the file system.
    fn reclaim(&self, bytes: u64, below_floors: bool) -> u64;
}

/// The memory account of one executor.
pub struct MemoryBudget {
    limits: MemoryLimits,
    held: Mutex<Held>,
    /// Those that are asked first stand in front.
    reclaimers: RwLock<Vec<(u8, Weak<dyn Reclaim>)>>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Held {
    used: [u64; KINDS],
    peak: [u64; KINDS],
    /// Bytes of each kind that are on their way to files: still in memory, but not for long.
    leaving: u64,
    /// Entries that went to files, and entries that were let go of altogether.
    evicted: [u64; KINDS],
    dropped: [u64; KINDS],
    peak_total: u64,
}

impl Held {
    fn total(&self) -> u64 {
        self.used.iter().sum()
    }

    fn take(&mut self, kind: MemoryKind, bytes: u64) {
        let used = &mut self.used[kind as usize];
        *used += bytes;
        let peak = &mut self.peak[kind as usize];
        *peak = (*peak).max(*used);
        self.peak_total = self.peak_total.max(self.total());
    }
}

/// What a budget has of one kind, for reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    pub used: u64,
    pub peak: u64,
    pub floor: u64,
    /// Entries that went from memory to files.
    pub evicted: u64,
    /// Entries that were let go of, because they may not go to files or can be made again.
    pub dropped: u64,
}

impl fmt::Debug for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBudget")
            .field("limits", &self.limits)
            .field("held", &*self.held.lock())
            .finish_non_exhaustive()
    }
}

impl MemoryBudget {
    #[must_use]
    pub fn new(limits: MemoryLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            held: Mutex::default(),
            reclaimers: RwLock::default(),
            freed: Notify::new(),
        })
    }

    #[must_use]
    pub fn limits(&self) -> MemoryLimits {
        self.limits
    }

    /// Bytes of `kind` in memory now.
    #[must_use]
    pub fn used(&self, kind: MemoryKind) -> u64 {
        self.held.lock().used[kind as usize]
    }

    /// The most bytes of `kind` that were in memory at once.
    #[must_use]
    pub fn peak(&self, kind: MemoryKind) -> u64 {
        self.held.lock().peak[kind as usize]
    }

    /// Bytes of all kinds in memory now.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.held.lock().total()
    }

    /// The most bytes of all kinds that were in memory at once.
    #[must_use]
    pub fn peak_total(&self) -> u64 {
        self.held.lock().peak_total
    }

    /// All that is known of `kind`.
    #[must_use]
    pub fn usage(&self, kind: MemoryKind) -> MemoryUse {
        let held = self.held.lock();
        let at = kind as usize;
        MemoryUse {
            used: held.used[at],
            peak: held.peak[at],
            floor: self.limits.floors[at],
            evicted: held.evicted[at],
            dropped: held.dropped[at],
        }
    }

    /// Who holds how much, largest first, for messages.
    #[must_use]
    pub fn describe(&self) -> String {
        let held = self.held.lock();
        let mut parts: Vec<(u64, MemoryKind)> = MemoryKind::ALL
            .into_iter()
            .map(|kind| (held.used[kind as usize], kind))
            .filter(|(used, _)| *used > 0)
            .collect();
        parts.sort_by_key(|(used, _)| std::cmp::Reverse(*used));
        let parts: Vec<String> = parts.iter().map(|(used, kind)| format!("{kind} {used}")).collect();
        format!(
            "{} of {} bytes in use: {}",
            held.total(),
            self.limits.total,
            parts.join(", ")
        )
    }

    /// Bytes of `kind` above its floor.
    #[must_use]
    pub fn above_floor(&self, kind: MemoryKind) -> u64 {
        self.used(kind).saturating_sub(self.limits.floor(kind))
    }

    /// Takes `bytes` whatever the limit. Call [`MemoryBudget::relieve`] after it where that may block.
    #[must_use]
    pub fn charge(self: &Arc<Self>, kind: MemoryKind, bytes: u64) -> Charge {
        self.held.lock().take(kind, bytes);
        Charge {
            budget: Arc::clone(self),
            kind,
            bytes,
        }
    }

    /// Takes `bytes` if they are free for `kind`.
    #[must_use]
    pub fn try_charge(self: &Arc<Self>, kind: MemoryKind, bytes: u64) -> Option<Charge> {
        self.try_take(kind, bytes).then(|| Charge {
            budget: Arc::clone(self),
            kind,
            bytes,
        })
    }

    /// Takes `bytes`, and has others give way if need be. `None`: there is no room however much they give. May block on
    /// the file system.
    #[must_use]
    pub fn acquire(self: &Arc<Self>, kind: MemoryKind, bytes: u64) -> Option<Charge> {
        self.make_room(kind, bytes).then(|| Charge {
            budget: Arc::clone(self),
            kind,
            bytes,
        })
    }

    /// Whether [`MemoryBudget::try_charge`] would succeed now.
    #[must_use]
    pub fn has_room(&self, kind: MemoryKind, bytes: u64) -> bool {
        self.shortage(&self.held.lock(), kind, bytes) == 0
    }

    /// The bytes that `kind` could have in all, were all others to give what they can.
    #[must_use]
    pub fn attainable(&self, kind: MemoryKind) -> u64 {
        let held = self.held.lock();
        let others = MemoryKind::ALL.into_iter().filter(|other| *other != kind);
        let taken: u64 = others
            .map(|other| {
                let (used, floor) = (held.used[other as usize], self.limits.floor(other));
                if other.yields() { floor } else { used.max(floor) }
            })
            .sum();
        self.limits.total.saturating_sub(taken)
    }

    /// Waits until something is given back. Make the future before looking whether there is room.
    pub fn freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.freed.notified()
    }

    /// Has kinds that yield give back what is over the total. May block on the file system.
    pub fn relieve(&self) {
        self.reclaim_until(|held| held.total().saturating_sub(held.leaving + self.limits.total));
    }

    /// Registers something that gives way, the lower its `order` the sooner.
    pub fn add_reclaimer(&self, order: u8, reclaimer: Weak<dyn Reclaim>) {
        let mut reclaimers = self.reclaimers.write();
        reclaimers.push((order, reclaimer));
        reclaimers.sort_by_key(|(order, _)| *order);
    }

    /// How much of what is over the total is not on its way out yet.
    pub(crate) fn excess(&self) -> u64 {
        let held = self.held.lock();
        held.total().saturating_sub(held.leaving + self.limits.total)
    }

    /// `bytes` are being written, or are not any more.
    pub(crate) fn leaving(&self, bytes: u64) -> Leaving<'_> {
        self.held.lock().leaving += bytes;
        Leaving { budget: self, bytes }
    }

    pub(crate) fn count_evicted(&self, kind: MemoryKind) {
        self.held.lock().evicted[kind as usize] += 1;
    }

    /// Something of `kind` was let go of.
    pub fn count_dropped(&self, kind: MemoryKind) {
        self.held.lock().dropped[kind as usize] += 1;
    }

    /// Something other than memory that waiters for room look at has changed.
    pub(crate) fn notify(&self) {
        self.freed.notify_waiters();
    }

    fn try_take(&self, kind: MemoryKind, bytes: u64) -> bool {
        let mut held = self.held.lock();
        let fits = self.shortage(&held, kind, bytes) == 0;
        if fits {
            held.take(kind, bytes);
        }
        fits
    }

    fn make_room(&self, kind: MemoryKind, bytes: u64) -> bool {
        loop {
            if self.try_take(kind, bytes) {
                return true;
            }
            // What yields gives way to its own kind too.
            let stays = if kind.yields() { 0 } else { self.used(kind) };
            if stays.saturating_add(bytes) > self.attainable(kind) {
                return false;
            }
            if self.reclaim_until(|held| self.shortage(held, kind, bytes)) == 0 {
                // Somebody else may have been giving way meanwhile.
                return self.try_take(kind, bytes);
            }
        }
    }

    /// The bytes that have to become free before `kind` can have `bytes` more.
    fn shortage(&self, held: &Held, kind: MemoryKind, bytes: u64) -> u64 {
        let used = held.used[kind as usize];
        let wanted = used.saturating_add(bytes);
        // Room that others may claim: what yields gives it back then, and a kind's own floor is not for others.
        let kept_free: u64 = if kind.yields() || wanted <= self.limits.floor(kind) {
            0
        } else {
            let others = MemoryKind::ALL.into_iter().filter(|other| *other != kind);
            let unused = |other: MemoryKind| self.limits.floor(other).saturating_sub(held.used[other as usize]);
            others.map(unused).sum()
        };
        let needed = held.total().saturating_add(bytes).saturating_add(kept_free);
        needed.saturating_sub(self.limits.total)
    }

    /// Asks for what is missing, the kinds above their floors first; returns what was freed.
    fn reclaim_until(&self, missing: impl Fn(&Held) -> u64) -> u64 {
        let mut freed = 0;
        for below_floors in [false, true] {
            if missing(&self.held.lock()) == 0 {
                return freed;
            }
            let reclaimers: Vec<Arc<dyn Reclaim>> = {
                let reclaimers = self.reclaimers.read();
                reclaimers
                    .iter()
                    .filter_map(|(_, reclaimer)| reclaimer.upgrade())
                    .collect()
            };
            for reclaimer in reclaimers {
                let missing = missing(&self.held.lock());
                if missing == 0 {
                    return freed;
                }
                freed += reclaimer.reclaim(missing, below_floors);
            }
        }
        freed
    }

    fn give_back(&self, kind: MemoryKind, bytes: u64) {
        self.held.lock().used[kind as usize] -= bytes;
        self.freed.notify_waiters();
    }
}

/// Bytes that count as good as gone until this is dropped.
pub(crate) struct Leaving<'a> {
    budget: &'a MemoryBudget,
    bytes: u64,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.budget.held.lock().leaving -= self.bytes;
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

    #[must_use]
    pub fn kind(&self) -> MemoryKind {
        self.kind
    }

    #[must_use]
    pub fn budget(&self) -> &MemoryBudget {
        &self.budget
    }

    /// Makes one charge of two of the same kind and budget.
    pub fn merge(&mut self, mut other: Self) {
        debug_assert!(self.kind == other.kind && Arc::ptr_eq(&self.budget, &other.budget));
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Takes `bytes` more as [`MemoryBudget::acquire`] does; false: there is no room.
    pub fn grow(&mut self, bytes: u64) -> bool {
        let grown = self.budget.make_room(self.kind, bytes);
        if grown {
            self.bytes += bytes;
        }
        grown
    }

    /// Makes it a charge of `bytes`, whatever the limit.
    pub fn resize(&mut self, bytes: u64) {
        if bytes > self.bytes {
            self.budget.held.lock().take(self.kind, bytes - self.bytes);
        } else if bytes < self.bytes {
            self.budget.give_back(self.kind, self.bytes - bytes);
        }
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.give_back(self.kind, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_charge_gives_its_bytes_back() {
        let budget = MemoryBudget::new(MemoryLimits::of(100));
        let first = budget.charge(MemoryKind::Blocks, 70);
        let second = budget.charge(MemoryKind::Blocks, 70);
        assert_eq!(budget.used(MemoryKind::Blocks), 140);
        drop(first);
        assert_eq!(budget.used(MemoryKind::Blocks), 70);
        drop(second);
        assert_eq!((budget.total(), budget.peak(MemoryKind::Blocks)), (0, 140));
        assert_eq!(budget.peak_total(), 140);
    }

    #[test]
    fn the_limit_is_reached_but_not_passed() {
        let budget = MemoryBudget::new(MemoryLimits::without_floors(10));
        let all = budget.try_charge(MemoryKind::Shuffle, 10);
        assert!(all.is_some());
        assert!(budget.try_charge(MemoryKind::Shuffle, 1).is_none());
        assert!(budget.try_charge(MemoryKind::Blocks, u64::MAX).is_none());
        drop(all);
        assert!(budget.try_charge(MemoryKind::Blocks, 1).is_some());
        assert_eq!(budget.peak(MemoryKind::Shuffle), 10);
    }

    #[test]
    fn what_does_not_yield_leaves_the_floors_of_others_free() {
        let budget = MemoryBudget::new(MemoryLimits::of(1000));
        // All floors but its own: 10 + 10 + 15 + 2 + 10 hundredths.
        let most = 1000 - 470;
        assert!(budget.try_charge(MemoryKind::Tasks, most + 1).is_none());
        let tasks = budget.try_charge(MemoryKind::Tasks, most).unwrap();
        let shuffle = budget.try_charge(MemoryKind::Shuffle, 150).unwrap();
        assert!(budget.try_charge(MemoryKind::Shuffle, 1).is_none());
        assert!(budget.try_charge(MemoryKind::State, 320).is_some());
        drop((tasks, shuffle));
        assert!(budget.try_charge(MemoryKind::Datasets, 1000).is_some());
    }

    /// Holds charges of 10 bytes, and gives them back one by one.
    struct Pile {
        charges: Mutex<Vec<Charge>>,
    }

    impl Reclaim for Pile {
        fn reclaim(&self, bytes: u64, _: bool) -> u64 {
            let mut freed = 0;
            while freed < bytes {
                let Some(charge) = self.charges.lock().pop() else { break };
                freed += charge.bytes();
            }
            freed
        }
    }

    #[test]
    fn others_give_way_as_far_as_is_needed_and_not_in_vain() {
        let budget = MemoryBudget::new(MemoryLimits::without_floors(100));
        let charges = (0..10).map(|_| budget.charge(MemoryKind::Datasets, 10)).collect();
        let pile = Arc::new(Pile {
            charges: Mutex::new(charges),
        });
        let weak: Weak<dyn Reclaim> = Arc::downgrade(&(Arc::clone(&pile) as Arc<dyn Reclaim>));
        budget.add_reclaimer(0, weak);
        assert!(budget.try_charge(MemoryKind::Tasks, 25).is_none());
        let mut tasks = budget.acquire(MemoryKind::Tasks, 25).unwrap();
        assert_eq!(pile.charges.lock().len(), 7);
        assert!(budget.acquire(MemoryKind::Tasks, 101).is_none());
        assert_eq!(
            pile.charges.lock().len(),
            7,
            "more than there is does not drive others out"
        );
        assert!(tasks.grow(15));
        assert_eq!((budget.used(MemoryKind::Tasks), pile.charges.lock().len()), (40, 6));
        assert!(!tasks.grow(61));
        let over = budget.charge(MemoryKind::Blocks, 30);
        budget.relieve();
        assert_eq!((budget.total(), pile.charges.lock().len()), (100, 3));
        drop(over);
    }

    #[tokio::test]
    async fn a_waiter_is_told_when_something_is_given_back() {
        let budget = MemoryBudget::new(MemoryLimits::of(100));
        let charge = budget.charge(MemoryKind::Tasks, 100);
        let freed = budget.freed();
        tokio::pin!(freed);
        freed.as_mut().enable();
        drop(charge);
        freed.await;
    }
}
