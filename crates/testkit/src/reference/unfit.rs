//! Why a model cannot be used.

use std::error::Error;
use std::fmt;

/// A model that is not well typed, or whose values leave the range in which they can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit(String);

impl Unfit {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }

    /// The same, with the name of the node.
    pub(super) fn within(self, node: &str) -> Self {
        Self(format!("{node}: {}", self.0))
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Unfit {}
