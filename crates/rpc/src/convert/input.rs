//! Inputs of a batch. A block on the wire does not name its job, which the message around it names.

use tidemill_dstream::{FilePart, FileRange, InputItem};
use tidemill_types::{BlockId, ExecutorId, JobId, ReceiverId};

use super::Error;
use crate::{driver, plan};

impl From<&InputItem> for driver::InputItem {
    fn from(item: &InputItem) -> Self {
        use driver::input_item::Item;
        let item = match item {
            InputItem::Block { id, rows } => Item::Block(driver::BlockRef {
                receiver: id.receiver.0,
                executor: id.executor.0,
                session: id.session,
                sequence: id.sequence,
                rows: *rows,
            }),
            InputItem::File(range) => Item::File(range.into()),
            InputItem::Lines(lines) => Item::Lines(plan::Lines { lines: lines.clone() }),
            InputItem::Generate { from, until } => Item::Generate(driver::GenerateRange {
                from: *from,
                until: *until,
            }),
        };
        Self { item: Some(item) }
    }
}

/// An input item of `job`.
///
/// # Errors
/// A missing item, or a file range that names bytes and lines.
pub fn input_item(job: JobId, item: driver::InputItem) -> Result<InputItem, Error> {
    use driver::input_item::Item;
    Ok(match item.item.ok_or_else(|| Error::missing("item"))? {
        Item::Block(block) => InputItem::Block {
            id: BlockId {
                job,
                receiver: ReceiverId(block.receiver),
                executor: ExecutorId(block.executor),
                session: block.session,
                sequence: block.sequence,
            },
            rows: block.rows,
        },
        Item::File(range) => InputItem::File(range.try_into().map_err(|error: Error| error.inside("file"))?),
        Item::Lines(lines) => InputItem::Lines(lines.lines),
        Item::Generate(range) => InputItem::Generate {
            from: range.from,
            until: range.until,
        },
    })
}

impl From<&FileRange> for driver::FileRange {
    fn from(range: &FileRange) -> Self {
        let whole = Self {
            path: range.path.clone(),
            ..Self::default()
        };
        match range.part {
            FilePart::Whole => whole,
            FilePart::Bytes { offset, length } => Self {
                offset,
                length: Some(length),
                ..whole
            },
            FilePart::Lines { first, count } => Self {
                first_line: Some(first),
                lines: Some(count),
                ..whole
            },
        }
    }
}

impl TryFrom<driver::FileRange> for FileRange {
    type Error = Error;

    fn try_from(range: driver::FileRange) -> Result<Self, Error> {
        let part = match (range.offset, range.length, range.first_line, range.lines) {
            (0, None, None, None) => FilePart::Whole,
            (offset, Some(length), None, None) => FilePart::Bytes { offset, length },
            (0, None, Some(first), Some(count)) => FilePart::Lines { first, count },
            _ => {
                return Err(Error::new(
                    "",
                    "names neither the whole file, nor bytes, nor lines alone",
                ));
            }
        };
        Ok(Self { path: range.path, part })
    }
}
