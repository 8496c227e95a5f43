//! The index against a fold over the panes of the window.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema};
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::functions_aggregate::min_max::max_udaf;
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::logical_expr::{AggregateUDF, EmitTo};
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::physical_expr::expressions::col;
use proptest::prelude::*;

use super::aggregates::Aggregates;
use super::index::WindowIndex;

/// Keys with their numbers, of one batch.
type Rows = Vec<(Option<u8>, i64)>;

fn functions() -> Vec<Arc<AggregateFunctionExpr>> {
    let schema = Arc::new(Schema::new(vec![
        Field::new("n", DataType::Int64, true),
        Field::new("x", DataType::Float64, true),
    ]));
    let function = |udaf: Arc<AggregateUDF>, column: &str| {
        let args = vec![col(column, &schema).unwrap()];
        let built = AggregateExprBuilder::new(udaf, args)
            .schema(Arc::clone(&schema))
            .alias(column);
        Arc::new(built.build().unwrap())
    };
    vec![
        function(count_udaf(), "n"),
        function(max_udaf(), "n"),
        function(sum_udaf(), "x"),
    ]
}

fn index(length: u64, keyed: bool) -> WindowIndex {
    let aggregates = Aggregates::try_new(&functions(), keyed).unwrap().unwrap();
    let types: &[DataType] = if keyed { &[DataType::Utf8View] } else { &[] };
    WindowIndex::new(types, aggregates, length).unwrap()
}

/// What is aggregated of a number: of some nothing.
fn value(n: i64) -> Option<i64> {
    (n % 3 != 0).then_some(n)
}

/// The float that goes with a number: sums of these depend on their order.
fn float(n: i64) -> f64 {
    n as f64 / 7.0 + 1e9 / (n as f64 + 0.3)
}

fn text(key: Option<u8>) -> Option<String> {
    key.map(|key| format!("key {key}"))
}

/// A pane: the rows aggregated by key, every row on its own if `apart`.
fn pane(rows: &Rows, keyed: bool, apart: bool) -> RecordBatch {
    let mut keys: Vec<Option<u8>> = Vec::new();
    let groups: Vec<usize> = rows
        .iter()
        .map(|(key, _)| match keys.iter().position(|known| known == key) {
            Some(group) if keyed && !apart => group,
            None if !keyed && !apart && !keys.is_empty() => 0,
            _ if !keyed && !apart && !keys.is_empty() => 0,
            _ => {
                keys.push(*key);
                keys.len() - 1
            }
        })
        .collect();
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter(rows.iter().map(|(_, n)| value(*n))));
    let floats: ArrayRef = Arc::new(Float64Array::from_iter(rows.iter().map(|(_, n)| value(*n).map(float))));
    let mut columns: Vec<ArrayRef> = Vec::new();
    if keyed {
        columns.push(Arc::new(StringViewArray::from_iter(keys.iter().map(|key| text(*key)))));
    }
    for (function, input) in functions().iter().zip([&numbers, &numbers, &floats]) {
        let mut accumulator = function.create_groups_accumulator().unwrap();
        accumulator
            .update_batch(std::slice::from_ref(input), &groups, None, keys.len())
            .unwrap();
        columns.extend(accumulator.state(EmitTo::All).unwrap());
    }
    let fields: Vec<Field> = columns
        .iter()
        .enumerate()
        .map(|(i, column)| Field::new(format!("c{i}"), column.data_type().clone(), true))
        .collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

/// Count, greatest and sum by key.
type Results = BTreeMap<Option<String>, (i64, Option<i64>, Option<f64>)>;

fn found(index: &WindowIndex, keyed: bool) -> Results {
    let columns = index.evaluate().unwrap();
    let results = &columns[usize::from(keyed)..];
    let counts = results[0].as_primitive::<Int64Type>();
    let greatest = results[1].as_primitive::<Int64Type>();
    let sums = results[2].as_primitive::<Float64Type>();
    (0..counts.len())
        .map(|row| {
            let key = keyed
                .then(|| columns[0].as_string_view())
                .and_then(|keys| keys.is_valid(row).then(|| keys.value(row).to_owned()));
            let value = (
                counts.value(row),
                greatest.is_valid(row).then(|| greatest.value(row)),
                sums.is_valid(row).then(|| sums.value(row)),
            );
            (key, value)
        })
        .collect()
}

fn expected(window: &[Rows], keyed: bool) -> Results {
    let mut results = Results::new();
    if !keyed {
        results.insert(None, (0, None, None));
    }
    for (key, n) in window.iter().flatten() {
        let key = if keyed { text(*key) } else { None };
        let (count, greatest, sum) = results.entry(key).or_insert((0, None, None));
        if let Some(n) = value(*n) {
            *count += 1;
            *greatest = Some(greatest.map_or(n, |greatest| greatest.max(n)));
            *sum = Some(sum.unwrap_or_default() + float(n));
        }
    }
    results
}

