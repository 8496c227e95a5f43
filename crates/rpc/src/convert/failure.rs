//! Task failures.

use tidemill_types::{FailureKind, TaskFailure};

use super::Error;
use crate::driver;

impl From<&TaskFailure> for driver::Failure {
    fn from(failure: &TaskFailure) -> Self {
        let kind = match failure.kind {
            FailureKind::InputLost => driver::FailureKind::InputLost,
            FailureKind::ExecutorLost => driver::FailureKind::ExecutorLost,
            FailureKind::Cancelled => driver::FailureKind::Cancelled,
            FailureKind::User => driver::FailureKind::User,
            FailureKind::Resource => driver::FailureKind::Resource,
            FailureKind::External => driver::FailureKind::External,
            FailureKind::Internal => driver::FailureKind::Internal,
        };
        Self {
            kind: kind.into(),
            message: failure.message.clone(),
        }
    }
}

impl TryFrom<driver::Failure> for TaskFailure {
    type Error = Error;

    fn try_from(failure: driver::Failure) -> Result<Self, Error> {
        let kind = match failure.kind() {
            driver::FailureKind::InputLost => FailureKind::InputLost,
            driver::FailureKind::ExecutorLost => FailureKind::ExecutorLost,
            driver::FailureKind::Cancelled => FailureKind::Cancelled,
            driver::FailureKind::User => FailureKind::User,
            driver::FailureKind::Resource => FailureKind::Resource,
            driver::FailureKind::External => FailureKind::External,
            driver::FailureKind::Internal => FailureKind::Internal,
            driver::FailureKind::Unspecified => return Err(Error::unknown("kind", failure.kind)),
        };
        Ok(Self {
            kind,
            message: failure.message,
        })
    }
}
