//! Order, and SQL over several streams.

use tidemill_dstream::{Operator, SortKey};

use super::support::*;

fn numbers() -> Operator {
    map(&[("n", "CAST(nullif(value, '-') AS BIGINT)"), ("odd", "value LIKE '%1'")])
}

fn key(sql: &str, descending: bool) -> SortKey {
    SortKey {
        function: sql.into(),
        descending,
        nulls_first: None,
    }
}

fn sort_by(keys: Vec<SortKey>, limit: Option<u64>) -> Operator {
    Operator::SortBy { keys, limit }
}

const LINES: &[&str] = &["3", "11", "-", "7", "1", "8"];

/// The rows in order, under every partition count.
fn rows_of(steps: Vec<Operator>) -> Rows {
    let steps = [numbers()].into_iter().chain(steps).collect();
    let graph = job(vec![source("lines", steps)], vec![table("lines")]);
    let run = |partitions| {
        Mini::new(&graph, &[], partitions)
            .batch(&[("lines", LINES)])
            .remove("lines")
    };
    let rows = run(1).unwrap();
    for partitions in PARTITIONS {
        assert_eq!(run(partitions).unwrap(), rows, "{partitions} partitions");
    }
    rows
}

#[test]
fn sort_by_orders_the_whole_batch_and_puts_nulls_last_then_first() {
    let n = |rows: Rows| -> Vec<String> {
        rows.iter()
            .map(|row| row.split('|').next().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        n(rows_of(vec![sort_by(vec![key("n", false)], None)])),
        ["1", "3", "7", "8", "11", "null"]
    );
    assert_eq!(
        n(rows_of(vec![sort_by(vec![key("n", true)], None)])),
        ["null", "11", "8", "7", "3", "1"]
    );
    let nulls = SortKey {
        nulls_first: Some(true),
        ..key("n", false)
    };
    assert_eq!(n(rows_of(vec![sort_by(vec![nulls], Some(2))])), ["null", "1"]);
    assert_eq!(
        n(rows_of(vec![sort_by(
            vec![key("odd", true), key("-n", false)],
            Some(3)
        )])),
        ["11", "1", "8"]
    );
}

#[test]
fn steps_and_queries_behind_see_the_order() {
    let sorted = || sort_by(vec![key("n", true)], None);
    assert_eq!(
        rows_of(vec![sorted(), transform("SELECT n FROM input LIMIT 3")]),
        ["null", "11", "8"]
    );
    assert_eq!(
        rows_of(vec![sorted(), filter("n < 10"), map(&[("n", "n")])]),
        ["8", "7", "3", "1"]
    );
    let top = sort_by(vec![key("n", true)], Some(3));
    assert_eq!(
        rows_of(vec![top, Operator::Count]),
        ["3"],
        "a limit is part of the stream, whatever reads it"
    );
}

#[test]
fn a_sorted_stream_with_several_readers_stays_in_order() {
    let graph = job(
        vec![
            source("lines", vec![numbers(), sort_by(vec![key("n", false)], None)]),
            from("evens", "lines", vec![filter("n % 2 = 0 OR n > 6")]),
        ],
        vec![table("lines"), table("evens")],
    );
    for partitions in PARTITIONS {
        let outputs = Mini::new(&graph, &[], partitions).batch(&[("lines", LINES)]);
        assert_eq!(outputs["evens"], ["7|false", "8|false", "11|true"]);
        assert_eq!(outputs["lines"].len(), 6);
        assert_eq!(outputs["lines"][0], "1|true");
    }
}

#[test]
fn a_random_order_is_the_same_when_a_batch_runs_again() {
    let graph = job(
        vec![source(
            "lines",
            vec![numbers(), sort_by(vec![key("random()", false)], None)],
        )],
        vec![table("lines")],
    );
    for partitions in PARTITIONS {
        let run = || {
            let mut mini = Mini::new(&graph, &[], partitions);
            [0, 1].map(|_| mini.batch(&[("lines", LINES)]).remove("lines").unwrap())
        };
        let batches = run();
        assert_eq!(run(), batches);
        assert_eq!(batches[0].len(), LINES.len());
    }
}

#[test]
fn transform_with_reads_streams_and_tables() {
    let step = Operator::TransformWith {
        with: vec!["more".to_owned()],
        sql:
            "SELECT i.value, m.value AS other, t.colour FROM input i JOIN more m ON length(i.value) = length(m.value) \
              LEFT JOIN colours t ON t.k = i.value"
                .to_owned(),
    };
    let graph = job(
        vec![
            source("lines", vec![]),
            source("more", vec![]),
            from("out", "lines", vec![step]),
        ],
        vec![table("out")],
    );
    let colours = static_table("colours", &["k", "colour"], &[&["a", "red"]]);
    for partitions in PARTITIONS {
        let mut mini = Mini::new(&graph, std::slice::from_ref(&colours), partitions);
        let outputs = mini.batch(&[("lines", &["a", "bb", "ccc"]), ("more", &["x", "yy", "zz"])]);
        assert_eq!(sorted(outputs["out"].clone()), ["a|x|red", "bb|yy|null", "bb|zz|null"]);
    }
}
