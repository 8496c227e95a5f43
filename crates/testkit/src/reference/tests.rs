//! The reference against tables that were written by hand.

use super::AggregateFunction::{Avg, Count, CountAll, CountDistinct, Max, Sum};
use super::*;

/// Records of the columns k, v and t: `1,2,a` with empty places for nulls, separated by spaces.
fn rows(text: &str) -> Vec<Row> {
    let int = |text: &str| Value::from(text.parse::<i64>().ok());
    text.split_whitespace()
        .map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            let text = fields.get(2).filter(|text| !text.is_empty());
            vec![
                int(fields[0]),
                fields.get(1).map_or(Value::Null, |text| int(text)),
                Value::from(text.copied()),
            ]
        })
        .collect()
}

/// Rows as a table has them: values separated by `|`, sorted.
fn shown(schema: &Schema, rows: &[Row]) -> Vec<String> {
    let rows = schema.canonical(rows).into_iter();
    rows.map(|row| row.iter().map(Value::to_string).collect::<Vec<_>>().join("|"))
        .collect()
}

/// The rows of the last node in each batch; `-` where it is not due.
fn evaluated(model: &Model, sources: &[&[&str]]) -> Vec<Vec<String>> {
    let mut evaluation = Evaluation::new(model, None).unwrap();
    let last = model.nodes.len() - 1;
    let schema = evaluation.schemas()[last].clone();
    (0..sources[0].len())
        .map(|batch| {
            let inputs: Vec<Vec<Row>> = sources.iter().map(|source| rows(source[batch])).collect();
            evaluation.batch(&inputs).unwrap();
            match evaluation.rows(last, batch as u64 + 1) {
                Some(rows) => shown(&schema, rows),
                None => vec!["-".to_owned()],
            }
        })
        .collect()
}

/// A job of one source and operators in a row.
fn chain(ops: impl IntoIterator<Item = Op>) -> Model {
    let mut model = Model::new();
    let mut last = model.add("lines", Op::Source, &[]);
    for (i, op) in ops.into_iter().enumerate() {
        last = model.add(format!("s{i}"), op, &[last]);
    }
    model.outputs = vec![last];
    model
}

fn keys() -> Op {
    Op::Map(vec![Named::column("k")])
}

fn by_key(reduction: Reduction) -> Op {
    Op::ReduceByKey {
        keys: vec![Named::column("k")],
        reduction,
        partitions: None,
    }
}

fn aggregates<const N: usize>(named: [(&str, AggregateFunction); N]) -> Vec<Named> {
    named
        .into_iter()
        .map(|(name, function)| Named::new(name, aggregate(function)))
        .collect()
}

fn window(length: u64, slide: u64) -> Op {
    Op::Window {
        length,
        slide: Some(slide),
    }
}

const SIX: &[&str] = &["1", "2", "3", "4", "5", "6"];

#[test]
fn a_window_has_the_batches_of_its_length_and_the_first_are_partial() {
    let tumbling = evaluated(&chain([keys(), window(2, 2)]), &[SIX]);
    assert_eq!(
        tumbling,
        [
            vec!["-"],
            vec!["1", "2"],
            vec!["-"],
            vec!["3", "4"],
            vec!["-"],
            vec!["5", "6"]
        ]
    );
    let overlapping = evaluated(&chain([keys(), window(3, 1)]), &[&SIX[..4]]);
    assert_eq!(
        overlapping,
        [vec!["1"], vec!["1", "2"], vec!["1", "2", "3"], vec!["2", "3", "4"]]
    );
    let partial = evaluated(&chain([keys(), window(4, 2)]), &[&SIX[..4]]);
    assert_eq!(
        partial,
        [vec!["-"], vec!["1", "2"], vec!["-"], vec!["1", "2", "3", "4"]]
    );
    let long = evaluated(&chain([keys(), window(100, 1)]), &[&SIX[..2]]);
    assert_eq!(long, [vec!["1"], vec!["1", "2"]]);
}

