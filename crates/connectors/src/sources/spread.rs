//! Spreads pieces of files over the partitions of a batch.

use std::fs;
use std::path::Path;

use tidemill_dstream::{FilePart, FileRange, InputItem};

use crate::Error;
use crate::text::{Codec, check_is_file};

/// A byte range smaller than this is not worth a task of its own.
pub(super) const MIN_SPLIT_BYTES: u64 = 1 << 20;

/// A file that a planner has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InputFile {
    pub(super) path: String,
    pub(super) codec: Codec,
    /// On disk.
    pub(super) bytes: u64,
}

impl InputFile {
    pub(super) fn stat(path: &str) -> Result<Self, Error> {
        let metadata = fs::metadata(path).map_err(|source| Error::OpenInput {
            path: path.into(),
            source,
        })?;
        check_is_file(Path::new(path), &metadata)?;
        Ok(Self::new(path, metadata.len()))
    }

    pub(super) fn new(path: &str, bytes: u64) -> Self {
        Self {
            path: path.to_owned(),
            codec: Codec::of(Path::new(path)),
            bytes,
        }
    }

    /// The whole file. A plain file is read up to the length that it has now, so that reading it again after it has
    /// grown gives the same lines.
    pub(super) fn piece(&self) -> Piece {
        let part = match self.codec {
            Codec::Plain => FilePart::Bytes {
                offset: 0,
                length: self.bytes,
            },
            Codec::Gzip | Codec::Zstd => FilePart::Whole,
        };
        Piece {
            path: self.path.clone(),
            part,
            bytes: self.bytes,
        }
    }
}

/// A part of a file and what it weighs. Byte ranges can be divided further, other parts cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) path: String,
    pub(super) part: FilePart,
    pub(super) bytes: u64,
}

impl Piece {
    fn into_item(self) -> InputItem {
        InputItem::File(FileRange {
            path: self.path,
            part: self.part,
        })
    }

    /// Splits off the first `bytes` of a byte range.
    fn split(self, bytes: u64) -> (Self, Option<Self>) {
        match self.part {
            FilePart::Bytes { offset, length } if bytes < length => {
                let range = |offset, length| Self {
                    path: self.path.clone(),
                    part: FilePart::Bytes { offset, length },
                    bytes: length,
                };
                (range(offset, bytes), Some(range(offset + bytes, length - bytes)))
            }
            _ => (self, None),
        }
    }
}

/// Bytes that each partition should have.
fn share(pieces: &[Piece], partitions: u32) -> u64 {
    let total: u64 = pieces.iter().map(|piece| piece.bytes).sum();
    total.div_ceil(u64::from(partitions.max(1))).max(MIN_SPLIT_BYTES)
}

/// Equal shares in order: the first partition has the first bytes, and so on.
pub(super) fn in_order(pieces: Vec<Piece>, partitions: u32) -> Vec<Vec<InputItem>> {
    let share = share(&pieces, partitions);
    let mut spread = vec![Vec::new(); partitions.max(1) as usize];
    let last = spread.len() - 1;
    let mut position = 0;
    for piece in pieces {
        let mut rest = (piece.bytes > 0).then_some(piece);
        while let Some(piece) = rest {
            let partition = usize::try_from(position / share).map_or(last, |at| at.min(last));
            let (first, second) = piece.split(share - position % share);
            position += first.bytes;
            spread[partition].push(first.into_item());
            rest = second;
        }
    }
    spread
}

/// Piece after piece to partition after partition, from partition `first` on. Pieces over an equal share are divided.
pub(super) fn round_robin(pieces: Vec<Piece>, partitions: u32, first: u64) -> Vec<Vec<InputItem>> {
    let share = share(&pieces, partitions);
    let mut spread = vec![Vec::new(); partitions.max(1) as usize];
    let mut next = usize::try_from(first % spread.len() as u64).unwrap_or(0);
    for piece in pieces {
        let parts = piece.bytes.div_ceil(share).max(1);
        let part_bytes = piece.bytes.div_ceil(parts);
        let mut rest = (piece.bytes > 0).then_some(piece);
        while let Some(piece) = rest {
            let (first, second) = piece.split(part_bytes);
            spread[next].push(first.into_item());
            next = (next + 1) % spread.len();
            rest = second;
        }
    }
    spread
}

/// A number of bytes for people.
pub(super) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(path: &str, bytes: u64) -> Piece {
        InputFile::new(path, bytes).piece()
    }

    /// `partition: file offset+length, …`, a line for each partition that has something.
    fn show(spread: &[Vec<InputItem>]) -> Vec<String> {
        spread
            .iter()
            .map(|items| {
                let items: Vec<_> = items
                    .iter()
                    .map(|item| match item {
                        InputItem::File(FileRange {
                            path,
                            part: FilePart::Bytes { offset, length },
                        }) => format!("{path} {offset}+{length}"),
                        InputItem::File(FileRange { path, part }) => format!("{path} {part:?}"),
                        other => format!("{other:?}"),
                    })
                    .collect();
                items.join(", ")
            })
            .collect()
    }

    #[test]
    fn small_input_goes_to_one_partition_in_order() {
        let spread = in_order(vec![plain("a", 10), plain("empty", 0), plain("b", 20)], 3);
        assert_eq!(show(&spread), ["a 0+10, b 0+20", "", ""]);
    }

    #[test]
    fn large_files_are_divided_and_the_order_of_partitions_is_the_order_of_bytes() {
        let mib = MIN_SPLIT_BYTES;
        let spread = in_order(vec![plain("a", 3 * mib), plain("b", 5 * mib)], 4);
        assert_eq!(
            show(&spread),
            [
                format!("a 0+{}", 2 * mib),
                format!("a {}+{mib}, b 0+{mib}", 2 * mib),
                format!("b {mib}+{}", 2 * mib),
                format!("b {}+{}", 3 * mib, 2 * mib),
            ]
        );
    }

    #[test]
    fn compressed_files_stay_whole() {
        let mib = MIN_SPLIT_BYTES;
        let spread = in_order(vec![plain("a.gz", 3 * mib), plain("b.zst", mib)], 2);
        assert_eq!(show(&spread), ["a.gz Whole", "b.zst Whole"]);
    }

    #[test]
    fn round_robin_gives_each_file_to_one_partition_and_divides_the_large_one() {
        let mib = MIN_SPLIT_BYTES;
        let spread = round_robin(vec![plain("a", 10), plain("b", 20), plain("c", 5)], 2, 1);
        assert_eq!(show(&spread), ["b 0+20", "a 0+10, c 0+5"]);
        let spread = round_robin(vec![plain("a", 4 * mib), plain("b", 20)], 2, 0);
        let half = 2 * mib;
        assert_eq!(
            show(&spread),
            [format!("a 0+{half}, b 0+20"), format!("a {half}+{half}")]
        );
    }

    #[test]
    fn bytes_are_shown_with_a_fitting_unit() {
        assert_eq!(human_bytes(1023), "1023 B");
        assert_eq!(human_bytes(1536), "1.5 KiB");
        assert_eq!(human_bytes(5 << 30), "5.0 GiB");
    }
}
