//! The driver: the process that owns every decision.
//!
//! - One event loop ([`event_loop`]) owns the scheduler, the executors' sessions and the jobs' records. Nothing else
//!   changes them: gRPC handlers, timers, input planners and committers send it [`event::Event`]s.
//! - The scheduler decides; the loop performs its actions in order (`effects`).
//! - Work that can block has its own place: compilation in the handler that was asked, input planning on a thread for
//!   each job (`allocator`), commits in a task for each job (`committer`).
//!
//! ```text
//!   control service ─┐                       ┌─► sessions ─► executors (Attach)
//!   attach service ──┼─► events ─► loop ─────┼─► allocators ─┐
//!   timer ───────────┘      ▲     scheduler  └─► committers ─┤
//!                           └────────────────────────────────┘
//! ```
//! What is decided about jobs with a checkpoint goes to a `journal`, so that the next driver goes on with them.
//! What executors keep is read through the loop too (`reads`): they have no inbound path from the driver.
//!
//! Failures: an executor's is the scheduler's business; a job's ends that job; a defect in the loop ends the process.

mod accumulators;
mod allocator;
mod attached;
mod broadcasts;
mod clock;
mod committer;
mod effects;
mod error;
mod event;
mod event_loop;
mod job;
mod journal;
mod kept;
mod listening;
mod liveness;
mod options;
mod reads;
mod server;
mod service;
mod session;
mod submission;
mod summary;
mod tables;
mod timer;
mod wire;

pub use error::Error;
pub use options::Options;
pub use server::{Driver, OpenJournal, start, start_on};