/// Spark's own test: length 2, slide 3.
#[test]
fn a_slide_over_the_length_drops_what_is_between() {
    let model = chain([
        keys(),
        Op::Map(vec![Named::new("k", column("k").binary(Binary::Subtract, literal(1)))]),
        window(2, 3),
    ]);
    let rows = evaluated(&model, &[SIX]);
    assert_eq!(
        rows,
        [
            vec!["-"],
            vec!["-"],
            vec!["1", "2"],
            vec!["-"],
            vec!["-"],
            vec!["4", "5"]
        ]
    );
}

#[test]
fn a_window_of_a_windowed_stream_counts_its_datasets() {
    let model = chain([keys(), window(2, 2), Op::Count, window(4, 4)]);
    let rows = evaluated(&model, &[&["1", "1 2", "1", "", "", "1", "1", "1"]]);
    assert_eq!(rows[3], ["1", "3"]);
    assert_eq!(rows[7], ["1", "2"]);
    assert!(
        rows.iter()
            .enumerate()
            .all(|(i, rows)| (i % 4 == 3) != (rows == &["-"]))
    );
}

#[test]
fn streams_of_different_slides_meet_when_both_are_due() {
    let mut model = Model::new();
    let lines = model.add("lines", Op::Source, &[]);
    let twos = model.add("twos", window(2, 2), &[lines]);
    let threes = model.add("threes", window(3, 3), &[lines]);
    let join = Query::Join {
        key: "k".to_owned(),
        other_key: "k".to_owned(),
        left: vec![],
        right: vec![],
        outer: false,
    };
    model.add("both", Op::Transform(join), &[twos, threes]);
    assert_eq!(model.slides(), [1, 2, 3, 6]);
    let rows = evaluated(&model, &[SIX]);
    assert_eq!(rows[5], ["5", "6"]);
    assert!(rows[..5].iter().all(|rows| rows == &["-"]));
}

/// What a query of two sources gives in each batch.
fn queried(query: Query, ours: &[&str], theirs: &[&str]) -> Vec<Vec<String>> {
    let mut model = Model::new();
    let sources = [model.add("ours", Op::Source, &[]), model.add("theirs", Op::Source, &[])];
    let keys = sources.map(|source| model.add(format!("keys{source}"), keys(), &[source]));
    model.add("both", Op::Transform(query), &keys);
    evaluated(&model, &[ours, theirs])
}

#[test]
fn in_sql_a_null_meets_nothing_and_may_be_anything() {
    let named = || ("k".to_owned(), "k".to_owned());
    let (key, other_key) = named();
    let not_in = Query::NotIn { key, other_key };
    // A key that is null, all are others, one is there, none are, one of theirs is null.
    let ours = ["1 2 ,", "1 2", "1 2", "1 2 ,", "1 2"];
    let theirs = ["3", "3", "1", "", "1 ,"];
    assert_eq!(
        queried(not_in, &ours, &theirs),
        [
            vec!["1", "2"],
            vec!["1", "2"],
            vec!["2"],
            vec!["null", "1", "2"],
            vec![]
        ]
    );
    let (key, other_key) = named();
    let exists = Query::Exists { key, other_key };
    assert_eq!(
        queried(exists, &["1 1 2 ,", "1"], &["1 1 ,", ""]),
        [vec!["1", "1"], vec![]]
    );
    let join = |outer| {
        let (key, other_key) = named();
        let query = Query::Join {
            key,
            other_key,
            left: vec![],
            right: vec!["k".to_owned()],
            outer,
        };
        queried(query, &["1 2 ,"], &["1 1 ,"])
    };
    assert_eq!(join(false), [["1|1", "1|1"]]);
    assert_eq!(join(true), [["null|null", "1|1", "1|1", "2|null"]]);
}

