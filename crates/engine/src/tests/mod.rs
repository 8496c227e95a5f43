//! Jobs compiled and run by an executor of a few lines: whole batches, with all exchanges in memory.

mod accumulating;
mod broadcasts;
mod chains;
mod diagnostics;
mod functions;
mod joining;
mod misuse;
mod native;
mod operators;
mod placing;
mod records;
mod reducing;
mod rows;
mod sorting;
mod state;
mod support;
mod templates;
mod transforms;
mod windows;

pub(crate) use support::format_rows;
