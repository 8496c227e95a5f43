//! Values that are copied from executor to executor in pieces: broadcast variables.
//!
//! ```text
//!   the driver: bytes ─Manifest::of─► how many bytes, a checksum for each piece
//!   an executor: Manifest ─Assembly─► pieces in any order, each checked ─► the whole, which shares their memory
//! ```
//! An [`Assembly`] has one buffer of the value's length. Pieces are written to their places as they come, are given to
//! others from there at once, and the whole is that buffer: one copy in memory, charged to the budget from the first
//! piece on for as long as anybody holds it.

mod assembly;
mod store;

use std::ops::Range;

pub use assembly::{Assembly, Piece, Stored};
pub use store::{PieceCounts, PieceStore, VersionKey};

/// Bytes of a piece; the last one may have fewer.
pub const PIECE_BYTES: usize = 4 << 20;

/// What is known of a value before it is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub bytes: u64,
    /// CRC-32 by piece.
    pub checksums: Vec<u32>,
}

impl Manifest {
    /// The manifest of a value.
    #[must_use]
    pub fn of(value: &[u8]) -> Self {
        Self {
            bytes: value.len() as u64,
            checksums: value.chunks(PIECE_BYTES).map(crc32fast::hash).collect(),
        }
    }

    /// What a peer says, if it is consistent.
    #[must_use]
    pub fn checked(bytes: u64, checksums: Vec<u32>) -> Option<Self> {
        let pieces = usize::try_from(bytes).ok()?.div_ceil(PIECE_BYTES);
        (pieces == checksums.len()).then_some(Self { bytes, checksums })
    }

    #[must_use]
    pub fn pieces(&self) -> u32 {
        self.checksums.len() as u32
    }

    /// Where a piece is in the value; empty for one that is not there.
    #[must_use]
    pub fn range(&self, piece: u32) -> Range<usize> {
        let end = self.bytes as usize;
        let from = (piece as usize).saturating_mul(PIECE_BYTES).min(end);
        from..(from + PIECE_BYTES).min(end)
    }

    /// Whether these are the bytes of a piece.
    #[must_use]
    pub fn is_piece(&self, piece: u32, bytes: &[u8]) -> bool {
        self.checksums.get(piece as usize) == Some(&crc32fast::hash(bytes)) && self.range(piece).len() == bytes.len()
    }
}

#[cfg(test)]
mod tests;
