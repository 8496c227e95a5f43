//! Accumulators in a task: what adds to them, and the deltas that it leaves.
//!
//! - [`Target`]: an accumulator as a plan names it, with the type in which values are added.
//! - [`Deltas`]: the states that one task collects. They leave with its report, if it succeeds.
//! - [`AccumulateExec`]: adds for each record that passes. It sees every record of its input, also those that nobody
//!   above it asks for: what a limit leaves is taken at the end of the task.
//! - [`Accumulators`]: the handles of a registered function.

mod deltas;
mod exec;
mod handle;
mod target;

pub(crate) use deltas::Deltas;
pub(crate) use exec::{AccumulateExec, Added, Watched, adds, operators_of};
pub(crate) use handle::Bound;
pub use handle::{AccumulatorHandle, Accumulators};
pub(crate) use target::{Target, value_type};
