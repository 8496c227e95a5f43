//! What outlives the driver: a journal of what was decided about jobs with a checkpoint, and what a later driver makes of
//! it.
//!
//! ```text
//!   submitted ─► allocated ─► ... ─► prepared ═durable═► outputs visible ─► committed ─► ... ─► ended
//!                    └─► skipped         └ a later driver makes them visible from the record
//! ```
//! - A [`Recorder`] appends records; visibility waits until they are durable, execution never does.
//! - The [`Registry`] is what all records come to. It takes in each record as it is appended, so a snapshot of the
//!   journal is the registry, and a replay gives the same one.
//! - `resume` makes jobs of it when a driver starts. Of a job without a checkpoint nothing is recorded but that it was
//!   there.

mod recorder;
mod records;
mod registry;
mod resume;
#[cfg(test)]
mod tests;

pub(crate) use recorder::{Gone, Recorder};
pub(crate) use records::{
    allocated, broadcast_updated, broadcast_value, committed, ended, prepared, skipped, source_position, state_saved,
    submitted,
};
pub(crate) use registry::Registry;
pub(crate) use resume::Past;
