//! Broadcast variables in expressions, in SQL, in joins and in registered functions.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use tidemill_dstream::{BroadcastDef, BroadcastSource, JobGraph, JoinKey, JoinKind, Line, Literal, Operator, Shape};
use tidemill_types::FailureKind;

use super::support::*;
use crate::{BroadcastRows, Determinism, Registry, TableData, broadcast, evaluate_query, literal_rows};

fn def(name: &str, source: BroadcastSource) -> BroadcastDef {
    BroadcastDef {
        name: name.to_owned(),
        source,
        shape: None,
        reload: None,
        updatable: false,
        line: Line(Some(40)),
    }
}

fn stopwords() -> BroadcastDef {
    def(
        "stopwords",
        BroadcastSource::List(vec![
            Literal::from("the"),
            Literal::from("a"),
            Literal::Null,
            Literal::from("the"),
        ]),
    )
}

fn countries() -> BroadcastDef {
    let entries = vec![
        (Literal::from("AT"), Literal::from("Austria")),
        (Literal::from("KE"), Literal::from("Kenya")),
        (Literal::from("XX"), Literal::Null),
    ];
    def("countries", BroadcastSource::Map(entries))
}

fn limit() -> BroadcastDef {
    def("limit_", BroadcastSource::Value(Literal::Int(3)))
}

fn people() -> BroadcastDef {
    let row = |id: i64, name: &str| {
        vec![
            ("id".to_owned(), Literal::Int(id)),
            ("name".to_owned(), Literal::from(name)),
        ]
    };
    def("people", BroadcastSource::Rows(vec![row(1, "ann"), row(2, "bob")]))
}

/// The job with these variables, and their rows.
fn with(mut graph: JobGraph, defs: &[BroadcastDef]) -> (JobGraph, Vec<TableData>) {
    let tables = defs.iter().map(rows_of).collect();
    graph.broadcasts = defs.to_vec();
    (graph, tables)
}

fn rows_of(def: &BroadcastDef) -> TableData {
    let (schema, batches) = literal_rows(&def.source).unwrap().unwrap();
    BroadcastRows::try_new(def.known_shape(), &schema, &batches)
        .unwrap()
        .table(&def.name)
}

/// The sorted rows of one batch of lines after some steps, under every number of partitions.
fn rows(defs: &[BroadcastDef], steps: Vec<Operator>, lines: &[&str]) -> Rows {
    let (graph, tables) = with(job(vec![source("lines", steps)], vec![table("lines")]), defs);
    let mut found = PARTITIONS.map(|partitions| {
        let mut mini = Mini::new(&graph, &tables, partitions);
        sorted(mini.batch(&[("lines", lines)])["lines"].clone())
    });
    let first = std::mem::take(&mut found[0]);
    assert!(found[1..].iter().all(|rows| *rows == first), "{found:?} {first:?}");
    first
}

fn fault(defs: &[BroadcastDef], expr: &str) -> String {
    let steps = vec![map(&[("word", "value"), ("n", "length(value)"), ("x", expr)])];
    let (graph, tables) = with(job(vec![source("lines", steps)], vec![table("lines")]), defs);
    try_compile(&graph, &tables, 2).unwrap_err().to_string()
}

#[test]
fn contains_tells_what_is_in_a_list_or_a_key_of_a_map() {
    let defs = [stopwords(), countries()];
    let steps = vec![filter("NOT broadcast_contains('stopwords', value)")];
    assert_eq!(rows(&defs, steps, &["the", "tide", "a", "mill"]), ["mill", "tide"]);
    let steps = vec![map(&[("x", "broadcast_contains('countries', nullif(value, ''))")])];
    assert_eq!(rows(&defs, steps, &["AT", "", "US"]), ["false", "null", "true"]);
}

#[test]
fn get_gives_the_value_of_a_key_or_null_or_the_default() {
    let defs = [countries()];
    let steps = vec![map(&[
        ("value", "value"),
        ("plain", "broadcast_get('countries', value)"),
        ("with", "broadcast_get('countries', value, 'unknown')"),
        ("own", "broadcast_get('countries', value, concat(value, '?'))"),
        ("fixed", "broadcast_get('countries', 'KE')"),
    ])];
    assert_eq!(
        rows(&defs, steps, &["AT", "US", "XX"]),
        [
            "AT|Austria|Austria|Austria|Kenya",
            // A null that is there stays one.
            "US|null|unknown|US?|Kenya",
            "XX|null|null|null|Kenya",
        ]
    );
}

