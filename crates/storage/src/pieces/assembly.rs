//! One value on its way here, and then the whole of it.

use std::fmt;
use std::sync::Arc;

use arrow::buffer::{Buffer, MutableBuffer};
use bytes::Bytes;
use parking_lot::Mutex;

use super::Manifest;
use crate::memory::{Charge, MemoryBudget, MemoryKind};

/// A value that is put together of its pieces.
pub struct Assembly {
    manifest: Manifest,
    state: Mutex<State>,
}

enum State {
    Partial {
        buffer: MutableBuffer,
        charge: Charge,
        have: Vec<bool>,
        missing: u32,
    },
    Whole(Arc<Held>),
    /// Only while the one becomes the other.
    Between,
}

/// The buffer of a whole value, whose bytes are given back when nobody uses it any more.
struct Held {
    buffer: Buffer,
    _charge: Charge,
}

/// What came of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is here, and others are missing.
    Partial,
    /// It was the last one.
    Whole,
    /// It was here already.
    Known,
    /// These are not the bytes that it has to have.
    Corrupt,
}

/// A piece as it is given to others. It keeps the value in memory while it is sent.
#[derive(Clone)]
pub struct Piece {
    bytes: Bytes,
}

impl Piece {
    /// The piece in parts of about so many bytes.
    pub fn parts(&self, size: usize) -> impl Iterator<Item = Bytes> + use<> {
        let bytes = self.bytes.clone();
        (0..bytes.len())
            .step_by(size.max(1))
            .map(move |at| bytes.slice(at..(at + size).min(bytes.len())))
    }
}

/// A buffer as the owner of `Bytes`, with its charge.
struct Owner {
    held: Arc<Held>,
    from: usize,
    until: usize,
}

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.held.buffer.as_slice()[self.from..self.until]
    }
}

impl fmt::Debug for Assembly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assembly")
            .field("bytes", &self.manifest.bytes)
            .field("missing", &self.missing().len())
            .finish()
    }
}

impl Assembly {
    #[must_use]
    pub fn new(manifest: Manifest, budget: &Arc<MemoryBudget>) -> Self {
        let charge = budget.charge(MemoryKind::Broadcasts, manifest.bytes);
        let missing = manifest.pieces();
        let state = State::Partial {
            // The system gives its pages when they are written.
            buffer: MutableBuffer::from_len_zeroed(manifest.bytes as usize),
            charge,
            have: vec![false; missing as usize],
            missing,
        };
        let assembly = Self {
            manifest,
            state: Mutex::new(state),
        };
        if missing == 0 {
            assembly.complete(&mut assembly.state.lock());
        }
        assembly
    }

    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Takes a piece, in parts, if it is what it has to be.
    pub fn store(&self, piece: u32, parts: &[Bytes]) -> Stored {
        let range = self.manifest.range(piece);
        let mut checksum = crc32fast::Hasher::new();
        parts.iter().for_each(|part| checksum.update(part));
        let length: usize = parts.iter().map(Bytes::len).sum();
        let expected = self.manifest.checksums.get(piece as usize);
        if expected != Some(&checksum.finalize()) || length != range.len() {
            return Stored::Corrupt;
        }
        let mut state = self.state.lock();
        let State::Partial {
            buffer, have, missing, ..
        } = &mut *state
        else {
            return Stored::Known;
        };
        if std::mem::replace(&mut have[piece as usize], true) {
            return Stored::Known;
        }
        let mut at = range.start;
        for part in parts {
            buffer.as_slice_mut()[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        *missing -= 1;
        if *missing > 0 {
            return Stored::Partial;
        }
        self.complete(&mut state);
        Stored::Whole
    }

    fn complete(&self, state: &mut State) {
        if let State::Partial { buffer, charge, .. } = std::mem::replace(state, State::Between) {
            *state = State::Whole(Arc::new(Held {
                buffer: buffer.into(),
                _charge: charge,
            }));
        }
    }

    /// A piece that is here. While the value is not whole this is a copy.
    #[must_use]
    pub fn piece(&self, piece: u32) -> Option<Piece> {
        let range = self.manifest.range(piece);
        let bytes = match &*self.state.lock() {
            State::Partial { buffer, have, .. } => {
                let have = have.get(piece as usize).copied().unwrap_or(false);
                have.then(|| Bytes::copy_from_slice(&buffer.as_slice()[range]))?
            }
            State::Whole(held) if (piece as usize) < self.manifest.checksums.len() => Bytes::from_owner(Owner {
                held: Arc::clone(held),
                from: range.start,
                until: range.end,
            }),
            State::Whole(_) | State::Between => return None,
        };
        Some(Piece { bytes })
    }

    /// The pieces that are here.
    #[must_use]
    pub fn have(&self) -> Vec<u32> {
        match &*self.state.lock() {
            State::Partial { have, .. } => (0..).zip(have).filter(|(_, have)| **have).map(|(i, _)| i).collect(),
            State::Whole(_) => (0..self.manifest.pieces()).collect(),
            State::Between => Vec::new(),
        }
    }

    fn missing(&self) -> Vec<u32> {
        let have = self.have();
        (0..self.manifest.pieces())
            .filter(|piece| have.binary_search(piece).is_err())
            .collect()
    }

    /// The value, if all of it is here. It shares the memory of the pieces.
    #[must_use]
    pub fn whole(&self) -> Option<Buffer> {
        match &*self.state.lock() {
            State::Whole(held) => {
                let owner = Owner {
                    held: Arc::clone(held),
                    from: 0,
                    until: held.buffer.len(),
                };
                Some(Buffer::from(Bytes::from_owner(owner)))
            }
            State::Partial { .. } | State::Between => None,
        }
    }
}
