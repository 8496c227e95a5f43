//! A whole cluster in one process: a driver and executors over the same gRPC as everywhere, on free loopback ports.
//!
//! What runs here runs on a cluster unchanged; only the processes are fewer. Dropping the cluster stops it.

use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;
use tidemill_client::{Client, JobHandle, StreamingContext, SubmitOptions};
use tidemill_config::Config;
use tidemill_driver::Driver;
pub use tidemill_engine::Registry;
use tidemill_executor::Executor;

/// Why a local cluster did not start.
#[derive(Debug, Error)]
pub enum Error {
    #[error(transparent)]
    Driver(#[from] tidemill_driver::Error),
    #[error(transparent)]
    Executor(#[from] tidemill_executor::Error),
    #[error(transparent)]
    Client(#[from] tidemill_client::Error),
    #[error("the executors did not register within {0:?}")]
    Timeout(Duration),
}

/// A driver and its executors.
pub struct LocalCluster {
    driver: Driver,
    executors: Vec<Executor>,
    config: Config,
    registry: Registry,
}

const REGISTRATION: Duration = Duration::from_secs(30);

impl LocalCluster {
    /// Starts `executors` executors that share the settings; `slots` of 0 divides the cores among them.
    ///
    /// # Errors
    /// A port or a thread cannot be had.
    pub async fn start(config: &Config, executors: u32) -> Result<Self, Error> {
        Self::of_build(config, executors, &Registry::default()).await
    }

    /// The same for a build with functions of its own.
    ///
    /// # Errors
    /// A port or a thread cannot be had.
    pub async fn of_build(config: &Config, executors: u32, registry: &Registry) -> Result<Self, Error> {
        let mut config = config.clone();
        "127.0.0.1:0".clone_into(&mut config.driver.bind);
        config.driver.min_executors = executors.max(1);
        if config.executor.slots == 0 {
            let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
            config.executor.slots = (cores / executors.max(1)).max(1);
        }
        let mut options = tidemill_driver::Options::from(&config);
        options.registry = registry.clone();
        let driver = tidemill_driver::start(options).await?;
        let mut cluster = Self {
            driver,
            executors: Vec::new(),
            config,
            registry: registry.clone(),
        };
        for _ in 0..executors.max(1) {
            cluster.add_executor().await?;
        }
        cluster.await_executors(executors.max(1) as usize).await?;
        Ok(cluster)
    }

    /// Starts one more executor.
    ///
    /// # Errors
    /// A port or a thread cannot be had.
    pub async fn add_executor(&mut self) -> Result<SocketAddr, Error> {
        self.add_executor_through(self.address()).await
    }

    /// Starts one more executor that reaches the driver at another address, such as a proxy's.
    ///
    /// # Errors
    /// A port or a thread cannot be had.
    pub async fn add_executor_through(&mut self, driver: SocketAddr) -> Result<SocketAddr, Error> {
        self.start_executor(driver, "127.0.0.1:0", None).await
    }

    /// Starts one more executor that listens at `bind`, and that peers reach at `advertise`, such as a proxy's address.
    ///
    /// # Errors
    /// A port or a thread cannot be had.
    pub async fn add_executor_behind(&mut self, bind: SocketAddr, advertise: SocketAddr) -> Result<SocketAddr, Error> {
        let driver = self.address();
        self.start_executor(driver, &bind.to_string(), Some(advertise.to_string()))
            .await
    }

    async fn start_executor(
        &mut self,
        driver: SocketAddr,
        bind: &str,
        advertise: Option<String>,
    ) -> Result<SocketAddr, Error> {
        let mut options = tidemill_executor::Options::from(&self.config);
        bind.clone_into(&mut options.bind);
        options.driver = driver.to_string();
        options.advertise = advertise;
        options.registry = self.registry.clone();
        let executor = tidemill_executor::start(options).await?;
        let address = executor.address();
        self.executors.push(executor);
        Ok(address)
    }

    /// Ends an executor at once, as the death of its process would.
    pub fn kill_executor(&mut self, index: usize) {
        if index < self.executors.len() {
            drop(self.executors.remove(index));
        }
    }

    /// Waits until at least so many executors are registered.
    ///
    /// # Errors
    /// They are not after half a minute.
    pub async fn await_executors(&self, count: usize) -> Result<(), Error> {
        let registered = async {
            let client = self.client().await?;
            while client.executors().await?.len() < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok::<(), Error>(())
        };
        tokio::time::timeout(REGISTRATION, registered)
            .await
            .map_err(|_| Error::Timeout(REGISTRATION))?
    }

    /// The driver's address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.driver.address()
    }

    /// A client of the driver.
    ///
    /// # Errors
    /// The driver does not answer.
    pub async fn client(&self) -> Result<Client, Error> {
        Ok(Client::connect(&self.address().to_string()).await?)
    }

    /// Starts a context's job on this cluster.
    ///
    /// # Errors
    /// As [`StreamingContext::start`].
    pub async fn start_job(&self, context: &StreamingContext, options: SubmitOptions) -> Result<JobHandle, Error> {
        Ok(context.start(&self.client().await?, options).await?)
    }

    /// Stops the driver, then the executors.
    pub async fn stop(self) {
        let Self { driver, executors, .. } = self;
        driver.stop().await;
        drop(executors);
    }
}

#[cfg(doctest)]
#[doc = include_str!("../../../docs/client.md")]
struct ClientDocs;