#[test]
fn a_scalar_is_a_value_and_is_not_folded_into_the_plan() {
    let steps = vec![filter("length(value) > broadcast_value('limit_')")];
    let (graph, tables) = with(job(vec![source("lines", steps)], vec![table("lines")]), &[limit()]);
    let mut mini = Mini::new(&graph, &tables, 2);
    let lines: &[(&str, &[&str])] = &[("lines", &["tide", "the", "a"])];
    assert_eq!(mini.batch(lines)["lines"], ["tide"]);
    let less = def("limit_", BroadcastSource::Value(Literal::Int(2)));
    mini.load(rows_of(&less));
    assert_eq!(sorted(mini.batch(lines)["lines"].clone()), ["the", "tide"]);
}

#[test]
fn whole_numbers_are_found_whatever_their_width() {
    let entries = vec![
        (Literal::Int(4), Literal::from("four")),
        (Literal::Int(3), Literal::from("three")),
    ];
    let defs = [def("names", BroadcastSource::Map(entries))];
    let steps = vec![map(&[(
        "name",
        "broadcast_get('names', arrow_cast(length(value), 'UInt8'), 'many')",
    )])];
    assert_eq!(rows(&defs, steps, &["tide", "the", "x"]), ["four", "many", "three"]);
}

#[test]
fn a_value_of_any_shape_is_a_table_in_sql() {
    let defs = [stopwords(), countries(), limit(), people()];
    let query = |sql: &str| vec![transform(sql)];
    assert_eq!(
        rows(
            &defs,
            query("SELECT l.value, c.value AS name FROM input l JOIN countries c ON l.value = c.key"),
            &["AT", "US"]
        ),
        ["AT|Austria"]
    );
    assert_eq!(
        rows(
            &defs,
            query("SELECT p.name FROM input l JOIN people p ON l.value = cast(p.id as varchar)"),
            &["2", "3"]
        ),
        ["bob"]
    );
    assert_eq!(
        rows(
            &defs,
            query("SELECT * FROM input WHERE value NOT IN (SELECT value FROM stopwords WHERE value IS NOT NULL)"),
            &["the", "x"]
        ),
        ["x"]
    );
    assert_eq!(
        rows(
            &defs,
            query("SELECT i.value, l.value AS n FROM input i, limit_ l"),
            &["x"]
        ),
        ["x|3"]
    );
}

#[test]
fn a_join_with_a_broadcast_moves_no_row_of_the_stream() {
    let join = |kind| Operator::Join {
        kind,
        with: "countries".to_owned(),
        on: vec![JoinKey {
            left: "code".to_owned(),
            right: "key".to_owned(),
        }],
        partitions: None,
    };
    for (kind, expected) in [
        (JoinKind::Inner, &["AT|Austria"][..]),
        (JoinKind::LeftOuter, &["AT|Austria", "US|null"][..]),
    ] {
        let steps = vec![map(&[("code", "value")]), join(kind)];
        let (graph, tables) = with(job(vec![source("lines", steps)], vec![table("lines")]), &[countries()]);
        let mut mini = Mini::new(&graph, &tables, 3);
        assert_eq!(
            sorted(mini.batch(&[("lines", &["AT", "US"])])["lines"].clone()),
            expected
        );
        assert_eq!(mini.shuffled, 0);
        assert_eq!(mini.compiled.plan.stages.len(), 1);
    }
    let sized = Operator::Join {
        kind: JoinKind::LeftOuter,
        with: "countries".to_owned(),
        on: vec![JoinKey {
            left: "code".to_owned(),
            right: "key".to_owned(),
        }],
        partitions: Some(5),
    };
    let steps = vec![map(&[("code", "value")]), sized];
    assert_eq!(rows(&[countries()], steps, &["AT", "US"]), ["AT|Austria", "US|null"]);
    let steps = vec![map(&[("code", "value")]), join(JoinKind::FullOuter)];
    assert_eq!(
        rows(&[countries()], steps, &["AT", "US"]),
        ["AT|Austria", "KE|Kenya", "US|null", "XX|null"]
    );
}

