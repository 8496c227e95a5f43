//! SQL over batches: ordering, joins, subqueries.

use tidemill_dstream::Operator;

use super::support::*;
use crate::TableData;

const WORDS: &[&str] = &["b 2", "a 1", "c 3", "a 4", "d 5"];

fn words() -> Vec<tidemill_dstream::Operator> {
    vec![map(&[
        ("k", "split_part(value, ' ', 1)"),
        ("n", "CAST(split_part(value, ' ', 2) AS BIGINT)"),
    ])]
}

/// The rows of the transform over `WORDS`, in order, under every partition count.
fn ordered(sql: &str, tables: &[TableData]) -> Rows {
    let graph = job(
        vec![source("lines", words()), from("out", "lines", vec![transform(sql)])],
        vec![table("out")],
    );
    let run = |partitions| {
        Mini::new(&graph, tables, partitions)
            .batch(&[("lines", WORDS)])
            .remove("out")
            .unwrap()
    };
    let rows = run(1);
    for partitions in PARTITIONS {
        assert_eq!(run(partitions), rows, "{partitions} partitions");
    }
    rows
}

/// The same for queries that leave the order open.
fn unordered(sql: &str, tables: &[TableData]) -> Rows {
    let graph = job(
        vec![source("lines", words()), from("out", "lines", vec![transform(sql)])],
        vec![table("out")],
    );
    let run = |partitions| {
        sorted(
            Mini::new(&graph, tables, partitions)
                .batch(&[("lines", WORDS)])
                .remove("out")
                .unwrap(),
        )
    };
    let rows = run(1);
    for partitions in PARTITIONS {
        assert_eq!(run(partitions), rows, "{partitions} partitions");
    }
    rows
}

fn colours() -> TableData {
    static_table(
        "colours",
        &["k", "colour"],
        &[&["a", "red"], &["c", "blue"], &["x", "grey"]],
    )
}

#[test]
fn order_by_sorts_the_batch_with_and_without_limit() {
    assert_eq!(
        ordered("SELECT k, n FROM input ORDER BY n DESC", &[]),
        ["d|5", "a|4", "c|3", "b|2", "a|1"]
    );
    assert_eq!(
        ordered("SELECT k, n FROM input ORDER BY k, n LIMIT 2 OFFSET 1", &[]),
        ["a|4", "b|2"]
    );
    assert_eq!(
        ordered("SELECT n FROM input WHERE n > 1 ORDER BY n LIMIT 1", &[]),
        ["2"]
    );
}

#[test]
fn limit_without_order_takes_that_many() {
    assert_eq!(
        unordered("SELECT count(*) AS n FROM (SELECT * FROM input LIMIT 3)", &[]),
        ["3"]
    );
}

#[test]
fn the_batch_goes_by_input_and_by_the_name_of_the_stream() {
    assert_eq!(ordered("SELECT max(n) AS n FROM input", &[]), ["5"]);
    assert_eq!(ordered("SELECT max(n) AS n FROM out", &[]), ["5"]);
    assert_eq!(
        ordered("SELECT max(out.n) AS n FROM out JOIN input ON out.n = input.n", &[]),
        ["5"]
    );
}

