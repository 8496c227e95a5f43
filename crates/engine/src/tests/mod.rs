//! Jobs compiled and run by an executor of a few lines: whole batches, with all exchanges in memory.

mod diagnostics;
mod functions;
mod operators;
mod rows;
mod state;
mod support;
mod templates;
mod transforms;
mod windows;

pub(crate) use support::format_rows;
