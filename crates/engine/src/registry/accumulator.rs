//! Kinds of accumulators in Rust.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use tidemill_dstream::accumulator::{NativeMerge, Scalar};

use super::{BoxError, Function, Registry};

/// A way to make values one. States are bytes of its own format: they travel from tasks to the driver, and are kept for
/// as long as the job lives, also by later builds.
///
/// Merging has to be associative and commutative, and to merge a state must come to the same as to add its values: tasks
/// end in any order, and how many there are is not the job's matter.
pub trait Accumulator: Send + Sync + 'static {
    /// The type of the values that it takes. A job that adds others is refused.
    fn takes(&self) -> DataType;

    /// The state of nothing added.
    fn zero(&self) -> Vec<u8>;

    /// Takes values into a state. The array is of the type that it takes; null is to be skipped.
    ///
    /// # Errors
    /// It fails for these values, and so does their task.
    fn add(&self, state: &mut Vec<u8>, values: &ArrayRef) -> Result<(), BoxError>;

    /// Takes another state into a state.
    ///
    /// # Errors
    /// It cannot, and so the batch fails.
    fn merge(&self, state: &mut Vec<u8>, other: &[u8]) -> Result<(), BoxError>;

    /// What a state stands for.
    ///
    /// # Errors
    /// Why it has no value, for people.
    fn value(&self, state: &[u8]) -> Result<Scalar, BoxError>;
}

impl Registry {
    /// The kind of accumulator of that name.
    pub(crate) fn accumulator(&self, name: &str) -> Option<&Arc<dyn Accumulator>> {
        match self.get(name) {
            Some(Function::Accumulator(accumulator)) => Some(accumulator),
            _ => None,
        }
    }

    /// Calls a kind with its own failures and panics made reasons.
    fn call<T>(&self, name: &str, call: impl FnOnce(&dyn Accumulator) -> Result<T, BoxError>) -> Result<T, String> {
        let Some(accumulator) = self.accumulator(name) else {
            return Err(format!("no accumulator `{name}` is registered in this build"));
        };
        match catch_unwind(AssertUnwindSafe(|| call(accumulator.as_ref()))) {
            Ok(result) => result.map_err(|error| format!("`{name}` failed: {error}")),
            Err(_) => Err(format!("`{name}` panicked")),
        }
    }
}

impl NativeMerge for Registry {
    fn merge(&self, name: &str, state: &mut Vec<u8>, other: &[u8]) -> Result<(), String> {
        self.call(name, |accumulator| accumulator.merge(state, other))
    }

    fn value(&self, name: &str, state: Option<&[u8]>) -> Result<Scalar, String> {
        self.call(name, |accumulator| match state {
            Some(state) => accumulator.value(state),
            None => accumulator.value(&accumulator.zero()),
        })
    }
}
