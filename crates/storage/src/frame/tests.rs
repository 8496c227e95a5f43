use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatchOptions, StringViewArray};
use arrow::datatypes::{DataType, Field, Schema};
use proptest::prelude::*;

use super::codec::decode_wire;
use super::wire_type::wire_schema;
use super::*;
use crate::exchange::Delivery;
use crate::testing::{numbers, values, wide_batch, wide_schema};
use crate::{Error, sliced_bytes};

/// The frames of a delivery of these rows.
fn build(max_bytes: u64, targets: &[u32], parts: Vec<(u32, RecordBatch)>) -> Vec<Frame> {
    let delivery = Delivery {
        to: ExecutorId(2),
        number: 5,
        map: TaskKey {
            job: JobId(1),
            batch: BatchTime(1000),
            stage: StageId(0),
            partition: 3,
        },
        attempt: Attempt(0),
        routing_version: RoutingVersion(1),
        targets: targets.to_vec(),
        bytes: parts.iter().map(|(_, rows)| sliced_bytes(rows)).sum(),
    };
    FrameBuilder::new(ExecutorId(1), max_bytes).build(&delivery, &parts)
}

fn rows_of(frames: &[Frame], partition: u32) -> Vec<RecordBatch> {
    frames
        .iter()
        .flat_map(|frame| &frame.runs)
        .filter(|run| run.partition == partition)
        .map(|run| run.rows.clone())
        .collect()
}

fn over_the_wire(frame: &Frame, schema: &arrow::datatypes::SchemaRef) -> Frame {
    decode(schema, encode(frame).unwrap()).unwrap()
}

#[test]
fn a_delivery_without_rows_is_one_empty_frame() {
    let frames = build(100, &[1, 2], vec![(1, numbers([]))]);
    assert_eq!(frames.len(), 1);
    assert!(frames[0].runs.is_empty() && frames[0].head.last);
    assert_eq!(*frames[0].head.targets, [1, 2]);
    let encoded = encode(&frames[0]).unwrap();
    assert!(encoded.header.is_empty() && encoded.body.is_empty());
    assert_eq!(decode(&wide_schema(), encoded).unwrap(), frames[0]);
}

#[test]
fn small_parts_share_frames_and_large_ones_are_split() {
    let parts = vec![
        (0, numbers(0..3)),
        (1, numbers(3..6)),
        (4, numbers(6..106)),
        (7, numbers(106..108)),
    ];
    let frames = build(160, &[0, 1, 4, 7], parts);
    for (index, frame) in (0..).zip(&frames) {
        assert_eq!(frame.head.index, index);
        assert_eq!(frame.head.last, frame == frames.last().unwrap());
        assert!(frame.bytes <= 160 + FRAME_OVERHEAD);
        assert!(!frame.runs.is_empty());
    }
    assert_eq!(frames[0].runs.len(), 2);
    assert_eq!(frames.len(), 7);
    assert_eq!(values(&rows_of(&frames, 4)), (6..106).collect::<Vec<_>>());
    assert_eq!(values(&rows_of(&frames, 7)), [106, 107]);
}

#[test]
fn a_row_larger_than_a_frame_has_one_of_its_own() {
    let long: ArrayRef = Arc::new(StringViewArray::from(vec![
        "x".repeat(1000),
        "y".into(),
        "z".repeat(2000),
    ]));
    let rows = RecordBatch::try_from_iter([("v", long)]).unwrap();
    let frames = build(100, &[0], vec![(0, rows.clone())]);
    assert_eq!(frames.len(), 3);
    let all: Vec<_> = rows_of(&frames, 0);
    assert_eq!(arrow::compute::concat_batches(&rows.schema(), &all).unwrap(), rows);
}

#[test]
fn building_copies_nothing() {
    let rows = wide_batch(1000);
    let text = |batch: &RecordBatch| batch.column_by_name("view").unwrap().as_string_view().data_buffers()[0].as_ptr();
    for frame in build(1000, &[0], vec![(0, rows.clone())]) {
        assert_eq!(text(&frame.runs[0].rows), text(&rows));
    }
}

