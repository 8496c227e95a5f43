//! Sources that can be read again: what belongs to a batch, and how a task reads it.
//!
//! A planner runs in the driver and allocates [`InputItem`]s to batches; [`open`] reads one item on an executor. An
//! allocation is all that a task needs, so reading it again, elsewhere, gives the same rows in the same order. Items
//! are spread over the partitions of a source's slot so that the order of partitions is the order of the input.

mod generate;
mod position;
mod queue;
mod spread;
mod template;
mod text_file;
mod text_files;
mod words;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::{RecordBatch, StringViewBuilder};
use tidemill_dstream::{InputItem, Source};
use tidemill_types::BatchTime;

pub use template::{TWEET_TEMPLATE, Template, TemplateError, parse_template};

use crate::Error;
use crate::text::{RangeReader, ReadOptions, text_schema};

/// Allocates the input of a replayable source to batches, in batch order.
///
/// A planner blocks on the file system: it is called off the driver's event loop. After an error the same batch can be
/// asked for again.
pub trait InputPlanner: Send {
    fn allocate(&mut self, request: &AllocateRequest) -> Result<Allocation, Error>;

    /// Where it stands behind the batch that was allocated last, for a planner in another process. Empty where the
    /// number of the batch says it all.
    fn position(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Goes on where a planner of the same source stood. Called before anything is allocated.
    fn restore(&mut self, _: &[u8]) -> Result<(), Error> {
        Ok(())
    }
}

/// A batch that wants its input.
#[derive(Clone, Copy, Debug)]
pub struct AllocateRequest {
    pub batch: BatchTime,
    /// The batch's number since zero time; the first batch is 1.
    pub index: i64,
    pub interval: Duration,
    /// Partitions to spread the input over.
    pub partitions: u32,
    /// Whether the run takes batch after batch without waiting for the clock.
    pub no_wait: bool,
}

/// The input of one batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    /// For each partition, what it reads, in order.
    pub partitions: Vec<Vec<InputItem>>,
    /// The number of rows, if it is known without reading them.
    pub rows: Option<u64>,
    /// No input will come after this batch.
    pub exhausted: bool,
    /// What was allocated, for people.
    pub description: String,
}

impl Allocation {
    fn empty(partitions: u32, exhausted: bool, description: impl Into<String>) -> Self {
        Self {
            partitions: vec![Vec::new(); partitions.max(1) as usize],
            rows: Some(0),
            exhausted,
            description: description.into(),
        }
    }
}

/// The planner of a source for a job that starts at `start`; `None` for a source that has a receiver.
pub fn planner(source: &Source, start: BatchTime) -> Result<Option<Box<dyn InputPlanner>>, Error> {
    Ok(Some(match source {
        Source::SocketText(_) => return Ok(None),
        Source::TextFile(source) => Box::new(text_file::TextFilePlanner::new(source)?),
        Source::TextFiles(source) => Box::new(text_files::TextFilesPlanner::new(source, start)?),
        Source::Queue(items) => Box::new(queue::QueuePlanner::new(items)),
        Source::Generate(source) => Box::new(generate::GeneratePlanner::new(source)?),
    }))
}

/// Reads one input item as batches of [`text_schema`]. Blocks are the block store's and not read here.
pub fn open(
    item: &InputItem,
    source: &Source,
    options: &ReadOptions,
) -> Result<Box<dyn Iterator<Item = Result<RecordBatch, Error>> + Send>, Error> {
    match (item, source) {
        (InputItem::File(range), _) => Ok(Box::new(RangeReader::open(range, options)?)),
        (InputItem::Lines(lines), _) => {
            let batches: Vec<_> = lines
                .chunks(options.batch_rows.max(1))
                .map(|lines| rows_of(lines, options))
                .collect();
            Ok(Box::new(batches.into_iter()))
        }
        (&InputItem::Generate { from, until }, Source::Generate(source)) => {
            Ok(Box::new(generate::Generated::new(source, from..until, options)?))
        }
        (InputItem::Generate { .. }, _) => Err(Error::UnexpectedInput {
            item: "generate",
            source_kind: source_kind(source),
        }),
        (InputItem::Block { .. }, _) => Err(Error::UnexpectedInput {
            item: "block",
            source_kind: source_kind(source),
        }),
    }
}

/// A batch of lines that are rows as they are, whatever characters they contain.
fn rows_of(lines: &[String], options: &ReadOptions) -> Result<RecordBatch, Error> {
    let mut builder = StringViewBuilder::with_capacity(lines.len());
    let mut bytes = 0;
    for line in lines {
        builder.append_value(line);
        bytes += line.len() as u64;
    }
    finish_rows(builder, lines.len() as u64, bytes, options)
}

fn finish_rows(
    mut rows: StringViewBuilder,
    count: u64,
    bytes: u64,
    options: &ReadOptions,
) -> Result<RecordBatch, Error> {
    options.counters.rows.fetch_add(count, Ordering::Relaxed);
    options.counters.bytes.fetch_add(bytes, Ordering::Relaxed);
    RecordBatch::try_new(text_schema(), vec![Arc::new(rows.finish())]).map_err(Error::Batch)
}

fn source_kind(source: &Source) -> &'static str {
    match source {
        Source::SocketText(_) => "socket_text",
        Source::TextFile(_) => "text_file",
        Source::TextFiles(_) => "text_files",
        Source::Queue(_) => "queue",
        Source::Generate(_) => "generate",
    }
}

#[cfg(test)]
mod tests;
