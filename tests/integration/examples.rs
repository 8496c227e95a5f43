//! The jobs in `deploy/jobs`, each over lines of the test's own in place of its sockets, against an independent count.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tidemill_client::job_file::{ParseOptions, parse};
use tidemill_client::{Scalar, resolve_paths};
use tidemill_dstream::{JobGraph, OutputKind, QueueItem, Source, StreamInput};
use tidemill_testkit::{Batch, TestCluster, run_to_end};

use crate::support::saved;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A job of `deploy/jobs`. Its sources give these batches of lines, by stream; every stream that it has a table of is
/// printed instead.
fn example(name: &str, env: &[(&str, &Path)], lines: &[(&str, &[&[&str]])]) -> Result<JobGraph> {
    let env: HashMap<String, String> = env
        .iter()
        .map(|(key, value)| ((*key).to_owned(), value.display().to_string()))
        .collect();
    let options = ParseOptions {
        env,
        ..ParseOptions::default()
    };
    let directory = root().join("deploy/jobs");
    let text = std::fs::read_to_string(directory.join(name))?;
    let mut graph = resolve_paths(parse(&text, &options)?, &directory);
    for (stream, batches) in lines {
        let stream = graph.streams.iter_mut().find(|def| def.name == *stream);
        let batches = batches.iter().map(|lines| {
            let lines = lines.iter().map(ToString::to_string);
            QueueItem::Lines(lines.collect())
        });
        stream.context("no such stream")?.input = StreamInput::Source(Source::Queue(batches.collect()));
    }
    graph
        .outputs
        .retain(|output| !matches!(output.kind, OutputKind::Print { .. }));
    for output in &mut graph.outputs {
        if matches!(output.kind, OutputKind::Table { .. }) {
            output.kind = OutputKind::Print { rows: 1000 };
        }
    }
    graph.options.partitions = Some(3);
    Ok(graph)
}

/// The rows of one stream's batches, in seconds of batch time.
fn rows_of(printed: &[Batch], stream: &str) -> Vec<(i64, Vec<String>)> {
    printed
        .iter()
        .filter(|batch| batch.stream == stream)
        .map(|batch| (batch.time / 1000, batch.sorted()))
        .collect()
}

fn words<'l>(batches: impl IntoIterator<Item = &'l &'l [&'l str]>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for word in batches.into_iter().copied().flatten().flat_map(|line| line.split(' ')) {
        if !word.is_empty() {
            *counts.entry(word.to_lowercase()).or_default() += 1;
        }
    }
    counts
}

fn counted(counts: &BTreeMap<String, u64>) -> Vec<String> {
    let mut rows: Vec<String> = counts.iter().map(|(word, n)| format!("{word}|{n}")).collect();
    rows.sort();
    rows
}

const LINES: [&[&str]; 4] = [
    &["the tide comes  and the tide goes", "The mill"],
    &[],
    &["a mill a tide"],
    &["the end"],
];

