//! From bytes to rows without a copy of each line.
//!
//! ```text
//!   read ─► LineBuffer ─take─► Buffer (complete lines) ─► Lines ─► batches of views into that Buffer
//!              ▲  the unfinished last line stays
//! ```
//! [`LineBuffer`] is where bytes are read into. Only its last, unfinished line is ever copied, to the front of the next
//! buffer. A line over the limit ends where the limit is passed; what follows up to its end is dropped as it comes, so
//! memory stays bounded whatever is sent.
//!
//! [`Lines`] makes the views. A line's end, `\n` or `\r\n`, is not part of its value.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{RecordBatch, StringViewBuilder};
use arrow::buffer::Buffer;
use memchr::{memchr, memchr_iter, memrchr};

use super::{MAX_LINE_BYTES_LIMIT, ReadCounters, text_schema};
use crate::Error;

/// Strings up to this length are stored inside of their view.
const INLINE_BYTES: usize = 12;

/// A view's size, for accounting.
const VIEW_BYTES: usize = size_of::<u128>();

/// A line has passed the limit for certain when it has this many bytes more: the first may be a `\r` before `\n`.
const LONG_LINE_SLACK: usize = 2;

/// Bytes on their way to becoming lines.
#[derive(Debug)]
pub(crate) struct LineBuffer {
    bytes: Vec<u8>,
    /// `bytes[..complete]` are complete lines; the rest is the beginning of one.
    complete: usize,
    capacity: usize,
    max_line: usize,
    /// Everything up to the next newline is dropped.
    skip: bool,
}

impl LineBuffer {
    /// A buffer that hands out its lines by about `capacity` bytes.
    pub(crate) fn new(capacity: usize, max_line: usize) -> Self {
        Self {
            bytes: Vec::new(),
            complete: 0,
            capacity: capacity.clamp(1, MAX_LINE_BYTES_LIMIT),
            max_line: max_line.clamp(1, MAX_LINE_BYTES_LIMIT),
            skip: false,
        }
    }

    /// Drops what comes up to the first newline, which belongs to another reader.
    pub(crate) fn skip_first_line(&mut self) {
        self.skip = true;
    }

    /// Makes room and says for how many bytes. 0 means that the buffer is full of complete lines, to be taken first.
    pub(crate) fn room(&mut self) -> usize {
        let filled = self.bytes.len();
        let limit = if filled < self.capacity {
            self.capacity
        } else if self.complete > 0 {
            return 0;
        } else {
            // A single line that is longer than the buffer; it may grow to the limit of a line.
            (filled * 2).min(self.max_line + LONG_LINE_SLACK).max(filled + 1)
        };
        self.bytes.reserve_exact(limit - filled);
        limit - filled
    }

    /// The bytes, to append to: no more than [`room`](Self::room), followed by [`appended`](Self::appended).
    pub(crate) fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is the beginning of a line that has to be read to its end.
    pub(crate) fn is_within_line(&self) -> bool {
        !self.skip && self.complete < self.bytes.len()
    }

    /// Takes note of the bytes from `from` on, which are new.
    pub(crate) fn appended(&mut self, from: usize) {
        if self.skip {
            match memchr(b'\n', &self.bytes[from..]) {
                Some(at) => {
                    self.bytes.drain(from..=from + at);
                    self.skip = false;
                }
                None => {
                    self.bytes.truncate(from);
                    return;
                }
            }
        }
        if let Some(at) = memrchr(b'\n', &self.bytes[from..]) {
            self.complete = from + at + 1;
        }
        let longest = self.max_line + LONG_LINE_SLACK;
        if self.bytes.len() - self.complete >= longest {
            self.bytes.truncate(self.complete + longest);
            self.end_line();
            self.skip = true;
        }
    }

    /// The input has ended: what is unfinished is a line.
    pub(crate) fn end_of_input(&mut self) {
        if self.is_within_line() {
            self.end_line();
        }
        self.skip = false;
    }

    /// The input broke off: what is unfinished is not a line.
    pub(crate) fn drop_unfinished(&mut self) {
        self.bytes.truncate(self.complete);
        self.skip = false;
    }

    fn end_line(&mut self) {
        self.bytes.reserve_exact(1);
        self.bytes.push(b'\n');
        self.complete = self.bytes.len();
    }