#[test]
fn every_type_returns_from_the_wire() {
    let whole = wide_batch(500);
    for parts in [
        vec![(0, whole.clone())],
        vec![
            (0, whole.slice(3, 1)),
            (1, whole.slice(100, 50)),
            (4, whole.slice(30, 10)),
        ],
        vec![(2, wide_batch(1))],
    ] {
        let frames = build(u64::MAX, &[0, 1, 2, 4], parts);
        let received = over_the_wire(&frames[0], &whole.schema());
        assert_eq!(received.head, frames[0].head);
        for (received, sent) in received.runs.iter().zip(&frames[0].runs) {
            assert_eq!(received.partition, sent.partition);
            assert_same_rows(&received.rows, &sent.rows);
        }
    }
}

/// Dictionaries come back with other keys, so values are compared.
fn assert_same_rows(one: &RecordBatch, other: &RecordBatch) {
    assert_eq!(one.schema(), other.schema());
    for (one, other) in one.columns().iter().zip(other.columns()) {
        if matches!(one.data_type(), DataType::Dictionary(_, _)) {
            let plain = |array| arrow::compute::cast(array, &DataType::Utf8).unwrap();
            assert_eq!(&plain(one), &plain(other));
        } else {
            assert_eq!(one, other);
        }
    }
}

#[test]
fn rows_without_columns_return_from_the_wire() {
    let schema = Arc::new(Schema::empty());
    let rows = |count| {
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        RecordBatch::try_new_with_options(Arc::clone(&schema), vec![], &options).unwrap()
    };
    let frames = build(100, &[0, 1], vec![(0, rows(10)), (1, rows(20))]);
    let received = over_the_wire(&frames[0], &schema);
    assert_eq!(
        received.runs.iter().map(|run| run.rows.num_rows()).collect::<Vec<_>>(),
        [10, 20]
    );
}

#[test]
fn the_wire_carries_what_views_use_and_not_what_they_share() {
    let input: StringViewArray = (0..100_000)
        .map(|i| Some(format!("line number {i} of a large input")))
        .collect();
    let input = RecordBatch::try_from_iter([("line", Arc::new(input) as ArrayRef)]).unwrap();
    let parts = (0..64)
        .map(|i| (i, input.slice(i as usize * 1000, 10)))
        .collect::<Vec<_>>();
    let used: u64 = parts.iter().map(|(_, rows)| sliced_bytes(rows)).sum();
    let targets: Vec<u32> = (0..64).collect();
    let frames = build(FrameBuilder::DEFAULT_BYTES, &targets, parts);
    let encoded = encode(&frames[0]).unwrap();
    assert!(encoded.bytes() < used * 2, "{} bytes for {used}", encoded.bytes());
    let received = over_the_wire(&frames[0], &input.schema());
    assert_eq!(received.runs, frames[0].runs);
    assert_eq!(received.bytes, encoded.bytes());
}

#[test]
fn nested_dictionaries_travel_as_values() {
    let schema: arrow::datatypes::SchemaRef = Arc::new(Schema::new(vec![Field::new(
        "l",
        DataType::List(Arc::new(Field::new(
            "item",
            DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8)),
            true,
        ))),
        true,
    )]));
    let wire = wire_schema(&schema);
    let plain = Field::new("item", DataType::Utf8, true);
    assert_eq!(*wire.field(0).data_type(), DataType::List(Arc::new(plain)));
    let plain = wide_schema();
    let numbers = Arc::new(plain.project(&[2]).unwrap());
    assert!(Arc::ptr_eq(&wire_schema(&numbers), &numbers));
}

