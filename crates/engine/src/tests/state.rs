//! Keyed state: what each batch gives, what is kept, and what happens when batches run again, are skipped, or find their
//! state gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringViewArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use proptest::prelude::*;
use tidemill_dstream::{JobGraph, MapWithState, NativeCall, Operator, StateFunction, UpdateStateByKey};
use tidemill_types::SlotId;

use super::support::*;
use crate::registry::{BoxError, Registry, StateBatch, StateUpdate};
use crate::{CompileOptions, compile};

fn update(keys: &[(&str, &str)], values: &[(&str, &str)], state: &[(&str, &str)]) -> UpdateStateByKey {
    UpdateStateByKey {
        keys: columns(keys),
        values: columns(values),
        state: StateFunction::Columns(columns(state)),
        initial: None,
        partitions: None,
    }
}

fn map_state(keys: &[(&str, &str)], values: &[(&str, &str)], state: &[(&str, &str)]) -> MapWithState {
    MapWithState {
        keys: columns(keys),
        values: columns(values),
        state: StateFunction::Columns(columns(state)),
        emit: Vec::new(),
        timeout: None,
        initial: None,
        partitions: None,
    }
}

/// The lines are words; `n` is how often each occurs.
fn counting() -> UpdateStateByKey {
    update(
        &[("word", "value")],
        &[("n", "count(*)")],
        &[("total", "coalesce(total, 0) + n")],
    )
}

fn over_lines(operators: Vec<Operator>) -> JobGraph {
    job(
        vec![source("lines", vec![]), from("out", "lines", operators)],
        vec![table("out")],
    )
}

/// Runs the batches under all partition counts; the rows of `out`, sorted.
fn check(graph: &JobGraph, batches: &[(&[&str], &[&str])]) {
    for partitions in PARTITIONS {
        let mut mini = Mini::new(graph, &[], partitions);
        for (i, (lines, expected)) in batches.iter().enumerate() {
            let found = mini.batch(&[("lines", lines)]).remove("out").map(sorted);
            let expected = sorted(expected.iter().map(ToString::to_string).collect());
            assert_eq!(found, Some(expected), "batch {}, {partitions} partitions", i + 1);
        }
    }
}

#[test]
fn every_key_is_there_in_every_batch_with_or_without_records() {
    check(
        &over_lines(vec![Operator::UpdateStateByKey(counting())]),
        &[
            (&["a", "b", "a"], &["a|2", "b|1"]),
            (&[], &["a|2", "b|1"]),
            (&["b", "c"], &["a|2", "b|2", "c|1"]),
        ],
    );
}

#[test]
fn a_state_of_nulls_is_removed_and_a_key_that_comes_again_begins_anew() {
    let leaving = update(
        &[("word", "value")],
        &[("n", "count(*)")],
        &[("total", "CASE WHEN n = 0 THEN NULL ELSE coalesce(total, 0) + n END")],
    );
    check(
        &over_lines(vec![Operator::UpdateStateByKey(leaving)]),
        &[
            (&["a", "b"], &["a|1", "b|1"]),
            (&["a"], &["a|2"]),
            (&["b"], &["b|1"]),
            (&[], &[]),
            (&["a", "c"], &["a|1", "c|1"]),
        ],
    );
}

#[test]
fn state_has_several_columns_of_their_own_types() {
    let parts = ("split_part(value, ' ', 1)", "split_part(value, ' ', 2)");
    let best = update(
        &[("k", parts.0)],
        &[("longest", &format!("max({})", parts.1)), ("n", "count(*)")],
        &[
            ("last", "coalesce(longest, last)"),
            ("seen", "coalesce(seen, 0) + n"),
            ("mean", "CAST(coalesce(seen, 0) + n AS DOUBLE) / 2"),
        ],
    );
    check(
        &over_lines(vec![Operator::UpdateStateByKey(best)]),
        &[
            (&["x one", "y two"], &["x|one|1|0.5", "y|two|1|0.5"]),
            (
                &["x three", "x thirteen", ""],
                &["x|three|3|1.5", "y|two|1|0.5", "||1|0.5"],
            ),
        ],
    );
}

