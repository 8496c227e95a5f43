//! Reads the lines of a file, of a byte range of it, or of a range of its lines.
//!
//! A line belongs to the byte range in which it begins. So a reader of `offset..end` starts one byte early, drops
//! everything up to the first newline, and reads the last line to its end even if that lies in the next range:
//!
//! ```text
//!   bytes    aaaa\nbbb\ncccccccc\nd\n
//!   ranges   |────────|───────|──────|      begin in: a,b | c | d
//! ```
//! Whatever the ranges that a file is divided into, each line is read once, and in order.

use std::io;
use std::path::PathBuf;

use arrow::array::RecordBatch;
use memchr::memchr;
use tidemill_dstream::{FilePart, FileRange};

use super::{LineBuffer, Lines, ReadOptions, TextInput};
use crate::Error;

/// Bytes of a file that become one data buffer: large reads, small enough to be split and parsed while in the cache.
const CHUNK_BYTES: usize = 1 << 20;

/// The end of the last line is looked for in steps of this many bytes beyond the range.
const TAIL_BYTES: usize = 16 << 10;

/// An iterator over the batches of a range. After an error it has ended.
pub(crate) struct RangeReader {
    path: PathBuf,
    input: TextInput,
    buffer: LineBuffer,
    phase: Phase,
    lines: Option<Lines>,
    /// Lines still to be passed over.
    skip: u64,
    /// Lines still to be read.
    left: u64,
    options: ReadOptions,
}

#[derive(Clone, Copy)]
enum Phase {
    /// Bytes of the range that are still to be read.
    Body(u64),
    /// The range has been read, its last line perhaps not.
    Tail,
    Done,
}

impl RangeReader {
    pub(crate) fn open(range: &FileRange, options: &ReadOptions) -> Result<Self, Error> {
        let path = PathBuf::from(&range.path);
        let mut input = TextInput::open(&path)?;
        let (mut body, mut skip, mut left) = (u64::MAX, 0, u64::MAX);
        let mut within_line = false;
        match range.part {
            FilePart::Whole => {}
            FilePart::Lines { first, count } => (skip, left) = (first, count),
            FilePart::Bytes { offset, length } => {
                within_line = offset > 0;
                body = length + u64::from(within_line);
                match input.seek(offset - u64::from(within_line)) {
                    Some(Ok(())) => {}
                    Some(Err(source)) => return Err(Error::ReadInput { path, source }),
                    None => return Err(Error::CompressedRange { path }),
                }
            }
        }
        let capacity = usize::try_from(body).map_or(CHUNK_BYTES, |body| body.saturating_add(1).min(CHUNK_BYTES));
        let mut buffer = LineBuffer::new(capacity, options.max_line_bytes);
        if within_line {
            buffer.skip_first_line();
        }
        Ok(Self {
            path,
            input,
            buffer,
            phase: Phase::Body(body),
            lines: None,
            skip,
            left,
            options: options.clone(),
        })
    }

    fn next_batch(&mut self) -> Result<Option<RecordBatch>, Error> {
        while self.left > 0 {
            if let Some(lines) = &mut self.lines {
                if self.skip > 0 {
                    self.skip -= lines.skip(self.skip);
                }
                let rows = usize::try_from(self.left)
                    .map_or(self.options.batch_rows, |left| left.min(self.options.batch_rows));
                if let Some(next) = lines.next_batch(rows, &self.options.counters)? {
                    self.left -= next.batch.num_rows() as u64;
                    return Ok(Some(next.batch));
                }
            }
            self.fill().map_err(|source| Error::ReadInput {
                path: self.path.clone(),
                source,
            })?;
            self.lines = self
                .buffer
                .take()
                .map(|lines| Lines::new(lines, self.options.max_line_bytes));
            if self.lines.is_none() {
                break;
            }
        }
        Ok(None)
    }

    /// Reads until the buffer is full or the range has ended.
    fn fill(&mut self) -> io::Result<()> {
        loop {
            let room = self.buffer.room();
            let from = self.buffer.len();
            match self.phase {
                Phase::Done => return Ok(()),
                _ if room == 0 => return Ok(()),
                Phase::Body(0) => self.phase = Phase::Tail,
                Phase::Body(left) => {
                    let wanted = left.min(room as u64);
                    let read = self.read(wanted)?;
                    self.buffer.appended(from);
                    self.phase = Phase::Body(left - read);
                    if read < wanted {
                        self.end();
                    }
                }
                Phase::Tail if self.buffer.is_within_line() => {
                    let read = self.read(room.min(TAIL_BYTES) as u64)?;
                    let bytes = self.buffer.bytes_mut();
                    let newline = memchr(b'\n', &bytes[from..]);
                    if let Some(at) = newline {
                        bytes.truncate(from + at + 1);
                    }
                    self.buffer.appended(from);
                    if newline.is_some() || read == 0 {
                        self.end();
                    }
                }
                // The range ends with a line, or within one that is too long or that another reader has.
                Phase::Tail => self.end(),
            }
        }
    }

    fn end(&mut self) {
        self.buffer.end_of_input();
        self.phase = Phase::Done;
    }

    fn read(&mut self, wanted: u64) -> io::Result<u64> {
        self.input.append_to(self.buffer.bytes_mut(), wanted)
    }
}

impl Iterator for RangeReader {
    type Item = Result<RecordBatch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_batch();
        if next.is_err() {
            self.left = 0;
        }
        next.transpose()
    }
}

#[cfg(test)]
mod tests;
