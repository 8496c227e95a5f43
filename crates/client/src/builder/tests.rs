use tidemill_dstream::{AccumulatorKind, FileFormat, Function, NativeCall, StreamInput, ValueType};

use super::*;
use crate::job_file::to_yaml;

fn context() -> StreamingContext {
    StreamingContext::new("job", Duration::from_secs(1))
}

/// The accumulators, streams and outputs of the graph, as a job file shows them.
fn shown(ctx: &StreamingContext) -> String {
    let graph = ctx.graph().unwrap_or_else(|faults| panic!("{faults}"));
    let text = to_yaml(&graph);
    let begin = text.find("accumulators:").or_else(|| text.find("streams:"));
    text[begin.unwrap()..].to_owned()
}

#[test]
fn a_chain_becomes_one_stream() {
    let ctx = context();
    ctx.text_file("a.txt")
        .map("lower(value)")
        .filter("value <> ''")
        .reduce_by_key("value", [("n", "count(*)")])
        .print();
    assert_eq!(
        shown(&ctx),
        "\
streams:
  stream_1:
    source: {text_file: {path: a.txt}}
    steps:
      - map: {value: lower(value)}
      - filter: \"value <> ''\"
      - reduce_by_key: {key: value, n: count(*)}
outputs:
  - print: {from: stream_1}
"
    );
}

