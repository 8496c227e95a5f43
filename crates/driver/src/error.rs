//! Why a driver cannot start or go on.

use std::net::SocketAddr;

use thiserror::Error;
use tidemill_types::Generation;

#[derive(Debug, Error)]
pub enum Error {
    #[error("cannot listen on {address}: {source} (is another driver running? choose another address with --bind)")]
    Bind {
        address: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the journal at {url} cannot be opened: {source}")]
    Journal {
        url: String,
        #[source]
        source: Box<tidemill_journal::Error>,
    },
    #[error("record {sequence} of the journal cannot be read by this build: {reason}")]
    Record { sequence: u64, reason: String },
    #[error("a newer driver has taken over the journal (generation {by}): this one must not go on")]
    Fenced { by: Generation },
    /// A defect: the state is in the loop, so the process cannot go on.
    #[error("the driver's event loop ended: {0}")]
    EventLoop(String),
    #[error("the server on {address} failed: {source}")]
    Serve {
        address: SocketAddr,
        #[source]
        source: tonic::transport::Error,
    },
}
