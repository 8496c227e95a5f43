//! Functions of the batch time, and random numbers.

use super::support::*;

#[test]
fn the_time_functions_mean_the_batch_time() {
    let graph = job(
        vec![source(
            "lines",
            vec![map(&[
                ("batch", "batch_time()"),
                ("now", "now()"),
                ("stamp", "current_timestamp"),
                ("day", "current_date"),
                ("time", "current_time"),
            ])],
        )],
        vec![table("lines")],
    );
    for partitions in PARTITIONS {
        let mut mini = Mini::new(&graph, &[], partitions);
        assert_eq!(
            mini.batch(&[("lines", &["x"])])["lines"],
            ["1970-01-01T00:00:01Z|1970-01-01T00:00:01|1970-01-01T00:00:01|1970-01-01|00:00:01"]
        );
        assert!(mini.batch(&[("lines", &["x"])])["lines"][0].starts_with("1970-01-01T00:00:02Z|"));
    }
}

#[test]
fn time_functions_above_a_window_belong_to_the_slide() {
    let graph = job(
        vec![
            source("lines", vec![]),
            from(
                "out",
                "lines",
                vec![
                    window(3, None),
                    reduce_by_key(&[("k", "value")], &[("at", "max(batch_time())"), ("n", "count(*)")]),
                ],
            ),
        ],
        vec![table("out")],
    );
    for partitions in PARTITIONS {
        let mut mini = Mini::new(&graph, &[], partitions);
        mini.batch(&[("lines", &["x"])]);
        assert_eq!(mini.batch(&[("lines", &["x"])])["out"], ["x|1970-01-01T00:00:02Z|2"]);
    }
}

#[test]
fn random_values_depend_on_the_task_alone() {
    let graph = job(
        vec![source("lines", vec![map(&[("r", "random()"), ("u", "uuid()")])])],
        vec![table("lines")],
    );
    let run = || {
        let mut mini = Mini::new(&graph, &[], 2);
        let first = mini.batch(&[("lines", &["x", "y", "z"])]).remove("lines").unwrap();
        (
            first,
            mini.batch(&[("lines", &["x", "y", "z"])]).remove("lines").unwrap(),
        )
    };
    let (first, second) = run();
    assert_eq!((first.clone(), second.clone()), run());
    let all: std::collections::BTreeSet<&String> = first.iter().chain(&second).collect();
    assert_eq!(all.len(), 6, "every row has its own values");
    for row in all {
        let (random, uuid) = row.split_once('|').unwrap();
        assert!((0.0..1.0).contains(&random.parse::<f64>().unwrap()));
        assert_eq!(uuid.len(), 36);
        assert_eq!(&uuid[14..15], "4");
    }
}

#[test]
fn ordering_by_a_random_number_keeps_every_row() {
    let graph = job(
        vec![
            source("lines", vec![]),
            from(
                "out",
                "lines",
                vec![transform("SELECT value FROM input ORDER BY random()")],
            ),
        ],
        vec![table("out")],
    );
    let lines: Vec<String> = (0..100).map(|i| format!("{i:02}")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    for partitions in PARTITIONS {
        let rows = Mini::new(&graph, &[], partitions)
            .batch(&[("lines", &lines)])
            .remove("out")
            .unwrap();
        assert_ne!(rows, lines);
        assert_eq!(sorted(rows), lines);
    }
}

#[test]
fn time_functions_below_a_window_belong_to_the_batch() {
    let graph = job(
        vec![source(
            "lines",
            vec![
                map(&[("at", "batch_time()")]),
                window(2, None),
                reduce_by_key(&[("at", "at")], &[("n", "count(*)")]),
            ],
        )],
        vec![table("lines")],
    );
    for partitions in PARTITIONS {
        let mut mini = Mini::new(&graph, &[], partitions);
        mini.batch(&[("lines", &["x", "y"])]);
        assert_eq!(
            sorted(mini.batch(&[("lines", &["x"])])["lines"].clone()),
            ["1970-01-01T00:00:01Z|2", "1970-01-01T00:00:02Z|1"]
        );
        assert_eq!(mini.batch(&[])["lines"], ["1970-01-01T00:00:02Z|1"]);
    }
}

#[test]
fn a_random_filter_is_about_the_records_of_its_step() {
    let graph = job(
        vec![source(
            "lines",
            vec![
                flat_map(&[("word", "string_to_array(value, ' ')")]),
                filter("random() < 0.5"),
            ],
        )],
        vec![table("lines")],
    );
    let line = ["w"; 200].join(" ");
    let rows = Mini::new(&graph, &[], 1).batch(&[("lines", &[line.as_str()])])["lines"].len();
    assert!((60..140).contains(&rows), "{rows} of 200 words");
}