#[test]
fn a_subquery_is_over_the_batch_and_a_table_over_all_of_them() {
    let above = Op::Transform(Query::Above { column: "v".to_owned() });
    let rows = evaluated(&chain([above]), &[&["1,5 2,3 3,3 4", "1,3", ""]]);
    assert_eq!(rows, [vec!["1|5|null"], vec![], vec![]]);
    let lookup = |outer| {
        let name = |id: i64, label: &str| vec![Value::Int(id), Value::text(label)];
        let query = Query::Lookup {
            key: "k".to_owned(),
            left: vec![],
            table: vec![name(1, "one"), name(1, "first"), name(2, "two")],
            outer,
        };
        evaluated(&chain([Op::Transform(query)]), &[&["1 3 ,", "2"]])
    };
    assert_eq!(lookup(false), [vec!["1|\"first\"", "1|\"one\""], vec!["2|\"two\""]]);
    let outer = vec!["null|null", "1|\"first\"", "1|\"one\"", "3|null"];
    assert_eq!(lookup(true), [outer, vec!["2|\"two\""]]);
}

#[test]
fn registered_functions_repeat_and_number_records() {
    let rows = evaluated(&chain([keys(), Op::MapPartitions]), &[&["1 2", ""]]);
    assert_eq!(rows, [vec!["1", "1", "2", "2"], vec![]]);
    let rows = evaluated(&chain([Op::Transform(Query::Native)]), &[&["1 2", ""]]);
    assert_eq!(rows, [["2"], ["0"]]);
}

#[test]
fn rows_of_a_file_are_those_of_the_model() {
    let mut keyed = decaying(vec![
        vec![Value::Int(9), Value::Int(2)],
        vec![Value::Null, Value::Int(1)],
    ]);
    keyed.is_file = true;
    let model = chain([Op::UpdateStateByKey(keyed)]);
    let files = model.files().unwrap();
    let [file] = files.as_slice() else { panic!("{files:?}") };
    assert_eq!(
        (file.table.as_str(), file.path.as_str()),
        ("rows_of_s0", "rows_of_s0.json")
    );
    assert_eq!(file.content, "{\"k\": 9, \"total\": 2}\n{\"total\": 1}\n");
    let graph = model.lower("file", &[]).unwrap();
    assert_eq!((graph.tables.len(), graph.tables[0].name.as_str()), (1, "rows_of_s0"));
}

#[test]
fn an_empty_batch_counts_to_zero_and_reduces_to_nothing() {
    assert_eq!(evaluated(&chain([Op::Count]), &[&["1 2", ""]]), [["2"], ["0"]]);
    let sum = || aggregates([("sum", Sum(column("v")))]);
    let reduced = evaluated(&chain([Op::Reduce(Reduction::Aggregates(sum()))]), &[&["1,2 1,3", ""]]);
    assert_eq!(reduced, [vec!["5"], vec![]]);
    let aggregate = Op::Aggregate {
        keys: vec![],
        aggregates: sum(),
        partitions: None,
    };
    assert_eq!(evaluated(&chain([aggregate]), &[&["1,2 1,3", ""]]), [["5"], ["null"]]);
    let counted = chain([keys(), Op::CountByValue { partitions: None }]);
    assert_eq!(
        evaluated(&counted, &[&["1 2 1 ,", ""]]),
        [vec!["null|1", "1|2", "2|1"], vec![]]
    );
}

#[test]
fn aggregates_pass_over_nulls_and_group_them() {
    let op = by_key(Reduction::Aggregates(aggregates([
        ("n", CountAll),
        ("values", Count(column("v"))),
        ("distinct", CountDistinct(column("v"))),
        ("high", Max(column("v"))),
        ("mean", Avg(column("v"))),
    ])));
    let rows = evaluated(&chain([op]), &[&["1,2 1,3 1,3 1 ,5 2"]]);
    assert_eq!(
        rows,
        [["null|1|1|1|5|5.0", "1|4|3|2|3|2.6666666666666665", "2|1|0|0|null|null"]]
    );
}

