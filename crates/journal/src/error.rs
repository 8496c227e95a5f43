//! What opening a journal can say.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, Error)]
pub enum Error {
    #[error("the journal's {what} {} failed", path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the journal's {what} `{key}` failed")]
    Object {
        what: &'static str,
        key: String,
        #[source]
        source: object_store::Error,
    },
    #[error("no journal can be kept at {place}: {reason}")]
    Place { place: String, reason: String },
    /// More than a torn tail: records that were durable are missing.
    #[error("the journal is damaged at {place}: {reason}")]
    Damaged { place: String, reason: String },
    #[error("the journal at {place} has format {found}, this build reads up to {known}")]
    Format { place: String, found: u16, known: u16 },
}
