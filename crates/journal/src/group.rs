//! The framing of records: a group is what is made durable at once.
//!
//! ```text
//!   magic  format  -  generation  first  records  body  crc   body
//!   "TMJG"  u16   u16    u64       u64     u32     u32  u32   (u32 length, bytes) for each record
//! ```
//! Little-endian. The checksum is CRC-32 (IEEE) over all of the header before it and the body. The layout of a format is
//! never changed: a new one gets a new number, and all older ones are read for ever.

use bytes::{BufMut, Bytes, BytesMut};
use tidemill_types::Generation;

const MAGIC: [u8; 4] = *b"TMJG";
pub(crate) const FORMAT: u16 = 1;
const HEADER: usize = 36;
/// The checksum is the header's last field.
const CRC_AT: usize = HEADER - 4;

/// Records that are made durable together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub(crate) generation: Generation,
    /// The sequence of the first record; of the next one if there is none.
    pub(crate) first: u64,
    pub(crate) records: Vec<Bytes>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    /// With the length of its bytes.
    Group(Group, usize),
    /// The bytes end before the group does.
    Incomplete,
    Damaged(&'static str),
    /// Of a later build.
    Format(u16),
}

impl Group {
    /// The sequence behind the last record.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    pub(crate) fn encode(&self) -> Bytes {
        let body: usize = self.records.iter().map(|record| 4 + record.len()).sum();
        let mut bytes = BytesMut::with_capacity(HEADER + body);
        bytes.put_slice(&MAGIC);
        bytes.put_u16_le(FORMAT);
        bytes.put_u16_le(0);
        bytes.put_u64_le(self.generation.0);
        bytes.put_u64_le(self.first);
        bytes.put_u32_le(length(self.records.len()));
        bytes.put_u32_le(length(body));
        bytes.put_u32_le(0);
        for record in &self.records {
            bytes.put_u32_le(length(record.len()));
            bytes.put_slice(record);
        }
        let crc = checksum(&bytes[..CRC_AT], &bytes[HEADER..]);
        bytes[CRC_AT..HEADER].copy_from_slice(&crc.to_le_bytes());
        bytes.freeze()
    }

    /// The group at the beginning of `bytes`.
    pub(crate) fn decode(bytes: &Bytes) -> Decoded {
        if bytes.len() < HEADER {
            let begins = bytes.iter().zip(MAGIC).all(|(byte, magic)| *byte == magic);
            return if begins {
                Decoded::Incomplete
            } else {
                Decoded::Damaged("no group begins here")
            };
        }
        if bytes[..4] != MAGIC {
            return Decoded::Damaged("no group begins here");
        }
        let format = u16::from_le_bytes([bytes[4], bytes[5]]);
        let count = u32_at(bytes, 24) as usize;
        let Some(body) = bytes.get(HEADER..HEADER + u32_at(bytes, 28) as usize) else {
            return Decoded::Incomplete;
        };
        if checksum(&bytes[..CRC_AT], body) != u32_at(bytes, CRC_AT) {
            return Decoded::Damaged("a group's checksum is wrong");
        }
        if format != FORMAT {
            return Decoded::Format(format);
        }
        let end = HEADER + body.len();
        let mut records = Vec::with_capacity(count.min(body.len() / 4));
        let mut at = HEADER;
        while at < end {
            // The checksum is right, so that only a writer's defect leads out here.
            let Some(head) = bytes.get(at..at + 4) else {
                return Decoded::Damaged("a record's length is wrong");
            };
            let from = at + 4;
            at = from + u32_at(head, 0) as usize;
            if at > end {
                return Decoded::Damaged("a record's length is wrong");
            }
            records.push(bytes.slice(from..at));
        }
        if records.len() != count {
            return Decoded::Damaged("a group's number of records is wrong");
        }
        let group = Self {
            generation: Generation(u64_at(bytes, 8)),
            first: u64_at(bytes, 16),
            records,
        };
        Decoded::Group(group, end)
    }

    /// Whether a group can be read anywhere behind the first byte.
    pub(crate) fn any_behind(bytes: &Bytes) -> bool {
        (1..bytes.len().saturating_sub(MAGIC.len())).any(|at| {
            bytes[at..].starts_with(&MAGIC)
                && matches!(
                    Self::decode(&bytes.slice(at..)),
                    Decoded::Group(..) | Decoded::Format(_)
                )
        })
    }
}

/// Records are bounded far below this.
fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

pub(crate) fn checksum(head: &[u8], body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(head);
    crc.update(body);
    crc.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn group(records: &[&[u8]]) -> Group {
        Group {
            generation: Generation(3),
            first: 7,
            records: records.iter().map(|record| Bytes::copy_from_slice(record)).collect(),
        }
    }

    #[test]
    fn format_1_has_these_bytes_for_ever() {
        let golden = [
            0x54, 0x4d, 0x4a, 0x47, 1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 11, 0, 0,
            0, 0x0b, 0x50, 0x79, 0x6e, 3, 0, 0, 0, b'o', b'n', b'e', 0, 0, 0, 0,
        ];
        let group = group(&[b"one", b""]);
        assert_eq!(group.encode().to_vec(), golden);
        assert_eq!(
            Group::decode(&Bytes::copy_from_slice(&golden)),
            Decoded::Group(group, golden.len())
        );
    }

    #[test]
    fn every_beginning_of_a_group_is_incomplete() {
        let bytes = group(&[b"one", b"two"]).encode();
        for end in 0..bytes.len() {
            assert_eq!(Group::decode(&bytes.slice(..end)), Decoded::Incomplete, "{end}");
        }
    }

    #[test]
    fn a_later_format_is_told_from_damage() {
        let mut bytes = group(&[b"one"]).encode().to_vec();
        bytes[4] = 2;
        let crc = checksum(&bytes[..CRC_AT], &bytes[HEADER..]);
        bytes[CRC_AT..HEADER].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Group::decode(&bytes.into()), Decoded::Format(2));
    }

    proptest! {
        #[test]
        fn a_changed_byte_never_gives_another_group(records: Vec<Vec<u8>>, at: prop::sample::Index, xor in 1..=255_u8) {
            let group = Group {
                generation: Generation(1),
                first: 1,
                records: records.into_iter().map(Bytes::from).collect(),
            };
            let mut bytes = group.encode().to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= xor;
            prop_assert!(!matches!(Group::decode(&bytes.into()), Decoded::Group(..) | Decoded::Format(_)));
        }

        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes: Vec<u8>) {
            let mut framed = MAGIC.to_vec();
            framed.extend(bytes);
            prop_assert!(!matches!(Group::decode(&framed.into()), Decoded::Group(..)));
        }
    }
}
