//! Rows for tests.

use std::sync::Arc;

use arrow::array::builder::{Int32Builder, ListBuilder, MapBuilder, StringBuilder, StringViewBuilder};
use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, FixedSizeBinaryArray,
    FixedSizeListArray, Float64Array, Int8Array, Int32Array, Int64Array, LargeStringArray, NullArray, RecordBatch,
    StringArray, StringViewArray, StructArray, TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, Field, Int32Type, SchemaRef};

/// `rows` rows with a column of every common type, with nulls.
pub(crate) fn wide_batch(rows: usize) -> RecordBatch {
    let every = |n: usize, i: usize| !i.is_multiple_of(n);
    let text = |i: usize| every(5, i).then(|| format!("text {i}, longer than what a view holds inline"));
    let number = |i: usize| every(7, i).then_some(i as i64);

    let mut views = ListBuilder::new(StringViewBuilder::new());
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    for i in 0..rows {
        for j in 0..i % 4 {
            views
                .values()
                .append_value(format!("element {j} of the list in row {i}"));
            map.keys().append_value(format!("key {j}"));
            map.values().append_value(i as i32);
        }
        views.append(every(6, i));
        map.append(every(9, i)).unwrap();
    }
    let strings: StringViewArray = (0..rows).map(text).collect();
    let nested = StructArray::from(vec![
        (
            Arc::new(Field::new("v", DataType::Utf8View, true)),
            Arc::new(strings.clone()) as ArrayRef,
        ),
        (
            Arc::new(Field::new("n", DataType::Int64, true)),
            Arc::new((0..rows).map(number).collect::<Int64Array>()) as ArrayRef,
        ),
    ]);
    let pairs = FixedSizeListArray::from_iter_primitive::<Int32Type, _, _>(
        (0..rows).map(|i| every(8, i).then(|| vec![Some(i as i32), None])),
        2,
    );
    let decimals = (0..rows)
        .map(|i| number(i).map(i128::from))
        .collect::<Decimal128Array>()
        .with_precision_and_scale(20, 2)
        .unwrap();
    let fixed =
        FixedSizeBinaryArray::try_from_sparse_iter_with_size((0..rows).map(|i| every(3, i).then_some([i as u8; 3])), 3)
            .unwrap();
    let names: Vec<_> = (0..rows).map(|i| ["red", "green", "blue"][i % 3]).collect();

    RecordBatch::try_from_iter_with_nullable([
        (
            "boolean",
            Arc::new(
                (0..rows)
                    .map(|i| every(4, i).then_some(i % 2 == 0))
                    .collect::<BooleanArray>(),
            ) as ArrayRef,
            true,
        ),
        (
            "int8",
            Arc::new((0..rows).map(|i| every(2, i).then_some(i as i8)).collect::<Int8Array>()),
            true,
        ),
        (
            "int32",
            Arc::new(Int32Array::from_iter_values((0..rows).map(|i| i as i32))),
            false,
        ),
        ("int64", Arc::new((0..rows).map(number).collect::<Int64Array>()), true),
        (
            "float64",
            Arc::new((0..rows).map(|i| Some(i as f64 / 3.0)).collect::<Float64Array>()),
            true,
        ),
        (
            "date",
            Arc::new(Date32Array::from_iter_values((0..rows).map(|i| i as i32))),
            true,
        ),
        (
            "timestamp",
            Arc::new(
                (0..rows)
                    .map(number)
                    .collect::<TimestampMillisecondArray>()
                    .with_timezone("UTC"),
            ),
            true,
        ),
        ("decimal", Arc::new(decimals), true),
        ("text", Arc::new((0..rows).map(text).collect::<StringArray>()), true),
        (
            "large_text",
            Arc::new((0..rows).map(text).collect::<LargeStringArray>()),
            true,
        ),
        (
            "bytes",
            Arc::new(
                (0..rows)
                    .map(|i| text(i).map(String::into_bytes))
                    .collect::<BinaryArray>(),
            ),
            true,
        ),
        ("fixed", Arc::new(fixed), true),
        ("view", Arc::new(strings), true),
        ("list", Arc::new(views.finish()), true),
        ("map", Arc::new(map.finish()), true),
        ("struct", Arc::new(nested), true),
        ("pairs", Arc::new(pairs), true),
        ("nothing", Arc::new(NullArray::new(rows)), true),
        (
            "colour",
            Arc::new(names.into_iter().collect::<DictionaryArray<Int32Type>>()),
            true,
        ),
    ])
    .unwrap()
}

pub(crate) fn wide_schema() -> SchemaRef {
    wide_batch(1).schema()
}

/// One column `n` of the given numbers.
pub(crate) fn numbers(values: impl IntoIterator<Item = i64>) -> RecordBatch {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(values));
    RecordBatch::try_from_iter([("n", column)]).unwrap()
}

/// The values of column `n` of all batches, in order.
pub(crate) fn values(batches: &[RecordBatch]) -> Vec<i64> {
    batches
        .iter()
        .flat_map(|batch| {
            batch
                .column(0)
                .as_any()
                .downcast_ref::<Int64Array>()
                .unwrap()
                .values()
                .to_vec()
        })
        .collect()
}
