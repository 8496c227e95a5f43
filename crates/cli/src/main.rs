//! `tidemill` with the functions that come with it.

use std::process::ExitCode;

fn main() -> ExitCode {
    match tidemill::functions().build() {
        Ok(registry) => tidemill::main_with(registry),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
