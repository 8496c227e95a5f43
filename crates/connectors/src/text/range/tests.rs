use std::fs;
use std::io::Write as _;
use std::path::Path;

use flate2::write::GzEncoder;
use proptest::prelude::*;
use tempfile::tempdir;
use tidemill_types::FailureKind;

use super::*;
use crate::testing::{naive_lines, read_all, text};

fn read(path: &Path, part: FilePart) -> Result<Vec<String>, Error> {
    let range = FileRange { path: text(path), part };
    read_all(RangeReader::open(&range, &ReadOptions::default())?)
}

fn bytes(offset: u64, length: u64) -> FilePart {
    FilePart::Bytes { offset, length }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_line_belongs_to_the_range_in_which_it_begins() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("lines.txt");
    fs::write(&path, "aaaa\nbbb\ncccccccc\nd\n").unwrap();
    assert_eq!(read(&path, bytes(0, 8)).unwrap(), ["aaaa", "bbb"]);
    assert_eq!(
        read(&path, bytes(0, 9)).unwrap(),
        ["aaaa", "bbb"],
        "a newline begins no line"
    );
    assert_eq!(read(&path, bytes(9, 1)).unwrap(), ["cccccccc"]);
    assert_eq!(
        read(&path, bytes(10, 5)).unwrap(),
        Vec::<String>::new(),
        "within a line"
    );
    assert_eq!(
        read(&path, bytes(10, 8)).unwrap(),
        Vec::<String>::new(),
        "up to the end of a line"
    );
    assert_eq!(read(&path, bytes(10, 9)).unwrap(), ["d"]);
    assert_eq!(
        read(&path, bytes(18, 100)).unwrap(),
        ["d"],
        "beyond the end of the file"
    );
    assert_eq!(read(&path, bytes(100, 5)).unwrap(), Vec::<String>::new());
    assert_eq!(read(&path, bytes(0, 0)).unwrap(), Vec::<String>::new());
}

#[test]
fn files_larger_than_a_chunk_are_read_whole_and_by_ranges() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("large.txt");
    let lines: Vec<_> = (0..60_000).map(|i| format!("{i} {}", "x".repeat(i % 83))).collect();
    let content = lines.join("\n");
    assert!(content.len() > 2 * CHUNK_BYTES);
    fs::write(&path, &content).unwrap();
    assert_eq!(read(&path, FilePart::Whole).unwrap(), lines);
    let border = CHUNK_BYTES as u64 + 17;
    let mut parts = read(&path, bytes(0, border)).unwrap();
    parts.extend(read(&path, bytes(border, content.len() as u64 - border)).unwrap());
    assert_eq!(parts, lines);
    let part = FilePart::Lines {
        first: 41_000,
        count: 3,
    };
    assert_eq!(read(&path, part).unwrap(), lines[41_000..41_003]);
}

#[test]
fn batches_have_at_most_the_wanted_rows() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("many.txt");
    fs::write(&path, "x\n".repeat(1000)).unwrap();
    let options = ReadOptions {
        batch_rows: 300,
        ..ReadOptions::default()
    };
    let range = FileRange {
        path: text(&path),
        part: FilePart::Whole,
    };
    let rows: Vec<_> = RangeReader::open(&range, &options)
        .unwrap()
        .map(|batch| batch.unwrap().num_rows())
        .collect();
    assert_eq!(rows, [300, 300, 300, 100]);
}

#[test]
fn a_line_longer_than_the_limit_is_cut_in_whichever_range_it_begins() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("long.txt");
    fs::write(&path, format!("short\n{}\nafter\n", "y".repeat(100_000))).unwrap();
    let options = ReadOptions {
        max_line_bytes: 10,
        ..ReadOptions::default()
    };
    let read = |offset, length| {
        let range = FileRange {
            path: text(&path),
            part: bytes(offset, length),
        };
        read_all(RangeReader::open(&range, &options).unwrap()).unwrap()
    };
    assert_eq!(read(0, 10), ["short", "yyyyyyyyyy"]);
    assert_eq!(read(10, 50_000), Vec::<String>::new());
    assert_eq!(read(10, 200_000), ["after"]);
    assert_eq!(options.counters.malformed(), 1);
}

