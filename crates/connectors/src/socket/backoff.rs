//! The pauses between attempts to connect.

use std::time::Duration;

/// Long enough not to load a server that is starting, short enough to go unnoticed.
const FIRST: Duration = Duration::from_millis(100);

/// A source that comes back is noticed within this time.
pub(super) const LONGEST: Duration = Duration::from_secs(5);

/// Doubles the pause at each failure and varies it, so that the receivers of a cluster do not come back in step.
#[derive(Debug)]
pub(super) struct Backoff {
    failures: u32,
    random: u64,
}

impl Backoff {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            failures: 0,
            random: seed,
        }
    }

    /// Failures since the last success.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Another failure: how long to wait. Between three and five quarters of the doubled pause, within the limits.
    pub(super) fn failed(&mut self) -> Duration {
        let doubled = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        (doubled * (75 + self.draw(51)) / 100).clamp(FIRST, LONGEST)
    }

    /// A number below `count` (an LCG with Knuth's constants, of which the high bits are good).
    fn draw(&mut self, count: u32) -> u32 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) as u32 % count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_limit_and_begin_again_after_a_success() {
        let mut backoff = Backoff::new(7);
        let pauses: Vec<_> = (0..12).map(|_| backoff.failed()).collect();
        assert!(
            pauses.iter().all(|pause| (FIRST..=LONGEST).contains(pause)),
            "{pauses:?}"
        );
        assert!(pauses[4] > pauses[1], "{pauses:?}");
        assert!(pauses[11] >= LONGEST * 3 / 4, "{pauses:?}");
        assert_eq!(backoff.failures(), 12);
        backoff.succeeded();
        assert!(backoff.failed() <= FIRST * 5 / 4);
    }

    #[test]
    fn the_same_seed_gives_the_same_pauses_and_another_seed_others() {
        let pauses = |seed| {
            let mut backoff = Backoff::new(seed);
            (0..6).map(|_| backoff.failed()).collect::<Vec<_>>()
        };
        assert_eq!(pauses(1), pauses(1));
        assert_ne!(pauses(1), pauses(2));
    }
}
