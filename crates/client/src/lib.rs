//! How a program writes jobs and talks to a driver.
//!
//! - [`job_file`] reads and writes jobs as YAML.
//! - [`StreamingContext`] builds the same graphs in Rust.
//! - [`Client`] submits them and asks about them over gRPC.
//!
//! ```no_run
//! use std::time::Duration;
//! use tidemill_client::{Client, StreamingContext, SubmitOptions};
//!
//! # async fn submit() -> Result<(), Box<dyn std::error::Error>> {
//! let ctx = StreamingContext::new("word-count", Duration::from_secs(1));
//! let counts = ctx
//!     .socket_text_stream("127.0.0.1", 5555)
//!     .flat_map([("word", "string_to_array(value, ' ')")])
//!     .reduce_by_key("word", [("count", "count(*)")]);
//! counts.print();
//! let driver = Client::connect("127.0.0.1:7077").await?;
//! let submitted = driver.submit(&ctx.graph()?, &[], SubmitOptions::default()).await?;
//! println!("job {}", submitted.job);
//! # Ok(())
//! # }
//! ```

mod builder;
mod client;
mod columns;
mod error;
mod files;
pub mod job_file;
mod sort_key;
mod summary;

pub use builder::{
    Columns, DStream, JoinKeys, Keys, Names, Reducer, SortKeys, StateSpec, StateUpdate, StreamingContext,
};
pub use client::{Client, JobEvents, MAX_MESSAGE_BYTES, SubmitOptions, Submitted};
pub use error::{Error, Result};
pub use files::{AttachedFile, attach_files, resolve_paths};
pub use summary::{
    BatchSummary, Delays, ExecutorSummary, JobDetail, JobEvent, JobState, JobSummary, PrintedBatch, ReceiverSummary,
    StageSummary,
};
pub use tidemill_dstream as dstream;
