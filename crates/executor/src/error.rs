//! Why an executor cannot start or go on.

use thiserror::Error;

#[derive(Debug, Error)]
pub enum Error {
    #[error("cannot listen on {address}: {source} (is another executor running? choose another address with --bind)")]
    Bind {
        address: String,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot start the task threads: {0}")]
    Threads(#[source] std::io::Error),
    #[error("cannot use {directory} for spilled data: {source}")]
    Storage {
        directory: String,
        #[source]
        source: tidemill_storage::Error,
    },
    #[error("tasks have no place to work: {0}")]
    Workspace(String),
    /// A defect: the state is in the loop, so the process cannot go on.
    #[error("the executor's event loop ended: {0}")]
    EventLoop(String),
    /// The driver's own words.
    #[error("the driver at {driver} refused this executor: {reason}")]
    Refused { driver: String, reason: String },
    #[error("no driver at {driver}: {reason} (is it running? set --driver or executor.driver)")]
    Unreachable { driver: String, reason: String },
}
