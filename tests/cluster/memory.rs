//! Executors whose shuffle and state are larger than their memory: the result is right, and the processes stay within it.

use std::time::Duration;

use anyhow::{Context, Result};
use tidemill_client::{ExecutorSummary, StateSpec, StreamingContext, SubmitOptions};
use tidemill_testkit::{ProcessCluster, eventually, rows};

use crate::binary;

const DEADLINE: Duration = Duration::from_secs(590);
const SECOND: Duration = Duration::from_secs(1);

const EXECUTORS: usize = 2;
/// Times its memory that an executor has of shuffled rows in a batch, and of state in the end.
const TIMES: u64 = 4;
/// Bytes of a line, and of what is kept of it.
const LINE: u64 = 500;
const BATCHES: u64 = 2;
/// Of the input.
const SPLITS: u32 = 8;
/// Of the state: what one of them has, with the version before, is to have room beside all else.
const PARTITIONS: u32 = 384;

/// MiB of each executor; the full size is 256.
fn memory() -> Result<u64> {
    match std::env::var("TIDEMILL_MEMORY_MIB") {
        Ok(memory) => memory.parse().context("TIDEMILL_MEMORY_MIB"),
        Err(_) => Ok(16),
    }
}

/// A number of a process's status, in bytes.
fn status(pid: u32, what: &str) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(what));
    let line = line.with_context(|| format!("no {what} in {text}"))?;
    let kib = line.trim_start_matches(':').trim().trim_end_matches(" kB");
    Ok(kib.parse::<u64>()? << 10)
}

fn held(executor: &ExecutorSummary) -> String {
    let Some(storage) = &executor.storage else {
        return "nothing is known".to_owned();
    };
    let kinds = storage.kinds.iter().map(|kind| {
        format!(
            "{}: {} now, {} at most, {} on disk, {} evicted",
            kind.kind, kind.memory_bytes, kind.peak_bytes, kind.disk_bytes, kind.evicted
        )
    });
    let kinds: Vec<String> = kinds.collect();
    format!(
        "peak {} of {}, {} bytes written\n  {}",
        storage.peak_bytes,
        storage.memory_limit,
        storage.written_bytes,
        kinds.join("\n  ")
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn shuffle_and_state_of_four_times_the_memory_are_right_and_the_processes_stay_within_it() -> Result<()> {
    let memory = memory()? << 20;
    let settings = format!("{memory} B");
    let settings = [
        ("TIDEMILL__EXECUTOR__MEMORY", settings.as_str()),
        // Else each of the process's threads holds back some of what it has freed.
        ("MALLOC_ARENA_MAX", "1"),
    ];
    let cluster = ProcessCluster::start(binary(), EXECUTORS, 1, &settings).await?;
    let client = cluster.client().await?;
    let idle: Vec<u64> = pids(&cluster)?
        .into_iter()
        .map(|pid| status(pid, "VmHWM"))
        .collect::<Result<_>>()?;

    // Every line is another key: nothing gets smaller on its way to the state, which keeps all of it.
    let keys = memory * TIMES * EXECUTORS as u64 / LINE;
    let ctx = StreamingContext::new("large", SECOND);
    ctx.partitions(SPLITS);
    let padding = "x".repeat(LINE as usize - 20);
    ctx.generate(keys, format!("{{index}} {padding}"))
        .map([
            (
                "key",
                format!("CAST(split_part(value, ' ', 1) AS BIGINT) % {keys}").as_str(),
            ),
            ("value", "value"),
        ])
        .map_with_state(
            "key",
            StateSpec::function([
                ("times", "coalesce(times, 0) + n"),
                (
                    "text",
                    "concat(split_part(value, ' ', 1), substr(value, strpos(value, ' ')))",
                ),
            ])
            .values([("n", "count(*)"), ("value", "max(value)")]),
        )
        .partitions(PARTITIONS)
        .reduce([
            ("keys", "count(*)"),
            ("times", "sum(times)"),
            ("bytes", "sum(octet_length(text))"),
        ])
        .print();
    let options = SubmitOptions {
        no_wait: true,
        batches: Some(BATCHES),
        ..SubmitOptions::default()
    };
    client.submit(&ctx.graph()?, &[], options).await?;
    let summary = eventually(DEADLINE, "the end of the job", || async {
        let summary = client.job("large").await.map_err(|error| error.to_string())?.summary;
        if summary.state.is_over() {
            Ok(summary)
        } else {
            Err(format!("{summary:?}"))
        }
    })
    .await?;
    let executors = client.executors().await?;
    let accounts: Vec<String> = executors.iter().map(held).collect();
    let accounts = accounts.join("\n");
    assert_eq!(
        (summary.error, summary.completed_batches),
        (None, BATCHES),
        "{accounts}"
    );

    let mut printed = Vec::new();
    let mut events = client.follow("large", true).await?;
    while let Some(event) = futures::StreamExt::next(&mut events).await {
        if let tidemill_client::JobEvent::Printed(batch) = event? {
            printed.extend(rows(&batch.rows));
        }
    }
    // The bytes of a line are those of its number, a space and the padding.
    let bytes = |batch: u64| -> u64 {
        let numbers = batch * keys..(batch + 1) * keys;
        numbers.map(|number| digits(number) + 1 + LINE - 20).sum()
    };
    let expected: Vec<String> = (0..BATCHES)
        .map(|batch| format!("{keys}|{}|{}", (batch + 1) * keys, bytes(batch)))
        .collect();
    assert_eq!(printed, expected);

    let spilled: u64 = executors
        .iter()
        .filter_map(|executor| executor.storage.as_ref())
        .map(|storage| storage.written_bytes)
        .sum();
    assert!(spilled > memory, "only {spilled} bytes went to disk\n{accounts}");
    for (pid, idle) in pids(&cluster)?.into_iter().zip(idle) {
        // The program itself, of which the kernel lets go when it needs the room, is larger than all else in a debug build.
        let peak = status(pid, "VmHWM")?.saturating_sub(status(pid, "RssFile")?);
        let limit = memory * 13 / 10 + (64 << 20);
        eprintln!("peak {peak}, limit {limit}, with the program {idle} when idle\n{accounts}");
        assert!(peak <= limit, "{peak} bytes of at most {limit}\n{accounts}");
    }
    Ok(())
}

fn digits(number: u64) -> u64 {
    u64::from(number.checked_ilog10().unwrap_or(0)) + 1
}

fn pids(cluster: &ProcessCluster) -> Result<Vec<u32>> {
    let pids = (0..EXECUTORS).map(|executor| cluster.executor_pid(executor).context("an executor has ended"));
    pids.collect()
}