/// All but the sums are equal, and these but for the order in which they were added up.
fn assert_close(found: &Results, expected: &Results, context: &str) {
    let exact = |results: &Results| -> Vec<String> {
        results
            .iter()
            .map(|(key, (count, greatest, sum))| format!("{key:?} {count} {greatest:?} {}", sum.is_some()))
            .collect()
    };
    assert_eq!(exact(found), exact(expected), "{context}");
    for (key, (_, _, sum)) in found {
        let (sum, expected) = (sum.unwrap_or_default(), expected[key].2.unwrap_or_default());
        let error = (sum - expected).abs();
        assert!(error <= 1e-12 * expected.abs(), "{context}: {key:?} {sum} {expected}");
    }
}

fn batches() -> impl Strategy<Value = Vec<Rows>> {
    let key = prop_oneof![1 => Just(None), 9 => (0u8..20).prop_map(Some)];
    let rows = prop::collection::vec((key, 1i64..1000), 0..12);
    prop::collection::vec(rows, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_slide_has_the_window_s_results(
        batches in batches(),
        length in prop_oneof![1usize..12, Just(40)],
        keyed: bool,
        apart: bool,
        first in -5i64..5,
    ) {
        let mut index = index(length as u64, keyed);
        for (i, rows) in batches.iter().enumerate() {
            index.push(first + i as i64, &pane(rows, keyed, apart)).unwrap();
            let window = &batches[(i + 1).saturating_sub(length)..=i];
            assert_close(&found(&index, keyed), &expected(window, keyed), &format!("slide {i} of {length}"));
        }
    }

    #[test]
    fn an_index_that_is_built_anew_is_the_same_to_the_last_bit(batches in batches(), length in 1usize..30) {
        let mut kept = index(length as u64, true);
        for (i, rows) in batches.iter().enumerate() {
            kept.push(i as i64, &pane(rows, true, false)).unwrap();
        }
        let mut anew = index(length as u64, true);
        let first = batches.len().saturating_sub(length);
        for (i, rows) in batches.iter().enumerate().skip(first) {
            anew.push(i as i64, &pane(rows, true, false)).unwrap();
        }
        prop_assert_eq!(found(&kept, true), found(&anew, true));
    }
}

/// Beyond `SEQUENTIAL_PANES`, and with more panes than phases.
#[test]
fn long_windows_flip_by_doubling() {
    let rows = |i: i64| -> Rows {
        (0..i % 4)
            .map(|k| (Some((k * 3 + i % 2) as u8), i * 4 + k + 1))
            .collect()
    };
    for length in [129, 300] {
        let batches: Vec<Rows> = (0..700).map(rows).collect();
        let mut kept = index(length as u64, true);
        for (i, rows) in batches.iter().enumerate() {
            kept.push(i as i64, &pane(rows, true, false)).unwrap();
            if i % 50 == 49 {
                let window = &batches[(i + 1).saturating_sub(length)..=i];
                assert_close(
                    &found(&kept, true),
                    &expected(window, true),
                    &format!("slide {i} of {length}"),
                );
            }
        }
        let mut anew = index(length as u64, true);
        for (i, rows) in batches.iter().enumerate().skip(700 - length) {
            anew.push(i as i64, &pane(rows, true, false)).unwrap();
        }
        assert_eq!(found(&kept, true), found(&anew, true));
    }
}

#[test]
fn what_is_held_does_not_grow_with_the_number_of_slides() {
    let rows = |i: i64| -> Rows { (0..8).map(|k| (Some(((i + k * 5) % 200) as u8), i + 1)).collect() };
    let mut index = index(16, true);
    let mut sizes = Vec::new();
    for i in 0..2000 {
        index.push(i, &pane(&rows(i), true, false)).unwrap();
        if i >= 400 {
            sizes.push(index.size());
        }
    }
    let (early, late) = sizes.split_at(sizes.len() / 2);
    let most = |sizes: &[usize]| sizes.iter().copied().max().unwrap();
    assert!(most(late) <= most(early), "{} after {}", most(late), most(early));
}

#[test]
fn a_pane_out_of_order_is_refused_and_the_index_says_that_it_is_broken() {
    let mut index = index(4, true);
    let rows = pane(&vec![(Some(1), 1)], true, false);
    index.push(1, &rows).unwrap();
    assert!(index.push(3, &rows).is_err());
}