#[test]
fn joins_with_a_table_of_every_kind() {
    let join = |kind: &str| {
        unordered(
            &format!("SELECT i.k, i.n, c.k AS table_key, colour FROM input i {kind} JOIN colours c ON i.k = c.k"),
            &[colours()],
        )
    };
    assert_eq!(join("INNER"), ["a|1|a|red", "a|4|a|red", "c|3|c|blue"]);
    assert_eq!(
        join("LEFT"),
        ["a|1|a|red", "a|4|a|red", "b|2|null|null", "c|3|c|blue", "d|5|null|null"]
    );
    assert_eq!(
        join("RIGHT"),
        ["a|1|a|red", "a|4|a|red", "c|3|c|blue", "null|null|x|grey"]
    );
    assert_eq!(
        join("FULL"),
        [
            "a|1|a|red",
            "a|4|a|red",
            "b|2|null|null",
            "c|3|c|blue",
            "d|5|null|null",
            "null|null|x|grey"
        ]
    );
    let exists = |not: &str| {
        unordered(
            &format!("SELECT k, n FROM input i WHERE {not} EXISTS (SELECT 1 FROM colours c WHERE c.k = i.k)"),
            &[colours()],
        )
    };
    assert_eq!(exists(""), ["a|1", "a|4", "c|3"]);
    assert_eq!(exists("NOT"), ["b|2", "d|5"]);
    assert_eq!(
        unordered(
            "SELECT n FROM input WHERE k NOT IN (SELECT k FROM colours)",
            &[colours()]
        ),
        ["2", "5"]
    );
    assert_eq!(
        unordered(
            "SELECT colour FROM colours WHERE k NOT IN (SELECT k FROM input)",
            &[colours()]
        ),
        ["grey"]
    );
    assert_eq!(
        unordered(
            "SELECT colour FROM colours c LEFT JOIN input i ON c.k = i.k WHERE i.k IS NULL",
            &[colours()]
        ),
        ["grey"]
    );
}

#[test]
fn joins_without_equality() {
    let sql = |kind: &str| format!("SELECT i.k, c.colour FROM input i {kind} JOIN colours c ON i.k > c.k");
    assert_eq!(
        unordered(&sql("INNER"), &[colours()]),
        ["b|red", "c|red", "d|blue", "d|red"]
    );
    assert_eq!(
        unordered(&sql("LEFT"), &[colours()]),
        ["a|null", "a|null", "b|red", "c|red", "d|blue", "d|red"]
    );
    assert_eq!(
        unordered(&sql("RIGHT"), &[colours()]),
        ["b|red", "c|red", "d|blue", "d|red", "null|grey"]
    );
    assert_eq!(unordered(&sql("FULL"), &[colours()]).len(), 7);
    assert_eq!(
        unordered(
            "SELECT i.k, c.k AS c FROM input i CROSS JOIN colours c WHERE n > 4",
            &[colours()]
        ),
        ["d|a", "d|c", "d|x"]
    );
}

#[test]
fn joins_with_another_stream_of_every_kind() {
    let right = vec![map(&[("k", "value"), ("m", "length(value)")])];
    for (kind, expected) in [
        ("INNER", vec!["a|1|a", "a|4|a"]),
        ("LEFT", vec!["a|1|a", "a|4|a", "b|2|null"]),
        ("RIGHT", vec!["a|1|a", "a|4|a", "null|null|zz"]),
        ("FULL", vec!["a|1|a", "a|4|a", "b|2|null", "null|null|zz"]),
        ("LEFT SEMI", vec!["a|1", "a|4"]),
        ("LEFT ANTI", vec!["b|2"]),
    ] {
        let columns = if kind.starts_with("LEFT ") {
            "l.k, l.n"
        } else {
            "l.k, l.n, r.k AS other"
        };
        let sql = format!("SELECT {columns} FROM input l {kind} JOIN more r ON l.k = r.k");
        let graph = job(
            vec![
                source("lines", words()),
                source("more", right.clone()),
                from("out", "lines", vec![transform(&sql)]),
            ],
            vec![table("out")],
        );
        for partitions in PARTITIONS {
            let mut mini = Mini::new(&graph, &[], partitions);
            let outputs = mini.batch(&[("lines", &["a 1", "b 2", "a 4"]), ("more", &["a", "zz"])]);
            assert_eq!(
                sorted(outputs["out"].clone()),
                expected,
                "{kind}, {partitions} partitions"
            );
            let outputs = mini.batch(&[("lines", &["a 1"])]);
            assert_eq!(
                outputs["out"].len(),
                usize::from(!matches!(kind, "INNER" | "RIGHT" | "LEFT SEMI")),
                "{kind}"
            );
        }
    }
}

