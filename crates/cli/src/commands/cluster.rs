//! The processes of a cluster.

use anyhow::Result;
use tidemill_config::Config;
use tidemill_engine::Registry;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

/// Runs a driver until it is told to end.
pub(crate) async fn driver(config: &Config, registry: &Registry) -> Result<()> {
    let mut options = tidemill_driver::Options::from(config);
    options.registry = registry.clone();
    let mut driver = tidemill_driver::start(options).await?;
    println!("driver listening on {}", driver.address());
    tokio::select! {
        result = driver.wait() => return Ok(result?),
        signal = ended() => signal?,
    }
    info!("driver ends");
    driver.stop().await;
    Ok(())
}

/// Runs an executor until it is told to end, or the driver refuses it.
pub(crate) async fn executor(config: &Config, registry: &Registry) -> Result<()> {
    let mut options = tidemill_executor::Options::from(config);
    options.registry = registry.clone();
    let mut executor = tidemill_executor::start(options).await?;
    println!("executor listening on {}", executor.address());
    tokio::select! {
        error = executor.wait() => Err(error.into()),
        signal = ended() => {
            signal?;
            info!("executor ends");
            Ok(())
        }
    }
}

/// Waits for SIGTERM or Ctrl-C.
pub(crate) async fn ended() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        result = tokio::signal::ctrl_c() => result?,
    }
    Ok(())
}
