//! A socket source under the test's control.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

/// Listens on a free loopback port.
pub struct Feed {
    listener: TcpListener,
}

impl Feed {
    /// # Errors
    /// No port is free.
    pub async fn listen() -> Result<Self> {
        Ok(Self {
            listener: TcpListener::bind("127.0.0.1:0").await?,
        })
    }

    /// # Errors
    /// Never for a bound socket.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Waits for the receiver.
    ///
    /// # Errors
    /// The listener broke.
    pub async fn accept(&self) -> Result<TcpStream> {
        Ok(self.listener.accept().await?.0)
    }

    /// Waits for the receiver and sends it bytes; the connection stays open in the stream that is given back.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn send(&self, bytes: &[u8]) -> Result<TcpStream> {
        let mut stream = self.accept().await?;
        stream.write_all(bytes).await?;
        stream.flush().await?;
        Ok(stream)
    }
}
