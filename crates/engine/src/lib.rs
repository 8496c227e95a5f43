//! The only crate that knows DataFusion: type-checks a job graph, compiles it to stage templates, runs them, and
//! answers SQL over output tables.
//!
//! ```text
//!  driver:    JobGraph ─compile─► JobPlan (data) + one template (bytes) for each stage
//!  executor:  bytes ─Template::decode─► Template ─run(TaskBinding)─► TaskStream of record batches
//!                                          └──────partitioner()─────► Partitioner (rows of an exchange)
//!  driver:    committed tables ─Catalog::publish─► Catalog ─query(SQL)─► record batches
//! ```
//! A build's [`Registry`] has the Rust functions that its jobs may name.
//!
//! A template is decoded once for each job and executor and instantiated for each task: an instance binds the task's
//! inputs, its batch time and the seed of its random numbers, so a task's rows are a function of its [`TaskKey`] and
//! its inputs alone.
//!
//! Ownership: everything here is plain data or cheap handles that can be shared between threads; nothing spawns tasks,
//! opens sockets or keeps state between batches. Failures of the user's job come out as [`Diagnostics`] at
//! compilation and as [`TaskFailure`] at run time, classified by kind; [`Error`] is for the rest.
//!
//! [`TaskKey`]: tidemill_types::TaskKey
//! [`TaskFailure`]: tidemill_types::TaskFailure
//! [`Diagnostics`]: tidemill_dstream::Diagnostics

mod accumulate;
mod batches;
mod binding;
mod broadcast;
mod catalog;
mod codec;
mod compile;
mod cut;
mod error;
mod fold;
mod functions;
mod glom;
mod ipc;
mod keyed;
mod memory;
mod null_keys;
mod order;
mod panes;
mod partitioner;
mod placement;
mod projections;
mod registry;
mod rules;
mod sealed;
mod session;
mod slot_scan;
mod split_count;
mod state;
mod tables;
mod template;
#[cfg(test)]
mod tests;
mod windowed;
mod workspace;
mod zip_union;

// What registered functions are made of.
pub use accumulate::{AccumulatorHandle, Accumulators};
pub use arrow;
pub use arrow::array::RecordBatch;
pub use arrow::datatypes::{Schema, SchemaRef};
pub use binding::{Panes, Rows, SlotInput, TaskBinding};
pub use broadcast::{BroadcastRows, BroadcastValue, BroadcastValues, broadcast, evaluate_query, literal_rows};
pub use catalog::{Catalog, KeptTable, QueryError};
pub use compile::{CompileOptions, CompiledJob, compile, explain};
pub use datafusion::logical_expr::AggregateUDF;
pub use error::Error;
pub use ipc::{decode_ipc, encode_ipc};
pub use memory::{StateHere, TaskMemories, TaskMemory};
pub use partitioner::Partitioner;
pub use registry::{
    Accumulator, BatchContext, BatchStream, BoxError, Determinism, Foreach, ForeachBatch, MapPartitions, Registry,
    RegistryBuilder, StateBatch, StateUpdate, Transform,
};
pub use state::StateVersion;
pub use tables::{TableData, load_table};
pub use template::{TaskStream, Template};
pub use tidemill_dstream::accumulator::Scalar;
pub use workspace::Workspace;
