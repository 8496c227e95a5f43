//! Long chains of steps and streams: the rows are those of every step, and no stage is a tower.

use tidemill_dstream::plan::{SlotKind, StageOutput};
use tidemill_dstream::{JobGraph, Operator};

use super::support::*;
use crate::CompiledJob;

fn repeat(step: &Operator, times: usize) -> Vec<Operator> {
    in_turn(std::slice::from_ref(step), times)
}

fn in_turn(steps: &[Operator], times: usize) -> Vec<Operator> {
    vec![steps; times].concat()
}

/// A source of numbers, and a stream of steps from it.
fn numbers(steps: Vec<Operator>) -> JobGraph {
    let lines = source("lines", vec![map(&[("n", "CAST(value AS BIGINT)")])]);
    job(vec![lines, from("long", "lines", steps)], vec![table("long")])
}

fn compiled(graph: &JobGraph) -> CompiledJob {
    try_compile(graph, &[], 2).unwrap()
}

/// The operators of each stage.
fn heights(compiled: &CompiledJob) -> Vec<usize> {
    let decoded = compiled
        .templates
        .iter()
        .map(|bytes| crate::Template::decode(bytes, &compiled.registry).unwrap());
    decoded.map(|template| template.display().lines().count()).collect()
}

#[test]
fn a_chain_of_maps_is_cut_where_its_stage_becomes_too_high() {
    // A column that is named twice is not put into the next expression, so every map is an operator.
    let step = map(&[("n", "n % 7 + n % 5 + 1")]);
    let graph = numbers(repeat(&step, 300));
    let compiled = compiled(&graph);
    let heights = heights(&compiled);
    assert_eq!(compiled.plan.stages.len(), 4, "{heights:?}");
    assert!(heights.iter().all(|height| *height < 110), "{heights:?}");
    // Rows stay where they are: each stage reads what the one before kept.
    for stage in &compiled.plan.stages {
        assert!(
            matches!(stage.output, StageOutput::Result { .. }),
            "{}",
            stage.description
        );
        let slots: Vec<_> = stage.slots.iter().map(|slot| &slot.kind).collect();
        assert!(
            matches!(
                slots[..],
                [SlotKind::Source { .. } | SlotKind::Dataset { batches: 1, .. }]
            ),
            "{slots:?}"
        );
    }
    let expected = |n: i64| (0..300).fold(n, |n, _| n % 7 + n % 5 + 1).to_string();
    check(
        &graph,
        "long",
        &[(&["1", "40"], Some(&[&expected(1), &expected(40)])), (&[], Some(&[]))],
    );
}

#[test]
fn what_fits_in_one_stage_stays_there_and_is_planned_in_pieces() {
    let steps = [filter("n > 0"), flat_map(&[("n", "[n, n]")])];
    let compiled = compiled(&numbers(
        [in_turn(&steps, 2), repeat(&map(&[("n", "n % 7 + n % 5")]), 40)].concat(),
    ));
    assert_eq!(compiled.plan.stages.len(), 1);
    // Pieces do not know of each other, so the filters stay above the lists of the steps before them.
    assert!(heights(&compiled)[0] > 40);
}

#[test]
fn a_filter_behind_columns_that_are_named_twice_is_not_put_together_without_end() {
    // Two to the power of thirty, if it were written out.
    let steps = [
        repeat(&map(&[("n", "n % 1000 + n % 10 + 1")]), 30),
        vec![filter("n > 10")],
    ]
    .concat();
    let expected = |n: i64| (0..30).fold(n, |n, _| n % 1000 + n % 10 + 1);
    let (one, two) = (expected(1), expected(5));
    assert!(one > 10 && two > 10);
    check(
        &numbers(steps),
        "long",
        &[(&["1", "5"], Some(&[&one.to_string(), &two.to_string()]))],
    );
}

#[test]
fn streams_that_each_begin_with_the_one_before_are_cut_alike() {
    let step = |i: usize| match i % 4 {
        0 => map(&[("n", "n + 1")]),
        1 => Operator::Union {
            with: vec!["lines".to_owned()],
        },
        2 => Operator::Distinct { partitions: None },
        _ => transform("SELECT n FROM input WHERE n > 0"),
    };
    let mut streams = vec![source("lines", vec![map(&[("n", "CAST(value AS BIGINT)")])])];
    for i in 0..240 {
        let parent = streams[i].name.clone();
        streams.push(from(&format!("s{i}"), &parent, vec![step(i)]));
    }
    let graph = job(streams, vec![table("s239")]);
    let heights = heights(&compiled(&graph));
    assert!(heights.iter().all(|height| *height < 200), "{heights:?}");
    // One and two, and with every fourth stream a larger one.
    let expected: Vec<String> = (1..=62).map(|n| n.to_string()).collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    check(&graph, "s239", &[(&["1", "2"], Some(&expected))]);
}

#[test]
fn deep_streams_may_be_joined_with_each_other_and_with_themselves() {
    let deep = |name: &str| from(name, "lines", repeat(&map(&[("n", "n % 7 + n % 5")]), 90));
    let join = Operator::TransformWith {
        with: vec!["left".to_owned(), "right".to_owned()],
        sql:
            "SELECT l.n AS l, r.n AS r FROM \"left\" l JOIN \"right\" r ON l.n = r.n WHERE l.n IN (SELECT n FROM input)"
                .to_owned(),
    };
    let lines = source("lines", vec![map(&[("n", "CAST(value AS BIGINT)")])]);
    let graph = job(
        vec![lines, deep("left"), deep("right"), from("both", "left", vec![join])],
        vec![table("both")],
    );
    let heights = heights(&compiled(&graph));
    assert!(heights.iter().all(|height| *height < 110), "{heights:?}");
    let n = (0..90).fold(3, |n, _| n % 7 + n % 5).to_string();
    check(&graph, "both", &[(&["3"], Some(&[&format!("{n}|{n}")]))]);
}

#[test]
fn a_union_of_many_streams_is_not_deep() {
    let many = Operator::Union {
        with: vec!["lines".to_owned(); 300],
    };
    let graph = numbers(vec![many, Operator::Count]);
    check(&graph, "long", &[(&["1"], Some(&["301"]))]);
}
