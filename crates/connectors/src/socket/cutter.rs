//! Cuts what was received into blocks, by the schedule of block intervals and batch borders.

use std::time::Duration;

use arrow::buffer::Buffer;
use tidemill_types::BatchTime;
use tokio::task::spawn_blocking;

use super::{BlockSink, Clock, ReceivedBlock, ReceiverOptions};
use crate::Error;
use crate::text::{LineBatch, LineBuffer, Lines};

/// Up to this many bytes are split on the thread that reads: it takes some ten microseconds, no longer than handing
/// them to another thread.
const SPLIT_HERE_BYTES: usize = 64 << 10;

/// A wait is never longer than this, so that it follows a clock that is corrected.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

pub(super) struct Cutter<'a, S> {
    pub(super) sink: &'a mut S,
    pub(super) buffer: LineBuffer,
    pub(super) schedule: Schedule,
    options: ReceiverOptions,
}

impl<'a, S: BlockSink> Cutter<'a, S> {
    pub(super) fn new(block_interval: Duration, options: ReceiverOptions, sink: &'a mut S) -> Self {
        Self {
            sink,
            buffer: LineBuffer::new(options.max_block_bytes, options.max_line_bytes),
            schedule: Schedule::new(options.interval, block_interval, options.zero, options.clock.clone()),
            options,
        }
    }

    /// Does what is due by now.
    pub(super) async fn on_time(&mut self) -> Result<(), Error> {
        let Some(due) = self.schedule.take_due() else {
            return Ok(());
        };
        self.store_lines().await?;
        if let Due::Border(border) = due {
            self.sink.border(border).await?;
        }
        Ok(())
    }

    /// Stores the lines that have their end.
    pub(super) async fn store_lines(&mut self) -> Result<(), Error> {
        let Some(lines) = self.buffer.take() else {
            return Ok(());
        };
        let batches = if lines.len() <= SPLIT_HERE_BYTES {
            split(lines, &self.options)?
        } else {
            let options = self.options.clone();
            spawn_blocking(move || split(lines, &options))
                .await
                .map_err(|error| Error::Helper {
                    reason: error.to_string(),
                })??
        };
        for LineBatch { batch, memory } in batches {
            let bytes = memory as u64;
            self.sink.store(ReceivedBlock { batch, bytes }).await?;
        }
        Ok(())
    }

    /// Stores what is left. Nothing more is received, so this holds up to the next border.
    pub(super) async fn finish(&mut self) -> Result<(), Error> {
        self.buffer.drop_unfinished();
        self.store_lines().await?;
        let border = self.schedule.next_border();
        Ok(self.sink.border(border).await?)
    }
}

fn split(lines: Buffer, options: &ReceiverOptions) -> Result<Vec<LineBatch>, Error> {
    let mut lines = Lines::new(lines, options.max_line_bytes);
    let mut batches = Vec::new();
    while let Some(batch) = lines.next_batch(options.max_block_rows, &options.counters)? {
        batches.push(batch);
    }
    Ok(batches)
}

/// What a point in time asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Block,
    /// A block and the report of the border. If several borders have passed it is the latest.
    Border(BatchTime),
}

/// When blocks are cut: at multiples of the block interval and of the batch interval after zero time.
pub(super) struct Schedule {
    clock: Clock,
    zero: i64,
    interval: i64,
    block_interval: i64,
    next_border: i64,
    next_block: i64,
}

impl Schedule {
    fn new(interval: Duration, block_interval: Duration, zero: BatchTime, clock: Clock) -> Self {
        let mut schedule = Self {
            clock,
            zero: zero.millis().saturating_mul(1000),
            // A batch interval is a whole number of milliseconds, at least one.
            interval: micros(interval).max(1000),
            block_interval: micros(block_interval).max(1000),
            next_border: 0,
            next_block: 0,
        };
        let now = micros(schedule.now());
        schedule.next_border = schedule.last(now, schedule.interval) + schedule.interval;
        schedule.next_block = schedule.last(now, schedule.block_interval) + schedule.block_interval;
        schedule
    }

    /// Time since the epoch.
    pub(super) fn now(&self) -> Duration {
        (self.clock)()
    }

    /// The last multiple of `interval` after zero time that has passed.
    fn last(&self, now: i64, interval: i64) -> i64 {
        self.zero + (now - self.zero).div_euclid(interval) * interval
    }

    /// How long nothing is due.
    pub(super) fn wait(&self) -> Duration {
        let next = self.next_border.min(self.next_block);
        Duration::from_micros(u64::try_from(next - micros(self.now())).unwrap_or(0)).min(LONGEST_WAIT)
    }

    fn take_due(&mut self) -> Option<Due> {
        let now = micros(self.now());
        let (border, block) = (now >= self.next_border, now >= self.next_block);
        if block {
            self.next_block = self.last(now, self.block_interval) + self.block_interval;
        }
        if border {
            let passed = self.last(now, self.interval);
            self.next_border = passed + self.interval;
            return Some(Due::Border(BatchTime(passed.div_euclid(1000))));
        }
        block.then_some(Due::Block)
    }

    fn next_border(&self) -> BatchTime {
        BatchTime(self.next_border.div_euclid(1000))
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn schedule(now: &Arc<AtomicU64>, interval: u64, block: u64, zero: i64) -> Schedule {
        let now = Arc::clone(now);
        Schedule::new(
            Duration::from_millis(interval),
            Duration::from_millis(block),
            BatchTime(zero),
            Arc::new(move || Duration::from_millis(now.load(Ordering::Relaxed))),
        )
    }

    #[test]
    fn blocks_and_borders_are_due_at_multiples_of_their_intervals_after_zero_time() {
        let now = Arc::new(AtomicU64::new(10_130));
        let mut schedule = schedule(&now, 1000, 400, 9_100);
        assert_eq!(schedule.wait(), Duration::from_millis(170));
        assert_eq!(schedule.take_due(), None);
        for (at, due) in [
            (10_300, Due::Block),
            (10_700, Due::Block),
            (11_100, Due::Border(BatchTime(11_100))),
            (11_500, Due::Block),
        ] {
            now.store(at, Ordering::Relaxed);
            assert_eq!(schedule.take_due(), Some(due), "at {at}");
            assert_eq!(schedule.take_due(), None, "at {at}");
        }
    }

    #[test]
    fn of_several_borders_that_have_passed_the_latest_is_due() {
        let now = Arc::new(AtomicU64::new(1_000));
        let mut schedule = schedule(&now, 10, 10, 0);
        now.store(1_057, Ordering::Relaxed);
        assert_eq!(schedule.take_due(), Some(Due::Border(BatchTime(1_050))));
        assert_eq!(schedule.next_border(), BatchTime(1_060));
        assert_eq!(schedule.wait(), Duration::from_millis(3));
    }

    #[test]
    fn a_wait_is_bounded_so_that_a_corrected_clock_is_followed() {
        let now = Arc::new(AtomicU64::new(0));
        assert_eq!(schedule(&now, 3_600_000, 3_600_000, 0).wait(), LONGEST_WAIT);
    }
}
