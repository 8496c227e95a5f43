//! What tests of jobs and of the cluster need.
//!
//! - [`run_to_end`]: runs a job without waiting for the clock on a cluster in this process and gives its printed batches
//!   as rows, for batch tables: input batches, operators, expected batches.
//! - [`ProcessCluster`]: a driver and executors as real processes, which can be killed and paused.
//! - [`eventually`]: waits for a condition with a deadline.
//! - [`Feed`]: a socket source that the test writes to.
//! - [`Proxy`]: a connection that can be cut.

mod eventually;
mod feed;
mod processes;
mod proxy;
mod rows;
mod run;

pub use eventually::eventually;
pub use feed::Feed;
pub use processes::ProcessCluster;
pub use proxy::Proxy;
pub use rows::rows;
pub use run::{Batch, config, run_on, run_to_end};