#[test]
fn a_wrong_call_is_said_at_its_place() {
    let defs = [stopwords(), countries(), limit(), people()];
    for (expr, message) in [
        (
            "broadcast_contains('stopword', value)",
            "line 2: streams.lines.steps[0].map.x: unknown broadcast `stopword` (did you mean `stopwords`?)",
        ),
        (
            "broadcast_value('stopwords')",
            "broadcast `stopwords` is a list, and broadcast_value needs a scalar (use broadcast_contains)",
        ),
        (
            "broadcast_get('stopwords', value)",
            "broadcast `stopwords` is a list, and broadcast_get needs a map (use broadcast_contains)",
        ),
        (
            "broadcast_contains('people', value)",
            "broadcast `people` is a table, and broadcast_contains needs a list or a map (name it in SQL, or join with it)",
        ),
        (
            "broadcast_contains('stopwords', length(value))",
            "broadcast `stopwords` has values of type Utf8View, and this is",
        ),
        (
            "broadcast_get('countries', value, 7)",
            "broadcast `countries` has values of type Utf8View, and the default is Int64 (cast it)",
        ),
        (
            "broadcast_contains(value, value)",
            "the name of a broadcast has to stand in the call, in quotes (write broadcast_contains('name', value))",
        ),
        (
            "broadcast_get('countries')",
            "broadcast_get is called with 1 arguments (write broadcast_get('name', key)",
        ),
    ] {
        let fault = fault(&defs, expr);
        assert!(fault.contains(message), "{expr}: {fault}");
    }
    let none = fault(&[], "broadcast_value('limit')");
    assert!(
        none.contains("unknown broadcast `limit` (the job has none; add it under broadcasts)"),
        "{none}"
    );
}

#[test]
fn what_was_destroyed_fails_with_its_name() {
    let steps = vec![filter("broadcast_contains('stopwords', value)")];
    let (graph, tables) = with(job(vec![source("lines", steps)], vec![table("lines")]), &[stopwords()]);
    let mut mini = Mini::new(&graph, &tables, 1);
    mini.destroy("stopwords");
    let failure = mini.try_batch(&[("lines", &["the"])]).unwrap_err();
    assert_eq!(failure.kind, FailureKind::User);
    assert_eq!(failure.message, "broadcast `stopwords` was destroyed");
}

/// Whether a window over a filter of this variable is kept in panes, and the counts of two batches between which the
/// value changes from `the, a` to nothing.
fn windowed(changes: bool) -> (bool, Vec<Rows>) {
    let steps = vec![
        window(2, None),
        filter("NOT broadcast_contains('stopwords', value)"),
        reduce_by_key(&[("word", "value")], &[("n", "count(*)")]),
    ];
    let mut stopwords = stopwords();
    stopwords.updatable = changes;
    let (graph, tables) = with(job(vec![source("lines", steps)], vec![table("lines")]), &[stopwords]);
    let mut mini = Mini::new(&graph, &tables, 2);
    let panes = mini
        .compiled
        .plan
        .datasets
        .iter()
        .any(|dataset| dataset.name.ends_with("panes"));
    let first = sorted(mini.batch(&[("lines", &["the", "tide"])])["lines"].clone());
    if changes {
        let none = def("stopwords", BroadcastSource::List(Vec::new()));
        mini.load(rows_of(&none));
    }
    let second = sorted(mini.batch(&[("lines", &["a", "tide"])])["lines"].clone());
    (panes, vec![first, second])
}

#[test]
fn panes_are_kept_behind_a_fixed_value_and_not_behind_one_that_changes() {
    assert_eq!(
        windowed(false),
        (true, vec![vec!["tide|1".to_owned()], vec!["tide|2".to_owned()]])
    );
    let (panes, found) = windowed(true);
    assert!(!panes);
    // The whole window by the value of the batch that it is of.
    assert_eq!(found, [vec!["tide|1"], vec!["a|1", "the|1", "tide|2"]]);
}

