//! Who takes which piece of a value from whom.
//!
//! The driver has the whole value; executors collect it, a few pieces at a time, and have for others what they have
//! got. A piece comes from an executor that has it; from the driver it comes only if no executor has it and none is
//! getting it. So the driver sends each piece once, however many executors there are.
//!
//! ```text
//!            piece 0   1   2   3
//!  executor 1      ●   ◄driver       next(1) = 2 from the driver: nobody has it, nobody gets it
//!  executor 2      ◄1  ·   ·         next(2) = nothing: 1 is on its way to executor 1, 2 too; it is asked again
//! ```
//! Rare pieces go first, and among equals chance decides, so that executors soon have different ones to give. Pure: the
//! driver's service asks [`PieceTracker::next`] whenever something has changed.

use std::collections::{BTreeMap, BTreeSet};

use tidemill_types::ExecutorId;

/// Pieces that the driver sends at once: enough to fill a network, and few enough that the first are soon with somebody
/// who can send them on.
pub const DRIVER_AT_ONCE: u32 = 8;

/// Pieces that one executor gives at once.
pub const UPLOADS_AT_ONCE: u32 = 6;

/// Where a piece comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceSource {
    Driver,
    Executor(ExecutorId),
}

/// The pieces of one value.
#[derive(Clone, Debug)]
pub struct PieceTracker {
    executors: BTreeMap<ExecutorId, Collector>,
    /// By piece, who has it.
    holders: Vec<Vec<ExecutorId>>,
    /// Pieces on their way from the driver.
    from_driver: BTreeSet<u32>,
    random: u64,
    counts: PieceTotals,
}

/// What all executors got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PieceTotals {
    pub from_driver: u64,
    pub from_peers: u64,
    /// Came damaged and were taken again.
    pub corrupt: u64,
}

#[derive(Clone, Debug)]
struct Collector {
    has: Vec<bool>,
    /// Pieces on their way to it.
    taking: BTreeMap<u32, PieceSource>,
    at_once: u32,
    /// Pieces that it is giving to others.
    giving: u32,
    /// Who did not give it which piece: not asked for it again.
    shunned: BTreeSet<(u32, ExecutorId)>,
}

impl PieceTracker {
    /// `seed` decides among equals.
    #[must_use]
    pub fn new(pieces: u32, seed: u64) -> Self {
        Self {
            executors: BTreeMap::new(),
            holders: vec![Vec::new(); pieces as usize],
            from_driver: BTreeSet::new(),
            random: seed,
            counts: PieceTotals::default(),
        }
    }

    #[must_use]
    pub fn totals(&self) -> PieceTotals {
        self.counts
    }

    /// Whether an executor has joined and was not lost since.
    #[must_use]
    pub fn knows(&self, executor: ExecutorId) -> bool {
        self.executors.contains_key(&executor)
    }

    /// The executors that have every piece.
    #[cfg(test)]
    fn complete(&self) -> impl Iterator<Item = ExecutorId> {
        let all = self
            .executors
            .iter()
            .filter(|(_, collector)| collector.has.iter().all(|has| *has));
        all.map(|(executor, _)| *executor)
    }

    /// An executor begins to collect, or goes on with what it has.
    pub fn join(&mut self, executor: ExecutorId, has: &[u32], at_once: u32) {
        self.lose(executor);
        let mut collector = Collector {
            has: vec![false; self.holders.len()],
            taking: BTreeMap::new(),
            at_once: at_once.max(1),
            giving: 0,
            shunned: BTreeSet::new(),
        };
        for piece in has {
            if let Some(has) = collector.has.get_mut(*piece as usize)
                && !std::mem::replace(has, true)
            {
                self.holders[*piece as usize].push(executor);
            }
        }
        self.executors.insert(executor, collector);
    }

    /// Takes a piece into the executor's hands, if it has room and somebody can give it one.
    pub fn next(&mut self, executor: ExecutorId) -> Option<(u32, PieceSource)> {
        let collector = self.executors.get(&executor)?;
        if collector.taking.len() >= collector.at_once as usize {
            return None;
        }
        let missing = (0..self.holders.len() as u32)
            .filter(|piece| !collector.has[*piece as usize] && !collector.taking.contains_key(piece));
        let mut best: Option<((usize, u64), u32, PieceSource)> = None;
        for piece in missing {
            let rank = (self.holders[piece as usize].len(), mix(self.random ^ u64::from(piece)));
            // Only what would be better is worth looking for who gives it.
            if best.is_none_or(|(found, ..)| rank < found)
                && let Some(source) = self.source(collector, piece)
            {
                best = Some((rank, piece, source));
            }
        }
        let (_, piece, source) = best?;
        self.random = mix(self.random);
        match source {
            PieceSource::Driver => {
                self.from_driver.insert(piece);
            }
            PieceSource::Executor(holder) => self.giving(holder, 1),
        }
        self.executors.get_mut(&executor)?.taking.insert(piece, source);
        Some((piece, source))
    }

