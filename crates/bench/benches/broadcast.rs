//! What it costs to give a large value to many executors: the driver's share, memory, and time.
//!
//! A driver and sixteen executors are processes on this machine. The value is a file of random bytes; the clock runs from
//! the moment at which the driver has a new version of it to the moment at which every executor holds it, decoded. The
//! baseline makes as many plain copies over TCP on the same machine, one after another: a sender, a reader into a buffer.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tidemill_bench::Figure;
use tidemill_client::dstream::BroadcastFormat;
use tidemill_client::{Broadcast, BroadcastSummary, BroadcastUpdate, Client, StreamingContext, SubmitOptions};
use tidemill_testkit::ProcessCluster;

use crate::Size;
use crate::cluster;

const EXECUTORS: usize = 16;
const PIECE: f64 = (4 << 20) as f64;
const JOB: &str = "broadcast";
/// Between looks at the driver.
const LOOK: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(300);
/// What is written to a socket at a time.
const CHUNK: usize = 1 << 20;

const DRIVER_TARGET: f64 = 1.5;
const MEMORY_TARGET: f64 = 1.2;
const TIME_TARGET: f64 = 2.0;

/// What one run came to.
struct Run {
    seconds: f64,
    copies_by_driver: f64,
    /// Of the executor that has most.
    memory_copies: f64,
    plain_seconds: f64,
}

pub(crate) async fn run(size: Size) -> Result<()> {
    let bytes = size.pick(32 << 20, 256 << 20);
    let runs = size.pick(1, 3);
    eprintln!("broadcast: {runs} runs of {} MiB to {EXECUTORS} executors", bytes >> 20);
    let mut seen = Vec::new();
    for number in 0..runs {
        // Each run has processes whose memory has held nothing before.
        seen.push(once(bytes, number).await?);
    }
    let of_each = |figure: &dyn Fn(&Run) -> f64| seen.iter().map(figure).collect::<Vec<f64>>();
    Figure::new(
        "broadcast",
        "driver_sent",
        "copies",
        &of_each(&|run| run.copies_by_driver),
    )
    .target(DRIVER_TARGET)
    .print();
    Figure::new(
        "broadcast",
        "executor_memory",
        "copies",
        &of_each(&|run| run.memory_copies),
    )
    .target(MEMORY_TARGET)
    .note("the growth of the resident memory of the executor that grew most")
    .print();
    Figure::new("broadcast", "seconds", "s", &of_each(&|run| run.seconds))
        .baseline(&of_each(&|run| run.plain_seconds))
        .target(TIME_TARGET)
        .note(format!("beside {EXECUTORS} plain copies over TCP, one after another"))
        .print();
    Ok(())
}

async fn once(bytes: usize, number: u64) -> Result<Run> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("value");
    std::fs::write(&file, b"small")?;
    let cluster = cluster::start(EXECUTORS, 1).await?;
    let client = cluster.client().await?;
    client
        .submit(&job(&file)?.graph()?, &[], SubmitOptions::default())
        .await?;
    until(&client, |value| {
        value.version == Some(1) && value.executors.len() == EXECUTORS
    })
    .await?;
    let value = random(bytes, number);
    std::fs::write(&file, &value)?;
    let before = memory(&cluster)?;
    let asking = client.clone();
    let update = tokio::spawn(async move { asking.update_broadcast(JOB, "value", BroadcastUpdate::Refresh).await });
    until(&client, |value| value.newest == 2).await?;
    let start = Instant::now();
    let held = until(&client, |value| value.newest == 2 && value.executors.len() == EXECUTORS).await?;
    let seconds = start.elapsed().as_secs_f64();
    update.await??;
    let after = memory(&cluster)?;
    let grown = before
        .iter()
        .zip(&after)
        .map(|(before, after)| after.saturating_sub(*before));
    let memory_copies = grown.max().unwrap_or_default() as f64 / bytes as f64;
    drop(cluster);
    Ok(Run {
        seconds,
        // The first version was of one piece.
        copies_by_driver: (held.pieces_from_driver as f64 - 1.0) * PIECE / bytes as f64,
        memory_copies,
        plain_seconds: plain_copies(&value)?,
    })
}

/// A job that does next to nothing.
fn job(file: &Path) -> Result<StreamingContext> {
    let context = StreamingContext::new(JOB, Duration::from_secs(1));
    context.partitions(1);
    let value = Broadcast::file_as(file.display().to_string(), BroadcastFormat::Bytes);
    context.broadcast("value", value.updatable());
    context.generate(1, "{index}").count().table("counts");
    Ok(context)
}

async fn until(client: &Client, is_so: impl Fn(&BroadcastSummary) -> bool) -> Result<BroadcastSummary> {
    let end = Instant::now() + PATIENCE;
    loop {
        let value = client
            .broadcasts(JOB)
            .await?
            .into_iter()
            .next()
            .context("no variable")?;
        if is_so(&value) {
            return Ok(value);
        }
        if Instant::now() > end {
            bail!("not within {PATIENCE:?}: {value:?}");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Resident bytes of each executor.
fn memory(cluster: &ProcessCluster) -> Result<Vec<u64>> {
    let processes = cluster::processes(cluster, EXECUTORS);
    processes.iter().skip(1).map(|process| resident(*process)).collect()
}

fn resident(process: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = line.context("no VmRSS")?.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}

/// So many copies over loopback, one after another.
fn plain_copies(value: &[u8]) -> Result<f64> {
    let start = Instant::now();
    for _ in 0..EXECUTORS {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let copied = std::thread::scope(|scope| -> Result<Vec<u8>> {
            let sender = scope.spawn(move || -> Result<()> {
                let (mut stream, _) = listener.accept()?;
                value.chunks(CHUNK).try_for_each(|chunk| stream.write_all(chunk))?;
                Ok(())
            });
            let mut copy = Vec::with_capacity(value.len());
            TcpStream::connect(address)?.read_to_end(&mut copy)?;
            match sender.join() {
                Ok(sent) => sent?,
                Err(_) => bail!("the sender panicked"),
            }
            Ok(copy)
        })?;
        if copied.len() != value.len() {
            bail!("{} of {} bytes were copied", copied.len(), value.len());
        }
    }
    Ok(start.elapsed().as_secs_f64())
}

/// Bytes that nothing can compress, other ones in each run.
fn random(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut value = Vec::with_capacity(bytes + 8);
    while value.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        value.extend_from_slice(&state.to_le_bytes());
    }
    value.truncate(bytes);
    value
}
