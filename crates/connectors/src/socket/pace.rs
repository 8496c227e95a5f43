//! How fast a receiver may read: a token bucket of lines.
//!
//! Lines are counted when they have been read, so what was read over the limit is made up for by a pause. Reads are kept
//! about as large as what may be read, by the mean length of the lines so far.

use std::time::Duration;

use tokio::sync::watch;

use super::Clock;

/// Lines that may be read at once after a time without any, as a time at the rate.
const BURST: Duration = Duration::from_millis(100);

/// The smallest read, so that a line of common length is not read in pieces.
const LEAST_READ: usize = 256;

pub(super) struct Pace {
    /// Lines a second; none at all for 0, as many as come for `None`.
    limit: watch::Receiver<Option<u64>>,
    /// Of a receiver that nobody limits.
    _unlimited: Option<watch::Sender<Option<u64>>>,
    clock: Clock,
    /// Lines that may be read; below zero after a read of more.
    tokens: f64,
    filled: Duration,
    line_bytes: f64,
}

impl Pace {
    pub(super) fn new(limit: Option<watch::Receiver<Option<u64>>>, clock: Clock) -> Self {
        let (sender, unlimited) = watch::channel(None);
        let (unlimited_sender, limit) = match limit {
            Some(limit) => (None, limit),
            None => (Some(sender), unlimited),
        };
        Self {
            limit,
            _unlimited: unlimited_sender,
            filled: clock(),
            clock,
            tokens: 0.0,
            // Rather short at first: a read too small is followed by another one.
            line_bytes: 16.0,
        }
    }

    /// How many bytes may be read now, of `room`; or how long to wait, if not for a change of the limit.
    pub(super) fn allows(&mut self, room: usize) -> Result<usize, Duration> {
        let now = (self.clock)();
        let passed = now.saturating_sub(self.filled).as_secs_f64();
        self.filled = now;
        let Some(limit) = *self.limit.borrow_and_update() else {
            self.tokens = 0.0;
            return Ok(room);
        };
        let limit = limit as f64;
        if limit == 0.0 {
            self.tokens = self.tokens.min(0.0);
            return Err(Duration::MAX);
        }
        let most = (limit * BURST.as_secs_f64()).max(1.0);
        self.tokens = (self.tokens + limit * passed).min(most);
        if self.tokens < 1.0 {
            let missing = (1.0 - self.tokens) / limit;
            return Err(Duration::try_from_secs_f64(missing).unwrap_or(Duration::MAX));
        }
        let bytes = (self.tokens * self.line_bytes) as usize;
        Ok(bytes.max(LEAST_READ).min(room))
    }

    /// Takes what was read into account.
    pub(super) fn read(&mut self, bytes: &[u8]) {
        if self.limit.borrow().is_none() {
            return;
        }
        let lines = memchr::memchr_iter(b'\n', bytes).count() as f64;
        self.tokens -= lines;
        if lines > 0.0 {
            self.line_bytes += 0.2 * (bytes.len() as f64 / lines - self.line_bytes);
        }
    }

    /// Waits until the limit is another one.
    pub(super) async fn changed(&mut self) {
        if self.limit.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    struct Fixture {
        now: Arc<AtomicU64>,
        limit: watch::Sender<Option<u64>>,
        pace: Pace,
    }

    fn fixture(limit: Option<u64>) -> Fixture {
        let now = Arc::new(AtomicU64::new(5_000));
        let clock = Arc::clone(&now);
        let (limit, receiver) = watch::channel(limit);
        let clock: Clock = Arc::new(move || Duration::from_millis(clock.load(Ordering::Relaxed)));
        Fixture {
            now,
            limit,
            pace: Pace::new(Some(receiver), clock),
        }
    }

    impl Fixture {
        /// Lines of ten bytes that are read within `millis`, from a source that has any number of them.
        fn lines_within(&mut self, millis: u64) -> u64 {
            let mut lines = 0;
            for _ in 0..millis {
                self.now.fetch_add(1, Ordering::Relaxed);
                while let Ok(bytes) = self.pace.allows(1 << 16) {
                    let read = b"123456789\n".repeat(bytes.div_ceil(10));
                    self.pace.read(&read);
                    lines += read.len() as u64 / 10;
                    assert!(lines < 100_000_000, "no end of reading");
                }
            }
            lines
        }
    }

    #[test]
    fn the_rate_holds_whatever_comes() {
        for rate in [1, 30, 1000, 1_000_000] {
            let mut fixture = fixture(Some(rate));
            let lines = fixture.lines_within(10_000);
            let least = 10 * rate;
            // A read may be larger than what is left, by its least size and by lines that were longer before.
            assert!(
                (least.saturating_sub(rate)..=least + rate / 5 + 30).contains(&lines),
                "{lines} at {rate} a second"
            );
        }
    }

    #[test]
    fn without_a_limit_all_room_is_used_and_nothing_is_owed() {
        let mut fixture = fixture(None);
        assert_eq!(fixture.pace.allows(1 << 20), Ok(1 << 20));
        fixture.pace.read(&b"x\n".repeat(1 << 19));
        fixture.limit.send_replace(Some(10));
        // Ten, and what a read of the least size has more.
        assert!((10..=40).contains(&fixture.lines_within(1000)));
    }

    #[test]
    fn at_zero_nothing_is_read_until_the_limit_changes() {
        let mut fixture = fixture(Some(0));
        assert_eq!(fixture.lines_within(10_000), 0);
        assert_eq!(fixture.pace.allows(100), Err(Duration::MAX));
        fixture.limit.send_replace(Some(1000));
        assert!(fixture.lines_within(1000) >= 900);
    }

    #[test]
    fn a_long_pause_allows_no_long_burst() {
        let mut fixture = fixture(Some(1000));
        fixture.now.fetch_add(3_600_000, Ordering::Relaxed);
        assert!(fixture.lines_within(1) <= 200);
    }
}
