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
//! What belongs where: [`placement`] says who owns a partition and `job::owners` when that changes, `job::ticks` when a
//! batch is due, `job::allocation` which blocks belong to it, `job::launch` what is sent for it, `job::report` what its
//! tasks came to, `job::commit` how it ends, `job::loss` what a lost executor takes with it, `job::restore` how remembered
//! partitions are made again, `job::kept` where others can read what is kept, `job::broadcasts` which
//! version of a broadcast variable a batch uses, [`pieces`] how executors get their values from each other.
//!
//! Whatever fails, a batch is committed once and in order, and what runs again is what was lost. An attempt has a number
//! that its task never had before, so a report is of the current attempt or it is late. Nothing is waited for by the
//! clock alone but a batch's time, a border and a retry: [`Scheduler::next_deadline`] is never in the past.

mod action;
mod event;
mod job;
pub mod pieces;
pub mod placement;
mod scheduler;
#[cfg(test)]
mod tests;

pub use action::{
    Action, BatchStats, Expectation, InputInfo, JobEnd, Launch, Notice, OutputCommit, TaskInput, TaskLaunch,
};
pub use event::{
    DatasetPart, Event, JobSpec, OutputPart, OutputPayload, Pace, RecordedBatch, Resume, StoredBlock, StreamInput,
    TaskOutcome, TaskSuccess,
};
pub use job::{BatchState, BatchView, Forgotten, JobState, JobView, ReceiverView, RememberedBatch, StateVersion};
pub use scheduler::{ExecutorView, Options, Scheduler};
