//! The benches: what a batch costs, how short an interval can be, how fast words are counted, how fast a socket is read,
//! how old a result is, and what windows, state, joins and large broadcast values cost.
//!
//! ```text
//! cargo build --release
//! cargo bench --bench tidemill-bench                            all, in a few minutes
//! cargo bench --bench tidemill-bench -- overhead interval       some
//! cargo bench --bench tidemill-bench -- --full                  at full size
//! ```
//! Each figure is one line of JSON on standard output: the median of its runs, their spread, the baseline measured in
//! the same runs and the ratio to it. What is being done goes to standard error.

mod bare;
mod blocks;
mod broadcast;
mod cluster;
mod in_memory;
mod ingest;
mod interval;
mod join;
mod latency;
mod observe;
mod overhead;
mod sender;
mod state;
mod windows;
mod wordcount;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

#[derive(Debug, Parser)]
#[command(
    name = "tidemill-bench",
    about = "Measures a cluster; one line of JSON for each figure"
)]
struct Args {
    /// The benches to run (default: all)
    #[arg(value_enum)]
    benches: Vec<Bench>,
    /// Full sizes, for figures to quote; the default takes a few minutes in all
    #[arg(long)]
    full: bool,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Bench {
    /// From the tick to the commit of a tiny two-stage batch on four executor processes
    Overhead,
    /// The shortest interval that such batches keep up with
    Interval,
    /// Counting words, beside a bare loop
    Wordcount,
    /// Lines a second through one socket, beside a bare reader
    Ingest,
    /// From sending a line to the committed result
    Latency,
    /// Aggregates over windows that slide, long ones beside short ones
    Windows,
    /// Keyed state, a million keys beside few and beside a bare loop
    State,
    /// A join of two streams, beside DataFusion alone
    Join,
    /// A large value to sixteen executor processes, beside plain copies over TCP
    Broadcast,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
struct Size {
    full: bool,
}

impl Size {
    fn pick<T>(self, quick: T, full: T) -> T {
        if self.full { full } else { quick }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let all = Bench::value_variants();
    let benches = if args.benches.is_empty() { all } else { &args.benches };
    let size = Size { full: args.full };
    for bench in benches {
        match bench {
            Bench::Overhead => overhead::run(size).await.context("overhead"),
            Bench::Interval => interval::run(size).await.context("interval"),
            Bench::Wordcount => wordcount::run(size).await.context("wordcount"),
            Bench::Ingest => ingest::run(size).await.context("ingest"),
            Bench::Latency => latency::run(size).await.context("latency"),
            Bench::Windows => windows::run(size).await.context("windows"),
            Bench::State => state::run(size).await.context("state"),
            Bench::Join => join::run(size).await.context("join"),
            Bench::Broadcast => broadcast::run(size).await.context("broadcast"),
        }?;
    }
    Ok(())
}
