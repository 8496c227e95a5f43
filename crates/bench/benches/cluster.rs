//! Clusters of real processes, and the processor time that they use.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use tidemill_testkit::ProcessCluster;

/// A driver and executors, each with so many slots.
pub(crate) async fn start(executors: usize, slots: u32) -> Result<ProcessCluster> {
    ProcessCluster::start(&binary()?, executors, slots, &[]).await
}

/// The binary that was built with the same profile as the benches, or the one that `TIDEMILL_BIN` names.
fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("TIDEMILL_BIN") {
        return Ok(path.into());
    }
    let this = std::env::current_exe()?;
    let built = this.ancestors().nth(2).context("the bench has no directory")?;
    let binary = built.join("tidemill").with_extension(std::env::consts::EXE_EXTENSION);
    if !binary.is_file() {
        bail!(
            "{} is not there: run `cargo build --release` first, or set TIDEMILL_BIN to a tidemill binary",
            binary.display()
        );
    }
    Ok(binary)
}

/// The processes of a cluster: the driver first, then the executors.
pub(crate) fn processes(cluster: &ProcessCluster, executors: usize) -> Vec<u32> {
    let executors = (0..executors).filter_map(|number| cluster.executor_pid(number));
    cluster.driver_pid().into_iter().chain(executors).collect()
}

/// The processor time that a process has used, in seconds; 0 where the system does not say.
pub(crate) fn cpu_seconds(process: u32) -> f64 {
    /// What the kernel counts in, on every architecture.
    const TICKS_PER_SECOND: f64 = 100.0;
    const USER_TICKS: usize = 11;
    let status = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The second field is a name in parentheses that can contain anything; the numbers follow the last one.
    let numbers = status.rsplit_once(')').map_or("", |(_, numbers)| numbers);
    let ticks = numbers.split_whitespace().skip(USER_TICKS).take(2);
    ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
}
