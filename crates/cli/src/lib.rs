//! `tidemill`: driver, executors and command line in one binary, and what a binary with functions of its own is made of.
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use tidemill::Registry;
//!
//! fn main() -> ExitCode {
//!     match Registry::builder().foreach_blocking("alert", |batch| {
//!         println!("{} rows at {}", batch.rows.iter().map(|rows| rows.num_rows()).sum::<usize>(), batch.batch_time);
//!         Ok(())
//!     }).build() {
//!         Ok(registry) => tidemill::main_with(registry),
//!         Err(error) => {
//!             eprintln!("error: {error}");
//!             ExitCode::FAILURE
//!         }
//!     }
//! }
//! ```
//! All processes of a cluster are started from one build, so that they have the same functions.
//!
//! Exit codes: 0 done; 1 it failed; 2 the command line is wrong; 3 the job is not valid; 4 the driver cannot be reached;
//! 130 interrupted twice.

mod args;
mod commands;
#[cfg(test)]
mod docs;
mod exit;
mod functions;
mod logging;
mod render;

use std::process::ExitCode;

use clap::Parser;
pub use functions::functions;
pub use tidemill_engine::{
    Accumulator, AccumulatorHandle, Accumulators, AggregateUDF, BatchContext, BatchStream, BoxError, Determinism,
    Foreach, ForeachBatch, MapPartitions, Registry, RegistryBuilder, Scalar, StateBatch, StateUpdate, Transform, arrow,
};

use crate::args::Cli;

/// The `tidemill` command with these functions, which its jobs can name.
#[must_use]
pub fn main_with(registry: Registry) -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(commands::execute(cli, &registry));
    // Tasks that still run have nothing to tell any more.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    }
}

#[cfg(doctest)]
#[doc = include_str!("../../../docs/shared-variables.md")]
struct SharedVariables;