#[test]
fn a_join_keeps_nothing_from_one_batch_to_the_next() {
    let graph = job(
        vec![
            source("lines", words()),
            from(
                "out",
                "lines",
                vec![transform("SELECT a.n, b.n AS m FROM input a JOIN input b ON a.k = b.k")],
            ),
        ],
        vec![table("out")],
    );
    for partitions in PARTITIONS {
        let mut mini = Mini::new(&graph, &[], partitions);
        assert_eq!(mini.batch(&[("lines", &["a 1"])])["out"], ["1|1"]);
        assert_eq!(mini.batch(&[("lines", &["a 2"])])["out"], ["2|2"]);
        assert!(mini.batch(&[])["out"].is_empty());
    }
}

#[test]
fn scalar_subqueries_see_the_whole_batch() {
    assert_eq!(
        unordered("SELECT k FROM input WHERE n > (SELECT avg(n) FROM input)", &[]),
        ["a", "d"]
    );
    assert_eq!(
        unordered(
            "SELECT n, (SELECT count(*) FROM colours) AS c FROM input WHERE n < 3",
            &[colours()]
        ),
        ["1|3", "2|3"]
    );
    assert_eq!(
        unordered(
            "SELECT k, count(*) AS c FROM input WHERE n > (SELECT min(n) FROM input) GROUP BY k",
            &[]
        ),
        ["a|1", "b|1", "c|1", "d|1"]
    );
    assert_eq!(
        unordered(
            "SELECT n FROM input i WHERE n = (SELECT max(n) FROM input j WHERE j.k = i.k)",
            &[]
        ),
        ["2", "3", "4", "5"]
    );
}

#[test]
fn window_functions_rank_within_and_over_the_batch() {
    let ranked = "SELECT k, n, row_number() OVER (PARTITION BY k ORDER BY n) AS r FROM input";
    assert_eq!(unordered(ranked, &[]), ["a|1|1", "a|4|2", "b|2|1", "c|3|1", "d|5|1"]);
    assert_eq!(
        ordered(
            "SELECT n, sum(n) OVER (ORDER BY n) AS running FROM input ORDER BY n",
            &[]
        ),
        ["1|1", "2|3", "3|6", "4|10", "5|15"]
    );
    assert_eq!(
        unordered(&format!("SELECT k, n FROM ({ranked}) WHERE r <= 1"), &[]),
        ["a|1", "b|2", "c|3", "d|5"]
    );
}

#[test]
fn unions_distinct_grouping_sets_and_values() {
    assert_eq!(
        unordered("SELECT k FROM input UNION SELECT colour FROM colours", &[colours()]),
        ["a", "b", "blue", "c", "d", "grey", "red"]
    );
    assert_eq!(unordered("SELECT DISTINCT k FROM input", &[]), ["a", "b", "c", "d"]);
    assert_eq!(
        unordered("SELECT k, count(*) AS c FROM input GROUP BY ROLLUP (k)", &[]),
        ["a|2", "b|1", "c|1", "d|1", "null|5"]
    );
    assert_eq!(unordered("SELECT count(*) AS n FROM colours", &[colours()]), ["3"]);
    assert_eq!(unordered("SELECT 1 AS one", &[]), ["1"]);
    assert_eq!(
        unordered(
            "SELECT i.n, v.x FROM input i JOIN (VALUES ('a', 10), ('d', 20)) AS v(k, x) ON i.k = v.k",
            &[]
        ),
        ["1|10", "4|10", "5|20"]
    );
    assert_eq!(unordered("SELECT value FROM range(0, 3)", &[]), ["0", "1", "2"]);
    assert_eq!(
        unordered(
            "WITH top AS (SELECT * FROM input WHERE n > 3) SELECT a.n, b.n AS m FROM top a JOIN top b ON a.n < b.n",
            &[]
        ),
        ["4|5"]
    );
}