#[tokio::test(flavor = "multi_thread")]
async fn network_word_count_counts_each_batch() -> Result<()> {
    let graph = example("network-word-count.yaml", &[], &[("lines", &LINES)])?;
    let printed = run_to_end(&graph, 3, Some(4)).await?;
    for (batch, rows) in rows_of(&printed, "counts") {
        let expected = counted(&words(&LINES[batch as usize - 1..batch as usize]));
        assert_eq!(rows, expected, "batch {batch}");
    }
    assert_eq!(rows_of(&printed, "counts").len(), 4);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn stateful_word_count_counts_all_that_came() -> Result<()> {
    let graph = example("stateful-word-count.yaml", &[], &[("lines", &LINES)])?;
    for executors in [1, 3] {
        let printed = run_to_end(&graph, executors, Some(4)).await?;
        let found = rows_of(&printed, "counts");
        assert_eq!(found.len(), 4);
        for (batch, rows) in found {
            assert_eq!(rows, counted(&words(&LINES[..batch as usize])), "batch {batch}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn windowed_top_k_has_the_most_frequent_words_every_five_seconds() -> Result<()> {
    let graph = example("windowed-top-k.yaml", &[], &[("lines", &LINES)])?;
    let printed = run_to_end(&graph, 2, Some(36)).await?;
    let times: Vec<i64> = printed.iter().map(|batch| batch.time / 1000).collect();
    assert_eq!(times, [5, 10, 15, 20, 25, 30, 35]);
    let rows = |lines: &[&[&str]]| {
        let mut counts: Vec<(String, u64)> = words(lines).into_iter().filter(|(_, n)| *n > 1).collect();
        counts.sort_by(|(a, n), (b, m)| m.cmp(n).then(a.cmp(b)));
        let rows = counts.into_iter().map(|(word, n)| format!("{word}|{n}"));
        rows.collect::<Vec<_>>()
    };
    for batch in &printed {
        // The window of the batch at 35 begins behind the last line.
        let window = if batch.time > 34_000 { &[] } else { &LINES[..] };
        assert_eq!(batch.rows, rows(window), "at {}", batch.time);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_stream_join_finds_clicks_on_what_was_shown() -> Result<()> {
    let shown: [&[&str]; 2] = [&["7", "7", "8"], &["9"]];
    let mut clicked: Vec<&[&str]> = vec![&["7"], &["7", "8", "5"]];
    clicked.resize(10, &[]);
    clicked.push(&["7", "9"]);
    let graph = example(
        "stream-stream-join.yaml",
        &[],
        &[("shown", &shown), ("clicked", &clicked)],
    )?;
    let printed = run_to_end(&graph, 3, Some(11)).await?;
    let found = rows_of(&printed, "hits");
    assert_eq!(found[0].1, ["7|1|2"]);
    assert_eq!(found[1].1, ["5|1|0", "7|1|2", "8|1|1"]);
    assert!(found[2].1.is_empty());
    // What was shown in the first batch has left the window of ten.
    assert_eq!(found[10].1, ["7|1|0", "9|1|1"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_table_join_names_the_countries() -> Result<()> {
    let requests: [&[&str]; 2] = [&["/ AT", "/tide at", "/ KE", "/ XX", "/mill"], &["/ US", "/ US"]];
    let graph = example("stream-table-join.yaml", &[], &[("requests", &requests)])?;
    let printed = run_to_end(&graph, 2, Some(2)).await?;
    let found = rows_of(&printed, "by_country");
    assert_eq!(found[0].1, ["Austria|2|2", "Kenya|1|1", "unknown|2|2"]);
    assert_eq!(found[1].1, ["United States|2|1"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_end_half_a_minute_after_the_last_visit() -> Result<()> {
    let mut visits: Vec<&[&str]> = vec![&["ann /", "bob /"], &["ann /tide"]];
    visits.resize(29, &[]);
    visits.push(&["bob /mill"]);
    let graph = example("sessions.yaml", &[], &[("visits", &visits)])?;
    let mut graph = graph;
    graph.outputs[0].from = "ended".to_owned();
    for executors in [1, 3] {
        let printed = run_to_end(&graph, executors, Some(61)).await?;
        let ended: Vec<(i64, Vec<String>)> = rows_of(&printed, "ended")
            .into_iter()
            .filter(|(_, rows)| !rows.is_empty())
            .collect();
        assert_eq!(
            ended,
            [(32, vec!["ann|2|1".to_owned()]), (60, vec!["bob|2|29".to_owned()]),]
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_per_country_ends_with_the_counts_of_the_whole_file() -> Result<()> {
    let graph = example("requests-per-country.yaml", &[], &[])?;
    let countries = std::fs::read_to_string(root().join("deploy/data/countries.csv"))?;
    let countries: HashMap<&str, &str> = countries
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(','))
        .collect();
    let requests = std::fs::read_to_string(root().join("deploy/data/requests.txt"))?;
    let mut expected: BTreeMap<String, i64> = countries.values().map(|name| (name.replace(' ', "_"), 0)).collect();
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut count = |name: &str| *expected.entry(name.to_owned()).or_default() += 1;
    for line in requests.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, code, status] = words[..] else {
            count("blank_lines");
            continue;
        };
        count("requests");
        if status.parse::<u16>()? >= 400 {
            count("errors");
        }
        match countries.get(code.to_uppercase().as_str()) {
            Some(country) => {
                seen.insert(country);
                count(&country.replace(' ', "_"));
            }
            None => count("elsewhere"),
        }
    }
    expected.insert("countries_seen".to_owned(), seen.len() as i64);
    assert!(expected.values().all(|count| *count > 0), "{expected:?}");
    for executors in [1, 3] {
        let cluster = TestCluster::start(executors).await?;
        cluster.run(&graph, None).await?;
        let accumulators = cluster.client().accumulators("requests-per-country", false, 0).await?;
        let counted: BTreeMap<String, i64> = accumulators
            .into_iter()
            .filter_map(|accumulator| match accumulator.total.value {
                Some(Scalar::Integer(value)) => Some((accumulator.name, value)),
                _ => None,
            })
            .collect();
        assert_eq!(counted, expected, "{executors} executors");
        cluster.stop().await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clean_tweets_drops_what_is_no_tweet_and_says_how_positive_the_rest_is() -> Result<()> {
    let out = tempfile::tempdir()?;
    let graph = example("clean-tweets.yaml", &[("OUT", out.path())], &[])?;
    let cluster = TestCluster::of_build(2, &tidemill::functions().build()?).await?;
    cluster.run(&graph, None).await?;
    cluster.stop().await;
    let lines = saved(&out.path().join("clean-tweets/batch_time=1000"))?;
    let (header, rows): (Vec<&String>, Vec<&String>) = lines.iter().partition(|line| *line == "text,polarity");
    assert_eq!(header.len(), 1, "{lines:?}");
    let logged = std::fs::read_to_string(root().join("deploy/data/logged-tweets.txt"))?;
    let expected: Vec<&str> = logged
        .lines()
        .filter(|line| !line.contains("Error on_data") && !line.contains("Listening on port"))
        .map(|line| {
            let line = line.strip_prefix("b'").unwrap_or(line);
            line.strip_suffix('\'').unwrap_or(line)
        })
        .filter(|text| !text.trim().is_empty())
        .collect();
    assert_eq!(rows.len(), expected.len());
    let mut polarities = HashMap::new();
    for row in rows {
        let (text, polarity) = row.rsplit_once(',').context("two columns")?;
        let polarity: f64 = polarity.parse()?;
        assert!((-1.0..=1.0).contains(&polarity), "{row}");
        let text = text.trim_matches('"').replace("\"\"", "\"");
        assert!(expected.contains(&text.as_str()), "{row}");
        polarities.insert(text, polarity);
    }
    let of = |part: &str| {
        polarities
            .iter()
            .find(|(text, _)| text.contains(part))
            .map(|(_, polarity)| *polarity)
    };
    assert!(of("wonderful morning") > Some(0.5));
    assert!(of("terrible service") < Some(-0.5));
    assert_eq!(of("tide turns at six"), Some(0.0));
    Ok(())
}
