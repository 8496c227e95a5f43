//! The driver's time: wall time read once, monotonic from then on.
//!
//! A step of the system clock moves no batch. Times are microseconds since the Unix epoch.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    anchor: i64,
    started: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let anchor = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            anchor: i64::try_from(anchor.as_micros()).unwrap_or(0),
            started: Instant::now(),
        }
    }

    pub(crate) fn now(&self) -> i64 {
        self.anchor + i64::try_from(self.started.elapsed().as_micros()).unwrap_or(i64::MAX)
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.now() / 1000
    }
}
