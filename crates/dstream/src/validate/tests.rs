use proptest::prelude::*;

use super::*;
use crate::Reduction;
use crate::{
    BroadcastDef, BroadcastSource, FileFormat, Function, GenerateSource, JoinKey, JoinKind, Literal, NamedFunction,
    Operator, QueueItem, SaveOutput, Shape, SocketTextSource, Source, Step, StreamDef, StreamInput, TextFileSource,
    TextFilesSource,
};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn lines_source() -> Source {
    Source::Queue(vec![QueueItem::Lines(vec!["a".into()])])
}

fn stream(name: &str, input: StreamInput, operators: impl IntoIterator<Item = Operator>) -> StreamDef {
    StreamDef {
        name: name.into(),
        input,
        steps: operators
            .into_iter()
            .map(|operator| Step {
                operator,
                line: Line(None),
            })
            .collect(),
        persist: None,
        line: Line(None),
    }
}

fn from(name: &str, parent: &str, operators: impl IntoIterator<Item = Operator>) -> StreamDef {
    stream(name, StreamInput::From(parent.into()), operators)
}

fn print(from: &str) -> OutputDef {
    OutputDef {
        from: from.into(),
        kind: OutputKind::Print { rows: 10 },
        line: Line(None),
    }
}

fn save(path: &str) -> OutputDef {
    OutputDef {
        from: "lines".into(),
        kind: OutputKind::Save(SaveOutput {
            path: path.into(),
            format: FileFormat::Text,
            files: None,
            compression: Default::default(),
            overwrite: false,
            empty: false,
        }),
        line: Line(None),
    }
}

fn column(name: &str, sql: &str) -> NamedFunction {
    NamedFunction {
        name: name.into(),
        function: Function::expr(sql),
        line: Line(None),
    }
}

fn window(length: Duration, slide: Option<Duration>) -> Operator {
    Operator::Window { length, slide }
}

/// A sound job with the stream `lines`, every 10 s, and further streams.
fn job(streams: impl IntoIterator<Item = StreamDef>) -> JobGraph {
    let lines = stream("lines", StreamInput::Source(lines_source()), []);
    JobGraph {
        name: "test".into(),
        batch_interval: seconds(10),
        streams: std::iter::once(lines).chain(streams).collect(),
        outputs: vec![print("lines")],
        ..JobGraph::default()
    }
}

fn faults(graph: &JobGraph) -> Vec<String> {
    graph
        .validate()
        .err()
        .map_or_else(Vec::new, |faults| faults.0.iter().map(ToString::to_string).collect())
}

fn assert_fault(graph: &JobGraph, expected: &str) {
    assert_eq!(faults(graph), [expected]);
}

#[test]
fn a_sound_job_has_no_faults() {
    let tag = Operator::FlatMap {
        columns: vec![column("tag", "string_to_array(value, ' ')")],
    };
    let counts = Operator::ReduceByKey {
        keys: vec![column("tag", "tag")],
        reduction: Reduction::Aggregates(vec![column("n", "count(*)")]),
        partitions: None,
    };
    let graph = job([
        from("tags", "lines", [window(seconds(20), None), tag, counts]),
        from(
            "both",
            "tags",
            [
                Operator::Union {
                    with: vec!["tags".into()],
                },
                Operator::Count,
            ],
        ),
    ]);
    assert_eq!(graph.validate(), Ok(()));
}

#[test]
fn all_faults_are_reported_at_once() {
    let mut graph = job([from("b", "lines", [Operator::Transform { function: " ".into() }])]);
    graph.name = "a/b".into();
    graph.options.weight = 0;
    graph.outputs.clear();
    assert_eq!(
        faults(&graph),
        [
            "name: `a/b` cannot name a job (letters, digits, `_`, `-` and `.`, beginning with a letter, digit or `_`, \
             at most 128 of them)",
            "weight: 0 is not possible, the least is 1",
            "streams.b.steps[0].transform: the query is empty",
            "outputs: no output operation registered, so nothing would run (add print, save or table under outputs)",
        ]
    );
}

