//! The real binary: separate processes that are started, killed and looked at.

mod command_line;
mod durable;
mod kills;
mod memory;
mod usage;

use std::path::Path;

/// The binary under test.
fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_tidemill"))
}