#[test]
fn a_binary_function_leaves_a_single_record_as_it_is() {
    let model = chain([
        Op::Map(vec![Named::column("k"), Named::column("v")]),
        by_key(Reduction::Binary {
            columns: vec![Named::new("v", column("a").binary(Binary::Add, column("b")))],
            inverse: vec![],
        }),
    ]);
    let rows = evaluated(&model, &[&["1,2 1,3 2,4 3 4,1 4"]]);
    assert_eq!(rows, [["1|5", "2|4", "3|null", "4|null"]]);
}

#[test]
fn values_are_grouped_as_a_list_or_as_structs() {
    let group = || Op::GroupByKey {
        keys: vec![Named::column("k")],
        partitions: None,
    };
    let one = chain([Op::Map(vec![Named::column("k"), Named::column("v")]), group()]);
    assert_eq!(
        evaluated(&one, &[&["1,3 1,2 2", ""]]),
        [vec!["1|[2, 3]", "2|[null]"], vec![]]
    );
    let several = evaluated(&chain([group()]), &[&["1,3,a"]]);
    assert_eq!(several, [["1|[{t: \"a\", v: 3}]"]]);
}

#[test]
fn combining_makes_merges_and_joins() {
    let plus_one = column("n").binary(Binary::Add, literal(1));
    let added = |name: &str| Named::new(name, column("a").binary(Binary::Add, column("b")));
    let create = vec![Named::new("total", column("v")), Named::new("n", literal(1))];
    let with = |merge_value: Vec<Named>| Op::CombineByKey {
        keys: vec![Named::column("k")],
        create: create.clone(),
        merge_value,
        merge_combiners: vec![added("n"), added("total")],
        partitions: None,
    };
    let merged = vec![
        Named::new("n", plus_one),
        Named::new("total", column("total").binary(Binary::Add, column("value_v"))),
    ];
    for merge_value in [merged, vec![]] {
        let rows = evaluated(&chain([with(merge_value)]), &[&["1,2 2,9 1,5"]]);
        assert_eq!(rows, [["1|7|2", "2|9|1"]]);
    }
}

#[test]
fn lists_are_spread_in_step_and_empty_ones_vanish() {
    let model = chain([Op::FlatMap(vec![
        Named::column("t"),
        Named::new("a", call(Call::Range, [column("k")])),
        Named::new("b", call(Call::Range, [column("v")])),
    ])]);
    let rows = evaluated(&model, &[&["1,2,x 0,0,y ,1,z"]]);
    assert_eq!(rows, [["\"x\"|null|1", "\"x\"|0|0", "\"z\"|null|0"]]);
}

fn joined(kind: JoinKind, left: &str, right: &str) -> Vec<String> {
    let mut model = Model::new();
    let pairs = || Op::Map(vec![Named::column("k"), Named::column("v")]);
    let (left_lines, right_lines) = (model.add("l", Op::Source, &[]), model.add("r", Op::Source, &[]));
    let (lefts, rights) = (
        model.add("left", pairs(), &[left_lines]),
        model.add("other", pairs(), &[right_lines]),
    );
    let on = vec![("k".to_owned(), "k".to_owned())];
    let op = Op::Join {
        kind,
        on,
        partitions: None,
    };
    let join = model.add("joined", op, &[lefts, rights]);
    let names: Vec<String> = model.schemas().unwrap()[join].names().map(str::to_owned).collect();
    assert_eq!(names, ["k", "v", "other_v"]);
    evaluated(&model, &[&[left], &[right]]).remove(0)
}

