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

/// The batches that a state is that of, now and before its last step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Versions {
    /// `None`: it has not begun.
    pub(crate) now: Option<i64>,
    /// What it can go back to, if it can.
    pub(crate) before: Option<Option<i64>>,
}

impl Versions {
    pub(crate) const NONE: Self = Self {
        now: None,
        before: None,
    };

    /// Of a state that was saved.
    pub(crate) fn loaded(index: i64) -> Self {
        Self {
            now: Some(index),
            before: None,
        }
    }

    /// Which of them is that of a batch.
    pub(crate) fn find(self, index: i64) -> Option<Version> {
        if self.now == Some(index) {
            Some(Version::Now)
        } else if self.before == Some(Some(index)) {
            Some(Version::Before)
        } else {
            None
        }
    }
}

/// One of a state's two versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Now,
    Before,
}

/// What has to be done to the state first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// There is none: it begins.
    Begin,
    /// It is that of the batch before.
    Forward,
    /// It has come to a batch that does not count: this one, which runs again, or one that was skipped. The version before
    /// comes back.
    Again,
}

impl At {
    /// Whether it is the first batch, and a state of later ones is there.
    pub(crate) fn begins_anew(&self, versions: Versions) -> bool {
        self.previous.is_none() && versions.now.is_some() && versions.before != Some(None)
    }

    /// What to do with a state of these versions.
    pub(crate) fn step(&self, name: &str, versions: Versions) -> Result<Step> {
        if versions.now == self.previous {
            return Ok(match versions.now {
                None => Step::Begin,
                Some(_) => Step::Forward,
            });
        }
        if versions.before == Some(self.previous) {
            return Ok(Step::Again);
        }
        let batch = |index: Option<i64>| match index {
            Some(index) => format!("batch number {index}"),
            None => "no batch".to_owned(),
        };
        let message = format!(
            "the state of `{name}` here is that of {}, where batch number {} needs that of {}",
            batch(versions.now),
            self.index,
            batch(self.previous)
        );
        let failure = TaskFailure::new(FailureKind::InputLost, message);
        Err(DataFusionError::External(Box::new(failure)))
    }
}
