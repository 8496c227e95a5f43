//! Why a driver cannot start or go on.

use std::net::SocketAddr;

use thiserror::Error;

#[derive(Debug, Error)]
pub enum Error {
    #[error("cannot listen on {address}: {source} (is another driver running? choose another address with --bind)")]
    Bind {
        address: String,
        #[source]
        source: std::io::Error,
    },
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
