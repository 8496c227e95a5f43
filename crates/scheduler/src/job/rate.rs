//! How fast a stream may be read, from what its batches cost.
//!
//! Spark's `PIDRateEstimator`: the set point is the rate at which rows are processed, and rows that wait in queued
//! batches are an error that adds up. Two things are added, because a batch of few rows says little of what many cost:
//!
//! - A batch that takes a small share of the interval changes the rate only if the rate is what kept it small.
//! - While a batch takes longer than the interval and none before it has said what is possible, hardly anything is let
//!   through: whatever came would wait.

use std::time::Duration;

use tidemill_dstream::BackPressure;

/// Batches that take a smaller share of the interval than this say little.
const IDLE: f64 = 0.1;

/// Batches of a smaller share of the rows that the rate allows were not kept small by it.
const BINDING: f64 = 0.5;

/// A batch that is completed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completed {
    /// Microseconds, on the scheduler's clock.
    pub(super) at: i64,
    pub(super) rows: u64,
    pub(super) processing: Duration,
    pub(super) scheduling: Duration,
}

/// The controller of one stream.
#[derive(Debug)]
pub(super) struct RateEstimator {
    settings: BackPressure,
    interval: Duration,
    latest: Option<Latest>,
    /// Rows a second; `None` for as many as come.
    rate: Option<f64>,
}

#[derive(Clone, Copy, Debug)]
struct Latest {
    at: i64,
    rate: f64,
    error: f64,
}

impl RateEstimator {
    /// Limits to `initial` rows a second until the first batch is completed.
    pub(super) fn new(settings: BackPressure, interval: Duration, initial: Option<u64>) -> Self {
        Self {
            settings,
            interval,
            latest: None,
            rate: initial.map(|rate| rate as f64),
        }
    }

    /// Whole rows a second, while a batch takes longer than the interval or does not.
    pub(super) fn rate(&self, overrun: bool) -> Option<u64> {
        let cautious = (overrun && self.latest.is_none()).then_some(self.settings.min_rate);
        let rate = [self.rate, cautious].into_iter().flatten().reduce(f64::min);
        rate.map(|rate| rate.round() as u64)
    }

