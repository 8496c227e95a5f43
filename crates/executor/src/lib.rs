//! The executor: the process that runs tasks and receivers and holds partitions.
//!
//! - It opens one control channel to the driver ([`attach`]) and serves data to its peers ([`data_service`]).
//! - One event loop ([`event_loop`]) owns what is planned here: jobs, launched batches, which task waits for what. It
//!   decides nothing about other executors and nothing about a batch's outcome.
//! - Tasks run on a pool of their own, one thread for each slot, apart from the I/O runtime: heartbeats never wait for a
//!   sort.
//!
//! - State by key is saved in the job's checkpoint and loaded from there, off the task threads ([`saved`]).
//!
//! ```text
//!  LaunchBatch ─► tasks wait for their inputs ─► ready queue ─► slots ─► frames to peers / datasets / outputs
//!                  ▲ shuffle complete                              │
//!                  ▲ dataset stored, block fetched                 └─► one BatchReport
//! ```
//! Failures: a task that fails or panics is reported and nothing else is touched. A broken control channel is opened
//! again, with everything that was not acknowledged. When the driver no longer knows this executor, all that it holds
//! is dropped and it registers anew.

mod attach;
mod batch;
mod batches;
mod boundary;
mod broadcasts;
mod data_service;
mod error;
mod event;
mod event_loop;
mod exchange;
mod fetch;
mod installation;
mod job;
mod kept;
mod launch;
mod node;
mod options;
mod push;
mod queue;
mod receiver;
mod report;
mod saved;
mod server;
mod task;
mod wire;

pub use error::Error;
pub use options::Options;
pub use server::{Executor, start};
