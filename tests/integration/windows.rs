//! Windows over queued batches against a count over the lines themselves.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use tidemill_client::StreamingContext;
use tidemill_testkit::run_to_end;

fn batches() -> Vec<Vec<String>> {
    (0..9)
        .map(|batch| {
            (0..batch % 4)
                .map(|line| format!("k{} k{}", (batch * 3 + line) % 5, line))
                .collect()
        })
        .collect()
}

/// The rows of a window of `length` batches that ends with batch `end` (from 1).
fn expected(input: &[Vec<String>], end: usize, length: usize) -> Vec<String> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for lines in &input[end.saturating_sub(length)..end] {
        for key in lines.iter().flat_map(|line| line.split(' ')) {
            *counts.entry(key).or_default() += 1;
        }
    }
    counts
        .into_iter()
        .map(|(key, count)| format!("{key}|{count}"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_of_any_length_and_slide_cover_their_batches() -> Result<()> {
    let input = batches();
    for (length, slide) in [(1, 1), (3, 1), (4, 2), (2, 3), (20, 1)] {
        let second = Duration::from_secs(1);
        let ctx = StreamingContext::new("windows", second);
        ctx.partitions(3);
        ctx.queue_stream(input.clone())
            .window(second * length, Some(second * slide))
            .flat_map([("key", "string_to_array(value, ' ')")])
            .reduce_by_key("key", [("count", "count(*)")])
            .print_rows(100);
        let printed = run_to_end(&ctx.graph()?, 2, None).await?;
        let due: Vec<usize> = (1..=input.len()).filter(|batch| batch % slide as usize == 0).collect();
        let times: Vec<i64> = printed.iter().map(|batch| batch.time).collect();
        assert_eq!(
            times,
            due.iter().map(|batch| *batch as i64 * 1000).collect::<Vec<_>>(),
            "{length} by {slide}"
        );
        for (batch, end) in printed.iter().zip(due) {
            assert_eq!(
                batch.sorted(),
                expected(&input, end, length as usize),
                "{length} by {slide} at {end}"
            );
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_without_aggregation_gives_the_records_of_its_batches() -> Result<()> {
    let second = Duration::from_secs(1);
    let ctx = StreamingContext::new("records", second);
    ctx.partitions(2);
    let input = vec![
        vec!["a".to_owned()],
        vec!["b".to_owned(), "c".to_owned()],
        vec![],
        vec!["d".to_owned()],
    ];
    ctx.queue_stream(input).window(second * 2, None).print_rows(100);
    let printed = run_to_end(&ctx.graph()?, 2, None).await?;
    let seen: Vec<Vec<String>> = printed.iter().map(tidemill_testkit::Batch::sorted).collect();
    assert_eq!(seen, [vec!["a"], vec!["a", "b", "c"], vec!["b", "c"], vec!["d"]]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_time_is_the_time_of_the_batch() -> Result<()> {
    let ctx = StreamingContext::new("times", Duration::from_secs(1));
    ctx.partitions(1);
    ctx.queue_stream(vec![vec!["x".to_owned()], vec!["y".to_owned()]])
        .map([
            ("value", "value"),
            ("at", "to_unixtime(now())"),
            ("same", "now() = batch_time()"),
        ])
        .print_rows(10);
    let printed = run_to_end(&ctx.graph()?, 1, None).await?;
    let seen: Vec<Vec<String>> = printed.iter().map(|batch| batch.rows.clone()).collect();
    assert_eq!(seen, [["x|1|true"], ["y|2|true"]]);
    Ok(())
}
