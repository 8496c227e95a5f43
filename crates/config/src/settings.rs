//! The sections. `default.toml` says what each key means.

use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Config {
    pub driver: Driver,
    pub journal: Journal,
    pub executor: Executor,
    pub shuffle: Shuffle,
    pub storage: Storage,
    pub broadcast: Broadcast,
    pub receiver: Receiver,
    pub log: Log,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Driver {
    pub bind: String,
    pub min_executors: u32,
    #[serde(with = "humantime_serde")]
    pub min_executors_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub heartbeat_interval: Duration,
    #[serde(with = "humantime_serde")]
    pub heartbeat_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub reattach_grace: Duration,
    pub retained_batches: usize,
    pub retained_prints: usize,
    pub retained_jobs: usize,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Journal {
    pub url: String,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Executor {
    pub driver: String,
    pub bind: String,
    pub advertise: String,
    pub slots: u32,
    pub memory: ByteSize,
    #[serde(with = "humantime_serde")]
    pub driver_timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Shuffle {
    pub window: ByteSize,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Storage {
    pub disk: ByteSize,
    pub directory: String,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Broadcast {
    pub memory: ByteSize,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Receiver {
    pub max_block_size: ByteSize,
    pub max_line_size: ByteSize,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Log {
    pub filter: String,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Human,
    Json,
}

impl Config {
    /// Everything that is wrong with the values, as sentences that name the key.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |ok: bool, fault: &str| {
            if !ok {
                faults.push(fault.to_owned());
            }
        };
        let address = |text: &str| {
            text.rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        check(
            address(&self.driver.bind),
            "driver.bind: give host:port, for example 127.0.0.1:7077",
        );
        check(
            address(&self.executor.driver),
            "executor.driver: give host:port, for example 127.0.0.1:7077",
        );
        check(
            address(&self.executor.bind),
            "executor.bind: give host:port, for example 127.0.0.1:7078",
        );
        check(
            self.executor.advertise.is_empty() || address(&self.executor.advertise),
            "executor.advertise: give host:port, or nothing",
        );
        check(self.driver.min_executors > 0, "driver.min_executors: at least 1");
        check(
            !self.driver.heartbeat_interval.is_zero(),
            "driver.heartbeat_interval: more than 0",
        );
        check(
            self.driver.heartbeat_timeout > self.driver.heartbeat_interval,
            "driver.heartbeat_timeout: longer than driver.heartbeat_interval",
        );
        check(
            self.executor.memory.as_u64() >= 16 << 20,
            "executor.memory: at least 16 MiB",
        );
        check(
            self.shuffle.window.as_u64() >= 1 << 16,
            "shuffle.window: at least 64 KiB",
        );
        check(
            self.broadcast.memory.as_u64() >= 1 << 20,
            "broadcast.memory: at least 1 MiB",
        );
        check(
            self.receiver.max_block_size.as_u64() >= 1 << 10,
            "receiver.max_block_size: at least 1 KiB",
        );
        check(
            self.receiver.max_line_size.as_u64() >= 1 << 10,
            "receiver.max_line_size: at least 1 KiB",
        );
        faults
    }
}
