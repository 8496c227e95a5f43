//! What can go wrong between Tidemill and the outside, with the facts of the case.

use std::io;
use std::path::PathBuf;

use arrow::error::ArrowError;
use tidemill_types::{BatchTime, FailureKind};

use crate::socket::SinkError;
use crate::sources::TemplateError;

/// A failure of a source or an output.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open input file {}: {source}", path.display())]
    OpenInput { path: PathBuf, source: io::Error },

    #[error("cannot read input file {}: {source}", path.display())]
    ReadInput { path: PathBuf, source: io::Error },

    #[error("input {} is a directory; name its files, such as {}/*.txt", path.display(), path.display())]
    InputIsDirectory { path: PathBuf },

    #[error("input {} is not a regular file", path.display())]
    InputNotAFile { path: PathBuf },

    #[error("the name of input file {} is not UTF-8; rename it", path.display())]
    InputNameNotUtf8 { path: PathBuf },

    #[error("no file matches {pattern}; check the path, and that the process can see it")]
    NoInputMatches { pattern: String },

    #[error("{pattern} is not a valid glob: {reason}")]
    InvalidGlob { pattern: String, reason: String },

    #[error("cannot list {}: {source}", path.display())]
    ListDirectory { path: PathBuf, source: io::Error },

    #[error("compressed file {} cannot be read by byte ranges", path.display())]
    CompressedRange { path: PathBuf },

    #[error("cannot go on where the input was left: {reason}")]
    Position { reason: String },

    #[error("an input of kind {item} cannot be read here for a source of kind {source_kind}")]
    UnexpectedInput {
        item: &'static str,
        source_kind: &'static str,
    },

    #[error("the template of the generate source is wrong: {0}")]
    Template(#[from] TemplateError),

    #[error("the receiver's blocks cannot be stored: {0}")]
    Sink(#[from] SinkError),

    #[error("cannot create output directory {}: {source}", path.display())]
    CreateDirectory { path: PathBuf, source: io::Error },

    #[error("output path {} is not a directory; choose another path for the save output", path.display())]
    OutputNotADirectory { path: PathBuf },

    #[error("output directory {} is not writable: {source}", path.display())]
    NotWritable { path: PathBuf, source: io::Error },

    #[error("cannot write {}: {source}", path.display())]
    WriteOutput { path: PathBuf, source: io::Error },

    #[error("column {column} of type {data_type} cannot be saved as {format}; {advice}")]
    Unsaveable {
        column: String,
        data_type: String,
        format: &'static str,
        advice: &'static str,
    },

    #[error("cannot encode a row for {}: {source}", path.display())]
    Encode { path: PathBuf, source: ArrowError },

    #[error("cannot move {} to {}: {source}", from.display(), to.display())]
    Rename {
        from: PathBuf,
        to: PathBuf,
        source: io::Error,
    },

    #[error("cannot remove {}: {source}", path.display())]
    Remove { path: PathBuf, source: io::Error },

    #[error(
        "output directory {} of batch {batch} exists already; remove it, choose another path, or allow overwriting",
        path.display()
    )]
    BatchDirectoryExists { path: PathBuf, batch: BatchTime },

    #[error(
        "staged file {} is missing; the output path must be one that the driver and all executors share",
        path.display()
    )]
    StagedFileMissing { path: PathBuf },

    #[error("{} is empty, so there is nothing to serve again and again", path.display())]
    NothingToReplay { path: PathBuf },

    #[error("a helper thread of the connector failed: {reason}")]
    Helper { reason: String },

    #[error("cannot build a batch of text: {0}")]
    Batch(#[source] ArrowError),
}

impl Error {
    /// Who can do something about it.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::OpenInput { source, .. }
            | Self::ReadInput { source, .. }
            | Self::ListDirectory { source, .. }
            | Self::CreateDirectory { source, .. }
            | Self::NotWritable { source, .. }
            | Self::WriteOutput { source, .. }
            | Self::Rename { source, .. }
            | Self::Remove { source, .. } => io_kind(source),
            Self::InputIsDirectory { .. }
            | Self::InputNotAFile { .. }
            | Self::InputNameNotUtf8 { .. }
            | Self::NoInputMatches { .. }
            | Self::OutputNotADirectory { .. }
            | Self::BatchDirectoryExists { .. }
            | Self::NothingToReplay { .. }
            | Self::Position { .. }
            | Self::StagedFileMissing { .. } => FailureKind::External,
            Self::InvalidGlob { .. } | Self::Template(_) | Self::Unsaveable { .. } | Self::Encode { .. } => {
                FailureKind::User
            }
            Self::Sink(_) => FailureKind::Resource,
            Self::CompressedRange { .. } | Self::UnexpectedInput { .. } | Self::Helper { .. } | Self::Batch(_) => {
                FailureKind::Internal
            }
        }
    }
}

/// A full disk, or too many open files, is for whoever runs the cluster; all else is the file system's affair.
fn io_kind(error: &io::Error) -> FailureKind {
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::OutOfMemory => FailureKind::Resource,
        _ if matches!(error.raw_os_error(), Some(EMFILE | ENFILE)) => FailureKind::Resource,
        _ => FailureKind::External,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_a_lack_of_resources_and_a_vanished_file_an_external_failure() {
        let full = Error::WriteOutput {
            path: "/out/part".into(),
            source: io::ErrorKind::StorageFull.into(),
        };
        assert_eq!(full.kind(), FailureKind::Resource);
        let gone = Error::OpenInput {
            path: "/in/a.txt".into(),
            source: io::ErrorKind::NotFound.into(),
        };
        assert_eq!(gone.kind(), FailureKind::External);
        assert_eq!(gone.to_string(), "cannot open input file /in/a.txt: entity not found");
    }
}
