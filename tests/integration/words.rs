//! Counting words: the whole path, from queued lines to printed rows, for several numbers of executors and partitions.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use tidemill_client::StreamingContext;
use tidemill_testkit::run_to_end;

fn count(lines: &[String]) -> Vec<String> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for word in lines
        .iter()
        .flat_map(|line| line.split(' '))
        .filter(|word| !word.is_empty())
    {
        *counts.entry(word).or_default() += 1;
    }
    let mut rows: Vec<String> = counts
        .into_iter()
        .map(|(word, count)| format!("{word}|{count}"))
        .collect();
    rows.sort();
    rows
}

fn batches() -> Vec<Vec<String>> {
    let line = |seed: usize| {
        (0..7)
            .map(|i| format!("w{}", (seed * 31 + i * i * 7) % 41))
            .collect::<Vec<_>>()
            .join(" ")
    };
    vec![
        (0..200).map(line).collect(),
        vec![],
        vec!["one line".to_owned()],
        (500..900).map(line).collect(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn word_counts_are_right_for_any_number_of_executors_and_partitions() -> Result<()> {
    let input = batches();
    let expected: Vec<Vec<String>> = input.iter().map(|lines| count(lines)).collect();
    for (executors, partitions) in [(1, 1), (1, 3), (3, 1), (3, 2), (3, 7)] {
        let ctx = StreamingContext::new("words", Duration::from_secs(1));
        ctx.partitions(partitions);
        ctx.queue_stream(input.clone())
            .flat_map([("word", "string_to_array(value, ' ')")])
            .filter("word <> ''")
            .reduce_by_key("word", [("count", "count(*)")])
            .print_rows(1000);
        let printed = run_to_end(&ctx.graph()?, executors, None).await?;
        let seen: Vec<Vec<String>> = printed.iter().map(tidemill_testkit::Batch::sorted).collect();
        assert_eq!(seen, expected, "{executors} executors, {partitions} partitions");
        let times: Vec<i64> = printed.iter().map(|batch| batch.time).collect();
        assert_eq!(times, [1000, 2000, 3000, 4000]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn count_of_an_empty_batch_is_zero_and_reduce_of_one_has_no_row() -> Result<()> {
    let ctx = StreamingContext::new("counts", Duration::from_secs(1));
    ctx.partitions(2);
    let lines = ctx.queue_stream(vec![vec!["1", "2"], vec![], vec!["5"]]);
    lines.count().name("counted").print_rows(10);
    lines
        .reduce([("total", "sum(CAST(value AS BIGINT))")])
        .name("reduced")
        .print_rows(10);
    let printed = run_to_end(&ctx.graph()?, 2, None).await?;
    let of = |stream: &str| -> Vec<Vec<String>> {
        printed
            .iter()
            .filter(|batch| batch.stream == stream)
            .map(|batch| batch.rows.clone())
            .collect()
    };
    assert_eq!(of("counted"), [["2"], ["0"], ["1"]]);
    assert_eq!(of("reduced"), [vec!["3".to_owned()], vec![], vec!["5".to_owned()]]);
    Ok(())
}