#[test]
fn a_table_can_be_loaded_again_without_compiling() {
    let sql = "SELECT i.k, colour FROM input i JOIN colours c ON i.k = c.k";
    let count = "SELECT count(*) AS n FROM colours";
    let graph = job(
        vec![
            source("lines", words()),
            from("out", "lines", vec![transform(sql)]),
            from("size", "lines", vec![transform(count)]),
        ],
        vec![table("out"), table("size")],
    );
    for partitions in PARTITIONS {
        let mut mini = Mini::new(&graph, &[colours()], partitions);
        assert_eq!(mini.batch(&[("lines", &["b 1"])])["out"], Vec::<String>::new());
        mini.load(static_table("colours", &["k", "colour"], &[&["b", "pink"]]));
        let outputs = mini.batch(&[("lines", &["b 1"])]);
        assert_eq!(outputs["out"], ["b|pink"]);
        assert_eq!(outputs["size"], ["1"]);
    }
}

#[test]
fn a_failing_expression_is_the_users_failure() {
    use tidemill_types::FailureKind;
    let graph = job(
        vec![source("lines", vec![map(&[("n", "CAST(value AS BIGINT)")])])],
        vec![table("lines")],
    );
    let failure = Mini::new(&graph, &[], 2)
        .try_batch(&[("lines", &["1", "x"])])
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::User);
    assert!(failure.message.contains("'x'"), "{failure}");
    let graph = job(
        vec![source("lines", vec![map(&[("n", "1 / length(value)")])])],
        vec![table("lines")],
    );
    let failure = Mini::new(&graph, &[], 2)
        .try_batch(&[("lines", &["1", ""])])
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::User);
}

#[test]
fn names_with_capitals_hyphens_and_dots_are_quoted() {
    let graph = job(
        vec![
            source("user-Clicks", vec![map(&[("User.Name", "value"), ("n", "1")])]),
            from(
                "both",
                "user-Clicks",
                vec![
                    filter("\"User.Name\" <> 'x'"),
                    reduce_by_key(&[("The Key", "\"User.Name\"")], &[("Count", "count(*)")]),
                    transform(
                        "SELECT b.\"Count\" + 1 AS \"C\" FROM both b JOIN \"user-Clicks\" u ON b.\"The Key\" = u.\"User.Name\"",
                    ),
                ],
            ),
        ],
        vec![table("both")],
    );
    for partitions in PARTITIONS {
        assert_eq!(
            Mini::new(&graph, &[], partitions).batch(&[("user-Clicks", &["a", "x"])])["both"],
            ["2"]
        );
    }
}

/// DataFusion sorts below a union and merges above it, and does not sort by a column with one value.
#[test]
fn rows_are_in_order_also_above_a_union_and_an_exchange() {
    let both = |sql: &str| {
        let union = Operator::Union {
            with: vec!["lines".to_owned()],
        };
        let graph = job(
            vec![
                source("lines", words()),
                from("out", "lines", vec![union, transform(sql)]),
            ],
            vec![table("out")],
        );
        PARTITIONS.map(|partitions| {
            Mini::new(&graph, &[], partitions)
                .batch(&[("lines", WORDS)])
                .remove("out")
                .unwrap()
        })
    };
    for rows in both("SELECT k, n FROM input ORDER BY k, n LIMIT 3") {
        assert_eq!(rows, ["a|1", "a|1", "a|4"]);
    }
    for rows in both("SELECT k, n, row_number() OVER (PARTITION BY k ORDER BY k, n) AS r FROM input") {
        let expected = [
            "a|1|1", "a|1|2", "a|4|3", "a|4|4", "b|2|1", "b|2|2", "c|3|1", "c|3|2", "d|5|1", "d|5|2",
        ];
        assert_eq!(sorted(rows), expected);
    }
    let constant = "SELECT d, row_number() OVER (PARTITION BY d ORDER BY d) AS r FROM (SELECT 'x' AS d, n FROM input)";
    assert_eq!(unordered(constant, &[]), ["x|1", "x|2", "x|3", "x|4", "x|5"]);
}
