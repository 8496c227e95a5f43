//! The inputs of a batch: what the driver allocates and tasks read.

use tidemill_types::BlockId;

/// One piece of a source's input in one batch, read by one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputItem {
    /// Records that a receiver stored on `BlockId::executor`.
    Block {
        id: BlockId,
        rows: u64,
    },
    File(FileRange),
    /// Lines that came with the job.
    Lines(Vec<String>),
    /// Generated lines by index since zero time: `from..until`.
    Generate {
        from: u64,
        until: u64,
    },
}

/// Lines of a text file. Compressed files (`.gz`, `.zst`) have no byte ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRange {
    pub path: String,
    pub part: FilePart,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilePart {
    Whole,
    /// The lines that begin in `offset..offset + length`.
    Bytes {
        offset: u64,
        length: u64,
    },
    /// `count` lines from the line number `first` on, counted from 0.
    Lines {
        first: u64,
        count: u64,
    },
}
