//! Random jobs on clusters in this process against the naive reference of `testkit`.
//!
//! `TIDEMILL_GRAPHS` is how many graphs are drawn, `TIDEMILL_SEED` the seed of the first; the next have the next seeds.
//! A failure prints both for itself. `TIDEMILL_WITHOUT` names operators that are not drawn, separated by commas.

mod cluster;
mod mistakes;
mod random;
mod report;