    /// Who gives an executor a piece now.
    fn source(&self, collector: &Collector, piece: u32) -> Option<PieceSource> {
        let holders = self.holders[piece as usize].iter().copied();
        let mut holders = holders
            .filter(|holder| !collector.shunned.contains(&(piece, *holder)))
            .peekable();
        if holders.peek().is_some() {
            let giving = |holder: ExecutorId| self.executors.get(&holder).map_or(u32::MAX, |holder| holder.giving);
            let free = holders.map(|holder| (giving(holder), mix(self.random ^ u64::from(holder.0)), holder));
            let (giving, _, holder) = free.min()?;
            return (giving < UPLOADS_AT_ONCE).then_some(PieceSource::Executor(holder));
        }
        let room = self.from_driver.len() < DRIVER_AT_ONCE as usize;
        (room && !self.from_driver.contains(&piece)).then_some(PieceSource::Driver)
    }

    fn giving(&mut self, holder: ExecutorId, by: i32) {
        if let Some(holder) = self.executors.get_mut(&holder) {
            holder.giving = holder.giving.saturating_add_signed(by);
        }
    }

    /// A piece is not on its way any more.
    fn arrived(&mut self, piece: u32, source: PieceSource) {
        match source {
            PieceSource::Driver => {
                self.from_driver.remove(&piece);
            }
            PieceSource::Executor(holder) => self.giving(holder, -1),
        }
    }

    /// A piece has come, and others can have it from there.
    pub fn stored(&mut self, executor: ExecutorId, piece: u32) {
        let Some(collector) = self.executors.get_mut(&executor) else {
            return;
        };
        let source = collector.taking.remove(&piece);
        if let Some(has) = collector.has.get_mut(piece as usize)
            && !std::mem::replace(has, true)
        {
            self.holders[piece as usize].push(executor);
        }
        match source {
            Some(PieceSource::Driver) => self.counts.from_driver += 1,
            Some(PieceSource::Executor(_)) => self.counts.from_peers += 1,
            None => return,
        }
        source.into_iter().for_each(|source| self.arrived(piece, source));
    }

    /// A piece has not come, or not as it has to be.
    pub fn missed(&mut self, executor: ExecutorId, piece: u32, corrupt: bool) {
        let Some(collector) = self.executors.get_mut(&executor) else {
            return;
        };
        self.counts.corrupt += u64::from(corrupt);
        let Some(source) = collector.taking.remove(&piece) else {
            return;
        };
        if let PieceSource::Executor(holder) = source {
            collector.shunned.insert((piece, holder));
        }
        self.arrived(piece, source);
    }

    /// An executor collects no more, and still has what it has.
    pub fn leave(&mut self, executor: ExecutorId) {
        let taking = self
            .executors
            .get_mut(&executor)
            .map(|collector| std::mem::take(&mut collector.taking));
        for (piece, source) in taking.into_iter().flatten() {
            self.arrived(piece, source);
        }
    }

    /// An executor is gone, or has nothing of the value any more.
    pub fn lose(&mut self, executor: ExecutorId) {
        self.leave(executor);
        if self.executors.remove(&executor).is_some() {
            for holders in &mut self.holders {
                holders.retain(|holder| *holder != executor);
            }
        }
    }
}