#[test]
fn a_null_key_joins_a_null_key() {
    let (left, right) = ("1,1 1,2 2,3 ,4", "1,5 ,6 3,7");
    let inner = ["null|4|6", "1|1|5", "1|2|5"];
    assert_eq!(joined(JoinKind::Inner, left, right), inner);
    let with = |more: &[&str]| {
        let mut rows: Vec<String> = inner.iter().chain(more).map(|row| (*row).to_owned()).collect();
        rows.sort_by_key(|row| (!row.starts_with("null"), row.clone()));
        rows
    };
    let sorted = |mut rows: Vec<String>| {
        rows.sort_by_key(|row| (!row.starts_with("null"), row.clone()));
        rows
    };
    assert_eq!(sorted(joined(JoinKind::LeftOuter, left, right)), with(&["2|3|null"]));
    assert_eq!(sorted(joined(JoinKind::RightOuter, left, right)), with(&["3|null|7"]));
    assert_eq!(
        sorted(joined(JoinKind::FullOuter, left, right)),
        with(&["2|3|null", "3|null|7"])
    );
    assert!(joined(JoinKind::FullOuter, "", "").is_empty());
}

#[test]
fn a_cogroup_has_a_list_of_each_stream_for_each_key_of_any() {
    let mut model = Model::new();
    let pairs = || Op::Map(vec![Named::column("k"), Named::column("v")]);
    let (left_lines, right_lines) = (model.add("l", Op::Source, &[]), model.add("r", Op::Source, &[]));
    let (lefts, rights) = (
        model.add("left", pairs(), &[left_lines]),
        model.add("other", pairs(), &[right_lines]),
    );
    let keys = vec!["k".to_owned()];
    model.add("all", Op::Cogroup { keys, partitions: None }, &[lefts, rights]);
    let rows = evaluated(&model, &[&["1,2 1,1 2,3"], &["1,4 3,5"]]);
    assert_eq!(rows, [["1|[1, 2]|[4]", "2|[3]|[]", "3|[]|[5]"]]);
}

/// A count of records by key, from which a key without records in a batch loses one.
fn decaying(initial: Vec<Row>) -> Keyed {
    let left = column("total").or_else(literal(0)).binary(Binary::Add, column("n"));
    let lost = column("n")
        .binary(Binary::Equal, literal(0))
        .choose(literal(1), literal(0));
    Keyed {
        keys: vec!["k".to_owned()],
        values: aggregates([("n", CountAll)]),
        state: vec![StateColumn {
            name: "total".to_owned(),
            data_type: Type::Int,
            expr: call(Call::NullIf, [left.binary(Binary::Subtract, lost), literal(0)]),
        }],
        initial,
        is_file: false,
        partitions: None,
    }
}

#[test]
fn every_key_is_updated_in_every_batch_and_a_null_state_is_removed() {
    let model = chain([Op::UpdateStateByKey(decaying(vec![vec![Value::Int(9), Value::Int(2)]]))]);
    let rows = evaluated(&model, &[&["1 1 2", "", "2", ""]]);
    assert_eq!(rows, [vec!["1|2", "2|1", "9|1"], vec!["1|1"], vec!["2|1"], vec![]]);
}

fn session(timeout: u64) -> Op {
    Op::MapWithState {
        keyed: Keyed {
            keys: vec!["k".to_owned()],
            values: aggregates([("n", CountAll), ("bad", Max(column("v")))]),
            state: vec![StateColumn {
                name: "total".to_owned(),
                data_type: Type::Int,
                expr: column("bad").is_null().choose(
                    column("total").or_else(literal(0)).binary(Binary::Add, column("n")),
                    Expr::Null(Type::Int),
                ),
            }],
            initial: vec![],
            is_file: false,
            partitions: None,
        },
        emit: ["k", "n", "total", "old_total", "timing_out"].map(Named::column).into(),
        timeout: Some(timeout),
    }
}

