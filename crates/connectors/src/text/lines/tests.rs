use std::sync::atomic::AtomicU64;

use arrow::array::AsArray;
use proptest::prelude::*;

use super::*;
use crate::testing::{naive_lines, values};

const LIMIT: usize = 1 << 20;

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Feeds bytes in pieces of `step` bytes through a buffer, and gives all lines.
fn through_buffer(bytes: &[u8], capacity: usize, max_line: usize, step: usize, counters: &ReadCounters) -> Vec<String> {
    let mut buffer = LineBuffer::new(capacity, max_line);
    let mut found = Vec::new();
    let mut take = |buffer: &mut LineBuffer| {
        if let Some(lines) = buffer.take() {
            let mut lines = Lines::new(lines, max_line);
            while let Some(next) = lines.next_batch(3, counters).unwrap() {
                assert!(next.batch.num_rows() <= 3);
                found.extend(values([&next.batch]));
            }
        }
    };
    let mut rest = bytes;
    while !rest.is_empty() {
        let room = buffer.room();
        if room == 0 {
            take(&mut buffer);
            continue;
        }
        let from = buffer.len();
        let (piece, later) = rest.split_at(step.min(room).min(rest.len()));
        buffer.bytes_mut().extend_from_slice(piece);
        buffer.appended(from);
        rest = later;
        let bound = capacity.max(max_line + LONG_LINE_SLACK) + 1;
        assert!(buffer.bytes.len() <= bound, "{} bytes are kept", buffer.bytes.len());
    }
    buffer.end_of_input();
    take(&mut buffer);
    found
}

fn lines_of(bytes: &[u8]) -> (Vec<String>, ReadCounters) {
    let counters = ReadCounters::default();
    (through_buffer(bytes, 1 << 16, LIMIT, usize::MAX, &counters), counters)
}

#[test]
fn line_ends_of_both_kinds_are_not_part_of_a_line_and_nul_is_an_ordinary_byte() {
    let (lines, counters) = lines_of(b"unix\nwindows\r\n\nnul \0 inside\r in between\n\r\nlast");
    assert_eq!(lines, ["unix", "windows", "", "nul \0 inside\r in between", "", "last"]);
    assert_eq!(count(&counters.rows), 6);
    assert_eq!(counters.malformed(), 0);
}

#[test]
fn bytes_that_are_not_utf8_are_replaced_and_their_lines_counted() {
    let (lines, counters) = lines_of(b"\xff short\nlong enough to be stored outside \xc3( of the view\nfine\n");
    assert_eq!(
        lines,
        [
            "\u{fffd} short",
            "long enough to be stored outside \u{fffd}( of the view",
            "fine"
        ]
    );
    assert_eq!(count(&counters.invalid_utf8), 2);
    assert_eq!(count(&counters.rows), 3);
}

#[test]
fn a_line_over_the_limit_is_cut_between_characters_and_what_follows_is_dropped() {
    for capacity in [4, 64, 1 << 16] {
        let counters = ReadCounters::default();
        let lines = through_buffer("aaaaé and more\r\nnext\n".as_bytes(), capacity, 5, 3, &counters);
        assert_eq!(lines, ["aaaa", "next"], "buffer of {capacity}");
        assert_eq!(count(&counters.long_lines), 1);
        assert_eq!(count(&counters.invalid_utf8), 0);
    }
}

#[test]
fn a_line_of_exactly_the_limit_is_whole_also_with_a_carriage_return() {
    let counters = ReadCounters::default();
    assert_eq!(
        through_buffer(b"12345\r\n12345\n12345", 4, 5, 1, &counters),
        ["12345"; 3]
    );
    assert_eq!(count(&counters.long_lines), 0);
}

#[test]
fn long_strings_point_into_the_buffer_that_was_read() {
    let text = b"a line that is longer than twelve bytes\nshort\nanother line of more than twelve\n";
    let mut buffer = LineBuffer::new(text.len(), LIMIT);
    buffer.room();
    buffer.bytes_mut().extend_from_slice(text);
    let read_at = buffer.bytes.as_ptr();
    buffer.appended(0);
    let lines = buffer.take().unwrap();
    assert_eq!(lines.as_ptr(), read_at, "a full buffer is handed over without a copy");
    let batch = Lines::new(lines, LIMIT)
        .next_batch(10, &ReadCounters::default())
        .unwrap()
        .unwrap();
    let column = batch.batch.column(0).as_string_view();
    assert_eq!(column.data_buffers().len(), 1);
    assert_eq!(column.data_buffers()[0].as_ptr(), read_at);
    assert_eq!(batch.memory, text.len() + 3 * 16);
}

#[test]
fn few_lines_do_not_hold_a_large_buffer() {
    let mut buffer = LineBuffer::new(1 << 20, LIMIT);
    buffer.room();
    buffer
        .bytes_mut()
        .extend_from_slice(b"one line of some length\nand the beginning of");
    buffer.appended(0);
    let lines = buffer.take().unwrap();
    assert!(lines.capacity() < 1024, "{} bytes", lines.capacity());
    assert_eq!(buffer.bytes, b"and the beginning of");
    assert!(buffer.take().is_none());
}

#[test]
fn an_input_that_broke_off_leaves_no_half_line() {
    let mut buffer = LineBuffer::new(64, LIMIT);
    buffer.room();
    buffer.bytes_mut().extend_from_slice(b"whole\nhal");
    buffer.appended(0);
    buffer.drop_unfinished();
    buffer.room();
    let from = buffer.len();
    buffer.bytes_mut().extend_from_slice(b"new\n");
    buffer.appended(from);
    assert_eq!(buffer.take().unwrap().as_slice(), b"whole\nnew\n");
}

#[test]
fn skipping_passes_over_lines_of_all_lengths() {
    let mut lines = Lines::new(Buffer::from_vec(b"a\n\nlonger\nd\n".to_vec()), LIMIT);
    assert_eq!(lines.skip(2), 2);
    let batch = lines.next_batch(1, &ReadCounters::default()).unwrap().unwrap();
    assert_eq!(values([&batch.batch]), ["longer"]);
    assert_eq!(lines.skip(5), 1);
    assert!(lines.next_batch(1, &ReadCounters::default()).unwrap().is_none());
}

/// Text with everything that is special about lines.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => "[a-z]{0,20}".prop_map(String::into_bytes),
        4 => Just(b"\n".to_vec()),
        1 => Just(b"\r\n".to_vec()),
        1 => Just(b"\r".to_vec()),
        1 => Just(vec![0]),
        1 => Just("äß€😀".as_bytes().to_vec()),
        1 => Just(vec![0xff]),
        1 => Just(vec![0xe2, 0x82]),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn lines_are_the_same_whatever_the_buffer_and_however_the_bytes_arrive(
        bytes in bytes(), capacity in 1usize..80, max_line in 1usize..40, step in 1usize..30,
    ) {
        let counters = ReadCounters::default();
        let lines = through_buffer(&bytes, capacity, max_line, step, &counters);
        let expected = naive_lines(&bytes, max_line);
        prop_assert_eq!(count(&counters.rows), expected.len() as u64);
        prop_assert_eq!(lines, expected);
    }
}
