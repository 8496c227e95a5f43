//! Keyed state: what an operator knows of each key from batch to batch.
//!
//! - [`StateSpec`]: what the operator was told, in physical expressions.
//! - [`AllKeys`] is the state of `update_state_by_key`, which looks at every key in every batch: columns.
//! - [`TouchedKeys`] is that of `map_with_state`, which looks at the keys of the batch's records: a log of rows and an
//!   index into it.
//! - [`StateNode`] and [`StateExec`]: the operator in logical and physical plans.
//!
//! Both go from the version of one batch to that of the next, and can go back one version, so that a batch can run again.
//! A batch that finds another version than the one before it fails: state is never begun anew by itself.
//!
//! While no task uses it, a state can go to files ([`freeze`]), both versions of it. One version can be written so that
//! another process goes on with it ([`saved`]).

mod all_keys;
mod exec;
mod freeze;
mod node;
mod saved;
mod spec;
mod touched_keys;
mod version;

pub(crate) use exec::StateExec;
pub(crate) use node::{StateNode, StatePlanner};
pub use saved::StateVersion;
pub(crate) use spec::{Emitted, SNAPSHOT, StateKind, StateSpec, TIMING_OUT, Update, Value, old_name, snapshot_name};
pub(crate) use version::{At, Versions};
