//! Which batch a state is that of.

use datafusion::error::{DataFusionError, Result};
use tidemill_types::{BatchTime, FailureKind, TaskFailure};

/// The batch that is to be applied to a state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    /// Its index since zero time.
    pub(crate) index: i64,
    /// The index of the one before it, skipped ones left out; `None` for the first.
    pub(crate) previous: Option<i64>,
    pub(crate) time: BatchTime,
}

/// What has to be done to the state first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// There is none: it begins.
    Begin,
    /// It is that of the batch before.
    Forward,
    /// It is that of this batch, which runs again: the version before comes back.
    Again,
}

impl At {
    /// What to do with a state that is that of the batch `version`.
    pub(crate) fn step(&self, name: &str, version: Option<i64>) -> Result<Step> {
        match version {
            Some(version) if version == self.index => Ok(Step::Again),
            version if version == self.previous => Ok(if version.is_none() { Step::Begin } else { Step::Forward }),
            version => {
                let batch = |index: Option<i64>| match index {
                    Some(index) => format!("batch number {index}"),
                    None => "no batch".to_owned(),
                };
                let message = format!(
                    "the state of `{name}` here is that of {}, where batch number {} needs that of {}",
                    batch(version),
                    self.index,
                    batch(self.previous)
                );
                let failure = TaskFailure::new(FailureKind::InputLost, message);
                Err(DataFusionError::External(Box::new(failure)))
            }
        }
    }
}
