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
//! let job = ctx.start(&driver, SubmitOptions::default()).await?;
//! println!("job {}", job.id());
//! ctx.await_termination().await?;
//! # Ok(())
//! # }
//! ```

mod broadcast;
mod builder;
mod client;
mod columns;
mod error;
mod files;
mod handle;
pub mod job_file;
mod listener;
mod sort_key;
mod summary;

pub use broadcast::BroadcastUpdate;
pub use builder::{
    Accumulator, Broadcast, BroadcastHandle, Columns, ContextState, DStream, JoinKeys, Keys, Names, Reducer, SortKeys,
    StateSpec, StateUpdate, StreamingContext,
};
pub use client::{Client, JobEvents, MAX_MESSAGE_BYTES, SubmitOptions, Submitted};
pub use error::{Error, Result};
pub use files::{AttachedFile, attach_files, resolve_paths};
pub use handle::{AccumulatorUpdates, JobHandle};
pub use listener::{
    AccumulatorUpdate, AccumulatorsUpdated, BatchInfo, ListenerEvent, ListenerEvents, OutputOperationInfo,
    ReceiverInfo, StreamInputInfo,
};
pub use summary::{
    AccumulatorBatch, AccumulatorSummary, BatchFailure, BatchSummary, BroadcastSummary, Delays, ExecutorSummary,
    JobDetail, JobEvent, JobState, JobSummary, KindSummary, PieceCounts, PrintedBatch, ReceiverSummary,
    RememberedBatch, RememberedStream, StageSummary, StorageSummary,
};
pub use tidemill_dstream as dstream;
pub use tidemill_dstream::accumulator::{Bucket, Reading, Scalar};
pub use tidemill_types::StorageLevel;