/// The finaliser of SplitMix64.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(executors: u32) -> Vec<ExecutorId> {
        (1..=executors).map(ExecutorId).collect()
    }

    /// Lets transfers end in an order that `seed` decides, until nothing happens any more. `fate` tells of each whether
    /// the piece comes.
    fn run(
        tracker: &mut PieceTracker,
        executors: &[ExecutorId],
        seed: u64,
        mut fate: impl FnMut(PieceSource) -> bool,
    ) -> u64 {
        let mut open: Vec<(ExecutorId, u32, PieceSource)> = Vec::new();
        let (mut random, mut driver) = (seed, 0);
        loop {
            for executor in executors {
                while let Some((piece, source)) = tracker.next(*executor) {
                    if let PieceSource::Executor(holder) = source {
                        assert!(
                            tracker.executors[&holder].has[piece as usize],
                            "{holder} does not have it"
                        );
                    }
                    driver += u64::from(source == PieceSource::Driver);
                    open.push((*executor, piece, source));
                }
            }
            if open.is_empty() {
                return driver;
            }
            random = mix(random);
            let (executor, piece, source) = open.swap_remove((random % open.len() as u64) as usize);
            if fate(source) {
                tracker.stored(executor, piece);
            } else {
                tracker.missed(executor, piece, true);
            }
        }
    }

    #[test]
    fn the_driver_sends_each_piece_once_to_sixteen_executors() {
        let executors = ids(16);
        let mut tracker = PieceTracker::new(64, 1);
        for executor in &executors {
            tracker.join(*executor, &[], 4);
        }
        assert_eq!(run(&mut tracker, &executors, 7, |_| true), 64);
        assert_eq!(tracker.complete().count(), 16);
        assert_eq!(
            tracker.totals(),
            PieceTotals {
                from_driver: 64,
                from_peers: 15 * 64,
                corrupt: 0
            }
        );
    }

    #[test]
    fn the_first_pieces_of_two_executors_are_different_ones() {
        let mut tracker = PieceTracker::new(8, 3);
        tracker.join(ExecutorId(1), &[], 2);
        tracker.join(ExecutorId(2), &[], 2);
        let mut pieces: Vec<u32> = Vec::new();
        for executor in [1, 2, 1, 2] {
            let (piece, source) = tracker.next(ExecutorId(executor)).unwrap();
            assert_eq!(source, PieceSource::Driver);
            pieces.push(piece);
        }
        pieces.sort_unstable();
        pieces.dedup();
        assert_eq!(pieces.len(), 4);
        assert_eq!(tracker.next(ExecutorId(1)), None, "it takes two at once");
    }

    #[test]
    fn what_only_a_lost_executor_had_comes_from_the_driver_again() {
        let mut tracker = PieceTracker::new(1, 0);
        tracker.join(ExecutorId(1), &[], 1);
        tracker.join(ExecutorId(2), &[], 1);
        assert_eq!(tracker.next(ExecutorId(1)), Some((0, PieceSource::Driver)));
        assert_eq!(tracker.next(ExecutorId(2)), None, "it is on its way to the other");
        tracker.stored(ExecutorId(1), 0);
        assert_eq!(
            tracker.next(ExecutorId(2)),
            Some((0, PieceSource::Executor(ExecutorId(1))))
        );
        tracker.lose(ExecutorId(1));
        tracker.missed(ExecutorId(2), 0, false);
        assert_eq!(tracker.next(ExecutorId(2)), Some((0, PieceSource::Driver)));
    }

    #[test]
    fn a_damaged_piece_is_taken_from_somebody_else_and_counted() {
        let mut tracker = PieceTracker::new(1, 0);
        tracker.join(ExecutorId(1), &[0], 1);
        tracker.join(ExecutorId(2), &[], 1);
        assert_eq!(
            tracker.next(ExecutorId(2)),
            Some((0, PieceSource::Executor(ExecutorId(1))))
        );
        tracker.missed(ExecutorId(2), 0, true);
        assert_eq!(tracker.next(ExecutorId(2)), Some((0, PieceSource::Driver)));
        assert_eq!(tracker.totals().corrupt, 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn everybody_gets_everything_whatever_fails(
            executors in 1..12_u32,
            pieces in 0..40_u32,
            at_once in 1..6_u32,
            seed in any::<u64>(),
            failures in proptest::collection::vec(any::<bool>(), 0..60),
            lost in 0..3_usize,
        ) {
            let all = ids(executors);
            let mut tracker = PieceTracker::new(pieces, seed);
            for executor in &all {
                tracker.join(*executor, &[], at_once);
            }
            for executor in all.iter().take(lost) {
                // Some have had pieces, and go.
                tracker.next(*executor);
                for piece in 0..pieces / 2 {
                    tracker.stored(*executor, piece);
                }
                tracker.lose(*executor);
            }
            let rest: Vec<ExecutorId> = all.into_iter().skip(lost).collect();
            let mut failures = failures.into_iter();
            let failed = std::cell::Cell::new(0);
            let driver = run(&mut tracker, &rest, seed, |_| {
                let fails = failures.next().unwrap_or(false);
                failed.set(failed.get() + u64::from(fails));
                !fails
            });
            prop_assert_eq!(tracker.complete().count(), rest.len());
            prop_assert!(driver <= u64::from(pieces) + failed.get() || rest.is_empty());
        }
    }
}
