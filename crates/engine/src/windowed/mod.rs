//! An aggregate over a window that slides, at a cost per slide that does not depend on the window's length.
//!
//! - [`Aggregates`]: merging partial states, many keys at a time.
//! - [`WindowIndex`]: what a partition knows from slide to slide, built of the window's panes.
//! - [`WindowMergeExec`]: the plan node. It stands over the plan that merges all panes anew, which says what is
//!   aggregated, and which runs in its place where nothing is kept from slide to slide.

mod aggregates;
mod exec;
mod index;
#[cfg(test)]
mod tests;

pub(crate) use exec::{Window, WindowMergeExec};
