//! A cluster of real processes on loopback.
//!
//! Each process writes its log to a file in the cluster's directory. With `TIDEMILL_KEEP_LOGS` set the directory stays.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tidemill_client::Client;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::eventually;

const START: Duration = Duration::from_secs(60);

/// A driver and executors. All are killed when it is dropped.
pub struct ProcessCluster {
    binary: PathBuf,
    directory: Option<TempDir>,
    driver: Child,
    /// Started after the first one.
    drivers: u32,
    address: String,
    executors: Vec<Option<Child>>,
    settings: Vec<(String, String)>,
}

impl ProcessCluster {
    /// Starts a driver and `executors` executors with `slots` slots each; `settings` are environment variables for all.
    ///
    /// # Errors
    /// A process cannot be started, or does not register in time.
    pub async fn start(binary: &Path, executors: usize, slots: u32, settings: &[(&str, &str)]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut settings: Vec<(String, String)> = settings
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        settings.push(("TIDEMILL__DRIVER__MIN_EXECUTORS".to_owned(), executors.to_string()));
        settings.push(("TIDEMILL__EXECUTOR__SLOTS".to_owned(), slots.to_string()));
        let (driver, address) = spawn(
            binary,
            directory.path(),
            "driver",
            &["driver", "--bind", "127.0.0.1:0"],
            &settings,
        )
        .await?;
        let mut cluster = Self {
            binary: binary.to_owned(),
            directory: Some(directory),
            driver,
            drivers: 0,
            address,
            executors: Vec::new(),
            settings,
        };
        for _ in 0..executors {
            cluster.add_executor().await?;
        }
        cluster.await_executors(executors).await?;
        Ok(cluster)
    }

    /// Starts one more executor and gives its number in this cluster.
    ///
    /// # Errors
    /// The process cannot be started.
    pub async fn add_executor(&mut self) -> Result<usize> {
        let number = self.executors.len();
        let directory = self.directory.as_ref().context("the cluster was stopped")?.path();
        let args = ["executor", "--driver", &self.address, "--bind", "127.0.0.1:0"];
        let name = format!("executor-{number}");
        let (child, _) = spawn(&self.binary, directory, &name, &args, &self.settings).await?;
        self.executors.push(Some(child));
        Ok(number)
    }

    /// Kills the driver and starts another at its address. Executors come to it by themselves.
    ///
    /// # Errors
    /// The process cannot be started.
    pub async fn restart_driver(&mut self) -> Result<()> {
        self.driver.kill().await?;
        let directory = self.directory.as_ref().context("the cluster was stopped")?.path();
        self.drivers += 1;
        let name = format!("driver-{}", self.drivers);
        let args = ["driver", "--bind", &self.address];
        (self.driver, _) = spawn(&self.binary, directory, &name, &args, &self.settings).await?;
        Ok(())
    }

    /// SIGKILL, and waits until the process is gone.
    ///
    /// # Errors
    /// There is no such executor.
    pub async fn kill_executor(&mut self, number: usize) -> Result<()> {
        let child = self.executors.get_mut(number).and_then(Option::take);
        child.context("no such executor")?.kill().await?;
        Ok(())
    }

    /// Sends a signal by name: `STOP`, `CONT`, `TERM`.
    ///
    /// # Errors
    /// There is no such executor.
    pub async fn signal_executor(&self, number: usize, signal: &str) -> Result<()> {
        let child = self
            .executors
            .get(number)
            .and_then(Option::as_ref)
            .context("no such executor")?;
        let pid = child.id().context("the executor has ended")?.to_string();
        let status = Command::new("kill")
            .args([&format!("-{signal}"), &pid])
            .status()
            .await?;
        if !status.success() {
            bail!("kill -{signal} {pid} failed");
        }
        Ok(())
    }

    /// The driver, host:port.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The process number of the driver.
    #[must_use]
    pub fn driver_pid(&self) -> Option<u32> {
        self.driver.id()
    }

    /// The process number of an executor; `None` if it has ended.
    #[must_use]
    pub fn executor_pid(&self, number: usize) -> Option<u32> {
        self.executors.get(number)?.as_ref()?.id()
    }

    /// Where the logs are.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        self.directory.as_ref().map(TempDir::path)
    }

    /// # Errors
    /// The driver does not answer.
    pub async fn client(&self) -> Result<Client> {
        Ok(Client::connect(&self.address).await?)
    }

    /// Waits until exactly so many executors are registered.
    ///
    /// # Errors
    /// They are not within a minute.
    pub async fn await_executors(&self, count: usize) -> Result<()> {
        let client = self.client().await?;
        eventually(START, &format!("{count} executors"), || async {
            let executors = client.executors().await.map_err(|error| error.to_string())?;
            if executors.len() == count {
                Ok(())
            } else {
                Err(format!("{} executors", executors.len()))
            }
        })
        .await
    }
}

impl Drop for ProcessCluster {
    fn drop(&mut self) {
        if std::env::var_os("TIDEMILL_KEEP_LOGS").is_some()
            && let Some(directory) = self.directory.take()
        {
            eprintln!("logs are in {}", directory.keep().display());
        }
    }
}

/// Starts a process and reads the address that it listens on from its first line.
async fn spawn(
    binary: &Path,
    directory: &Path,
    name: &str,
    args: &[&str],
    settings: &[(String, String)],
) -> Result<(Child, String)> {
    let log = std::fs::File::create(directory.join(format!("{name}.log")))?;
    let mut child = Command::new(binary)
        .args(args)
        .envs(settings.iter().map(|(key, value)| (key, value)))
        .env("TIDEMILL__STORAGE__DIRECTORY", directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {}", binary.display()))?;
    let stdout = child.stdout.take().context("no standard output")?;
    let mut lines = BufReader::new(stdout).lines();
    let first = tokio::time::timeout(START, lines.next_line())
        .await
        .context("it said nothing")??;
    let address = first
        .as_deref()
        .and_then(|line| line.rsplit_once(' '))
        .map(|(_, address)| address.to_owned());
    let address = address.with_context(|| format!("{name} did not say where it listens"))?;
    Ok((child, address))
}