#[test]
fn the_state_before_the_first_batch_comes_from_a_table_and_each_key_has_it_once() {
    let initial = static_table("seen", &["word", "total"], &[&["a", "10"], &["z", "5"], &["y", "1"]]);
    for (step, expected) in [
        (
            Operator::UpdateStateByKey(UpdateStateByKey {
                initial: Some("SELECT word, CAST(total AS BIGINT) AS total FROM seen WHERE word <> 'y'".to_owned()),
                ..counting()
            }),
            [vec!["a|11", "b|1", "z|5"], vec!["a|11", "b|2", "z|5"]],
        ),
        (
            Operator::MapWithState(MapWithState {
                initial: Some("SELECT word, CAST(total AS BIGINT) AS total FROM seen".to_owned()),
                ..map_state(
                    &[("word", "value")],
                    &[("n", "count(*)")],
                    &[("total", "coalesce(total, 0) + n")],
                )
            }),
            [vec!["a|11", "b|1"], vec!["b|2"]],
        ),
    ] {
        let graph = over_lines(vec![step]);
        for partitions in PARTITIONS {
            let mut mini = Mini::new(&graph, std::slice::from_ref(&initial), partitions);
            for (lines, expected) in [(["a", "b"].as_slice(), &expected[0]), (["b"].as_slice(), &expected[1])] {
                let found = mini.batch(&[("lines", lines)]).remove("out").map(sorted);
                assert_eq!(found.unwrap(), *expected, "{partitions} partitions");
            }
            let state = mini.state("out");
            assert!(state.contains(&"z|5".to_owned()), "{state:?}");
        }
    }
}

#[test]
fn only_the_keys_of_the_batch_are_called() {
    let graph = over_lines(vec![Operator::MapWithState(map_state(
        &[("word", "value")],
        &[("n", "count(*)")],
        &[("total", "coalesce(total, 0) + n")],
    ))]);
    check(
        &graph,
        &[
            (&["a", "b", "a"], &["a|2", "b|1"]),
            (&[], &[]),
            (&["b", "c"], &["b|2", "c|1"]),
        ],
    );
}

/// Words that come, time out after three batches, and come again.
fn sessions() -> MapWithState {
    MapWithState {
        emit: columns(&[
            ("word", "word"),
            ("n", "n"),
            ("total", "total"),
            ("before", "old_total"),
            ("over", "timing_out"),
        ]),
        timeout: Some(Duration::from_secs(3)),
        ..map_state(
            &[("word", "value")],
            &[("n", "count(*)")],
            &[(
                "total",
                "CASE WHEN word = 'gone' THEN NULL ELSE coalesce(total, 0) + n END",
            )],
        )
    }
}

#[test]
fn a_key_times_out_in_the_batch_in_which_it_is_due_and_not_if_it_has_records_then() {
    check(
        &over_lines(vec![Operator::MapWithState(sessions())]),
        &[
            (
                &["a", "b", "gone"],
                &["a|1|1|null|false", "b|1|1|null|false", "gone|1|null|null|false"],
            ),
            (&["b"], &["b|1|2|1|false"]),
            (&[], &[]),
            // a was touched three seconds ago.
            (&[], &["a|0|1|1|true"]),
            // b would be due.
            (&["b", "a"], &["a|1|1|null|false", "b|1|3|2|false"]),
            (&[], &[]),
            (&[], &[]),
            (&[], &["a|0|1|1|true", "b|0|3|3|true"]),
            (&[], &[]),
        ],
    );
}

#[test]
fn snapshots_have_all_keys_after_each_batch() {
    let graph = job(
        vec![
            source("lines", vec![]),
            from("sessions", "lines", vec![Operator::MapWithState(sessions())]),
            from("all", "sessions", vec![Operator::StateSnapshots]),
        ],
        vec![table("sessions"), table("all")],
    );
    for partitions in PARTITIONS {
        let mut mini = Mini::new(&graph, &[], partitions);
        for (lines, calls, all) in [
            (
                ["a", "b"].as_slice(),
                vec!["a|1|1|null|false", "b|1|1|null|false"],
                vec!["a|1", "b|1"],
            ),
            (&["b"], vec!["b|1|2|1|false"], vec!["a|1", "b|2"]),
            (&[], vec![], vec!["a|1", "b|2"]),
            (&[], vec!["a|0|1|1|true"], vec!["b|2"]),
        ] {
            let mut found = mini.batch(&[("lines", lines)]);
            assert_eq!(found.remove("sessions").map(sorted).unwrap(), calls);
            assert_eq!(found.remove("all").map(sorted).unwrap(), all);
            assert_eq!(mini.state("sessions"), all);
        }
    }
}

