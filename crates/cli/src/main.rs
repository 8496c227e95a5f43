//! `tidemill`: driver, executors and command line in one binary.
//!
//! Exit codes: 0 done; 1 it failed; 2 the command line is wrong; 3 the job is not valid; 4 the driver cannot be reached;
//! 130 interrupted twice.

mod args;
mod commands;
#[cfg(test)]
mod docs;
mod exit;
mod logging;
mod render;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(commands::execute(cli));
    // Tasks that still run have nothing to tell any more.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    }
}
