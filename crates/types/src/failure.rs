//! Why a task did not finish, as structure: recovery is driven by the kind, never by the text.

use std::fmt;

use thiserror::Error;

/// What went wrong, by who can do something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// An input of the task could not be read where it was said to be.
    InputLost,
    /// The executor that ran the task is gone.
    ExecutorLost,
    /// The driver asked for the task to end.
    Cancelled,
    /// The job's own expression, function or data made it fail.
    User,
    /// Memory, disk or another resource ran out.
    Resource,
    /// A peer, a file system or another service outside of the job failed.
    External,
    /// A defect of Tidemill, a panic included.
    Internal,
}

impl FailureKind {
    /// Whether another attempt may succeed.
    #[must_use]
    pub fn retryable(self) -> bool {
        !matches!(self, Self::Cancelled)
    }

    /// Whether an attempt that ended so uses up one of the job's `max_attempts`.
    #[must_use]
    pub fn counts_toward_limit(self) -> bool {
        !matches!(self, Self::Cancelled | Self::ExecutorLost | Self::InputLost)
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InputLost => "input lost",
            Self::ExecutorLost => "executor lost",
            Self::Cancelled => "cancelled",
            Self::User => "user error",
            Self::Resource => "out of resources",
            Self::External => "external failure",
            Self::Internal => "internal error",
        })
    }
}

/// The failure of one task attempt.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{kind}: {message}")]
pub struct TaskFailure {
    pub kind: FailureKind,
    pub message: String,
}

impl TaskFailure {
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}