#[test]
fn state_goes_on_in_every_batch_whoever_reads_it_and_how_often() {
    let graph = job(
        vec![
            source("lines", vec![]),
            from("counts", "lines", vec![Operator::UpdateStateByKey(counting())]),
            from("slow", "counts", vec![window(2, Some(2)), Operator::Count]),
            from(
                "other",
                "lines",
                vec![window(2, Some(2)), transform("SELECT value AS word FROM input")],
            ),
            from(
                "both",
                "other",
                vec![transform(
                    "SELECT counts.word, total FROM other JOIN counts ON other.word = counts.word",
                )],
            ),
        ],
        vec![table("slow"), table("both")],
    );
    for partitions in PARTITIONS {
        let mut mini = Mini::new(&graph, &[], partitions);
        assert!(mini.batch(&[("lines", &["a", "b"])]).is_empty());
        let found = mini.batch(&[("lines", &["a"])]);
        assert_eq!(found["slow"], ["4"]);
        assert_eq!(sorted(found["both"].clone()), ["a|2", "a|2", "b|1"]);
        mini.batch(&[("lines", &["c"])]);
        assert_eq!(mini.batch(&[("lines", &[])])["slow"], ["6"]);
    }
}

#[test]
fn a_batch_that_runs_again_begins_with_the_state_before_it() {
    for graph in [
        over_lines(vec![Operator::UpdateStateByKey(counting())]),
        over_lines(vec![Operator::MapWithState(sessions())]),
    ] {
        for partitions in PARTITIONS {
            let mut once = Mini::new(&graph, &[], partitions);
            let mut twice = Mini::new(&graph, &[], partitions);
            for lines in [
                ["a", "b"].as_slice(),
                &["b", "gone"],
                &["c", "a"],
                &[],
                &[],
                &["a"],
                &[],
            ] {
                let expected = once.batch(&[("lines", lines)]).remove("out").map(sorted);
                twice.batch(&[("lines", &["x", "gone", "b"])]);
                let found = twice.again(&[("lines", lines)]).remove("out").map(sorted);
                assert_eq!(found, expected);
                assert_eq!(twice.state("out"), once.state("out"));
            }
        }
    }
}

#[test]
fn a_batch_that_is_skipped_leaves_the_state_as_it_was() {
    for graph in [
        over_lines(vec![Operator::UpdateStateByKey(counting())]),
        over_lines(vec![Operator::MapWithState(MapWithState {
            timeout: None,
            ..sessions()
        })]),
    ] {
        let mut mini = Mini::new(&graph, &[], 3);
        // It had come to all partitions when it was given up.
        for lines in [["z"].as_slice(), &["y", "gone"]] {
            mini.batch(&[("lines", lines)]);
            mini.skip();
        }
        mini.batch(&[("lines", &["a", "b"])]);
        assert_eq!(mini.state("out"), ["a|1", "b|1"]);
        for lines in [["a", "c"].as_slice(), &["b", "b"]] {
            mini.batch(&[("lines", lines)]);
            mini.skip();
        }
        mini.batch(&[("lines", &["b"])]);
        assert_eq!(mini.state("out"), ["a|1", "b|2"]);
    }
}

#[test]
fn state_that_is_gone_fails_the_batch_and_never_begins_anew() {
    for graph in [
        over_lines(vec![Operator::UpdateStateByKey(counting())]),
        over_lines(vec![Operator::MapWithState(sessions())]),
    ] {
        let mut mini = Mini::new(&graph, &[], 2);
        mini.batch(&[("lines", &["a"])]);
        mini.forget_memory();
        let failure = mini.try_batch(&[("lines", &["a"])]).unwrap_err();
        assert_eq!(
            failure.message,
            "the state of `out` here is that of no batch, where batch number 2 needs that of batch number 1"
        );
    }
}

