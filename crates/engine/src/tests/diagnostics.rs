//! What a job's author is told.

use tidemill_dstream::{JobGraph, Operator};

use super::support::*;

fn with_step(step: Operator) -> JobGraph {
    job(
        vec![source("lines", vec![]), from("words", "lines", vec![step])],
        vec![table("words")],
    )
}

/// The one fault of a stream `words` with this step.
#[track_caller]
fn fault(step: Operator) -> String {
    let faults = try_compile(&with_step(step), &[], 2).unwrap_err();
    assert_eq!(faults.0.len(), 1, "{faults}");
    faults.to_string()
}

#[test]
fn an_unknown_column_comes_with_the_nearest_one() {
    let faults = try_compile(&with_step(filter("valeu = 'x'")), &[], 2).unwrap_err();
    assert_eq!(faults.0[0].line, Some(2));
    assert_eq!(faults.0[0].path, "streams.words.steps[0].filter");
    assert_eq!(faults.0[0].subject.as_deref(), Some("valeu"));
    assert_eq!(
        faults.to_string(),
        "line 2: streams.words.steps[0].filter: unknown column `valeu` (did you mean `value`?)"
    );
}

#[test]
fn an_unknown_function_comes_with_the_nearest_one() {
    assert_eq!(
        fault(map(&[("word", "lowr(value)")])),
        "line 2: streams.words.steps[0].map.word: unknown function `lowr` (did you mean `lower`?)"
    );
    assert_eq!(
        fault(reduce_by_key(&[("k", "value")], &[("n", "cuont(*)")])),
        "line 2: streams.words.steps[0].reduce_by_key.n: unknown function `cuont` (did you mean `count`?)"
    );
}

#[test]
fn a_name_with_capitals_asks_for_quotes() {
    let graph = job(
        vec![source("lines", vec![map(&[("Tag", "value")]), filter("Tag = 'x'")])],
        vec![table("lines")],
    );
    assert_eq!(
        faults(&graph),
        "line 3: streams.lines.steps[1].filter: unknown column `tag` (write it in double quotes: \"Tag\")"
    );
}

#[test]
fn type_errors_name_the_types() {
    let text = fault(filter("value > interval '1 day'"));
    assert!(
        text.starts_with("line 2: streams.words.steps[0].filter: ") && text.contains("Utf8View > Interval"),
        "{text}"
    );
    let text = fault(map(&[("n", "sqrt(make_array(value))")]));
    assert!(
        text.contains("streams.words.steps[0].map.n: ") && !text.contains('\n'),
        "{text}"
    );
    let text = fault(map(&[("n", "date_trunc(value)")]));
    assert!(text.contains("date_trunc") && text.len() < 300, "{text}");
}

#[test]
fn a_filter_has_to_be_boolean() {
    assert_eq!(
        fault(filter("length(value)")),
        "line 2: streams.words.steps[0].filter: the predicate is Int32, it has to be Boolean (compare it with something, for example `count > 1`)"
    );
}

#[test]
fn a_flat_map_has_to_have_a_list() {
    let text = fault(flat_map(&[("word", "lower(value)")]));
    assert!(
        text.starts_with("line 2: streams.words.steps[0].flat_map: no column is a list: `word` is Utf8View"),
        "{text}"
    );
}

#[test]
fn a_union_names_the_column_and_both_types() {
    let graph = job(
        vec![
            source("lines", vec![map(&[("a", "value"), ("b", "1")])]),
            source("more", vec![map(&[("a", "length(value)"), ("c", "2")])]),
            from(
                "both",
                "lines",
                vec![Operator::Union {
                    with: vec!["more".to_owned()],
                }],
            ),
        ],
        vec![table("both")],
    );
    let text = faults(&graph);
    assert!(
        text.contains("column `a` is Utf8View here and Int32 in stream `more`"),
        "{text}"
    );
    assert!(text.contains("stream `more` has no column `b`"), "{text}");
    assert!(
        text.contains("stream `more` has a column `c` that is not here"),
        "{text}"
    );
}

#[test]
fn sql_that_cannot_be_read_says_where() {
    let text = fault(transform("SELEC value FROM input"));
    assert!(
        text.starts_with("line 2: streams.words.steps[0].transform: not valid SQL: "),
        "{text}"
    );
    let text = fault(filter("value = "));
    assert!(text.contains("not valid SQL: "), "{text}");
    assert_eq!(
        fault(filter(" ")),
        "line 2: streams.words.steps[0].filter: is empty (write an SQL expression)"
    );
}

#[test]
fn a_transform_only_queries() {
    for sql in [
        "DROP TABLE lines",
        "INSERT INTO lines VALUES ('x')",
        "CREATE VIEW v AS SELECT 1",
        "COPY input TO 'x.csv'",
    ] {
        let text = fault(transform(sql));
        assert!(
            text.contains("is not a query") || text.contains("not valid SQL"),
            "{text}"
        );
    }
    let text = fault(transform(
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT * FROM r",
    ));
    assert!(text.to_lowercase().contains("recursive"), "{text}");
    let text = fault(transform("SELECT 1; SELECT 2"));
    assert!(text.contains("single"), "{text}");
}

