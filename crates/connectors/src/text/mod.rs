//! Text as rows: the schema, the limits and the counts that all sources of text share.

mod compressed;
mod lines;
mod range;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidemill_types::BatchTime;

pub(crate) use compressed::{Codec, TextInput, check_is_file};
pub(crate) use lines::{LineBatch, LineBuffer, Lines};
pub(crate) use range::RangeReader;

/// Lines longer than this are cut: one record must not be able to fill an executor's memory.
pub const DEFAULT_MAX_LINE_BYTES: usize = 16 << 20;

/// Offsets in a string view have 32 bits, and a line with its buffer must stay well below that.
pub(crate) const MAX_LINE_BYTES_LIMIT: usize = 1 << 30;

/// Rows of a batch: enough to make the cost of a batch vanish, few enough for the batch to stay in the cache.
pub(crate) const DEFAULT_BATCH_ROWS: usize = 64 << 10;

static TEXT_SCHEMA: LazyLock<SchemaRef> =
    LazyLock::new(|| Arc::new(Schema::new(vec![Field::new("value", DataType::Utf8View, false)])));

/// The schema of every source of text: one column `value`, never null.
#[must_use]
pub fn text_schema() -> SchemaRef {
    Arc::clone(&TEXT_SCHEMA)
}

/// What was read, and what was wrong with it. Shared between readers and whoever reports; only ever grows.
#[derive(Debug, Default)]
pub struct ReadCounters {
    pub rows: AtomicU64,
    /// Bytes of the lines, line ends included, before they were repaired.
    pub bytes: AtomicU64,
    /// Lines with bytes that are not UTF-8, which were replaced with U+FFFD.
    pub invalid_utf8: AtomicU64,
    /// Lines over the limit, of which the rest was dropped.
    pub long_lines: AtomicU64,
}

impl ReadCounters {
    /// Lines that are not as their source sent them.
    #[must_use]
    pub fn malformed(&self) -> u64 {
        self.invalid_utf8.load(Ordering::Relaxed) + self.long_lines.load(Ordering::Relaxed)
    }
}

/// How an input is read.
#[derive(Clone, Debug)]
pub struct ReadOptions {
    /// The batch that the input belongs to; generated lines can contain it.
    pub batch: BatchTime,
    pub max_line_bytes: usize,
    /// Greatest number of rows of a batch.
    pub batch_rows: usize,
    pub counters: Arc<ReadCounters>,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            batch: BatchTime(0),
            max_line_bytes: DEFAULT_MAX_LINE_BYTES,
            batch_rows: DEFAULT_BATCH_ROWS,
            counters: Arc::default(),
        }
    }
}