#[test]
fn faults_of_a_state_are_said_where_they_are() {
    let fault = |step: Operator| faults(&over_lines(vec![step]));
    for (state, message) in [
        (
            ("total", "totl + n"),
            "line 2: streams.out.steps[0].update_state_by_key.state.total: unknown column `totl` (did you mean `total`?)",
        ),
        (
            ("total", "total"),
            "line 2: streams.out.steps[0].update_state_by_key.state: the type of `total` cannot be told (cast it, such \
             as `CAST(... AS BIGINT)`)",
        ),
        (
            ("total", "sum(n)"),
            "line 2: streams.out.steps[0].update_state_by_key.state.total: `sum(n)` is an aggregate, and this step sees \
             one record at a time (use reduce_by_key, reduce or transform)",
        ),
    ] {
        let step = update(&[("word", "value")], &[("n", "count(*)")], &[state]);
        assert_eq!(fault(Operator::UpdateStateByKey(step)), message);
    }
    let step = UpdateStateByKey {
        initial: Some("seeen".to_owned()),
        ..counting()
    };
    assert_eq!(
        fault(Operator::UpdateStateByKey(step)),
        "line 2: streams.out.steps[0].update_state_by_key.initial: unknown table `seeen`"
    );
    assert_eq!(
        fault(Operator::StateSnapshots),
        "line 2: streams.out.steps[0].state_snapshots: is not the first step of a stream from one that ends with \
         map_with_state (begin a stream with `from: <that stream>` and this step)"
    );
}

#[test]
fn a_state_can_be_read_as_it_was_after_either_of_the_last_two_batches() {
    let graph = over_lines(vec![Operator::UpdateStateByKey(counting())]);
    for partitions in PARTITIONS {
        let mut mini = Mini::new(&graph, &[], partitions);
        for lines in [["a", "b"], ["b", "c"], ["d", "d"]] {
            mini.batch(&[("lines", &lines)]);
        }
        let rows = |rows: &[&str]| Some(rows.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(mini.state_at("out", 3), rows(&["a|1", "b|2", "c|1", "d|2"]));
        assert_eq!(mini.state_at("out", 2), rows(&["a|1", "b|2", "c|1"]));
        assert_eq!(mini.state_at("out", 1), None);
        mini.again(&[("lines", &["a"])]);
        assert_eq!(mini.state_at("out", 3), rows(&["a|2", "b|2", "c|1"]));
        assert_eq!(mini.state_at("out", 2), rows(&["a|1", "b|2", "c|1"]));
    }
}

/// One graph for each kind of state.
fn both_kinds() -> [JobGraph; 2] {
    [
        over_lines(vec![Operator::UpdateStateByKey(update(
            &[("word", "value"), ("length", "length(value)")],
            &[("n", "count(*)")],
            &[
                // Every word goes when it has not come for a batch after its third.
                (
                    "total",
                    "CASE WHEN n = 0 AND total > 2 THEN NULL ELSE coalesce(total, 0) + n END",
                ),
                (
                    "first",
                    "CASE WHEN n = 0 AND total > 2 THEN NULL ELSE coalesce(first, upper(word)) END",
                ),
            ],
        ))]),
        over_lines(vec![Operator::MapWithState(sessions())]),
    ]
}

/// Batches in which keys come, go, time out and come again.
fn comings_and_goings() -> Vec<Vec<&'static str>> {
    vec![
        vec!["a", "b", "a", "c", "a"],
        vec!["b", "gone", "d"],
        vec![],
        vec!["a", "a", "a rather long word that no view has inline"],
        vec!["c", "gone", "b"],
        vec![],
        vec!["e", "a"],
        vec![],
        vec![],
        vec![],
        vec!["b", "gone"],
    ]
}

#[test]
fn a_state_that_was_saved_goes_on_as_if_it_had_stayed() {
    for graph in both_kinds() {
        for partitions in PARTITIONS {
            let mut stays = Mini::new(&graph, &[], partitions);
            let mut moves = Mini::new(&graph, &[], partitions);
            for (i, lines) in comings_and_goings().iter().enumerate() {
                let expected = stays.batch(&[("lines", lines)]).remove("out").map(sorted);
                // A batch that runs again on a loaded state goes back to it.
                moves.batch(&[("lines", &["gone", "b", "x"])]);
                let found = moves.again(&[("lines", lines)]).remove("out").map(sorted);
                println!("{i} {expected:?} {found:?}");
                assert_eq!(found, expected, "batch {}, {partitions} partitions", i + 1);
                assert_eq!(moves.state("out"), stays.state("out"));
                if i % 3 != 1 {
                    moves.move_state();
                    assert_eq!(moves.state("out"), stays.state("out"));
                }
            }
        }
    }
}

