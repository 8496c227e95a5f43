//! Sources and outputs: everything through which records come in and go out.
//!
//! - **Text** ([`open`]): bytes become rows of one column `value`. A batch's string views point into the bytes as they
//!   were read, so a record is never copied. Bytes that are not UTF-8 are replaced, lines over a limit are cut, both
//!   are counted: bad input never stops a job.
//! - **Planners** ([`planner`]): which part of a replayable source belongs to a batch. They run in the driver, off its
//!   event loop; what they allocate is read by tasks, and reading it again gives the same rows.
//! - **The socket receiver** ([`run_socket_text`]): a live source, cut into blocks at block intervals, by size and at
//!   batch borders. It reconnects by itself and stops reading while its blocks cannot be stored.
//! - **Saved files** ([`StagedWriter`], [`commit_save`]): each task attempt stages a file, the driver makes a batch
//!   visible with one rename. Every step of a commit can be repeated.
//! - **Replay** ([`replay()`]): a text file as a socket source.
//!
//! Ownership: every value here has one owner and no locks; counters are shared atomics. Reading, planning and saving
//! block the thread that calls them, the receiver and the replay server are futures.
//!
//! Failures: only the receiver retries by itself. All else is an [`Error`] that names the place and says by its
//! [`kind`](Error::kind) who can do something about it.

mod error;
mod replay;
mod save;
mod socket;
mod sources;
#[cfg(test)]
mod testing;
mod text;

pub use error::Error;
pub use replay::{ReplayOptions, ReplaySummary, replay};
pub use save::{
    CommitPlace, StagePlace, StagedFile, StagedWriter, abort_save, check_save, check_save_schema, cleanup_staging,
    commit_save,
};
pub use socket::{
    BlockSink, Clock, ReceivedBlock, ReceiverEvent, ReceiverOptions, SinkError, run_socket_text, system_clock,
};
pub use sources::{
    AllocateRequest, Allocation, InputPlanner, TWEET_TEMPLATE, Template, TemplateError, open, parse_template, planner,
};
pub use text::{DEFAULT_MAX_LINE_BYTES, ReadCounters, ReadOptions, text_schema};
