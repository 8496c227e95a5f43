//! The driver's own settings.

use std::time::Duration;

use tidemill_config::Config;
use tidemill_engine::Registry;

/// Read-only settings of a driver.
#[derive(Clone, Debug)]
pub struct Options {
    /// host:port of the gRPC server; port 0 takes a free one.
    pub bind: String,
    pub heartbeat_interval: Duration,
    pub heartbeat_timeout: Duration,
    pub reattach_grace: Duration,
    /// What executors have room for, while none is there to ask.
    pub broadcast_memory: u64,
    pub retained_batches: usize,
    pub retained_prints: usize,
    pub retained_jobs: usize,
    /// Where what is decided is recorded: a directory or the URL of an object store. Empty: nowhere.
    pub journal: String,
    pub scheduler: tidemill_scheduler::Options,
    /// The functions of this build.
    pub registry: Registry,
}

impl From<&Config> for Options {
    fn from(config: &Config) -> Self {
        let driver = &config.driver;
        Self {
            bind: driver.bind.clone(),
            heartbeat_interval: driver.heartbeat_interval,
            heartbeat_timeout: driver.heartbeat_timeout,
            reattach_grace: driver.reattach_grace,
            broadcast_memory: config.broadcast.memory.as_u64(),
            retained_batches: driver.retained_batches,
            retained_prints: driver.retained_prints,
            retained_jobs: driver.retained_jobs,
            journal: config.journal.url.clone(),
            scheduler: tidemill_scheduler::Options {
                min_executors: driver.min_executors,
                min_executors_timeout: driver.min_executors_timeout,
                ..tidemill_scheduler::Options::default()
            },
            registry: Registry::default(),
        }
    }
}
