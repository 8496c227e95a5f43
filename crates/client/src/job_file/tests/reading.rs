use std::time::Duration;

use tidemill_dstream::{
    BackPressure, Compression, FileFormat, ForeachUnit, Function, GenerateSource, NamedFunction, NativeCall, Operator,
    OutputKind, QueueItem, Reduction, SaveOutput, SocketTextSource, Source, TextFileSource, TextFilesSource,
};

use super::*;

const HASHTAGS: &str = "\
name: trending-hashtags
batch_interval: 10s
streams:
  tweets:
    source: {socket_text: {host: 127.0.0.1, port: 5555}}
  hashtags:
    from: tweets
    steps:
      - window: {length: 20s}
      - flat_map: {tag: \"string_to_array(lower(value), ' ')\"}
      - filter: \"tag LIKE '#%'\"
      - reduce_by_key: {key: tag, count: count(*)}
outputs:
  - table: {from: hashtags, name: tweets, query: \"SELECT tag, count FROM hashtags ORDER BY count DESC LIMIT 10\"}
  - print: {from: hashtags, rows: 10}
  - save: {from: hashtags, format: csv, path: ./out}     # ./out/batch_time=<ms>/part-*.csv, visible by rename
";

/// A job whose stream `lines` has these steps.
pub(super) fn with_steps(steps: &str) -> String {
    format!(
        "name: a\nbatch_interval: 1s\nstreams:\n  lines:\n    source: {{queue: {{lines: [[a]]}}}}\n    steps:\n{steps}\n\
         outputs: [print: {{from: lines}}]\n"
    )
}

/// A job whose stream `lines` has this source.
fn with_source(source: &str) -> String {
    format!(
        "name: a\nbatch_interval: 1s\nstreams:\n  lines:\n    source: {source}\noutputs: [print: {{from: lines}}]\n"
    )
}

pub(super) fn operators(steps: &str) -> Vec<Operator> {
    read(&with_steps(steps)).streams[0]
        .steps
        .iter()
        .map(|step| step.operator.clone())
        .collect()
}

fn source(text: &str) -> Source {
    match read(&with_source(text)).streams[0].input.clone() {
        StreamInput::Source(source) => source,
        StreamInput::From(name) => panic!("from {name}"),
    }
}

pub(super) fn column(name: &str, sql: &str) -> NamedFunction {
    NamedFunction {
        name: name.into(),
        function: Function::expr(sql),
        line: Line(None),
    }
}

#[test]
fn the_hashtags_job_reads_with_its_lines() {
    let graph = read(HASHTAGS);
    assert_eq!(graph.name, "trending-hashtags");
    assert_eq!(graph.batch_interval, Duration::from_secs(10));
    let lines: Vec<_> = graph
        .streams
        .iter()
        .map(|stream| (stream.name.as_str(), stream.line.0))
        .collect();
    assert_eq!(lines, [("tweets", Some(4)), ("hashtags", Some(6))]);
    let steps: Vec<_> = graph.streams[1]
        .steps
        .iter()
        .map(|step| (step.operator.name(), step.line.0))
        .collect();
    assert_eq!(
        steps,
        [
            ("window", Some(9)),
            ("flat_map", Some(10)),
            ("filter", Some(11)),
            ("reduce_by_key", Some(12))
        ]
    );
    let outputs: Vec<_> = graph
        .outputs
        .iter()
        .map(|output| (output.kind.name(), output.line.0))
        .collect();
    assert_eq!(outputs, [("table", Some(14)), ("print", Some(15)), ("save", Some(16))]);
    assert_eq!(
        graph.streams[1].steps[3].operator,
        Operator::ReduceByKey {
            keys: vec![column("tag", "tag")],
            reduction: Reduction::Aggregates(vec![column("count", "count(*)")]),
            partitions: None
        }
    );
}

#[test]
fn back_pressure_is_on_unless_it_is_switched_off() {
    let pressure = |setting: &str| {
        let job = format!(
            "name: a\nbatch_interval: 1s\n{setting}streams: {{lines: {{source: {{text_file: {{path: a.txt}}}}}}}}\n\
             outputs: [{{print: {{from: lines}}}}]\n"
        );
        read(&job).options.back_pressure
    };
    assert_eq!(pressure(""), Some(BackPressure::default()));
    assert_eq!(pressure("back_pressure: true\n"), Some(BackPressure::default()));
    assert_eq!(pressure("back_pressure: false\n"), None);
}

#[test]
fn settings_of_the_job_and_of_tables_read() {
    let graph = read(
        "name: a\nbatch_interval: 1m 30s\npartitions: 8\nweight: 2\nmax_attempts: 3\nconcurrent_batches: 4\n\
         on_batch_failure: skip\nremember: 5m\nback_pressure: {integral: 0.5}\n\
         max_queued_batches: 7\ncheckpoint: cp\ncheckpoint_interval: 20s\ntables: {users: {file: users.csv, format: csv, reload: 30s}}\n\
         streams: {lines: {source: {text_file: {path: a.txt}}}}\noutputs: [{print: {from: lines}}]\n",
    );
    assert_eq!(graph.batch_interval, Duration::from_secs(90));
    assert_eq!(
        graph.options,
        JobOptions {
            partitions: Some(8),
            weight: 2,
            max_attempts: 3,
            concurrent_batches: 4,
            on_batch_failure: FailurePolicy::Skip,
            remember: Some(Duration::from_secs(300)),
            back_pressure: Some(BackPressure {
                integral: 0.5,
                ..BackPressure::default()
            }),
            max_queued_batches: 7,
            checkpoint: Some("cp".to_owned()),
            checkpoint_interval: Some(Duration::from_secs(20)),
        }
    );
    let table = &graph.tables[0];
    assert_eq!((table.name.as_str(), table.path.as_str()), ("users", "users.csv"));
    assert_eq!(
        (table.format, table.reload),
        (Some(TableFormat::Csv), Some(Duration::from_secs(30)))
    );
    assert_eq!(graph.outputs[0].kind, OutputKind::Print { rows: 10 });
}

#[test]
fn every_source_reads_with_its_defaults_and_without() {
    let seconds = Duration::from_secs;
    assert_eq!(
        source("{socket_text: {host: h, port: 1, block_interval: 200ms, max_rate: 1000, initial_rate: 10}}"),
        Source::SocketText(SocketTextSource {
            host: "h".into(),
            port: 1,
            block_interval: Some(Duration::from_millis(200)),
            max_rate: Some(1000),
            initial_rate: Some(10),
        })
    );
    assert_eq!(
        source("{text_file: {path: a.txt, batch_lines: 5}}"),
        Source::TextFile(TextFileSource {
            path: "a.txt".into(),
            batch_lines: Some(5)
        })
    );
    assert_eq!(
        source("{text_files: {dir: ./in}}"),
        Source::TextFiles(TextFilesSource {
            dir: "./in".into(),
            new_files_only: true,
            remember: seconds(60),
            files_per_batch: None
        })
    );
    assert_eq!(
        source("{text_files: {dir: ./in, new_files_only: false, remember: 5s, files_per_batch: 2}}"),
        Source::TextFiles(TextFilesSource {
            dir: "./in".into(),
            new_files_only: false,
            remember: seconds(5),
            files_per_batch: Some(2)
        })
    );
    let (file, lines) = (
        QueueItem::File("a.txt".into()),
        QueueItem::Lines(vec!["1".into(), String::new()]),
    );
    assert_eq!(source("{queue: {files: [a.txt]}}"), Source::Queue(vec![file.clone()]));
    assert_eq!(
        source("{queue: {lines: [[1, ''], []]}}"),
        Source::Queue(vec![lines.clone(), QueueItem::Lines(vec![])])
    );
    assert_eq!(source("{queue: [a.txt, [1, '']]}"), Source::Queue(vec![file, lines]));
    assert_eq!(
        source("{generate: {rate: 100, template: '{index} {word}', seed: 7}}"),
        Source::Generate(GenerateSource {
            rate: 100,
            template: "{index} {word}".into(),
            seed: 7
        })
    );
}

#[test]
fn every_step_reads_in_all_its_forms() {
    let map = |name: &str, sql: &str| Operator::Map {
        columns: vec![column(name, sql)],
    };
    assert_eq!(
        operators("    - map: {a: b + 1}\n    - map: lower(a)"),
        [map("a", "b + 1"), map("value", "lower(a)")]
    );
    assert_eq!(
        operators("    - flat_map: f(x)"),
        [Operator::FlatMap {
            columns: vec![column("value", "f(x)")]
        }]
    );
    assert_eq!(operators("    - map: {a: null, b: NULL}").len(), 1);
    assert_eq!(
        operators("    - filter: true"),
        [Operator::Filter {
            predicate: Function::expr("true")
        }]
    );
    assert_eq!(
        operators("    - window: {length: 4s, slide: 2s}"),
        [Operator::Window {
            length: Duration::from_secs(4),
            slide: Some(Duration::from_secs(2))
        }]
    );
    assert_eq!(
        operators("    - reduce: {n: count(*), longest: max(value)}"),
        [Operator::Reduce {
            reduction: Reduction::Aggregates(vec![column("n", "count(*)"), column("longest", "max(value)")])
        }]
    );
    assert_eq!(
        operators("    - count\n    - count: {}\n    - count:"),
        [const { Operator::Count }; 3]
    );
    assert_eq!(
        operators("    - transform: SELECT * FROM input"),
        [Operator::Transform {
            function: Function::expr("SELECT * FROM input")
        }]
    );
}

#[test]
fn unions_name_one_stream_or_several() {
    let text = "name: a\nbatch_interval: 1s\nstreams:\n  a: {source: {text_file: {path: a}}}\n  \
                b: {source: {text_file: {path: b}}}\n  c:\n    from: a\n    steps:\n      - union: {with: b}\n      \
                - union: {with: [a, b]}\n      - union: [a]\n      - union: b\noutputs: [{print: {from: c}}]\n";
    let with: Vec<_> = read(text).streams[2]
        .steps
        .iter()
        .map(|step| match &step.operator {
            Operator::Union { with } => with.join("+"),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(with, ["b", "a+b", "a", "b"]);
}

#[test]
fn keys_are_a_column_an_expression_a_list_or_named() {
    let keys = |keys: &str| match &operators(&format!("    - reduce_by_key: {{key: {keys}, n: count(*)}}"))[0] {
        Operator::ReduceByKey { keys, .. } => keys.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(keys("tag"), [column("tag", "tag")]);
    assert_eq!(keys("lower(tag)"), [column("key", "lower(tag)")]);
    assert_eq!(keys("[user, tag]"), [column("user", "user"), column("tag", "tag")]);
    assert_eq!(keys("{who: lower(user)}"), [column("who", "lower(user)")]);
    assert_eq!(
        faults(&with_steps(
            "    - reduce_by_key: {key: [user, lower(tag)], n: count(*)}"
        )),
        [
            "line 7: streams.lines.steps[0].reduce_by_key.key[1]: an expression here has no name (in a list of keys each \
          is a column; write {name: expression} for expressions)"
        ]
    );
}

#[test]
fn every_output_reads_with_its_defaults_and_without() {
    let text = "name: a\nbatch_interval: 1s\nstreams: {a: {source: {text_file: {path: a}}}}\noutputs:\n  \
                - save: {from: a, path: out}\n  - save: {from: a, path: b, format: json, files: 2, compression: zstd, \
                overwrite: true, empty: true}\n  - table: {from: a, name: t}\n  - print: {from: a, rows: 3}\n  - foreach: \
                {from: a, native: f}\n  - foreach: {from: a, native: f, args: [x, y], per: partition}\n";
    let kinds: Vec<_> = read(text).outputs.into_iter().map(|output| output.kind).collect();
    let save = SaveOutput {
        path: "out".into(),
        format: FileFormat::Text,
        files: None,
        compression: Compression::None,
        overwrite: false,
        empty: false,
    };
    let full = SaveOutput {
        path: "b".into(),
        format: FileFormat::Json,
        files: Some(2),
        compression: Compression::Zstd,
        overwrite: true,
        empty: true,
    };
    assert_eq!(
        kinds,
        [
            OutputKind::Save(save),
            OutputKind::Save(full),
            OutputKind::Table {
                name: "t".into(),
                query: None
            },
            OutputKind::Print { rows: 3 },
            OutputKind::Foreach {
                function: NativeCall::new("f"),
                per: ForeachUnit::Batch
            },
            OutputKind::Foreach {
                function: NativeCall::new("f").args(["x", "y"]),
                per: ForeachUnit::Partition
            },
        ]
    );
}

#[test]
fn variables_stand_in_values_of_every_type_and_not_in_keys() {
    let text = with_source("{socket_text: {host: \"${HOST:-localhost}\", port: \"${PORT}\"}}")
        .replace("1s", "${INTERVAL}")
        .replace("name: a", "name: a # ${IN_A_COMMENT}");
    let graph = parse_with(&text, &[("PORT", "5555"), ("INTERVAL", "2s")]).unwrap();
    assert_eq!(graph.batch_interval, Duration::from_secs(2));
    let StreamInput::Source(Source::SocketText(socket)) = &graph.streams[0].input else {
        panic!("another source")
    };
    assert_eq!((socket.host.as_str(), socket.port), ("localhost", 5555));

    let injected = parse_with(&text, &[("PORT", "1}, b: {x: 1"), ("INTERVAL", "2s")]).unwrap_err();
    assert_eq!(
        injected.to_string(),
        "line 5: streams.lines.source.socket_text.port: expected a whole number up to 65535, found `1}, b: {x: 1`"
    );
    assert_eq!(
        faults(&with_source("{text_file: {path: \"${DATA}/a.txt\"}}")),
        [
            "line 5: streams.lines.source.text_file.path: the variable `DATA` is not set (set it in the environment or \
          with --set DATA=VALUE, or write ${DATA:-default})"
        ]
    );
}

#[test]
fn an_unquoted_variable_in_braces_is_explained() {
    assert_eq!(
        faults(&with_source("{text_file: {path: ${FILE}}}")),
        [
            "line 5: the file is not valid YAML: while parsing a flow mapping, did not find expected ',' or '}' (inside of \
          braces or brackets a variable has to stand in quotes: \"${NAME}\")"
        ]
    );
}

#[test]
fn all_faults_are_reported_with_line_path_and_what_was_meant() {
    let text = "\
nme: trending
batch_interval: 10
checkpoints: {x: y}
streams:
  tweets:
    source: {socket_txt: {host: h}}
  more:
    source: {socket_text: {hots: h, port: 99999}}
    steps:
      - flatmap: {a: b}
      - filter: [a]
      - window: {length: soon}
      - map: {a: f(x, y)}
      - zigzag
      - filter
  both: {from: tweets, source: {}}
  none: {}
outputs:
  - prnt: {from: tweets}
  - save: {from: tweets, path: p, format: xml, overwrite: maybe}
    print: {from: tweets}
";
    assert_eq!(
        faults(text),
        [
            "line 1: nme: unknown key `nme` (did you mean `name`?)",
            "line 3: checkpoints: unknown key `checkpoints` (did you mean `checkpoint`?)",
            "line 1: `name` is missing",
            "line 2: batch_interval: `10` has no unit (write 10s for seconds, 10ms for milliseconds)",
            "line 6: streams.tweets.source.socket_txt: unknown source `socket_txt` (did you mean `socket_text`?)",
            "line 8: streams.more.source.socket_text.hots: unknown key `hots` (did you mean `host`?)",
            "line 8: streams.more.source.socket_text: `host` is missing",
            "line 8: streams.more.source.socket_text.port: expected a whole number up to 65535, found `99999`",
            "line 10: streams.more.steps[0].flatmap: unknown step `flatmap` (did you mean `flat_map`?)",
            "line 11: streams.more.steps[1].filter: expected an expression, found a list",
            "line 12: streams.more.steps[2].window.length: expected a duration such as 10s, 200ms or 1m 30s, found \
             `soon` (expected number at 0)",
            "line 13: streams.more.steps[3].map.y): expected an expression, found nothing (an expression with a comma \
             or a brace has to stand in quotes)",
            "line 14: streams.more.steps[4]: unknown step `zigzag` (known: map, flat_map, filter, map_values, \
             flat_map_values, sample, accumulate, map_partitions, glom, union, repartition, partition_by, count, count_by_value, \
             distinct, reduce, reduce_by_key, aggregate, group_by_key, combine_by_key, sort_by, transform, \
             transform_with, join, left_outer_join, right_outer_join, full_outer_join, cogroup, window, \
             count_by_window, count_by_value_and_window, reduce_by_window, reduce_by_key_and_window, \
             group_by_key_and_window, update_state_by_key, map_with_state, state_snapshots)",
            "line 15: streams.more.steps[5].filter: `filter` stands here without its settings (write `filter: ...`)",
            "line 16: streams.both: a stream has a source or comes from another stream, not both",
            "line 17: streams.none: the stream has no input (give it `source: {...}` or `from: another stream`)",
            "line 19: outputs[0].prnt: unknown output `prnt` (did you mean `print`?)",
            "line 21: outputs[1]: one output is expected here, found `save` and `print` (the settings belong under \
             its name, in braces or indented further)",
        ]
    );
}

#[test]
fn words_of_a_choice_are_suggested() {
    let text = with_source("{text_file: {path: a}}")
        .replace("print: {from: lines}", "save: {from: lines, path: p, format: cvs}");
    assert_eq!(
        faults(&text),
        ["line 6: outputs[0].save.format: unknown format `cvs` (did you mean `csv`?)"]
    );
}

#[test]
fn faults_of_the_graph_have_the_exact_line_of_their_setting() {
    let text = "\
name: a
batch_interval: 0s
streams:
  lines:
    source:
      socket_text:
        host: h
        port: 0
  other:
    from: lins
    steps:
      - window:
          length: 1500ms
outputs: []
weight: 0
";
    assert_eq!(
        faults(text),
        [
            "line 2: batch_interval: the batch interval is 0 (the least is 1ms)",
            "line 8: streams.lines.source.socket_text.port: 0 is not a port to connect to",
            "line 10: streams.other.from: unknown stream `lins` (did you mean `lines`?)",
            "line 14: outputs: no output operation registered, so nothing would run (add print, save or table under \
             outputs)",
            "line 15: weight: 0 is not possible, the least is 1",
        ]
    );
}

#[test]
fn a_key_that_is_there_twice_is_a_fault() {
    let text = with_source("{text_file: {path: a}}") + "name: b\n";
    assert_eq!(
        faults(&text),
        ["line 7: name: the key `name` is there twice, first on line 1"]
    );
    let text = with_source("{text_file: {path: a}}").replace("  lines:", "  lines: {from: x}\n  lines:");
    assert_eq!(
        faults(&text),
        ["line 5: streams.lines: the key `lines` is there twice, first on line 4"]
    );
}

#[test]
fn a_text_that_is_not_yaml_or_not_a_job_says_where() {
    for (text, expected) in [
        ("", "the file is empty"),
        ("# nothing\n", "the file is empty"),
        ("- a\n", "line 1: expected a mapping with name, batch_interval, "),
        ("name: a\n  b: c\n", "line 2: the file is not valid YAML: "),
        ("name: [a\nb: c\n", "line 2: the file is not valid YAML: "),
        ("name: 'a\n", "the file is not valid YAML: "),
        (
            "name: a\n---\nname: b\n",
            "line 2: a job file has one document, not more",
        ),
        (
            "name: !secret a\n",
            "line 1: the tag `!secret` means nothing in a job file",
        ),
        (
            "? [a]\n: b\n",
            "line 1: a key has to be a word, not a list or a mapping",
        ),
        (
            "a: &a [*a]\n",
            "line 1: an alias stands inside of what it is an alias of",
        ),
        ("a: *b\n", "line 1: the file is not valid YAML: "),
        ("\0", "the file is not valid YAML: "),
    ] {
        let faults = faults(text);
        assert!(faults[0].contains(expected), "{text:?} gives {faults:?}");
    }
}

#[test]
fn aliases_stand_for_what_they_name() {
    let text = with_source("{queue: {lines: [&one [a], *one]}}");
    let StreamInput::Source(Source::Queue(items)) = &read(&text).streams[0].input else {
        panic!("another source")
    };
    assert_eq!(items.len(), 2);
    assert_eq!(items[0], items[1]);
}

#[test]
fn deep_wide_and_exploding_files_are_refused() {
    for text in [
        "[".repeat(100_000),
        "{a: ".repeat(200),
        format!("a: {}", "[".repeat(65)),
        (0..10_000).fold(String::new(), |text, depth| text + &" ".repeat(depth.min(300)) + "-\n"),
        (0..300).fold(String::new(), |text, depth| text + &" ".repeat(depth) + "a:\n"),
    ] {
        assert!(!faults(&text).is_empty());
    }
    // Nine aliases of nine aliases and so on: 9^12 values.
    let mut bomb = "a0: &a0 [x]\n".to_owned();
    for level in 1..=12 {
        let alias = format!("*a{}", level - 1);
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", [alias.as_str(); 9].join(", ")));
    }
    assert!(faults(&bomb)[0].contains("more than 1000000 values"));
    let many = format!("a: [{}]", "x, ".repeat(1_100_000));
    assert!(faults(&many)[0].contains("more than 1000000 values"));
}

proptest::proptest! {
    /// Whatever the text, parsing gives an answer.
    #[test]
    fn no_text_makes_parsing_fail_otherwise_than_by_faults(text in "[a-z:{}\\[\\]\"'\\-,&*#!|> \n${}~?%@]{0,80}") {
        let _ = parse_with(&text, &[]);
    }

    /// Nor does a sound file from which a piece was cut.
    #[test]
    fn a_damaged_job_gives_faults_or_another_job(at in 0usize..700, length in 0usize..40) {
        let (at, end) = (at.min(HASHTAGS.len()), (at + length).min(HASHTAGS.len()));
        let text = format!("{}{}", &HASHTAGS[..at], &HASHTAGS[end..]);
        if let Err(faults) = parse_with(&text, &[]) {
            proptest::prop_assert!(!faults.0.is_empty());
        }
    }
}
