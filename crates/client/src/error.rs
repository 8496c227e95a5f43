//! What can go wrong between a client and the driver.

use tidemill_dstream::Diagnostics;
use tidemill_rpc::convert;
use tidemill_types::{BatchTime, JobId};
use tonic::{Code, Status};

use crate::summary::BatchFailure;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request was not answered as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing at the address answers as a driver, or it stopped answering.
    #[error("no driver at {address}: {reason}; is it running? set --driver or TIDEMILL_DRIVER")]
    Unreachable { address: String, reason: String },
    /// The address is not one.
    #[error("`{address}` is not an address: {reason}; expected host:port")]
    Address { address: String, reason: String },
    /// The job has faults.
    #[error("{0}")]
    Rejected(Diagnostics),
    /// No such job or table.
    #[error("{0}")]
    NotFound(String),
    /// The name is taken.
    #[error("{0}")]
    AlreadyExists(String),
    /// The driver asks for credentials, or refuses these.
    #[error("{0}")]
    Unauthenticated(String),
    /// The job and its files do not fit a message. Nothing was sent.
    #[error(
        "the job and its attached files have {size} bytes, more than the {limit} that a submission may have; put large files where all executors can read them"
    )]
    TooLarge { size: usize, limit: usize },
    /// A batch of the job failed, or the job as a whole.
    #[error("job {job} failed{}: {message}", .batch.map(|batch| format!(" in batch {batch}")).unwrap_or_default())]
    Failed {
        job: JobId,
        batch: Option<BatchTime>,
        message: String,
    },
    /// The context is not in a state for that.
    #[error("{0}")]
    Lifecycle(String),
    /// The driver's answer means nothing to this version.
    #[error("the driver's answer is not understood: {reason}; do driver and client have the same version?")]
    Answer { reason: String },
    /// Any other refusal or failure.
    #[error("{message}")]
    Remote { code: Code, message: String },
}

impl Error {
    /// The error that a driver's status says.
    pub(crate) fn from_status(address: &str, status: &Status) -> Self {
        if let Some(diagnostics) = convert::diagnostics_from_status(status) {
            return Self::Rejected(diagnostics);
        }
        let message = status.message().to_owned();
        match status.code() {
            Code::NotFound => Self::NotFound(message),
            Code::AlreadyExists => Self::AlreadyExists(message),
            Code::Unauthenticated | Code::PermissionDenied => Self::Unauthenticated(message),
            Code::Unavailable => Self::unreachable(address, reason(status)),
            // A connection that breaks in mid-call ends so.
            Code::Unknown | Code::Internal | Code::Cancelled if std::error::Error::source(status).is_some() => {
                Self::unreachable(address, reason(status))
            }
            code => Self::Remote { code, message },
        }
    }

    pub(crate) fn failed(job: JobId, failure: &BatchFailure) -> Self {
        Self::Failed {
            job,
            batch: Some(failure.time),
            message: failure.error.clone(),
        }
    }

    pub(crate) fn unreachable(address: &str, reason: impl Into<String>) -> Self {
        Self::Unreachable {
            address: address.to_owned(),
            reason: reason.into(),
        }
    }

    pub(crate) fn answer(reason: impl ToString) -> Self {
        Self::Answer {
            reason: reason.to_string(),
        }
    }
}

impl From<convert::Error> for Error {
    fn from(error: convert::Error) -> Self {
        Self::answer(error)
    }
}

/// The innermost cause, which is what the operating system said.
pub(crate) fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    // A status says more about itself than its message.
    cause
        .downcast_ref::<Status>()
        .map_or_else(|| cause.to_string(), |status| status.message().to_owned())
}
