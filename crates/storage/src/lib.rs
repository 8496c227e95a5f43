//! The data that an executor holds between tasks, and its exchange with other executors.
//!
//! - [`BlockStore`]: received blocks and remembered dataset partitions.
//! - [`ShuffleStore`]: the receiving side of a shuffle; collects frames until a reduce task can start.
//! - [`ExchangeRouter`]: the sending side; knows where partitions live and keeps map outputs for another push.
//! - [`PieceStore`]: broadcast values, whole and in pieces for others.
//! - [`CreditWindow`] and [`InFlight`]: what a sender may send to one peer, and what it may have to send again.
//!
//! ```text
//!   map task ──► ExchangeRouter ──deliveries──► FrameBuilder ──frames──┬─ CreditWindow ─ encode ─► peer
//!                     │ keeps map outputs                             └─ CreditWindow ─► ShuffleStore ─► reduce task
//! ```
//!
//! All of it is passive: it holds no task slot and starts no thread, so stages cannot wait for each other's slots.
//! Memory is charged to one [`MemoryBudget`], which says who has to give way; what does not fit goes to files of one
//! [`SpillDir`].
//!
//! Ownership: everything is shared between the executor's event loop, its task threads and its network tasks. Locks
//! are held for bookkeeping only, never across an await or file access. Methods whose docs say so may read or write
//! files on the calling thread.
//!
//! Failure: data that was spilled and cannot be read back is [`Error::SpillLost`]; the caller makes it again as if an
//! executor had been lost. Nothing here is durable.

mod block_store;
mod compact;
mod error;
mod exchange;
mod frame;
mod ipc;
mod memory;
mod outbox;
mod pieces;
mod shelf;
mod shuffle;
mod size;
mod spill;
#[cfg(test)]
mod testing;

pub use block_store::{
    BlockStore, BlockStoreOptions, DatasetKey, DatasetWriter, DueMark, Inventory, Stored, StoredRows, Stowed,
};
pub use compact::compact;
pub use error::{Error, Result};
pub use exchange::{Delivery, Exchange, ExchangeRouter, OutputWriter, Parts, RoutingTable};
pub use frame::{EncodedFrame, Frame, FrameBuilder, FrameHead, Run, decode, encode};
pub use ipc::{decode_stream, encode_stream};
pub use memory::{Charge, MemoryBudget, MemoryKind, MemoryLimits, MemoryUse, Reclaim};
pub use outbox::{Closed, CreditWindow, InFlight, Permit};
pub use pieces::{Assembly, Manifest, PIECE_BYTES, Piece, PieceCounts, PieceStore, Stored as StoredPiece, VersionKey};
pub use shelf::Gone;
pub use shuffle::{Admission, DropReason, ShuffleEvent, ShuffleOptions, ShuffleReady, ShuffleRows, ShuffleStore};
pub use size::{retained_bytes, sliced_bytes};
pub use spill::{SpillDir, SpillFile, SpillWriter};
