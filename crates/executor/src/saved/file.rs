//! A saved state as a file: what it is, then its rows.
//!
//! ```text
//!   magic  format  -   identity  content  crc   identity              content
//!   "TMST"  u16   u16   u32       u64     u32   job, state: u32 + text  Arrow IPC stream, see `StateVersion`
//!                                               batch time: i64
//!                                               partition, partitions: u32
//! ```
//! Little-endian; `identity` and `content` are lengths in bytes. The checksum is CRC-32 (IEEE) over all bytes but its own.
//! The layout of a format is never changed: a new one gets a new number, and all older ones are read for ever. Magic and
//! format stand first in all of them.

use std::fmt;

use bytes::{Buf, Bytes};
use thiserror::Error;
use tidemill_types::BatchTime;

const MAGIC: [u8; 4] = *b"TMST";
const FORMAT: u16 = 1;
const IDENTITY_AT: usize = 8;
const CONTENT_AT: usize = 12;
const CRC_AT: usize = 20;
const HEADER: usize = 24;

/// Which state a file has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) job: String,
    pub(super) state: String,
    /// The batch that has left it.
    pub(super) batch: BatchTime,
    pub(super) partition: u32,
    /// How many partitions the state has.
    pub(super) partitions: u32,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            job,
            state,
            batch,
            partition,
            partitions,
        } = self;
        write!(
            f,
            "partition {partition} of {partitions} of `{state}` of job {job} at batch {batch}"
        )
    }
}

/// Why a file is not the state that it should be. Whoever reads it says which file it is.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum Fault {
    #[error("it is damaged: {0} (put a copy of the file in its place; without one the job can only begin anew)")]
    Damaged(&'static str),
    #[error(
        "it has format {0}, this build reads up to {FORMAT} (run the job with the build that wrote it, or a later one)"
    )]
    Format(u16),
    #[error("it has {found}, not {expected} (give each job a checkpoint directory of its own)")]
    Another {
        found: Box<Identity>,
        expected: Box<Identity>,
    },
}