#[test]
fn names_in_sql_are_looked_up() {
    let text = fault(transform("SELECT * FROM line"));
    assert!(
        text.contains("unknown stream or table `line` (did you mean `lines`?)"),
        "{text}"
    );
    let text = fault(transform(
        "SELECT l.value, i.value FROM input i JOIN lines l ON i.value = l.value",
    ));
    assert!(
        text.contains("the result has two columns `value` (give one of them another name with AS)"),
        "{text}"
    );
    let text = fault(transform("SELECT value FROM input i JOIN lines l ON i.value = l.value"));
    assert!(text.contains("column `value` is ambiguous"), "{text}");
    let text = fault(transform("SELECT (SELECT value FROM input) AS v"));
    assert!(text.contains("has to give one row"), "{text}");
}

#[test]
fn aggregates_stand_in_reducing_steps_only() {
    let text = fault(map(&[("n", "count(*)")]));
    assert!(
        text.contains("is an aggregate, and this step sees one record at a time"),
        "{text}"
    );
    let text = fault(reduce_by_key(&[("k", "value")], &[("n", "lower(value)")]));
    assert!(text.contains("is not an aggregate"), "{text}");
    let text = fault(reduce_by_key(
        &[("k", "length(value)")],
        &[("n", "concat(value, max(value))")],
    ));
    assert!(
        text.contains("column `value` is neither a key nor inside of an aggregate"),
        "{text}"
    );
    let text = fault(reduce_by_key(&[("k", "value")], &[("k", "count(*)")]));
    assert!(text.contains("column `k` is defined twice"), "{text}");
}

#[test]
fn subqueries_and_window_functions_belong_into_a_transform() {
    for sql in ["value IN (SELECT value FROM lines)", "row_number() OVER () > 1"] {
        let text = fault(filter(sql));
        assert!(text.contains("use transform"), "{text}");
    }
}

#[test]
fn a_hostile_expression_is_refused_and_nothing_overflows() {
    let nested = format!("{}1{}", "(".repeat(20_000), ")".repeat(20_000));
    let long = format!("1{}", " + 1".repeat(20_000));
    let signs = "-".repeat(10_000) + "1";
    let nots = "NOT ".repeat(10_000) + "true";
    let cases = "CASE WHEN true THEN ".repeat(2_000) + "1" + &" END".repeat(2_000);
    for sql in [&nested, &long, &signs, &nots, &cases] {
        fault(map(&[("n", sql)]));
        fault(transform(&format!("SELECT {sql} AS n FROM input")));
    }
    // What the limit lets through works all the way.
    let most = format!("length(value){}", " + 1".repeat(399));
    let graph = job(vec![source("lines", vec![map(&[("n", &most)])])], vec![table("lines")]);
    assert_eq!(Mini::new(&graph, &[], 2).batch(&[("lines", &["x"])])["lines"], ["400"]);
}

#[test]
fn windows_fit_the_slide_of_their_input() {
    let text = fault(Operator::Window {
        length: std::time::Duration::from_millis(1500),
        slide: None,
    });
    assert!(text.contains("length 1.5s is not a multiple of 1s"), "{text}");
    let graph = job(
        vec![
            source("lines", vec![window(2, Some(2))]),
            from("words", "lines", vec![window(3, None)]),
        ],
        vec![table("words")],
    );
    assert!(
        faults(&graph).contains("length 3s is not a multiple of 2s"),
        "{}",
        faults(&graph)
    );
}

#[test]
fn faults_of_independent_streams_come_together_and_those_of_dependent_ones_do_not() {
    let graph = job(
        vec![
            source("lines", vec![filter("a")]),
            from("after", "lines", vec![filter("also_wrong")]),
            source("more", vec![map(&[("x", "b"), ("y", "c")])]),
        ],
        vec![table("after"), query("nowhere", "t", "SELECT 1"), table("more")],
    );
    let text = faults(&graph);
    assert_eq!(text.lines().count(), 4, "{text}");
    assert!(
        text.contains("line 90: outputs[1].table: unknown stream `nowhere`"),
        "{text}"
    );
}

#[test]
fn a_cycle_through_sql_is_found() {
    let graph = job(
        vec![
            source("lines", vec![]),
            from(
                "a",
                "lines",
                vec![transform(
                    "SELECT input.value FROM input JOIN b ON input.value = b.value",
                )],
            ),
            from("b", "a", vec![]),
        ],
        vec![table("b")],
    );
    assert!(
        faults(&graph).contains("streams.a: reads itself through other streams"),
        "{}",
        faults(&graph)
    );
}

#[test]
fn the_query_of_a_table_is_checked_at_its_place() {
    let graph = job(
        vec![source("lines", vec![])],
        vec![query("lines", "top", "SELECT valu FROM lines")],
    );
    assert_eq!(
        faults(&graph),
        "line 90: outputs[0].table.query: unknown column `valu` (did you mean `value`?)"
    );
}
