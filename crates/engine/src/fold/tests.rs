//! Folds of random values against a loop.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::DFSchema;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use proptest::prelude::*;

use super::{Fold, FoldGroups, Records, pair};
use crate::registry::Registry;
use crate::rules::physical_rules;
use crate::session::planning_state;

fn expr(sql: &str, scope: &Arc<Schema>) -> Arc<dyn datafusion::physical_expr::PhysicalExpr> {
    let state = planning_state(1, physical_rules(), &Registry::default(), Arc::default()).unwrap();
    let columns = DFSchema::try_from(Arc::clone(scope)).unwrap();
    let expr = state.create_logical_expr(sql, &columns).unwrap();
    state.create_physical_expr(expr, &columns).unwrap()
}

fn schema(names: &[&str], data_type: &DataType) -> Arc<Schema> {
    let fields = names.iter().map(|name| Field::new(*name, data_type.clone(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Texts behind each other, which shows every change of order.
fn texts() -> Arc<Fold> {
    Arc::new(Fold {
        columns: schema(&["text"], &DataType::Utf8),
        merge: vec![expr("concat(a, b)", &pair(&DataType::Utf8))],
        records: None,
    })
}

/// A sum and a number of records, of records taken one by one.
fn sums() -> Arc<Fold> {
    let numbers = |names: &[&str]| schema(names, &DataType::Int64);
    let (columns, record) = (numbers(&["sum", "count"]), numbers(&["x"]));
    let scope = numbers(&["sum", "count", "value_x"]);
    let add = || expr("a + b", &pair(&DataType::Int64));
    Arc::new(Fold {
        merge: vec![add(), add()],
        records: Some(Records {
            create: vec![expr("x", &record), expr("1", &record)],
            merge: vec![expr("sum * 3 + value_x", &scope), expr("count + 1", &scope)],
            columns: record,
            scope,
        }),
        columns,
    })
}

/// Chunks of groups and values.
fn chunks() -> impl Strategy<Value = Vec<Vec<(usize, u8)>>> {
    let group = prop_oneof![2 => 0usize..3, 1 => 0usize..40];
    prop::collection::vec(prop::collection::vec((group, 0u8..26), 0..30), 0..8)
}

fn text_of(value: u8) -> String {
    char::from(b'a' + value).to_string()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn pairwise_folds_keep_the_order_of_values(chunks in chunks(), fold_after in 0usize..8) {
        let mut groups = FoldGroups::new(texts());
        let mut expected = vec![None::<String>; 40];
        for (i, chunk) in chunks.iter().enumerate() {
            let values: ArrayRef = Arc::new(StringArray::from_iter_values(chunk.iter().map(|(_, v)| text_of(*v))));
            let indices: Vec<usize> = chunk.iter().map(|(group, _)| *group).collect();
            groups.update_batch(&[values], &indices, None, 40).unwrap();
            for (group, value) in chunk {
                expected[*group].get_or_insert_default().push_str(&text_of(*value));
            }
            if i == fold_after {
                // A partial result takes the place of its values.
                let state = groups.state(EmitTo::All).unwrap();
                groups = FoldGroups::new(texts());
                groups.merge_batch(&state, &(0..40).collect::<Vec<_>>(), 40).unwrap();
            }
        }
        groups.update_batch(&[Arc::new(StringArray::from_iter_values([""; 0]))], &[], None, 40).unwrap();
        let first = groups.evaluate(EmitTo::First(7)).unwrap();
        let rest = groups.evaluate(EmitTo::All).unwrap();
        let found: Vec<Option<String>> = [first, rest]
            .iter()
            .flat_map(|column| column.as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect::<Vec<_>>())
            .collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn records_are_taken_one_by_one(chunks in chunks()) {
        let mut groups = FoldGroups::new(sums());
        let mut expected = vec![None::<(i64, i64)>; 40];
        for chunk in &chunks {
            let values: ArrayRef = Arc::new(Int64Array::from_iter_values(chunk.iter().map(|(_, v)| i64::from(*v))));
            let indices: Vec<usize> = chunk.iter().map(|(group, _)| *group).collect();
            groups.update_batch(&[values], &indices, None, 40).unwrap();
            for (group, value) in chunk {
                let value = i64::from(*value);
                expected[*group] = Some(match expected[*group] {
                    None => (value, 1),
                    Some((sum, count)) => (sum.wrapping_mul(3).wrapping_add(value), count + 1),
                });
            }
        }
        groups.update_batch(&[Arc::new(Int64Array::from_iter_values([0i64; 0]))], &[], None, 40).unwrap();
        let found = groups.evaluate(EmitTo::All).unwrap();
        let found = found.as_struct();
        let column = |i: usize| found.column(i).as_primitive::<arrow::datatypes::Int64Type>().iter();
        let found: Vec<Option<(i64, i64)>> = column(0).zip(column(1)).map(|(sum, count)| sum.zip(count)).collect();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn a_filter_leaves_records_out_and_groups_in() {
    let mut groups = FoldGroups::new(texts());
    let values: ArrayRef = Arc::new(StringArray::from_iter_values(["a", "b", "c"]));
    let keep = BooleanArray::from(vec![Some(true), None, Some(true)]);
    groups.update_batch(&[values], &[0, 1, 0], Some(&keep), 2).unwrap();
    let state = groups.state(EmitTo::All).unwrap();
    assert_eq!(
        state[0].as_string::<i32>().iter().collect::<Vec<_>>(),
        [Some("ac"), None]
    );
    assert_eq!(
        state[1].as_boolean().iter().collect::<Vec<_>>(),
        [Some(true), Some(false)]
    );
    // A group without records adds nothing to a merge.
    let mut merged = FoldGroups::new(texts());
    merged.merge_batch(&state, &[0, 0], 1).unwrap();
    let result = merged.evaluate(EmitTo::All).unwrap();
    assert_eq!(result.as_string::<i32>().value(0), "ac");
}

#[test]
fn what_is_kept_is_folded_before_it_is_too_much() {
    let mut groups = FoldGroups::new(texts());
    let values: ArrayRef = Arc::new(StringArray::from_iter_values(vec!["x"; 10_000]));
    let mut most = 0;
    for _ in 0..20 {
        groups
            .update_batch(std::slice::from_ref(&values), &[0; 10_000], None, 1)
            .unwrap();
        most = most.max(groups.size());
    }
    assert!(most < 1_500_000, "{most} bytes for 200,000 texts of one letter");
    let result = groups.evaluate(EmitTo::All).unwrap();
    assert_eq!(result.as_string::<i32>().value(0).len(), 200_000);
    assert_eq!(result.len(), 1);
}