#[test]
fn a_registered_function_reads_the_value_of_its_batch() {
    let registry = Registry::builder()
        .scalar(
            "spelled",
            Determinism::Deterministic,
            [DataType::Utf8View],
            DataType::Utf8View,
            |columns| {
                let countries = broadcast("countries")?;
                Ok(countries.get(&columns[0])? as ArrayRef)
            },
        )
        .build()
        .unwrap();
    let steps = vec![map(&[("name", "spelled(value)")])];
    let (graph, tables) = with(job(vec![source("lines", steps)], vec![table("lines")]), &[countries()]);
    let mut mini = Mini::of_build(&graph, &tables, 2, &registry);
    assert_eq!(
        sorted(mini.batch(&[("lines", &["KE", "AT"])])["lines"].clone()),
        ["Austria", "Kenya"]
    );
    let outside = broadcast("countries").unwrap_err().to_string();
    assert_eq!(outside, "broadcast `countries` was asked for outside of a task");
}

#[test]
fn rows_have_to_be_of_the_shape() {
    let people = rows_of(&people());
    let as_shape = |shape, batches: &[RecordBatch]| BroadcastRows::try_new(shape, &people.schema, batches).unwrap_err();
    assert_eq!(
        as_shape(Shape::List, &people.batches),
        "a list has 1 columns, and this has 2"
    );
    let twice = [people.batches[0].clone(), people.batches[0].clone()];
    assert_eq!(
        as_shape(Shape::Map, &twice),
        "a map has every key once, and of 4 keys 2 are there again"
    );
    let names = people.batches[0].project(&[1]).unwrap();
    let scalar = BroadcastRows::try_new(Shape::Scalar, &names.schema(), &[names]).unwrap_err();
    assert_eq!(scalar, "a scalar is one value, and these are 2");
}

#[test]
fn a_query_is_asked_over_tables_and_says_what_is_wrong() {
    let tables = [rows_of(&people())];
    let ask = |sql: &str| block_on(evaluate_query(sql, &tables, "broadcasts.top.query", Line(Some(7))));
    let (schema, batches) = ask("SELECT upper(name) AS name FROM people WHERE id > 1").unwrap();
    let rows = BroadcastRows::try_new(Shape::List, &schema, &batches).unwrap();
    assert_eq!(rows.num_rows(), 1);
    assert_eq!(rows.table("x").batches[0].column(0).as_string_view().value(0), "BOB");
    for (sql, message) in [
        (
            "SELECT * FROM poeple",
            "line 7: broadcasts.top.query: unknown table `poeple` (did you mean `people`?)",
        ),
        ("DROP TABLE people", "is not a query"),
        ("SELECT nam FROM people", "unknown column `nam`"),
    ] {
        let fault = ask(sql).unwrap_err().to_string();
        assert!(fault.contains(message), "{fault}");
    }
}

#[test]
fn a_decoded_value_shares_the_memory_of_its_bytes() {
    let words: Vec<Literal> = (0..5000)
        .map(|i| Literal::from(format!("a word that is long enough {i}")))
        .collect();
    let (schema, batches) = literal_rows(&BroadcastSource::List(words)).unwrap().unwrap();
    let rows = BroadcastRows::try_new(Shape::List, &schema, &batches).unwrap();
    let encoded = rows.encode().unwrap();
    let bytes = arrow::buffer::Buffer::from(arrow::buffer::MutableBuffer::from(encoded.to_vec()));
    let range = bytes.as_ptr() as usize..bytes.as_ptr() as usize + bytes.len();
    let value = crate::BroadcastValue::decode(Shape::List, bytes).unwrap();
    let column = value.rows().column(0).as_string_view();
    for buffer in column.data_buffers().iter().chain([column.views().inner()]) {
        assert!(range.contains(&(buffer.as_ptr() as usize)));
    }
    assert!(
        value
            .contains(&(Arc::clone(value.rows().column(0))))
            .unwrap()
            .true_count()
            == 5000
    );
    let damaged = arrow::buffer::Buffer::from(encoded.slice(0..encoded.len() / 2).to_vec());
    assert!(crate::BroadcastValue::decode(Shape::List, damaged).is_err());
}
