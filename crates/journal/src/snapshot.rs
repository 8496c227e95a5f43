//! The framing of a snapshot.
//!
//! ```text
//!   magic  format  -   generation  up_to  place  length  crc   state
//!   "TMJS"  u16   u16     u64       u64    u64    u64    u32
//! ```
//! As groups: little-endian, CRC-32 over the header before it and the state, a layout is for ever.

use bytes::{BufMut, Bytes, BytesMut};
use tidemill_types::Generation;

use crate::group::{FORMAT, checksum};

const MAGIC: [u8; 4] = *b"TMJS";
const HEADER: usize = 44;
const CRC_AT: usize = HEADER - 4;

/// A state that stands for all records up to a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) generation: Generation,
    pub(crate) up_to: u64,
    /// The last object of the log whose records it has, where the log is objects.
    pub(crate) place: u64,
    pub(crate) state: Bytes,
}

impl Snapshot {
    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(HEADER + self.state.len());
        bytes.put_slice(&MAGIC);
        bytes.put_u16_le(FORMAT);
        bytes.put_u16_le(0);
        bytes.put_u64_le(self.generation.0);
        bytes.put_u64_le(self.up_to);
        bytes.put_u64_le(self.place);
        bytes.put_u64_le(self.state.len() as u64);
        let crc = checksum(&bytes, &self.state);
        bytes.put_u32_le(crc);
        bytes.put_slice(&self.state);
        bytes.freeze()
    }

    /// `None` for bytes that are not a whole snapshot of a format that is known.
    pub(crate) fn decode(bytes: &Bytes) -> Option<Self> {
        if bytes.len() < HEADER || bytes[..4] != MAGIC || bytes[4..6] != FORMAT.to_le_bytes() {
            return None;
        }
        let word = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let state = bytes.slice(HEADER..);
        let crc = checksum(&bytes[..CRC_AT], &state);
        if word(32)? != state.len() as u64 || bytes[CRC_AT..HEADER] != crc.to_le_bytes() {
            return None;
        }
        Some(Self {
            generation: Generation(word(8)?),
            up_to: word(16)?,
            place: word(24)?,
            state,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        Snapshot {
            generation: Generation(2),
            up_to: 9,
            place: 4,
            state: Bytes::from_static(b"all"),
        }
    }

    #[test]
    fn format_1_has_these_bytes_for_ever() {
        let golden = [
            0x54, 0x4d, 0x4a, 0x53, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0,
            3, 0, 0, 0, 0, 0, 0, 0, 0x96, 0x23, 0xf9, 0x62, b'a', b'l', b'l',
        ];
        assert_eq!(snapshot().encode().to_vec(), golden);
        assert_eq!(Snapshot::decode(&Bytes::copy_from_slice(&golden)), Some(snapshot()));
    }

    #[test]
    fn a_changed_or_missing_byte_is_no_snapshot() {
        let bytes = snapshot().encode();
        for at in 0..bytes.len() {
            assert_eq!(Snapshot::decode(&bytes.slice(..at)), None, "{at}");
            let mut changed = bytes.to_vec();
            changed[at] ^= 1;
            assert_eq!(Snapshot::decode(&changed.into()), None, "{at}");
        }
    }
}