#[test]
fn two_chains_from_one_handle_share_their_parent() {
    let ctx = context();
    let words = ctx
        .queue_stream([vec!["a b".to_owned()]])
        .flat_map([("word", "string_to_array(value, ' ')")]);
    words.count().print();
    words.filter("word = 'a'").table("only_a");
    assert_eq!(
        shown(&ctx),
        "\
streams:
  stream_1:
    source: {queue: {lines: [[a b]]}}
    steps:
      - flat_map: {word: \"string_to_array(value, ' ')\"}
  stream_2:
    from: stream_1
    steps:
      - count
  stream_3:
    from: stream_1
    steps:
      - filter: \"word = 'a'\"
outputs:
  - print: {from: stream_2}
  - table: {from: stream_3, name: only_a}
"
    );
}

#[test]
fn a_stream_with_an_output_that_is_continued_is_a_stream_of_its_own() {
    let ctx = context();
    let lines = ctx.text_files_stream("/in");
    lines.print();
    lines.count().print_rows(1);
    let graph = ctx.graph().unwrap();
    assert_eq!(graph.streams.len(), 2);
    assert_eq!(graph.streams[1].input, StreamInput::From("stream_1".into()));
}

#[test]
fn names_are_kept_and_generated_ones_avoid_them() {
    let ctx = context();
    ctx.table("stream_2", "users.csv");
    let a = ctx.socket_text_stream("h", 1).name("stream_1");
    let b = ctx.generate(10, "{word}");
    let both = a.union(&b);
    both.window(Duration::from_secs(2), Duration::from_secs(2))
        .count()
        .name("counts")
        .print();
    a.transform("SELECT * FROM input ORDER BY value")
        .save("/out", FileFormat::Json);
    let graph = ctx.graph().unwrap();
    let names: Vec<_> = graph.streams.iter().map(|stream| stream.name.as_str()).collect();
    assert_eq!(names, ["stream_1", "stream_3", "counts", "stream_4"]);
    assert_eq!(
        graph.streams[2].steps[0].operator,
        Operator::Union {
            with: vec!["stream_3".into()]
        }
    );
}

#[test]
fn what_leads_nowhere_is_left_out_unless_it_has_a_name() {
    let ctx = context();
    let lines = ctx.text_file("a");
    lines.filter("false").count();
    lines.map("1").name("for_sql");
    lines.count().print();
    ctx.text_file("unused");
    let names: Vec<_> = ctx
        .graph()
        .unwrap()
        .streams
        .into_iter()
        .map(|stream| stream.name)
        .collect();
    assert_eq!(names, ["stream_1", "for_sql", "stream_2"]);
}

#[test]
fn keys_and_columns_are_given_in_several_forms() {
    let ctx = context();
    let lines = ctx.text_file("a").map(vec![("user".to_owned(), "value".to_owned())]);
    lines
        .reduce_by_key(["user", "lower(user)"], [("n", Function::expr("count(*)"))])
        .print();
    lines
        .reduce_by_key("lower(user)", "count(*)")
        .reduce([("most", "max(value)")])
        .print();
    lines.reduce_by_key([("who", "user")], [("n", "count(*)")]).print();
    let text = shown(&ctx);
    for expected in [
        "key: {user: user, key_2: lower(user)}, n: count(*)",
        "key: lower(user), value: count(*)",
        "key: {who: user}, n: count(*)",
        "reduce: {most: max(value)}",
    ] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
}

#[test]
fn faults_come_with_the_graph() {
    let ctx = context();
    ctx.text_file("a").window(Duration::from_millis(1500), None).print();
    assert!(
        ctx.graph()
            .unwrap_err()
            .to_string()
            .contains("is not a positive multiple of the stream's slide, 1s")
    );

    let (one, other) = (context(), context());
    one.text_file("a").union(&other.text_file("b")).print();
    assert_eq!(
        one.graph().unwrap_err().to_string(),
        "streams: `union` with a stream of another StreamingContext"
    );
    assert!(
        context()
            .graph()
            .unwrap_err()
            .to_string()
            .contains("no output operation registered")
    );
}

#[test]
fn operators_have_the_names_that_spark_has_for_them() {
    let seconds = Duration::from_secs;
    let ctx = context();
    ctx.remember(seconds(60));
    let pairs = ctx
        .text_file("a")
        .map([("user", "value"), ("n", "1"), ("price", "2")])
        .name("pairs");
    let others = ctx.text_file("b").map([("user", "value"), ("m", "3")]).name("others");
    let steps = [
        pairs.map_values("user", [("n", "n + 1")]),
        pairs.flat_map_values(["user", "n"], "make_array(price)"),
        pairs.sample(0.25, 7),
        pairs.map_partitions(NativeCall::new("clean").args(["user"])),
        pairs.glom(),
        pairs.repartition(3),
        pairs.partition_by("user").partitions(4),
        pairs.count_by_value(),
        pairs.distinct().partitions(2),
        pairs.reduce_with([("n", "a + b"), ("price", "greatest(a, b)")]),
        pairs.reduce_by_key_with("user", "a + b").partitions(4),
        pairs.aggregate((), [("n", "count(*)")]),
        pairs.group_by_key("user"),
        pairs.combine_by_key("user", [("t", "price")], [("t", "t + value_price")], [("t", "a + b")]),
        pairs.sort_by(["n DESC NULLS LAST", "user"]),
        pairs.sort_by_limit("n desc", 3),
        pairs.transform(Function::native("whole")),
        pairs.transform_with([&others], "SELECT * FROM input, others"),
        pairs.join(&others, "user"),
        pairs.left_outer_join(&others, ["user"]),
        pairs.right_outer_join(&others, [("user", "user")]),
        pairs.full_outer_join(&others, [("n", "m")]).partitions(4),
        pairs.cogroup([&others], "user"),
        pairs.count_by_window(seconds(2), None),
        pairs.count_by_value_and_window(seconds(2), seconds(1)),
        pairs.reduce_by_window([("n", "sum(n)")], seconds(2), None),
        pairs.reduce_by_window_with(Reducer::new("a + b").inverse("a - b"), seconds(2), None),
        pairs.reduce_by_key_and_window("user", [("n", "sum(n)")], seconds(2), None),
        pairs.reduce_by_key_and_window_with("user", "a + b", seconds(2), None),
        pairs.group_by_key_and_window("user", seconds(2), seconds(2)),
    ];
    for step in &steps {
        step.print();
    }
    let shown: Vec<String> = shown(&ctx)
        .lines()
        .filter_map(|line| line.strip_prefix("      - ").map(str::to_owned))
        .skip(2)
        .collect();
    let expected = [
        "map_values: {key: user, n: \"n + 1\"}",
        "flat_map_values: {key: [user, n], value: make_array(price)}",
        "sample: {fraction: 0.25, seed: 7}",
        "map_partitions: {native: clean, args: [user]}",
        "glom",
        "repartition: 3",
        "partition_by: {key: user, partitions: 4}",
        "count_by_value",
        "distinct: {partitions: 2}",
        "reduce: {function: {n: \"a + b\", price: \"greatest(a, b)\"}}",
        "reduce_by_key: {key: user, function: \"a + b\", partitions: 4}",
        "aggregate: {n: count(*)}",
        "group_by_key: user",
        "combine_by_key: {key: user, create: {t: price}, merge_value: {t: \"t + value_price\"}, merge_combiners: {t: \"a + b\"}}",
        "sort_by: [n DESC NULLS LAST, user]",
        "sort_by: {by: n DESC, limit: 3}",
        "transform: {native: whole}",
        "transform_with: {with: others, sql: \"SELECT * FROM input, others\"}",
        "join: {with: others, on: user}",
        "left_outer_join: {with: others, on: user}",
        "right_outer_join: {with: others, on: user}",
        "full_outer_join: {with: others, on: {n: m}, partitions: 4}",
        "cogroup: {with: others, key: user}",
        "count_by_window: {length: 2s}",
        "count_by_value_and_window: {length: 2s, slide: 1s}",
        "reduce_by_window: {length: 2s, n: sum(n)}",
        "reduce_by_window: {length: 2s, function: \"a + b\", inverse: a - b}",
        "reduce_by_key_and_window: {key: user, length: 2s, n: sum(n)}",
        "reduce_by_key_and_window: {key: user, length: 2s, function: \"a + b\"}",
        "group_by_key_and_window: {key: user, length: 2s, slide: 2s}",
    ];
    assert_eq!(shown.len(), expected.len());
    for (shown, expected) in shown.iter().zip(expected) {
        assert_eq!(shown, expected);
    }
}

#[test]
fn snapshots_begin_a_stream_from_the_one_with_the_state() {
    let ctx = context();
    let spec = StateSpec::function([("total", "coalesce(total, 0) + n")])
        .values([("n", "count(*)")])
        .emit([("total", "total")])
        .timeout(Duration::from_secs(30))
        .initial_state("SELECT 'a' AS value, 1 AS total")
        .partitions(4);
    let mapped = ctx.text_file("a").filter("value <> ''").map_with_state("value", spec);
    mapped.state_snapshots().count().print();
    ctx.text_file("b")
        .update_state_by_key("value", StateUpdate::native("totals").initial_state("old"))
        .foreach_partition("post");
    assert_eq!(
        shown(&ctx),
        "\
streams:
  stream_1:
    source: {text_file: {path: a}}
    steps:
      - filter: \"value <> ''\"
      - map_with_state:
          key: value
          values: {n: count(*)}
          state: {total: \"coalesce(total, 0) + n\"}
          emit: {total: total}
          timeout: 30s
          initial: \"SELECT 'a' AS value, 1 AS total\"
          partitions: 4
  stream_2:
    from: stream_1
    steps:
      - state_snapshots
      - count
  stream_3:
    source: {text_file: {path: b}}
    steps:
      - update_state_by_key: {key: value, state: {native: totals}, initial: old}
outputs:
  - print: {from: stream_2}
  - foreach: {from: stream_3, native: post, per: partition}
"
    );
}

#[test]
fn what_has_no_number_of_partitions_says_so() {
    let ctx = context();
    ctx.text_file("a").map("value").partitions(3).print();
    assert_eq!(
        ctx.graph().unwrap_err().to_string(),
        "streams: `map` takes no number of partitions (put `repartition` behind it)"
    );
}

#[test]
fn accumulators_are_declared_and_added_to() {
    let ctx = context();
    let lines = ctx.accumulator("lines", AccumulatorKind::Count);
    let total = ctx.accumulator("total", AccumulatorKind::Sum).of(ValueType::Float);
    let longest = ctx.unnamed_accumulator(AccumulatorKind::Max);
    assert_eq!((total.name(), longest.name()), ("total", "accumulator_1"));
    ctx.text_file("a")
        .accumulate(&lines, "1")
        .accumulate(&total, "octet_length(value)")
        .accumulate_when(&longest, "octet_length(value)", "value <> ''")
        .print();
    assert_eq!(
        shown(&ctx),
        "\
accumulators:
  lines: {kind: count}
  total: {kind: sum, type: float}
  accumulator_1: {kind: max, listed: false}
streams:
  stream_1:
    source: {text_file: {path: a}}
    steps:
      - accumulate: {into: lines}
      - accumulate: {into: total, add: octet_length(value)}
      - accumulate: {into: accumulator_1, add: octet_length(value), when: \"value <> ''\"}
outputs:
  - print: {from: stream_1}
"
    );
    let other = context();
    other.text_file("b").accumulate(&lines, "1").print();
    assert_eq!(
        other.graph().unwrap_err().to_string(),
        "streams: `accumulate` into `lines` of another StreamingContext"
    );
}