    /// The complete lines, each with its end.
    ///
    /// A well filled buffer is handed over as it is. Few lines are copied instead, so that a small block does not hold a
    /// large buffer.
    pub(crate) fn take(&mut self) -> Option<Buffer> {
        if self.complete == 0 {
            return None;
        }
        let lines = if self.complete >= self.bytes.capacity() / 2 {
            let rest = &self.bytes[self.complete..];
            let mut next = Vec::with_capacity(self.capacity.max(rest.len()));
            next.extend_from_slice(rest);
            let mut full = std::mem::replace(&mut self.bytes, next);
            full.truncate(self.complete);
            full
        } else {
            let few = self.bytes[..self.complete].to_vec();
            self.bytes.drain(..self.complete);
            few
        };
        self.complete = 0;
        Some(Buffer::from_vec(lines))
    }
}

/// Complete lines that are being made into batches.
#[derive(Debug)]
pub(crate) struct Lines {
    buffer: Buffer,
    at: usize,
    max_line: usize,
}

/// A batch of lines and the memory that it accounts for.
#[derive(Debug)]
pub(crate) struct LineBatch {
    pub(crate) batch: RecordBatch,
    pub(crate) memory: usize,
}

impl Lines {
    /// `buffer` ends with a newline.
    pub(crate) fn new(buffer: Buffer, max_line: usize) -> Self {
        Self {
            buffer,
            at: 0,
            max_line: max_line.clamp(1, MAX_LINE_BYTES_LIMIT),
        }
    }

    /// Passes over up to `count` lines and says how many there were.
    pub(crate) fn skip(&mut self, count: u64) -> u64 {
        let bytes = &self.buffer.as_slice()[self.at..];
        let mut skipped = 0;
        let mut passed = 0;
        for end in memchr_iter(b'\n', bytes) {
            if skipped == count {
                break;
            }
            skipped += 1;
            passed = end + 1;
        }
        self.at += passed;
        skipped
    }

    /// The next at most `rows` lines; `None` when there are no more.
    pub(crate) fn next_batch(&mut self, rows: usize, counters: &ReadCounters) -> Result<Option<LineBatch>, Error> {
        let bytes = self.buffer.as_slice();
        let count = memchr_iter(b'\n', &bytes[self.at..]).count().min(rows.max(1));
        if count == 0 {
            return Ok(None);
        }
        let mut builder = StringViewBuilder::with_capacity(count);
        let mut block = None;
        let (mut invalid, mut long) = (0, 0);
        let first = self.at;
        let mut begin = first;
        for end in memchr_iter(b'\n', &bytes[first..]).take(count) {
            let end = first + end;
            let mut line = strip_carriage_return(&bytes[begin..end]);
            if line.len() > self.max_line {
                line = cut(line, self.max_line);
                long += 1;
            }
            let valid = if line.len() <= INLINE_BYTES {
                std::str::from_utf8(line).map(|line| builder.append_value(line)).is_ok()
            } else {
                let block = *block.get_or_insert_with(|| builder.append_block(self.buffer.clone()));
                // Offsets fit: a buffer is at most MAX_LINE_BYTES_LIMIT and some bytes long.
                builder.try_append_view(block, begin as u32, line.len() as u32).is_ok()
            };
            if !valid {
                builder.append_value(String::from_utf8_lossy(line));
                invalid += 1;
            }
            begin = end + 1;
        }
        self.at = begin;

        counters.rows.fetch_add(count as u64, Ordering::Relaxed);
        counters.bytes.fetch_add((begin - first) as u64, Ordering::Relaxed);
        counters.invalid_utf8.fetch_add(invalid, Ordering::Relaxed);
        counters.long_lines.fetch_add(long, Ordering::Relaxed);
        let batch = RecordBatch::try_new(text_schema(), vec![Arc::new(builder.finish())]).map_err(Error::Batch)?;
        Ok(Some(LineBatch {
            batch,
            memory: count * VIEW_BYTES + (begin - first),
        }))
    }
}

fn strip_carriage_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The first `limit` bytes, less a character that would be cut in two.
fn cut(line: &[u8], limit: usize) -> &[u8] {
    const LONGEST_CHARACTER: usize = 4;
    let is_continuation = |byte: u8| byte & 0b1100_0000 == 0b1000_0000;
    let begin = (limit.saturating_sub(LONGEST_CHARACTER - 1)..=limit)
        .rev()
        .find(|&at| !is_continuation(line[at]))
        .unwrap_or(limit);
    &line[..begin]
}

#[cfg(test)]
mod tests;