#[test]
fn either_version_can_be_saved_and_later_batches_do_not_change_what_was_taken() {
    for graph in both_kinds() {
        let mut mini = Mini::new(&graph, &[], 3);
        mini.batch(&[("lines", &["a", "b"])]);
        let (memory, _) = mini.first_state();
        let taken = memory.state_version(1).unwrap().unwrap();
        let at_first = mini.saved(1);
        mini.batch(&[("lines", &["b", "c", "gone"])]);
        assert_eq!(mini.saved(1), at_first);
        for lines in [["a", "a", "d"], ["b", "gone", "d"], ["a", "e", "f"]] {
            mini.batch(&[("lines", &lines)]);
        }
        assert!(memory.state_version(1).unwrap().is_none());
        let mut late = Vec::new();
        taken.write(&mut late).unwrap();
        assert_eq!(Some(&late), at_first.values().next());
        assert_eq!(taken.rows() > 0, taken.size() > 0);
    }
}

#[test]
fn rows_that_were_replaced_and_keys_that_went_are_not_saved() {
    for graph in both_kinds() {
        let mut mini = Mini::new(&graph, &[], 1);
        for _ in 0..5 {
            mini.batch(&[("lines", &["a", "b", "gone"])]);
        }
        let [saved] = mini.saved(5).into_values().collect::<Vec<_>>().try_into().unwrap();
        let (_, rows) = crate::decode_ipc(&saved).unwrap();
        let rows: usize = rows.iter().map(|rows| rows.num_rows()).sum();
        assert_eq!(rows, mini.state("out").len());
    }
}

#[test]
fn a_saved_state_replaces_what_is_here() {
    use crate::StateHere::{Another, Here, Nothing};
    for graph in both_kinds() {
        let mut mini = Mini::new(&graph, &[], 2);
        let (memory, _) = mini.first_state();
        assert_eq!(memory.state_here(1), Nothing);
        let mut states = Vec::new();
        for lines in [["a", "b"], ["b", "c"], ["c", "d"], ["x", "y"]] {
            mini.batch(&[("lines", &lines)]);
            states.push(mini.state("out"));
        }
        assert_eq!(
            [1, 3, 4, 5].map(|index| memory.state_here(index)),
            [Another, Here, Here, Another]
        );
        let saved = mini.saved(3);
        mini.load_saved(3, &saved);
        assert_eq!(mini.state("out"), states[2]);
        assert_eq!(
            [2, 3, 4].map(|index| memory.state_here(index)),
            [Another, Here, Another]
        );
        mini.again(&[("lines", &["x", "y"])]);
        assert_eq!(mini.state("out"), states[3]);
        assert_eq!(memory.state_here(3), Here);
    }
}

#[test]
fn a_saved_state_of_another_kind_or_damaged_is_refused_and_what_is_here_stays() {
    let [all, touched] = both_kinds();
    let [mut all, mut touched] = [all, touched].map(|graph| Mini::new(&graph, &[], 1));
    all.batch(&[("lines", &["a", "b"])]);
    touched.batch(&[("lines", &["a", "b"])]);
    let first = |mini: &Mini| mini.saved(1).into_values().next().unwrap();
    let (of_all, of_touched) = (first(&all), first(&touched));
    let (memory, template) = touched.first_state();
    let refused = |bytes: &[u8]| memory.load_state(&template, 7, bytes).unwrap_err().to_string();
    assert_eq!(
        refused(&of_all),
        "it is another state: all_keys with word Utf8View, length Int32, total Int64, first Utf8View, where `out` is \
         touched_keys with word Utf8View, total Int64, __touched Int64"
    );
    // Behind the rows stands the end of the stream.
    for end in 0..of_touched.len() - 8 {
        refused(&of_touched[..end]);
    }
    assert_eq!(touched.state("out"), ["a|1", "b|1"]);
    assert_eq!(memory.state_here(1), crate::StateHere::Here);
}

#[test]
fn a_restore_has_the_state_and_no_index_of_a_window() {
    let [graph, _] = both_kinds();
    let mut mini = Mini::new(&graph, &[], 1);
    mini.batch(&[("lines", &["a", "b"])]);
    let (memory, template) = mini.first_state();
    let saved = mini.saved(1).into_values().next().unwrap();
    let state = memory.state_only();
    assert_eq!(state.state_here(1), crate::StateHere::Here);
    assert!(memory.index(SlotId(0)).is_some() && state.index(SlotId(0)).is_none());
    state.load_state(&template, 5, &saved).unwrap();
    assert_eq!(memory.state_here(5), crate::StateHere::Here);
    assert_eq!(memory.state().unwrap().unwrap().0, 5);
}