#[test]
fn gzip_of_several_members_and_zstd_of_several_frames_are_read_to_the_end() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("two.gz");
    fs::write(&path, [gzip(b"one\ntw"), gzip(b"o\nthree")].concat()).unwrap();
    assert_eq!(read(&path, FilePart::Whole).unwrap(), ["one", "two", "three"]);
    let part = FilePart::Lines { first: 1, count: 1 };
    assert_eq!(read(&path, part).unwrap(), ["two"]);

    let path = dir.path().join("two.zst");
    let frame = |bytes: &[u8]| zstd::stream::encode_all(bytes, 0).unwrap();
    fs::write(&path, [frame(b"one\ntw"), frame(b"o\nthree")].concat()).unwrap();
    assert_eq!(read(&path, FilePart::Whole).unwrap(), ["one", "two", "three"]);
}

#[test]
fn compressed_files_have_no_byte_ranges() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("a.gz");
    fs::write(&path, gzip(b"one\n")).unwrap();
    let error = read(&path, bytes(0, 4)).unwrap_err();
    assert!(matches!(error, Error::CompressedRange { .. }), "{error}");
    assert_eq!(error.kind(), FailureKind::Internal);
}

#[test]
fn a_truncated_or_falsely_named_compressed_file_is_an_error_that_names_it_and_ends_the_reader() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("cut.gz");
    let whole = gzip("some text that is long enough\n".repeat(1000).as_bytes());
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let error = read(&path, FilePart::Whole).unwrap_err();
    assert!(error.to_string().contains("cut.gz"), "{error}");
    assert_eq!(error.kind(), FailureKind::External);

    let path = dir.path().join("plain.zst");
    fs::write(&path, "not compressed\n").unwrap();
    let range = FileRange {
        path: text(&path),
        part: FilePart::Whole,
    };
    let mut reader = RangeReader::open(&range, &ReadOptions::default()).unwrap();
    assert!(reader.next().unwrap().is_err());
    assert!(reader.next().is_none());
}

#[test]
fn a_file_that_vanished_and_a_directory_are_external_failures_that_say_what_they_are() {
    let dir = tempdir().unwrap();
    let error = read(&dir.path().join("gone.txt"), FilePart::Whole).unwrap_err();
    assert!(error.to_string().contains("gone.txt"), "{error}");
    assert_eq!(error.kind(), FailureKind::External);
    let error = read(dir.path(), FilePart::Whole).unwrap_err();
    assert!(error.to_string().contains("is a directory"), "{error}");
    assert_eq!(error.kind(), FailureKind::External);
}

#[test]
fn a_file_that_is_not_text_is_read_with_replacements() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("binary.dat");
    let content: Vec<u8> = (0..10_000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    fs::write(&path, &content).unwrap();
    assert_eq!(read(&path, FilePart::Whole).unwrap(), naive_lines(&content, usize::MAX));
}

proptest! {
    #[test]
    fn any_division_into_ranges_yields_each_line_once_and_in_order(
        content in "([a-z]{0,9}|\r|\n|\n|äö){0,60}",
        mut cuts in prop::collection::vec(0usize..400, 0..8),
    ) {
        let dir = tempdir().unwrap();
        let path = dir.path().join("lines.txt");
        fs::write(&path, &content).unwrap();
        cuts.retain(|cut| *cut < content.len());
        cuts.extend([0, content.len()]);
        cuts.sort_unstable();
        let mut lines = Vec::new();
        for cut in cuts.windows(2) {
            lines.extend(read(&path, bytes(cut[0] as u64, (cut[1] - cut[0]) as u64)).unwrap());
        }
        prop_assert_eq!(lines, naive_lines(content.as_bytes(), usize::MAX));
    }
}