    pub(super) fn on_completed(&mut self, batch: Completed) {
        let interval = self.interval.as_secs_f64();
        let (processing, scheduling) = (batch.processing.as_secs_f64(), batch.scheduling.as_secs_f64());
        if batch.rows == 0 || processing <= 0.0 || self.latest.is_some_and(|latest| batch.at <= latest.at) {
            return;
        }
        let idle = (processing + scheduling) / interval < IDLE;
        let binding = self
            .rate
            .is_some_and(|rate| batch.rows as f64 >= BINDING * rate * interval);
        if idle && !binding {
            // The first batches are over, and nothing is known yet.
            if self.latest.is_none() {
                self.rate = None;
            }
            return;
        }
        let processed = batch.rows as f64 / processing;
        // The first of a busy time is where the controller begins; what comes until then is as much as can be processed.
        let Some(latest) = self.latest else {
            self.latest = Some(Latest {
                at: batch.at,
                rate: processed,
                error: 0.0,
            });
            self.rate = Some(processed.max(self.settings.min_rate));
            return;
        };
        let error = latest.rate - processed;
        let waiting = scheduling * processed / interval;
        let change = (error - latest.error) / ((batch.at - latest.at) as f64 / 1e6);
        let BackPressure {
            proportional,
            integral,
            derived,
            min_rate,
        } = self.settings;
        let rate = latest.rate - proportional * error - integral * waiting - derived * change;
        let rate = rate.max(min_rate);
        self.latest = Some(Latest {
            at: batch.at,
            rate,
            error,
        });
        self.rate = Some(rate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn estimator(settings: BackPressure) -> RateEstimator {
        RateEstimator::new(settings, SECOND, Some(500))
    }

    fn completed(second: i64, rows: u64, processing: u64, scheduling: u64) -> Completed {
        Completed {
            at: second * 1_000_000,
            rows,
            processing: Duration::from_millis(processing),
            scheduling: Duration::from_millis(scheduling),
        }
    }

    #[test]
    fn the_first_batch_has_a_limit_and_seeds_the_rate() {
        let mut estimator = estimator(BackPressure::default());
        assert_eq!(estimator.rate(false), Some(500));
        estimator.on_completed(completed(1, 1000, 500, 0));
        assert_eq!(estimator.rate(false), Some(2000));
    }

    #[test]
    fn the_rate_is_that_of_the_published_formula() {
        let settings = BackPressure {
            proportional: 1.0,
            integral: 0.2,
            derived: 0.1,
            min_rate: 10.0,
        };
        let mut estimator = estimator(settings);
        estimator.on_completed(completed(1, 1000, 1000, 0));
        // Processed 500 a second, 1 s late: error 500, 500 rows wait, the error grew by 500 in 2 s.
        estimator.on_completed(completed(3, 1000, 2000, 1000));
        assert_eq!(estimator.rate(false), Some(1000 - 500 - 100 - 25));
    }

    #[test]
    fn batches_that_say_nothing_change_nothing() {
        let mut estimator = estimator(BackPressure::default());
        estimator.on_completed(completed(2, 1000, 1000, 0));
        for batch in [
            completed(3, 0, 900, 900),
            completed(3, 10, 0, 900),
            completed(2, 10, 900, 900),
        ] {
            estimator.on_completed(batch);
            assert_eq!(estimator.rate(false), Some(1000));
        }
    }

    #[test]
    fn the_rate_never_falls_below_the_least() {
        let mut estimator = estimator(BackPressure::default());
        for second in 1..20 {
            estimator.on_completed(completed(second, 10, 5000, 60_000));
        }
        assert_eq!(estimator.rate(false), Some(100));
    }

    #[test]
    fn small_batches_say_something_only_if_the_rate_kept_them_small() {
        let mut estimator = estimator(BackPressure::default());
        estimator.on_completed(completed(1, 3, 99, 0));
        assert_eq!(estimator.rate(false), None, "the first batch was not a large one");
        estimator.on_completed(completed(2, 1000, 2000, 0));
        assert_eq!(estimator.rate(false), Some(500));
        estimator.on_completed(completed(3, 249, 99, 0));
        assert_eq!(estimator.rate(false), Some(500));
        estimator.on_completed(completed(4, 500, 50, 0));
        assert_eq!(estimator.rate(false), Some(10_000));
    }

    #[test]
    fn hardly_anything_is_let_through_while_the_first_busy_batch_runs() {
        let mut estimator = estimator(BackPressure::default());
        estimator.on_completed(completed(1, 3, 1, 0));
        assert_eq!((estimator.rate(false), estimator.rate(true)), (None, Some(100)));
        estimator.on_completed(completed(2, 100_000, 4000, 0));
        assert_eq!(
            (estimator.rate(false), estimator.rate(true)),
            (Some(25_000), Some(25_000))
        );
    }

    /// A model of a job: a fixed cost of each batch and one of each row, a source that sends as fast as it may.
    fn queue_after(batches: i64, estimator: &mut RateEstimator, fixed: f64, per_row: f64, sent: u64) -> (f64, u64) {
        let (mut late, mut rows) = (0.0_f64, 0);
        for second in 1..=batches {
            rows = estimator.rate(late > 1.0).map_or(sent, |rate| rate.min(sent));
            let processing = fixed + per_row * rows as f64;
            estimator.on_completed(Completed {
                at: second * 1_000_000,
                rows,
                processing: Duration::from_secs_f64(processing),
                scheduling: Duration::from_secs_f64(late),
            });
            late = (late + processing - 1.0).max(0.0);
        }
        (late, rows)
    }

    #[test]
    fn a_source_that_is_too_fast_is_slowed_to_what_can_be_processed() {
        for (fixed, per_row) in [(0.0, 1e-4), (0.3, 1e-4), (0.05, 1e-6)] {
            let mut estimator = RateEstimator::new(BackPressure::default(), SECOND, None);
            let possible = (1.0 - fixed) / per_row;
            let (late, rows) = queue_after(100, &mut estimator, fixed, per_row, (5.0 * possible) as u64);
            assert!(late < 1.0, "{late} s late after 100 batches of {rows}");
            assert!(
                rows as f64 > possible * 0.5 && rows as f64 <= possible * 1.01,
                "{rows} of {possible}"
            );
        }
    }

    #[test]
    fn a_source_that_is_slow_enough_is_never_held_up() {
        let mut estimator = RateEstimator::new(BackPressure::default(), SECOND, None);
        let (late, rows) = queue_after(100, &mut estimator, 0.05, 1e-4, 5000);
        assert_eq!((late, rows), (0.0, 5000));
    }
}