/// Totals by word with the batch in which each was touched last, by the definition.
#[derive(Default)]
struct Naive(BTreeMap<String, (i64, i64)>);

impl Naive {
    fn batch(&mut self, index: i64, lines: &[String], timeout: i64) -> Vec<String> {
        let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
        for line in lines {
            *counts.entry(line).or_default() += 1;
        }
        let mut rows = Vec::new();
        for (word, n) in &counts {
            let before = self.0.get(*word).map(|(total, _)| *total);
            let shown = before.map_or("null".to_owned(), |before| before.to_string());
            if *word == "gone" {
                self.0.remove(*word);
                rows.push(format!("{word}|{n}|null|{shown}|false"));
            } else {
                let total = before.unwrap_or_default() + n;
                self.0.insert((*word).to_owned(), (total, index));
                rows.push(format!("{word}|{n}|{total}|{shown}|false"));
            }
        }
        self.0.retain(|word, (total, touched)| {
            let over = index - *touched >= timeout;
            if over {
                rows.push(format!("{word}|0|{total}|{total}|true"));
            }
            !over
        });
        sorted(rows)
    }

    fn state(&self) -> Vec<String> {
        sorted(
            self.0
                .iter()
                .map(|(word, (total, _))| format!("{word}|{total}"))
                .collect(),
        )
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn state_is_what_its_definition_says(
        batches in prop::collection::vec((prop::collection::vec(0u8..12, 0..8), any::<(bool, bool)>()), 1..30),
        partitions in prop::sample::select(PARTITIONS.to_vec()),
    ) {
        let graph = over_lines(vec![Operator::MapWithState(sessions())]);
        let mut mini = Mini::new(&graph, &[], partitions);
        let mut naive = Naive::default();
        for (i, (words, (again, moves))) in batches.into_iter().enumerate() {
            let word = |n: u8| if n == 0 { "gone".to_owned() } else { format!("word {n}") };
            let lines: Vec<String> = words.into_iter().map(word).collect();
            let borrowed: Vec<&str> = lines.iter().map(String::as_str).collect();
            let (index, before) = (i as i64 + 1, naive.state());
            if again {
                mini.batch(&[("lines", &["word 1", "gone", "other"])]);
                let found = mini.again(&[("lines", &borrowed)]).remove("out").map(sorted);
                prop_assert_eq!(found, Some(naive.batch(i as i64 + 1, &lines, 3)));
            } else {
                let found = mini.batch(&[("lines", &borrowed)]).remove("out").map(sorted);
                prop_assert_eq!(found, Some(naive.batch(i as i64 + 1, &lines, 3)));
            }
            prop_assert_eq!(mini.state("out"), naive.state());
            prop_assert_eq!(mini.state_at("out", index), Some(naive.state()));
            if index > 1 {
                prop_assert_eq!(mini.state_at("out", index - 1), Some(before));
            }
            prop_assert_eq!(mini.state_at("out", index + 1), None);
            if moves {
                mini.move_state();
            }
        }
    }
}

/// Keeps the last two values of a key, and the time of the batch that brought them.
struct LastTwo;

impl StateUpdate for LastTwo {
    fn schema(&self, values: &SchemaRef) -> Result<SchemaRef, BoxError> {
        let [value] = values.fields().iter().as_slice() else {
            return Err(format!("it takes one value, not {}", values.fields().len()).into());
        };
        let fields = [
            Field::new("last", value.data_type().clone(), true),
            Field::new("before", value.data_type().clone(), true),
            Field::new("at", DataType::Int64, true),
        ];
        Ok(Arc::new(Schema::new(fields.to_vec())))
    }

