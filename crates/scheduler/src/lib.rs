//! Every decision of the driver, as a pure state machine: events in, actions out.
//!
//! - [`Scheduler::on`] takes an [`Event`] and the time and returns [`Action`]s. It has no clock, no network and no
//!   lock; the driver's loop owns it and performs the actions in order.
//! - After each event the job that it touched is *advanced*: what can be done is derived from the state, not from the
//!   event, so that late, repeated and reordered events do no harm.
//!
//! ```text
//!  tick ─► due ─► allocating ─► ready ─► running ─► committing ─► completed
//!           │ waits for the receivers'    │ a lost executor's tasks are launched again,
//!           │ borders, or their deadline  │ a failed task up to max_attempts
//! ```
//! What belongs where: [`placement`] says who owns a partition, `job::allocation` which blocks belong to a batch,
//! `job::launch` what is sent for a batch, `job::loss` what a lost executor takes with it, `job::restore` how
//! remembered partitions are made again.

mod action;
mod event;
mod job;
pub mod placement;
mod scheduler;
#[cfg(test)]
mod tests;

pub use action::{Action, BatchStats, Expectation, JobEnd, Launch, Notice, OutputCommit, TaskInput, TaskLaunch};
pub use event::{
    DatasetPart, Event, JobSpec, OutputPart, OutputPayload, Pace, StoredBlock, StreamInput, TaskOutcome, TaskSuccess,
};
pub use job::{BatchState, BatchView, JobState, JobView, ReceiverView};
pub use scheduler::{ExecutorView, Options, Scheduler};
