//! What can go wrong in the engine beside the user's job itself.

use std::path::PathBuf;

use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use thiserror::Error;
use tidemill_types::{FailureKind, TaskFailure};

#[derive(Debug, Error)]
pub enum Error {
    #[error("table file {} cannot be read", path.display())]
    TableFile {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("table file {} is not valid {format}: {}", path.display(), source.to_string().trim())]
    TableFormat {
        path: PathBuf,
        format: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(
        "stage template is of version {found}, this build reads {expected}: driver and executors must be of one build"
    )]
    TemplateVersion { found: u32, expected: u32 },
    #[error("stage template is damaged: {0}")]
    Template(String),
    #[error("stage template cannot be decoded")]
    Plan(#[from] DataFusionError),
    #[error("function `{name}` cannot be registered: {reason}")]
    Function { name: String, reason: &'static str },
    #[error("it is another state: {found}, where `{name}` is {expected}")]
    SavedState {
        name: String,
        found: String,
        expected: String,
    },
    #[error("bytes are damaged")]
    Damaged,
    #[error("record batches cannot be encoded or decoded")]
    Ipc(#[from] ArrowError),
}

impl Error {
    /// By who can do something about it.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::TableFile { .. } => FailureKind::External,
            Self::TableFormat { .. } | Self::Function { .. } | Self::SavedState { .. } => FailureKind::User,
            Self::TemplateVersion { .. } | Self::Template(_) | Self::Plan(_) | Self::Damaged | Self::Ipc(_) => {
                FailureKind::Internal
            }
        }
    }
}

impl From<Error> for TaskFailure {
    fn from(error: Error) -> Self {
        use std::error::Error as _;
        if let Error::Plan(cause) = &error {
            return task_failure(cause);
        }
        let message = match error.source() {
            Some(source) if !matches!(error, Error::TableFormat { .. }) => format!("{error}: {source}"),
            _ => error.to_string(),
        };
        TaskFailure::new(error.kind(), message)
    }
}

/// A failure at run time, by who can do something about it: found by walking the error's sources, for DataFusion wraps
/// errors in contexts, and our own come back as external ones.
pub(crate) fn task_failure(error: &DataFusionError) -> TaskFailure {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(failure) = current.downcast_ref::<TaskFailure>() {
            return failure.clone();
        }
        if let Some(error) = current.downcast_ref::<Error>() {
            return TaskFailure::new(error.kind(), error.to_string());
        }
        if let Some(error) = current.downcast_ref::<tidemill_storage::Error>() {
            return TaskFailure::new(error.kind(), error.to_string());
        }
        cause = match current.downcast_ref::<DataFusionError>() {
            Some(DataFusionError::External(source)) => Some(source.as_ref()),
            Some(DataFusionError::ArrowError(source, _)) => Some(source.as_ref()),
            Some(DataFusionError::Context(_, source) | DataFusionError::Diagnostic(_, source)) => Some(source.as_ref()),
            Some(DataFusionError::Shared(source)) => Some(source.as_ref()),
            Some(DataFusionError::Collection(errors)) => errors.first().map(|e| e as _),
            _ => match current.downcast_ref::<ArrowError>() {
                Some(ArrowError::ExternalError(source)) => Some(source.as_ref()),
                _ => None,
            },
        };
    }
    TaskFailure::new(kind(error), message(error))
}

/// A failure of a registered function. One that came to it with its input and passes through stays what it was.
pub(crate) fn function_failure(name: &str, error: Box<dyn std::error::Error + Send + Sync>) -> DataFusionError {
    let failure = match error.downcast::<TaskFailure>() {
        Ok(failure) => *failure,
        Err(error) => TaskFailure::new(FailureKind::User, format!("function `{name}` failed: {error}")),
    };
    DataFusionError::External(Box::new(failure))
}

fn kind(error: &DataFusionError) -> FailureKind {
    match error.find_root() {
        DataFusionError::ResourcesExhausted(_) => FailureKind::Resource,
        DataFusionError::IoError(_) | DataFusionError::ObjectStore(_) => FailureKind::External,
        DataFusionError::ArrowError(arrow, _) => match arrow.as_ref() {
            ArrowError::MemoryError(_) => FailureKind::Resource,
            ArrowError::IoError(..) => FailureKind::External,
            ArrowError::CDataInterface(_) | ArrowError::IpcError(_) | ArrowError::SchemaError(_) => {
                FailureKind::Internal
            }
            _ => FailureKind::User,
        },
        DataFusionError::Execution(_)
        | DataFusionError::Plan(_)
        | DataFusionError::SchemaError(..)
        | DataFusionError::NotImplemented(_) => FailureKind::User,
        _ => FailureKind::Internal,
    }
}

/// The root's own words, without DataFusion's prefixes and backtrace.
pub(crate) fn message(error: &DataFusionError) -> String {
    let root = error.find_root();
    let text = match root {
        DataFusionError::ArrowError(arrow, _) => arrow.to_string(),
        other => other.message().into_owned(),
    };
    let text = text.split(DataFusionError::BACK_TRACE_SEP).next().unwrap_or_default();
    text.trim().to_owned()
}
