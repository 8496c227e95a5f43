//! Operators that go record by record or partition by partition.

use tidemill_dstream::Operator;

use super::support::*;

/// Records `k`, `n` of lines such as `a 1`.
fn pairs() -> Operator {
    map(&[
        ("k", "split_part(value, ' ', 1)"),
        ("n", "CAST(split_part(value, ' ', 2) AS BIGINT)"),
    ])
}

#[test]
fn map_values_keeps_the_keys_and_nothing_else() {
    let step = Operator::MapValues {
        keys: vec!["k".to_owned()],
        columns: columns(&[("twice", "n * 2"), ("with_key", "concat(k, '!')")]),
    };
    let graph = job(vec![source("lines", vec![pairs(), step])], vec![table("lines")]);
    check(
        &graph,
        "lines",
        &[(&["a 1", "b 2"], Some(&["a|2|a!", "b|4|b!"])), (&[], Some(&[]))],
    );
}

#[test]
fn the_same_map_is_done_as_often_as_it_stands_there() {
    let numbers = map(&[("n", "CAST(value AS BIGINT)")]);
    let next = map(&[("n", "n + 1")]);
    let graph = |steps: Vec<Operator>| job(vec![source("lines", steps)], vec![table("lines")]);
    let six = [vec![numbers.clone()], vec![next.clone(); 6]].concat();
    check(&graph(six), "lines", &[(&["1", "5"], Some(&["7", "11"]))]);
    // With filters between them, which move below.
    let four = [vec![numbers], vec![[next, filter("n > 2")]; 4].concat()].concat();
    check(&graph(four), "lines", &[(&["1", "2", "5"], Some(&["6", "9"]))]);
    let swap = map(&[("b", "a"), ("a", "b")]);
    let pair = map(&[("a", "value"), ("b", "concat(value, '!')")]);
    let three = [vec![pair], vec![swap; 3]].concat();
    check(&graph(three), "lines", &[(&["x"], Some(&["x|x!"]))]);
}

#[test]
fn flat_map_values_repeats_the_keys() {
    let step = Operator::FlatMapValues {
        keys: vec!["k".to_owned()],
        columns: columns(&[("i", "range(0, n)"), ("of", "n")]),
    };
    let graph = job(vec![source("lines", vec![pairs(), step])], vec![table("lines")]);
    check(
        &graph,
        "lines",
        &[(&["a 2", "b 0", "c 1"], Some(&["a|0|2", "a|1|2", "c|0|1"]))],
    );
}

#[test]
fn a_sample_is_the_same_when_a_batch_runs_again_and_another_in_the_next() {
    let sample = |fraction, seed| Operator::Sample { fraction, seed };
    let lines: Vec<String> = (0..2000).map(|i| i.to_string()).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let run = |steps: Vec<Operator>, partitions| {
        let graph = job(vec![source("lines", steps)], vec![table("lines")]);
        let mut mini = Mini::new(&graph, &[], partitions);
        [0, 1].map(|_| mini.batch(&[("lines", &lines)]).remove("lines").unwrap())
    };
    for partitions in PARTITIONS {
        let [first, second] = run(vec![sample(0.3, 1)], partitions);
        assert!((450..750).contains(&first.len()), "{} of 2000", first.len());
        assert_ne!(first, second);
        assert_eq!(run(vec![sample(0.3, 1)], partitions), [first.clone(), second]);
        assert_ne!(run(vec![sample(0.3, 2)], partitions)[0], first);
        // Two samples of one seed do not keep the same records: a tenth is left and not three tenths.
        let [twice, _] = run(vec![sample(0.3, 1), sample(0.3, 1)], partitions);
        assert!((100..280).contains(&twice.len()), "{} of 2000", twice.len());
        assert_eq!(run(vec![sample(1.0, 1)], partitions)[0].len(), 2000);
        assert_eq!(run(vec![sample(0.0, 1)], partitions)[0].len(), 0);
    }
}

#[test]
fn a_sample_behind_a_flat_map_is_of_its_records() {
    let steps = vec![
        flat_map(&[("i", "range(0, 1000)")]),
        Operator::Sample { fraction: 0.5, seed: 9 },
    ];
    let graph = job(vec![source("lines", steps)], vec![table("lines")]);
    let rows = Mini::new(&graph, &[], 1)
        .batch(&[("lines", &["x"])])
        .remove("lines")
        .unwrap();
    assert!((400..600).contains(&rows.len()), "{} of 1000", rows.len());
}

#[test]
fn glom_gives_a_list_for_each_partition_also_an_empty_one() {
    let graph = job(vec![source("lines", vec![Operator::Glom])], vec![table("lines")]);
    for (partitions, expected) in [
        (1, vec!["[a, b, c]"]),
        (2, vec!["[a, c]", "[b]"]),
        (7, vec!["[a]", "[b]", "[c]", "[]", "[]", "[]", "[]"]),
    ] {
        let mut mini = Mini::new(&graph, &[], partitions);
        assert_eq!(mini.batch(&[("lines", &["a", "b", "c"])])["lines"], expected);
        assert_eq!(mini.batch(&[])["lines"], vec!["[]"; partitions as usize]);
    }
}

#[test]
fn glom_makes_structs_of_several_columns() {
    let steps = vec![
        pairs(),
        Operator::Glom,
        map(&[
            ("first", "values[1]['k']"),
            ("n", "array_length(values)"),
            ("last", "values[-1]['n']"),
        ]),
    ];
    let graph = job(vec![source("lines", steps)], vec![table("lines")]);
    for (partitions, expected) in [(1, vec!["a|3|3"]), (2, vec!["a|2|3", "b|1|2"])] {
        let mut mini = Mini::new(&graph, &[], partitions);
        assert_eq!(mini.batch(&[("lines", &["a 1", "b 2", "c 3"])])["lines"], expected);
    }
}

#[test]
fn glom_over_a_window_has_the_partitions_of_all_its_batches() {
    let graph = job(
        vec![source("lines", vec![window(2, None), Operator::Glom])],
        vec![table("lines")],
    );
    let mut mini = Mini::new(&graph, &[], 2);
    assert_eq!(mini.batch(&[("lines", &["a", "b"])])["lines"], ["[a]", "[b]"]);
    assert_eq!(mini.batch(&[("lines", &["c"])])["lines"], ["[a, c]", "[b]"]);
    assert_eq!(mini.batch(&[])["lines"], ["[c]", "[]"]);
}

#[test]
fn a_union_of_many_streams_has_the_records_of_all() {
    let streams = ["more", "most"].map(|name| source(name, vec![map(&[("value", "upper(value)")])]));
    let with = ["more", "most", "more"].map(str::to_owned).to_vec();
    let mut streams = streams.to_vec();
    streams.push(source("lines", vec![Operator::Union { with }]));
    let graph = job(streams, vec![table("lines")]);
    for partitions in PARTITIONS {
        let mut mini = Mini::new(&graph, &[], partitions);
        let outputs = mini.batch(&[("lines", &["a"]), ("more", &["b"]), ("most", &["c", "d"])]);
        assert_eq!(sorted(outputs["lines"].clone()), ["B", "B", "C", "D", "a"]);
    }
}
