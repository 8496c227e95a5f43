//! `tidemill` without functions of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    tidemill::main_with(tidemill::Registry::default())
}
