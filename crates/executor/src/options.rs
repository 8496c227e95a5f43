//! The executor's own settings.

use std::path::PathBuf;
use std::time::Duration;

use tidemill_config::Config;
use tidemill_engine::Registry;

/// Read-only settings of an executor.
#[derive(Clone, Debug)]
pub struct Options {
    /// host:port of the driver.
    pub driver: String,
    /// How long to go on trying to reach it; zero: for ever.
    pub driver_timeout: Duration,
    /// host:port of the data service; port 0 takes a free one.
    pub bind: String,
    /// What peers are told, host:port; `None`: the bound address, or the host's name if that is the unspecified one.
    pub advertise: Option<String>,
    pub slots: u32,
    /// For all that the executor holds.
    pub memory: u64,
    pub shuffle_window: u64,
    pub broadcast_memory: u64,
    pub storage_disk: u64,
    pub storage_directory: PathBuf,
    pub max_block_bytes: usize,
    pub max_line_bytes: usize,
    /// The functions of this build.
    pub registry: Registry,
}

impl From<&Config> for Options {
    fn from(config: &Config) -> Self {
        let cores = || std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
        let size = |size: tidemill_config::ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
        Self {
            driver: config.executor.driver.clone(),
            driver_timeout: config.executor.driver_timeout,
            bind: config.executor.bind.clone(),
            advertise: Some(config.executor.advertise.clone()).filter(|address| !address.is_empty()),
            slots: if config.executor.slots == 0 {
                cores()
            } else {
                config.executor.slots
            },
            memory: config.executor.memory.as_u64(),
            shuffle_window: config.shuffle.window.as_u64(),
            broadcast_memory: config
                .broadcast
                .memory
                .as_u64()
                .min(config.executor.memory.as_u64() / 2),
            storage_disk: config.storage.disk.as_u64(),
            storage_directory: if config.storage.directory.is_empty() {
                std::env::temp_dir()
            } else {
                PathBuf::from(&config.storage.directory)
            },
            max_block_bytes: size(config.receiver.max_block_size),
            max_line_bytes: size(config.receiver.max_line_size),
            registry: Registry::default(),
        }
    }
}
