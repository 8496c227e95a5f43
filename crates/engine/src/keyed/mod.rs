//! Records by key, from batch to batch: where a key belongs, which keys there are, and where their rows are.
//!
//! - [`hash`]: the pinned hash of a key, its key group and its partition. All that is keyed goes by it: exchanges, panes,
//!   state.
//! - [`KeyIndex`]: gives each live key of a partition a slot, a small number that is free again when the key is removed.
//! - [`rows`]: rows named by batch and position, and gathered from there.

pub(crate) mod hash;
mod index;
pub(crate) mod rows;

pub(crate) use index::{KeyIndex, Keys};
