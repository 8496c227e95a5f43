//! The socket receiver: lines of UTF-8 text from a TCP server, cut into blocks.
//!
//! ```text
//!            ┌── refused, closed, failed: wait, twice as long each time ──┐
//!            ▼                                                            │
//!   connect ──► read into the line buffer ──► cut ──► store ──► read on ──┘
//!                                              ▲
//!                 block interval · full buffer · batch border · stop
//! ```
//! - Bytes are read straight into what becomes the block's data buffer. Splitting it into lines happens once a block,
//!   on a helper thread if the block is large, so that an executor's heartbeat does not wait for it.
//! - At each batch border what has arrived is cut, stored, and the border is reported, whatever the connection is doing
//!   and also if nothing came. Borders are cumulative: a receiver that was held up reports only the latest one.
//! - What is read is kept to a rate, by pauses, if the driver says so.
//! - While a block is being stored nothing is read. That is the back-pressure: the socket's buffers fill, and the
//!   sender waits.
//!
//! A line belongs to the batch in which its end arrives. When the source closes, a last line without an end is a line,
//! as it is to Spark's receiver; when the connection breaks or the receiver is stopped it is not.
//!
//! Failures of the source are retried for ever, with growing pauses. A socket cannot be asked to send again: what was
//! sent while nobody was connected is gone. Only a sink that cannot store ends a receiver with an error.

mod backoff;
mod cutter;
mod outside;
mod pace;
mod receiver;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow::array::RecordBatch;
use tidemill_dstream::SocketTextSource;
use tidemill_types::BatchTime;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::Error;
use crate::text::{DEFAULT_BATCH_ROWS, DEFAULT_MAX_LINE_BYTES, ReadCounters};

/// A block is cut at this size also within its interval.
const DEFAULT_MAX_BLOCK_BYTES: usize = 4 << 20;

/// Lines of a block. A block of empty lines would otherwise need sixteen times its bytes in views.
const DEFAULT_MAX_BLOCK_ROWS: usize = 4 * DEFAULT_BATCH_ROWS;

/// How often a block is cut unless the source says so, or the batch interval is shorter.
const DEFAULT_BLOCK_INTERVAL: Duration = Duration::from_millis(200);

/// Tells the time since the Unix epoch.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// The wall clock as it is now, going on steadily: later steps of the wall clock do not move batch borders.
#[must_use]
pub fn system_clock() -> Clock {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let anchor = Instant::now();
    Arc::new(move || wall + anchor.elapsed())
}

/// Settings of a receiver.
#[derive(Clone)]
pub struct ReceiverOptions {
    /// The batch interval.
    pub interval: Duration,
    /// Zero time: borders are a whole number of intervals after it.
    pub zero: BatchTime,
    pub clock: Clock,
    pub max_block_bytes: usize,
    pub max_block_rows: usize,
    pub max_line_bytes: usize,
    /// Of the jitter in the pauses between attempts to connect.
    pub seed: u64,
    pub counters: Arc<ReadCounters>,
    /// Lines a second that may be read, as they change: none at all for 0, as many as come for `None`.
    pub rate: Option<watch::Receiver<Option<u64>>>,
}

impl ReceiverOptions {
    #[must_use]
    pub fn new(interval: Duration, zero: BatchTime) -> Self {
        Self {
            interval,
            zero,
            clock: system_clock(),
            max_block_bytes: DEFAULT_MAX_BLOCK_BYTES,
            max_block_rows: DEFAULT_MAX_BLOCK_ROWS,
            max_line_bytes: DEFAULT_MAX_LINE_BYTES,
            seed: 0,
            counters: Arc::default(),
            rate: None,
        }
    }
}

/// Lines that were received, in order.
#[derive(Clone, Debug)]
pub struct ReceivedBlock {
    /// Of [`text_schema`](crate::text_schema), with at least one row.
    pub batch: RecordBatch,
    /// Memory that the batch holds.
    pub bytes: u64,
}

/// Where a receiver's blocks go.
pub trait BlockSink: Send {
    /// Stores a block. The receiver reads on when this is done.
    fn store(&mut self, block: ReceivedBlock) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// All that was received before `border` has been stored.
    fn border(&mut self, border: BatchTime) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// The state of the receiver has changed. The receiver itself logs it.
    fn status(&mut self, event: ReceiverEvent);
}

/// Why a sink cannot take any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SinkError(pub String);

/// A change in a receiver's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReceiverEvent {
    /// It is connected.
    Active { peer: SocketAddr },
    /// The source refused, closed or failed, the `failures`-th time in a row; it is tried again after a pause.
    Restarting {
        reason: String,
        retry_in: Duration,
        failures: u32,
    },
    /// It was told to stop, and all that it received is stored.
    Stopped,
}

/// Receives lines from a socket until `stop` becomes true, or its sender is gone.
///
/// Stopping is graceful: what was received is stored, the border after it is reported, then the receiver ends. To stop
/// at once, drop the future.
pub async fn run_socket_text<S: BlockSink>(
    source: &SocketTextSource,
    options: ReceiverOptions,
    sink: &mut S,
    stop: watch::Receiver<bool>,
) -> Result<(), Error> {
    let block_interval = source
        .block_interval
        .unwrap_or(DEFAULT_BLOCK_INTERVAL)
        .min(options.interval);
    let outside = outside::Tcp {
        host: source.host.clone(),
        port: source.port,
    };
    receiver::Receiver::new(outside, block_interval, options, sink, stop)
        .run()
        .await
}

#[cfg(test)]
mod tests;