#[test]
fn names_of_jobs_become_directories_and_schemas() {
    for (name, valid) in [
        ("trending-hashtags", true),
        ("_a.b-c", true),
        ("9", true),
        ("-a", false),
        (".a", false),
        ("a b", false),
        ("é", false),
        (&"a".repeat(128), true),
        (&"a".repeat(129), false),
    ] {
        let mut graph = job([]);
        graph.name = name.into();
        assert_eq!(graph.validate().is_ok(), valid, "{name}");
    }
    let mut graph = job([]);
    graph.name.clear();
    assert_fault(&graph, "name: the job has no name");
}

#[test]
fn intervals_are_whole_milliseconds_up_to_a_day() {
    for (interval, expected) in [
        (
            Duration::ZERO,
            Some("batch_interval: the batch interval is 0 (the least is 1ms)"),
        ),
        (Duration::from_millis(1), None),
        (
            Duration::from_micros(1500),
            Some("batch_interval: the batch interval 1.5ms is not a whole number of milliseconds"),
        ),
        (seconds(86_400), None),
        (
            seconds(86_401),
            Some("batch_interval: the batch interval 86401s is longer than a day"),
        ),
    ] {
        let mut graph = job([]);
        graph.batch_interval = interval;
        assert_eq!(faults(&graph), expected.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn settings_of_the_job_are_in_their_ranges() {
    let mut graph = job([]);
    graph.options.partitions = Some(0);
    graph.options.max_attempts = 0;
    graph.options.concurrent_batches = 0;
    assert_eq!(
        faults(&graph),
        [
            "partitions: 0 is not between 1 and 4096",
            "max_attempts: 0 is not possible, the least is 1",
            "concurrent_batches: 0 is not possible, the least is 1",
        ]
    );
    graph = job([]);
    graph.options.partitions = Some(4097);
    assert_fault(&graph, "partitions: 4097 is not between 1 and 4096");
}

#[test]
fn streams_and_tables_share_their_names_in_sql() {
    let mut graph = job([from("users", "lines", []), from("lines", "users", [])]);
    graph.streams[0].line = Line(Some(3));
    graph.streams[2].line = Line(Some(9));
    graph.tables.push(TableDef {
        name: "users".into(),
        path: "users.csv".into(),
        format: None,
        reload: None,
        line: Line(Some(2)),
    });
    assert_eq!(
        faults(&graph),
        [
            "streams.users: stream or table `users` is defined twice, first on line 2",
            "line 9: streams.lines: stream or table `lines` is defined twice, first on line 3",
        ]
    );
}

#[test]
fn names_of_streams_need_no_quotes_in_sql() {
    let hint = "(letters, digits and `_`, not beginning with a digit, at most 128 of them)";
    assert_fault(
        &job([from("a-b", "lines", [])]),
        &format!("streams.a-b: `a-b` cannot name a stream {hint}"),
    );
    assert_fault(
        &job([from("1a", "lines", [])]),
        &format!("streams.1a: `1a` cannot name a stream {hint}"),
    );
}

#[test]
fn a_name_that_is_not_there_comes_with_the_nearest_one() {
    let mut graph = job([
        from("tags", "lins", []),
        from(
            "all",
            "tags",
            [Operator::Union {
                with: vec!["tgas".into()],
            }],
        ),
    ]);
    graph.outputs.push(print("tag"));
    assert_eq!(
        faults(&graph),
        [
            "streams.tags.from: unknown stream `lins` (did you mean `lines`?)",
            "streams.all.steps[0].union: unknown stream `tgas` (did you mean `tags`?)",
            "outputs[1].print.from: unknown stream `tag` (did you mean `tags`?)",
        ]
    );
    assert!(graph.topological().is_err());
}

#[test]
fn a_cycle_is_named_in_order() {
    let graph = job([from("b", "a", []), from("a", "b", [])]);
    let message = "streams.b: streams read each other in a cycle: b -> a -> b \
                   (each stream in it reads the next; a stream can only read streams that do not depend on it)";
    assert_fault(&graph, message);
    assert_eq!(graph.topological().unwrap_err().to_string(), message);
    assert_eq!(graph.slide("a"), None);
}

#[test]
fn a_stream_in_a_union_with_itself_is_a_cycle_too() {
    let graph = job([from("a", "lines", [Operator::Union { with: vec!["a".into()] }])]);
    assert!(
        faults(&graph)[0].contains("in a cycle: a -> a "),
        "{:?}",
        faults(&graph)
    );
}

#[test]
fn a_chain_of_ten_thousand_streams_is_walked_and_its_cycle_named_in_short() {
    let name = |i: usize| if i == 0 { "lines".to_owned() } else { format!("s{i}") };
    let mut graph = job((1..10_000).rev().map(|i| from(&name(i), &name(i - 1), [])));
    assert_eq!(graph.validate(), Ok(()));
    assert_eq!(graph.slide("s9999"), Some(seconds(10)));
    let order = graph.topological().unwrap();
    assert_eq!((order[0].name.as_str(), order[9_999].name.as_str()), ("lines", "s9999"));

    graph.streams.last_mut().unwrap().input = StreamInput::From("s9999".into());
    let all = faults(&graph);
    assert_eq!(all.len(), 1);
    assert!(
        all[0].contains("s9999 -> s9998") && all[0].contains(" more) -> "),
        "{}",
        all[0]
    );
    assert!(all[0].len() < 1000);
}

#[test]
fn windows_are_multiples_of_the_slide_of_what_they_look_at() {
    let graph = job([
        from("w", "lines", [window(seconds(20), Some(seconds(20)))]),
        from("bad_length", "w", [window(seconds(30), None)]),
        from("bad_slide", "lines", [window(seconds(20), Some(seconds(15)))]),
        from("none", "lines", [window(Duration::ZERO, None)]),
        from(
            "twice",
            "lines",
            [
                window(seconds(20), Some(seconds(20))),
                window(seconds(60), Some(seconds(30))),
            ],
        ),
    ]);
    assert_eq!(
        faults(&graph),
        [
            "streams.bad_length.steps[0].window.length: the window's length 30s is not a positive multiple of the \
             stream's slide, 20s (the nearest is 40s)",
            "streams.bad_slide.steps[0].window.slide: the window's slide 15s is not a positive multiple of the \
             stream's slide, 10s (the nearest is 20s)",
            "streams.none.steps[0].window.length: the window's length 0s is not a positive multiple of the \
             stream's slide, 10s (the nearest is 10s)",
            "streams.twice.steps[1].window.slide: the window's slide 30s is not a positive multiple of the \
             stream's slide, 20s (the nearest is 40s)",
        ]
    );
}

#[test]
fn a_slide_is_inherited_until_a_window_sets_its_own() {
    let graph = job([
        from(
            "w",
            "lines",
            [window(seconds(20), Some(seconds(20))), window(seconds(40), None)],
        ),
        from("child", "w", [Operator::Count]),
    ]);
    assert_eq!(graph.slide("lines"), Some(seconds(10)));
    assert_eq!(graph.slide("child"), Some(seconds(20)));
    assert_eq!(graph.slide("nothing"), None);
}

#[test]
fn united_streams_slide_alike() {
    let graph = job([
        from("slow", "lines", [window(seconds(20), Some(seconds(20)))]),
        from(
            "both",
            "lines",
            [Operator::Union {
                with: vec!["slow".into()],
            }],
        ),
    ]);
    assert_fault(
        &graph,
        "streams.both.steps[0].union: united streams must slide alike: `slow` has a dataset every 20s, this stream \
         every 10s",
    );
}

#[test]
fn snapshots_are_of_a_state() {
    let state = || {
        Operator::MapWithState(crate::MapWithState {
            keys: vec![column("value", "value")],
            values: vec![],
            state: crate::StateFunction::Columns(vec![column("n", "1")]),
            emit: vec![],
            timeout: None,
            initial: None,
            partitions: None,
        })
    };
    let snapshots = || Operator::StateSnapshots;
    let sound = job([
        from("states", "lines", [state()]),
        from("all", "states", [snapshots(), Operator::Count]),
    ]);
    assert!(sound.validate().is_ok());
    for (place, streams) in [
        (0, vec![from("all", "lines", [snapshots()])]),
        (1, vec![from("all", "lines", [state(), snapshots()])]),
        (
            0,
            vec![
                from("states", "lines", [state(), Operator::Count]),
                from("all", "states", [snapshots()]),
            ],
        ),
    ] {
        let expected = format!(
            "streams.all.steps[{place}].state_snapshots: there is no state here to look at (it is the first step of a \
             stream from one that ends with map_with_state)"
        );
        assert_fault(&job(streams), &expected);
    }
}

#[test]
fn steps_need_their_columns() {
    let graph = job([from(
        "a",
        "lines",
        [
            Operator::Map { columns: vec![] },
            Operator::Map {
                columns: vec![column("x", "1"), column("x", "2")],
            },
            Operator::Filter {
                predicate: Function::expr(""),
            },
            Operator::Union { with: vec![] },
            Operator::ReduceByKey {
                keys: vec![],
                reduction: Reduction::Aggregates(vec![]),
                partitions: None,
            },
            Operator::Reduce {
                reduction: Reduction::Aggregates(vec![column("", "count(*)")]),
            },
        ],
    )]);
    assert_eq!(
        faults(&graph),
        [
            "streams.a.steps[0].map: no columns (give an expression, or {column: expression})",
            "streams.a.steps[1].map.x: two columns are named `x`",
            "streams.a.steps[2].filter: the expression is empty",
            "streams.a.steps[3].union: no stream to unite with (name one after `with:`)",
            "streams.a.steps[4].reduce_by_key: no key (such as `key: user`)",
            "streams.a.steps[4].reduce_by_key: no aggregates (such as `count: count(*)`)",
            "streams.a.steps[5].reduce.: a column has no name",
        ]
    );
}

#[test]
fn sources_need_their_settings() {
    let sources = [
        Source::SocketText(SocketTextSource {
            host: " ".into(),
            port: 0,
            block_interval: Some(Duration::ZERO),
            max_rate: None,
            initial_rate: None,
        }),
        Source::TextFile(TextFileSource {
            path: String::new(),
            batch_lines: Some(0),
        }),
        Source::TextFiles(TextFilesSource {
            dir: String::new(),
            new_files_only: true,
            remember: Duration::ZERO,
            files_per_batch: Some(0),
        }),
        Source::Queue(vec![]),
        Source::Generate(GenerateSource {
            rate: 0,
            template: "{wrod}".into(),
            seed: 0,
        }),
    ];
    let mut graph = job([]);
    for (index, source) in sources.into_iter().enumerate() {
        graph
            .streams
            .push(stream(&format!("s{index}"), StreamInput::Source(source), []));
    }
    let millis = "not a whole number of milliseconds, at least 1 ms";
    let zero = "0 is not possible, the least is 1";
    assert_eq!(
        faults(&graph),
        [
            "streams.s0.source.socket_text.host: the host is empty".to_owned(),
            "streams.s0.source.socket_text.port: 0 is not a port to connect to".to_owned(),
            format!("streams.s0.source.socket_text.block_interval: {millis}"),
            "streams.s1.source.text_file.path: the path is empty".to_owned(),
            format!("streams.s1.source.text_file.batch_lines: {zero}"),
            "streams.s2.source.text_files.dir: the directory is empty".to_owned(),
            format!("streams.s2.source.text_files.remember: {millis}"),
            format!("streams.s2.source.text_files.files_per_batch: {zero}"),
            "streams.s3.source.queue: the queue is empty (give it files, or the lines of each batch)".to_owned(),
            format!("streams.s4.source.generate.rate: {zero}"),
            "streams.s4.source.generate.template: unknown placeholder `{wrod}`, did you mean `{word}`?".to_owned(),
        ]
    );
}

#[test]
fn outputs_need_their_settings_and_do_not_share_a_place() {
    let table = |name: &str| OutputDef {
        from: "lines".into(),
        kind: OutputKind::Table {
            name: name.into(),
            query: Some(String::new()),
        },
        line: Line(None),
    };
    let mut graph = job([]);
    graph.outputs = vec![save("out"), save("out/"), save(""), table("lines"), table("lines")];
    if let OutputKind::Save(save) = &mut graph.outputs[0].kind {
        save.files = Some(0);
    }
    graph.outputs.push(OutputDef {
        kind: OutputKind::Print { rows: 0 },
        ..print("lines")
    });
    assert_eq!(
        faults(&graph),
        [
            "outputs[0].save.files: 0 is not possible, the least is 1",
            "outputs[2].save.path: the path is empty",
            "outputs[3].table.query: the query is empty",
            "outputs[4].table.query: the query is empty",
            "outputs[5].print.rows: 0 is not possible, the least is 1",
            "outputs[4].table: output table `lines` is defined twice",
            "outputs[1].save: output path `out` is defined twice",
        ]
    );
}

#[test]
fn the_format_of_a_table_is_its_extension_unless_given() {
    let table = |path: &str| TableDef {
        name: "t".into(),
        path: path.into(),
        format: None,
        reload: None,
        line: Line(None),
    };
    assert_eq!(table("a/Users.CSV").known_format(), Some(TableFormat::Csv));
    assert_eq!(table("users.ndjson.gz").known_format(), Some(TableFormat::Json));
    assert_eq!(table("users.parquet").known_format(), Some(TableFormat::Parquet));
    let mut graph = job([]);
    graph.tables.push(table("users"));
    assert_fault(
        &graph,
        "tables.t.format: the format of `users` cannot be told from its name (set format to csv, json or parquet)",
    );
}

#[test]
fn consumers_are_all_that_read_a_stream() {
    let mut graph = job([
        from("a", "lines", []),
        from(
            "b",
            "a",
            [Operator::Union {
                with: vec!["lines".into()],
            }],
        ),
    ]);
    graph.outputs.push(print("b"));
    let consumers: Vec<_> = consumers(&graph)
        .into_iter()
        .map(|(stream, all)| (stream.name.as_str(), all))
        .collect();
    assert_eq!(
        consumers,
        [
            (
                "lines",
                vec![
                    Consumer::Stream("a"),
                    Consumer::Step { stream: "b", step: 0 },
                    Consumer::Output(0)
                ]
            ),
            ("a", vec![Consumer::Stream("b")]),
            ("b", vec![Consumer::Output(1)]),
        ]
    );
}

#[test]
fn a_graph_of_nothing_but_faults_gives_a_bounded_answer() {
    let ancestors = |i: usize| (0..=i).map(|j| format!("s{j}")).collect::<Vec<_>>();
    let unknown = |i: usize| (0..i).map(|j| format!("unknown{j}")).collect::<Vec<_>>();
    let streams = (0..500).map(|i| {
        let unions = [
            Operator::Union { with: ancestors(i) },
            Operator::Union { with: unknown(i) },
        ];
        from(&format!("s{i}"), &format!("s{}", i + 1), unions)
    });
    let all = faults(&job(streams));
    assert_eq!(all.len(), MAX_FAULTS + 1);
    assert!(all[MAX_FAULTS].ends_with(" more faults"), "{}", all[MAX_FAULTS]);
}

proptest! {
    /// Any wiring of streams either has an order, in which all parents stand before their children, or is refused.
    #[test]
    fn an_order_has_parents_first_and_exists_unless_there_is_a_cycle(
        parents in proptest::collection::vec((0usize..12, proptest::option::of(0usize..12)), 1..12)
    ) {
        let name = |i: usize| if i == 0 { "lines".to_owned() } else { format!("s{i}") };
        let streams = parents.iter().enumerate().map(|(i, (parent, union))| {
            let with = union.iter().map(|other| name(*other % (parents.len() + 1))).collect::<Vec<_>>();
            let steps = (!with.is_empty()).then_some(Operator::Union { with });
            from(&name(i + 1), &name(*parent % (parents.len() + 1)), steps)
        });
        let graph = job(streams.collect::<Vec<_>>());
        match graph.topological() {
            Ok(order) => {
                prop_assert_eq!(order.len(), graph.streams.len());
                let place = |name: &str| order.iter().position(|stream| stream.name == name);
                for stream in &graph.streams {
                    for edge in edges(stream) {
                        prop_assert!(place(edge.parent) < place(&stream.name));
                    }
                }
                prop_assert_eq!(graph.validate(), Ok(()));
            }
            Err(faults) => {
                // Each names a cycle that is there.
                for fault in &faults.0 {
                    let names: Vec<&str> =
                        fault.message.rsplit(": ").next().unwrap().split(" -> ").collect();
                    prop_assert_eq!(names.first(), names.last());
                    for pair in names.windows(2) {
                        let stream = graph.stream(pair[0]).unwrap();
                        prop_assert!(edges(stream).any(|edge| edge.parent == pair[1]));
                    }
                }
            }
        }
    }
}

fn broadcast(name: &str, source: BroadcastSource) -> BroadcastDef {
    BroadcastDef {
        name: name.into(),
        source,
        shape: None,
        reload: None,
        updatable: false,
        line: Line(Some(4)),
    }
}

#[test]
fn broadcasts_are_checked_before_their_values_are_read() {
    let mut graph = job([]);
    let text = |text: &str| Literal::Text(text.into());
    graph.broadcasts = vec![
        broadcast("a-b", BroadcastSource::Value(Literal::Int(1))),
        broadcast("mixed", BroadcastSource::List(vec![Literal::Int(1), text("x")])),
        broadcast("none", BroadcastSource::Rows(Vec::new())),
        broadcast(
            "rows",
            BroadcastSource::Rows(vec![
                vec![("id".into(), Literal::Int(1))],
                vec![("di".into(), Literal::Int(2))],
            ]),
        ),
        broadcast("lines", BroadcastSource::Query(" ".into())),
    ];
    graph.broadcasts[1].reload = Some(Duration::from_secs(1));
    graph.broadcasts[0].shape = Some(Shape::Map);
    assert_eq!(
        faults(&graph),
        [
            "streams.lines: stream, table or broadcast `lines` is defined twice, first on line 4",
            "line 4: broadcasts.a-b: `a-b` cannot name a broadcast (letters, digits and `_`, not beginning with a digit, \
             at most 128 of them)",
            "line 4: broadcasts.a-b.as: this value is a scalar, not a map",
            "line 4: broadcasts.mixed.reload: only a file can be looked at again (with `updatable: true` a client can give \
             it new values)",
            "line 4: broadcasts.mixed.list: text stands where a whole number was before: all have to be of one type",
            "line 4: broadcasts.none.rows: there is no row, so no column (such as `rows: [{id: 1}]`)",
            "line 4: broadcasts.rows.rows[1]: the first row has no column `di`",
            "line 4: broadcasts.lines.query: the query is empty",
        ]
    );
}

#[test]
fn a_join_can_name_a_broadcast_and_nothing_else_can() {
    let join = |with: &str| Operator::Join {
        kind: JoinKind::Inner,
        with: with.into(),
        on: vec![JoinKey {
            left: "value".into(),
            right: "key".into(),
        }],
        partitions: None,
    };
    let names = broadcast("names", BroadcastSource::Map(Vec::new()));
    let mut graph = job([from("named", "lines", [join("names")])]);
    graph.broadcasts = vec![names.clone()];
    assert_eq!(graph.validate(), Ok(()));
    let union = Operator::Union {
        with: vec!["names".into()],
    };
    let mut graph = job([from("a", "lines", [join("naems")]), from("b", "lines", [union])]);
    graph.broadcasts = vec![names];
    assert_eq!(
        faults(&graph),
        [
            "streams.a.steps[0].join: unknown stream `naems` (did you mean `names`?)",
            "streams.b.steps[0].union: unknown stream `names` (known: lines, a)",
        ]
    );
}
