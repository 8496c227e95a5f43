//! A text file as a socket source.

use std::path::Path;

use anyhow::{Context, Result};
use tidemill_connectors::ReplayOptions;
use tokio::net::TcpListener;

pub(crate) async fn replay(file: &Path, host: &str, port: u16, rate: Option<u64>, repeat: bool) -> Result<()> {
    let listener = TcpListener::bind((host, port))
        .await
        .with_context(|| format!("cannot listen on {host}:{port} (choose another port with --port)"))?;
    eprintln!("serving {} on {}", file.display(), listener.local_addr()?);
    let ended = async {
        // Without signals the process ends by its default.
        if super::cluster::ended().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let served = tidemill_connectors::replay(listener, file, ReplayOptions { rate, repeat }, ended).await?;
    eprintln!(
        "served {} lines ({} bytes) to {} connections",
        served.lines, served.bytes, served.connections
    );
    Ok(())
}
