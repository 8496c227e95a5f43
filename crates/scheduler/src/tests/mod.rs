//! The scheduler against a cluster in memory.
//!
//! [`cluster`] and [`executor`] do what the scheduler asks for and check it; [`plans`] says what has to come out. The
//! rest are the rules, by subject, and [`random`] all of them at once.

mod cluster;
mod executor;
mod plans;

mod broadcasts;
mod failures;
mod losses;
mod pressure;
mod random;
mod receivers;
mod state;
mod ticks;
mod windows;
