//! The driver's write-ahead log: what was decided survives the driver, and an older driver cannot go on deciding.
//!
//! - A [`Journal`] takes records in order, gives each the next [sequence](Journal::append) at once, and says by
//!   [`JournalEvent`]s up to which of them all are durable. Records that wait together are written together.
//! - A [snapshot](Journal::snapshot) stands for all records up to a sequence; those before it go.
//! - Each opening takes the next **generation**. From then on nothing that an older generation appends is ever read,
//!   and the older writer gets [`JournalEvent::Fenced`] instead of a durable sequence.
//!
//! ```text
//!   append ──► queue ──group──► Backend ──durable──► JournalEvent::Durable { up_to }
//!                                 │
//!                   LocalLog: one appended file, fdatasync
//!                   ObjectLog: one conditional put per group
//! ```
//!
//! Ownership: one task owns the backend; handles send to it. Failure: a store that cannot be written is tried again for
//! ever and reported as [`JournalEvent::Stalled`]; damage that is more than a torn tail is an error of the opening,
//! because durable records would be missing.

mod backend;
mod error;
mod group;
mod local;
mod object;
mod open;
mod segment;
mod snapshot;
#[cfg(test)]
mod tests;
mod writer;

pub use backend::{AppendError, Backend, Recovered};
pub use error::{Error, Result};
pub use group::Group;
pub use local::LocalLog;
pub use object::{ObjectLog, ObjectLogOptions};
pub use open::open;
pub use writer::{Journal, JournalEvent, JournalOptions};