#[test]
fn frames_that_contradict_themselves_are_refused() {
    let frames = build(u64::MAX, &[0, 1], vec![(0, numbers(0..10)), (1, numbers(10..20))]);
    let schema = numbers([]).schema();
    let good = encode(&frames[0]).unwrap();
    assert!(decode(&schema, good.clone()).is_ok());

    let bad = [
        EncodedFrame {
            runs: vec![(0, 10), (1, 11)],
            ..good.clone()
        },
        EncodedFrame {
            runs: vec![(0, 10), (1, 9)],
            ..good.clone()
        },
        EncodedFrame {
            runs: vec![],
            ..good.clone()
        },
        EncodedFrame {
            header: Bytes::new(),
            ..good.clone()
        },
        EncodedFrame {
            body: Bytes::new(),
            ..good.clone()
        },
        EncodedFrame {
            body: good.body.slice(8..),
            ..good.clone()
        },
    ];
    for frame in bad {
        assert!(matches!(decode(&schema, frame), Err(Error::Malformed { .. })));
    }
    assert!(decode(&wide_schema(), good.clone()).is_err(), "another schema");
    let narrow = Arc::new(Schema::new(vec![Field::new("n", DataType::Int32, true)]));
    let reinterpreted = decode(&narrow, good).unwrap();
    assert_eq!(
        reinterpreted.runs[0].rows.num_rows(),
        10,
        "wider values than needed are memory safe"
    );
}

#[test]
fn bodies_at_odd_addresses_and_large_bodies_are_read() {
    let rows = numbers(0..100_000);
    let frames = build(u64::MAX, &[0], vec![(0, rows.clone())]);
    let encoded = encode(&frames[0]).unwrap();
    for shift in 0..17 {
        let mut moved = vec![0; shift];
        moved.extend_from_slice(&encoded.body);
        let body = Bytes::from(moved).slice(shift..);
        let received = decode(
            &rows.schema(),
            EncodedFrame {
                body,
                ..encoded.clone()
            },
        )
        .unwrap();
        assert_eq!(received.runs[0].rows, rows);
    }
}

/// The reader must not panic; what it does panic on for rare types is caught, so this goes below the catch.
fn survives(schema: &arrow::datatypes::SchemaRef, header: &[u8], body: Vec<u8>) {
    let _ = decode_wire(schema, header, body.into());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn damaged_bytes_never_panic(
        in_header in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        in_body in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in 0_usize..40,
    ) {
        let rows = wide_batch(20);
        let frames = build(u64::MAX, &[0], vec![(0, rows)]);
        let encoded = encode(&frames[0]).unwrap();
        let mut header = encoded.header.to_vec();
        let mut body = encoded.body.to_vec();
        for (index, value) in in_header {
            let index = index.index(header.len());
            header[index] = value;
        }
        for (index, value) in in_body {
            let index = index.index(body.len());
            body[index] = value;
        }
        if cut < 20 {
            body.truncate(body.len().saturating_sub(cut * 16));
        }
        survives(&wire_schema(&wide_schema()), &header, body);
    }

    #[test]
    fn rows_return_however_they_are_cut(
        cuts in prop::collection::vec((0_usize..300, 0_usize..40, 0_u32..5), 1..8),
        max_bytes in 1_u64..20_000,
    ) {
        let whole = wide_batch(340);
        let mut parts: Vec<_> = cuts.into_iter().map(|(from, len, partition)| (partition, whole.slice(from, len))).collect();
        parts.sort_by_key(|(partition, _)| *partition);
        let sent = build(max_bytes, &[0, 1, 2, 3, 4], parts.clone());
        let frames: Vec<_> = sent.iter().map(|frame| over_the_wire(frame, &whole.schema())).collect();
        prop_assert_eq!(frames.iter().filter(|frame| frame.head.last).count(), 1);
        for partition in 0..5 {
            let expected: Vec<_> = parts.iter().filter(|(p, _)| *p == partition).map(|(_, rows)| rows).collect();
            let received = rows_of(&frames, partition);
            let expected = arrow::compute::concat_batches(&whole.schema(), expected).unwrap();
            let received = arrow::compute::concat_batches(&whole.schema(), &received).unwrap();
            assert_same_rows(&received, &expected);
        }
    }
}
