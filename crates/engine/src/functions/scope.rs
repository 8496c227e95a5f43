//! The task on whose behalf an expression is evaluated.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use datafusion::error::{DataFusionError, Result};
use parking_lot::Mutex;
use tidemill_types::TaskKey;

use crate::accumulate::{Deltas, Watched};
use crate::broadcast::BroadcastValues;

tokio::task_local! {
    static SCOPE: Arc<TaskScope>;
}

/// What task-dependent functions see: the task's batch time and its stream of random numbers, the values of broadcast
/// variables that its batch uses, and what they add to accumulators.
pub(crate) struct TaskScope {
    batch_time_ms: i64,
    /// SplitMix64's counter. It is advanced in the order of evaluation, which is that of the rows, for a task is polled
    /// by one thread at a time.
    random: AtomicU64,
    seed: u64,
    /// How many records each sample has seen, by its salt.
    drawn: Mutex<HashMap<u64, u64>>,
    deltas: Arc<Deltas>,
    watched: Watched,
    broadcasts: Arc<BroadcastValues>,
}

const GOLDEN_GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

impl TaskScope {
    pub(crate) fn new(key: TaskKey, broadcasts: Arc<BroadcastValues>) -> Self {
        let seed = [
            u64::from(key.job.0),
            key.batch.0.cast_unsigned(),
            u64::from(key.stage.0),
            u64::from(key.partition),
        ]
        .into_iter()
        .fold(0, |seed, part| mix(seed ^ part.wrapping_add(GOLDEN_GAMMA)));
        Self {
            batch_time_ms: key.batch.millis(),
            random: AtomicU64::new(seed),
            seed,
            drawn: Mutex::default(),
            deltas: Arc::default(),
            watched: Watched::default(),
            broadcasts,
        }
    }

    /// The inputs whose end the task has to see.
    pub(crate) fn watched(&self) -> &Watched {
        &self.watched
    }

    /// What the task adds to accumulators.
    pub(crate) fn deltas(&self) -> Arc<Deltas> {
        Arc::clone(&self.deltas)
    }

    /// Runs `poll` with this task as the current one.
    pub(crate) fn enter<T>(self: &Arc<Self>, poll: impl FnOnce() -> T) -> T {
        SCOPE.sync_scope(Arc::clone(self), poll)
    }

    /// Calls `read` with the task that is being polled.
    pub(crate) fn current<T>(function: &str, read: impl FnOnce(&TaskScope) -> T) -> Result<T> {
        SCOPE
            .try_with(|scope| read(scope))
            .map_err(|_| DataFusionError::Internal(format!("{function} was called outside of a task")))
    }

    pub(crate) fn broadcasts(&self) -> &BroadcastValues {
        &self.broadcasts
    }

    pub(super) fn batch_time_ms(&self) -> i64 {
        self.batch_time_ms
    }

    pub(super) fn next_random(&self) -> u64 {
        mix(self
            .random
            .fetch_add(GOLDEN_GAMMA, Ordering::Relaxed)
            .wrapping_add(GOLDEN_GAMMA))
    }

    /// Random bits for the next `rows` records of a sample.
    pub(super) fn draw(&self, salt: u64, rows: usize) -> impl Iterator<Item = u64> + use<> {
        let mut drawn = self.drawn.lock();
        let seen = drawn.entry(salt).or_default();
        let first = *seen;
        *seen += rows as u64;
        let seed = mix(self.seed ^ salt);
        (first..*seen).map(move |record| mix(seed.wrapping_add(GOLDEN_GAMMA.wrapping_mul(record + 1))))
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
pub(super) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