#[test]
fn a_key_times_out_in_the_batch_in_which_it_is_due_and_a_touch_begins_anew() {
    let rows = evaluated(&chain([session(2)]), &[&["1 2", "1", "", "", "1"]]);
    assert_eq!(
        rows,
        [
            vec!["1|1|1|null|false", "2|1|1|null|false"],
            vec!["1|1|2|1|false"],
            vec!["2|0|1|1|true"],
            vec!["1|0|2|2|true"],
            vec!["1|1|1|null|false"],
        ]
    );
    // It would time out in the batch in which it has records again.
    let rows = evaluated(&chain([session(2)]), &[&["1", "", "1", "", ""]]);
    assert_eq!(
        rows,
        [
            vec!["1|1|1|null|false"],
            vec![],
            vec!["1|1|2|1|false"],
            vec![],
            vec!["1|0|2|2|true"]
        ]
    );
}

#[test]
fn a_removed_key_does_not_time_out_and_snapshots_have_all_others() {
    let model = chain([session(2)]);
    let rows = evaluated(&model, &[&["1 2", "1,7", "", ""]]);
    assert_eq!(rows[1..], [vec!["1|1|null|1|false"], vec!["2|0|1|1|true"], vec![]]);
    let snapshots = chain([session(2), Op::StateSnapshots]);
    let rows = evaluated(&snapshots, &[&["1 2", "1,7", "", ""]]);
    assert_eq!(rows, [vec!["1|1", "2|1"], vec!["2|1"], vec![], vec![]]);
}

#[test]
fn the_first_of_an_order_put_nulls_last_unless_descending() {
    let top = |descending, nulls_first| {
        let keys = ["k", "v", "t"].map(|name| SortKey {
            column: name.to_owned(),
            descending,
            nulls_first,
        });
        let model = chain([Op::SortBy {
            keys: keys.into(),
            limit: Some(1),
        }]);
        evaluated(&model, &[&["1 2 , 3"]]).remove(0)
    };
    assert_eq!(top(false, None), ["1|null|null"]);
    assert_eq!(top(true, None), ["null|null|null"]);
    assert_eq!(top(true, Some(false)), ["3|null|null"]);
    assert_eq!(top(false, Some(true)), ["null|null|null"]);
}

#[test]
fn truth_has_three_values() {
    let model = chain([
        Op::Map(vec![Named::new("p", column("k").binary(Binary::Less, literal(2)))]),
        Op::Map(vec![
            Named::new("a", column("p").binary(Binary::And, Expr::Null(Type::Bool))),
            Named::new("o", column("p").binary(Binary::Or, Expr::Null(Type::Bool))),
            Named::new("n", column("p").negated()),
        ]),
    ]);
    let rows = evaluated(&model, &[&["1", "2", ","]]);
    assert_eq!(rows, [["null|true|false"], ["false|null|true"], ["null|null|null"]]);
}

#[test]
fn a_value_keeps_the_batch_number_that_it_was_made_with() {
    let model = chain([Op::Map(vec![Named::new("at", Expr::BatchNumber)]), window(2, 2)]);
    assert_eq!(evaluated(&model, &[&["1", "1"]])[1], ["1", "2"]);
}

#[test]
fn a_model_that_is_not_well_typed_is_refused_by_the_name_of_its_node() {
    let model = chain([Op::Filter(column("t"))]);
    assert_eq!(model.schemas().unwrap_err().to_string(), "s0: t is Text");
    let model = chain([keys(), Op::Filter(column("v").is_null())]);
    assert_eq!(model.schemas().unwrap_err().to_string(), "s1: no column v among k");
}

#[test]
fn a_mistake_changes_the_rows() {
    let model = chain([keys(), window(2, 1), Op::Count]);
    let mut evaluation = Evaluation::new(&model, Some(Mistake::WindowForgetsABatch)).unwrap();
    evaluation.batch(&[rows("1")]).unwrap();
    evaluation.batch(&[rows("2")]).unwrap();
    assert_eq!(evaluation.rows(3, 2), Some(&[vec![Value::Int(1)]][..]));
}