    fn update(&self, batch: StateBatch) -> Result<Vec<ArrayRef>, BoxError> {
        let (mut last, mut before, mut at) = (Vec::new(), Vec::new(), Vec::new());
        let [lists] = batch.values.as_slice() else {
            return Err("one value".into());
        };
        for row in 0..batch.exists.len() {
            let text = |column: usize| {
                let column = batch.old[column].as_string_view();
                column.is_valid(row).then(|| column.value(row).to_owned())
            };
            assert_eq!(batch.exists.value(row), text(0).is_some());
            let mut kept: Vec<String> = [text(1), text(0)].into_iter().flatten().collect();
            let values = lists.value(row);
            let values = values.as_string_view();
            kept.extend(values.iter().flatten().map(str::to_owned));
            if values.iter().flatten().any(|value| value == "forget") {
                kept.clear();
            }
            let times = batch.old[2].as_primitive::<Int64Type>();
            at.push(match values.is_empty() {
                true if times.is_valid(row) => Some(times.value(row)),
                _ => (!kept.is_empty()).then_some(batch.batch_time.millis()),
            });
            last.push(kept.pop());
            before.push(kept.pop());
        }
        Ok(vec![
            Arc::new(StringViewArray::from_iter(last)),
            Arc::new(StringViewArray::from_iter(before)),
            Arc::new(Int64Array::from(at)),
        ])
    }
}

fn last_two() -> Registry {
    Registry::builder().state("last_two", LastTwo).build().unwrap()
}

#[test]
fn a_registered_function_has_all_values_of_a_key_and_its_state() {
    let pairs = || map(&[("k", "split_part(value, ' ', 1)"), ("v", "split_part(value, ' ', 2)")]);
    let native = || StateFunction::Native(NativeCall::new("last_two"));
    let all = Operator::UpdateStateByKey(UpdateStateByKey {
        keys: columns(&[("k", "k")]),
        values: Vec::new(),
        state: native(),
        initial: None,
        partitions: None,
    });
    let touched = Operator::MapWithState(MapWithState {
        keys: columns(&[("k", "k")]),
        values: columns(&[("value", "v")]),
        state: native(),
        emit: columns(&[("k", "k"), ("last", "last"), ("was", "old_last")]),
        timeout: None,
        initial: None,
        partitions: None,
    });
    let graph = job(
        vec![
            source("lines", vec![pairs()]),
            from("all", "lines", vec![all]),
            from("touched", "lines", vec![touched]),
        ],
        vec![table("all"), table("touched")],
    );
    for partitions in PARTITIONS {
        let mut mini = Mini::of_build(&graph, &[], partitions, &last_two());
        for (lines, all, touched) in [
            (
                ["a 1", "b 1"].as_slice(),
                vec!["a|1|null|1000", "b|1|null|1000"],
                vec!["a|1|null", "b|1|null"],
            ),
            (&["a 2"], vec!["a|2|1|2000", "b|1|null|1000"], vec!["a|2|1"]),
            (&["b forget"], vec!["a|2|1|2000"], vec!["b|null|1"]),
            (&["b 3"], vec!["a|2|1|2000", "b|3|null|4000"], vec!["b|3|null"]),
        ] {
            let mut found = mini.batch(&[("lines", lines)]);
            assert_eq!(sorted(found.remove("all").unwrap()), all, "{partitions} partitions");
            assert_eq!(
                sorted(found.remove("touched").unwrap()),
                touched,
                "{partitions} partitions"
            );
        }
    }
}

#[test]
fn a_state_function_that_is_not_registered_or_not_for_the_values_is_refused() {
    let fault = |name: &str, steps: Vec<Operator>| {
        let state = Operator::UpdateStateByKey(UpdateStateByKey {
            keys: columns(&[("k", "k")]),
            values: Vec::new(),
            state: StateFunction::Native(NativeCall::new(name)),
            initial: None,
            partitions: None,
        });
        let graph = over_lines(steps.into_iter().chain([state]).collect());
        let options = CompileOptions {
            partitions: 2,
            registry: last_two(),
        };
        block_on(compile(&graph, &[], &options)).unwrap_err().to_string()
    };
    let columns = |columns: &[(&str, &str)]| vec![map(columns)];
    assert_eq!(
        fault("last_tow", columns(&[("k", "value"), ("v", "value")])),
        "line 3: streams.out.steps[1].update_state_by_key.state.native: no function `last_tow` is registered (this build \
         has `last_two`)"
    );
    assert_eq!(
        fault("last_two", columns(&[("k", "value")])),
        "line 3: streams.out.steps[1].update_state_by_key.state: `last_two` is not for these values: it takes one value, \
         not 0"
    );
}