/// The beginning of a file. The rows are appended to it, then [`finish`] makes it whole.
pub(super) fn begin(identity: &Identity) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..6].copy_from_slice(&FORMAT.to_le_bytes());
    for text in [&identity.job, &identity.state] {
        bytes.extend_from_slice(&length(text.len()).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes.extend_from_slice(&identity.batch.0.to_le_bytes());
    bytes.extend_from_slice(&identity.partition.to_le_bytes());
    bytes.extend_from_slice(&identity.partitions.to_le_bytes());
    let identity = length(bytes.len() - HEADER).to_le_bytes();
    bytes[IDENTITY_AT..CONTENT_AT].copy_from_slice(&identity);
    bytes
}

pub(super) fn finish(mut bytes: Vec<u8>) -> Bytes {
    let identity = u32_at(&bytes, IDENTITY_AT) as usize;
    let content = (bytes.len() - HEADER - identity) as u64;
    bytes[CONTENT_AT..CRC_AT].copy_from_slice(&content.to_le_bytes());
    let crc = checksum(&bytes).to_le_bytes();
    bytes[CRC_AT..HEADER].copy_from_slice(&crc);
    bytes.into()
}

/// The rows of a file that should be the state `expected`.
pub(super) fn content(file: &Bytes, expected: &Identity) -> Result<Bytes, Fault> {
    if file.len() < HEADER {
        return Err(Fault::Damaged("it is cut off"));
    }
    if file[..4] != MAGIC {
        return Err(Fault::Damaged("it does not begin as a saved state does"));
    }
    let format = u16::from_le_bytes([file[4], file[5]]);
    if format != FORMAT {
        return Err(Fault::Format(format));
    }
    let identity = u32_at(file, IDENTITY_AT) as usize;
    let length = (&file[CONTENT_AT..CRC_AT]).get_u64_le();
    let whole = (HEADER + identity) as u64;
    if whole.checked_add(length) != Some(file.len() as u64) {
        return Err(Fault::Damaged("its length is not what it says"));
    }
    if checksum(file) != u32_at(file, CRC_AT) {
        return Err(Fault::Damaged("its checksum is another"));
    }
    let begin = HEADER + identity;
    // The checksum is right, so that only a writer's defect has no identity.
    let found = identity_of(&file[HEADER..begin]).ok_or(Fault::Damaged("it does not say what it is"))?;
    if found != *expected {
        return Err(Fault::Another {
            found: Box::new(found),
            expected: Box::new(expected.clone()),
        });
    }
    Ok(file.slice(begin..))
}

fn identity_of(mut bytes: &[u8]) -> Option<Identity> {
    let mut text = || {
        let length = bytes.try_get_u32_le().ok()? as usize;
        let (text, rest) = bytes.split_at_checked(length)?;
        bytes = rest;
        String::from_utf8(text.to_vec()).ok()
    };
    let (job, state) = (text()?, text()?);
    let identity = Identity {
        job,
        state,
        batch: BatchTime(bytes.try_get_i64_le().ok()?),
        partition: bytes.try_get_u32_le().ok()?,
        partitions: bytes.try_get_u32_le().ok()?,
    };
    bytes.is_empty().then_some(identity)
}

fn checksum(file: &[u8]) -> u32 {
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&file[..CRC_AT]);
    checksum.update(&file[HEADER..]);
    checksum.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Names are far shorter.
fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            job: "word-count".to_owned(),
            state: "totals".to_owned(),
            batch: BatchTime(1_700_000_000_000),
            partition: 3,
            partitions: 8,
        }
    }

    fn file() -> Bytes {
        let mut bytes = begin(&identity());
        bytes.extend_from_slice(b"rows");
        finish(bytes)
    }

    #[test]
    fn the_bytes_of_a_file_stay_as_they_are() {
        let mut golden = Vec::new();
        golden.extend_from_slice(b"TMST\x01\0\0\0");
        golden.extend_from_slice(&[40, 0, 0, 0]);
        golden.extend_from_slice(&[4, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&GOLDEN_CRC);
        golden.extend_from_slice(b"\x0a\0\0\0word-count\x06\0\0\0totals");
        golden.extend_from_slice(&[0x00, 0x68, 0xe5, 0xcf, 0x8b, 0x01, 0, 0]);
        golden.extend_from_slice(&[3, 0, 0, 0, 8, 0, 0, 0]);
        golden.extend_from_slice(b"rows");
        assert_eq!(file(), golden);
    }

    const GOLDEN_CRC: [u8; 4] = [0x78, 0x37, 0xdb, 0xfa];

    #[test]
    fn what_was_written_is_read() {
        assert_eq!(content(&file(), &identity()), Ok(Bytes::from_static(b"rows")));
        let empty = finish(begin(&identity()));
        assert_eq!(content(&empty, &identity()), Ok(Bytes::new()));
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_found() {
        let whole = file();
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut changed = whole.to_vec();
                changed[at] ^= 1 << bit;
                let fault = content(&changed.into(), &identity()).unwrap_err();
                let expected = match at {
                    4 | 5 => matches!(fault, Fault::Format(_)),
                    _ => matches!(fault, Fault::Damaged(_)),
                };
                assert!(expected, "byte {at}: {fault}");
            }
            assert!(
                matches!(content(&whole.slice(..at), &identity()), Err(Fault::Damaged(_))),
                "cut at {at}"
            );
        }
        let mut longer = whole.to_vec();
        longer.push(0);
        assert!(content(&longer.into(), &identity()).is_err());
    }

    #[test]
    fn a_file_of_another_state_is_told_from_the_right_one() {
        let others = [
            Identity {
                job: "other".to_owned(),
                ..identity()
            },
            Identity {
                state: "other".to_owned(),
                ..identity()
            },
            Identity {
                batch: BatchTime(1),
                ..identity()
            },
            Identity {
                partition: 4,
                ..identity()
            },
            Identity {
                partitions: 16,
                ..identity()
            },
        ];
        for expected in others {
            let fault = content(&file(), &expected).unwrap_err();
            assert!(matches!(fault, Fault::Another { .. }), "{fault}");
            assert!(fault.to_string().contains("of its own"), "{fault}");
        }
    }
}
