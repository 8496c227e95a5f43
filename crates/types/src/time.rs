//! Batch time: the logical time by which batches are named.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// The end of a batch interval, in milliseconds since the Unix epoch (or since zero time 0 in a run that does not
/// wait for the clock). A batch at `t` covers `(t - interval, t]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchTime(pub i64);

impl BatchTime {
    /// Milliseconds since the epoch.
    #[must_use]
    pub fn millis(self) -> i64 {
        self.0
    }

    /// The greatest multiple of `interval` that is not after this time.
    ///
    /// An interval below one millisecond counts as one.
    #[must_use]
    pub fn floor(self, interval: Duration) -> Self {
        let ms = millis(interval).max(1);
        Self(self.0.div_euclid(ms) * ms)
    }

    /// How many whole intervals lie between `zero` and this time (0 at `zero`, 1 at the first batch).
    #[must_use]
    pub fn index(self, zero: BatchTime, interval: Duration) -> i64 {
        (self.0 - zero.0) / millis(interval).max(1)
    }

    /// The time elapsed since `earlier`, zero if that lies ahead.
    #[must_use]
    pub fn since(self, earlier: BatchTime) -> Duration {
        Duration::from_millis(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl Add<Duration> for BatchTime {
    type Output = BatchTime;
    fn add(self, rhs: Duration) -> BatchTime {
        BatchTime(self.0.saturating_add(millis(rhs)))
    }
}

impl Sub<Duration> for BatchTime {
    type Output = BatchTime;
    fn sub(self, rhs: Duration) -> BatchTime {
        BatchTime(self.0.saturating_sub(millis(rhs)))
    }
}

impl fmt::Display for BatchTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floor_goes_to_the_multiple_below_also_before_the_epoch() {
        let second = Duration::from_secs(1);
        assert_eq!(BatchTime(1999).floor(second), BatchTime(1000));
        assert_eq!(BatchTime(2000).floor(second), BatchTime(2000));
        assert_eq!(BatchTime(-1).floor(second), BatchTime(-1000));
    }

    #[test]
    fn index_counts_batches_from_zero_time() {
        assert_eq!(BatchTime(5000).index(BatchTime(2000), Duration::from_secs(1)), 3);
    }

    #[test]
    fn since_is_zero_for_a_later_time() {
        assert_eq!(BatchTime(1).since(BatchTime(5)), Duration::ZERO);
        assert_eq!(BatchTime(5).since(BatchTime(1)), Duration::from_millis(4));
    }
}
