use tidemill_dstream::StreamInput;

use super::*;
use crate::job_file::to_yaml;

fn context() -> StreamingContext {
    StreamingContext::new("job", Duration::from_secs(1))
}

/// The streams and outputs of the graph, as a job file shows them.
fn shown(ctx: &StreamingContext) -> String {
    let graph = ctx.graph().unwrap_or_else(|faults| panic!("{faults}"));
    let text = to_yaml(&graph);
    text[text.find("streams:").unwrap()..].to_owned()
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
        "streams: a union with a stream of another StreamingContext"
    );
    assert!(
        context()
            .graph()
            .unwrap_err()
            .to_string()
            .contains("no output operation registered")
    );
}
