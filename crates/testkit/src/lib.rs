//! What tests of jobs and of the cluster need.
//!
//! - [`TestJob`]: a job of your own with queued input and collected output, on a clock that never waits.
//! - [`TestCluster`] and [`run_to_end`]: a cluster in this process, and a whole job on it, for batch tables: input
//!   batches, operators, expected batches.
//! - [`reference`]: what a job means, evaluated slowly over plain values, and random jobs to compare it with.
//! - [`ProcessCluster`]: a driver and executors as real processes, which can be killed and paused.
//! - [`eventually`]: waits for a condition with a deadline.
//! - [`Feed`]: a socket source that the test writes to.
//! - [`Proxy`]: a connection that can be cut.

mod eventually;
mod feed;
mod job;
mod processes;
mod proxy;
pub mod reference;
mod rows;
mod run;
mod values;

/// The examples of the documents.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/testing.md")]
mod documents {}

pub use eventually::eventually;
pub use feed::Feed;
pub use job::{TestJob, TestRun};
pub use processes::ProcessCluster;
pub use proxy::Proxy;
pub use rows::rows;
pub use run::{Batch, TestCluster, config, run_to_end};
pub use values::values;
