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
    #[error("the server on {address} failed: {source}")]
    Serve {
        address: SocketAddr,
        #[source]
        source: tonic::transport::Error,
    },
}
