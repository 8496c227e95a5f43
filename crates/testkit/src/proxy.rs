//! A TCP proxy that can cut what goes through it, or damage it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinHandle};

/// Forwards connections to one address until it is dropped.
pub struct Proxy {
    address: SocketAddr,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
    accept: JoinHandle<()>,
    damaged: Arc<AtomicUsize>,
}

impl Proxy {
    /// Listens on a free loopback port.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        Self::forward(target, None).await
    }

    /// The same, damaging each answer that has `pattern` in it: one bit of it is another one.
    ///
    /// # Errors
    /// No port is free.
    pub async fn damaging(target: SocketAddr, pattern: &'static [u8]) -> Result<Self> {
        Self::forward(target, Some(pattern)).await
    }

    async fn forward(target: SocketAddr, pattern: Option<&'static [u8]>) -> Result<Self> {
        let damaged: Arc<AtomicUsize> = Arc::default();
        let count = Arc::clone(&damaged);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let connections: Arc<Mutex<Vec<AbortHandle>>> = Arc::default();
        let open = Arc::clone(&connections);
        let accept = tokio::spawn(async move {
            while let Ok((mut inbound, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                let forward = tokio::spawn(async move {
                    let Ok(mut outbound) = TcpStream::connect(target).await else {
                        return;
                    };
                    match pattern {
                        None => drop(copy_bidirectional(&mut inbound, &mut outbound).await),
                        Some(pattern) => damage(inbound, outbound, pattern, &count).await,
                    }
                });
                if let Ok(mut open) = open.lock() {
                    open.push(forward.abort_handle());
                }
            }
        });
        Ok(Self {
            address,
            connections,
            accept,
            damaged,
        })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many answers were damaged.
    #[must_use]
    pub fn damaged(&self) -> usize {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Breaks every open connection and says how many; new ones are taken.
    pub fn cut(&self) -> usize {
        let Ok(mut open) = self.connections.lock() else {
            return 0;
        };
        let live: Vec<AbortHandle> = open.drain(..).filter(|connection| !connection.is_finished()).collect();
        live.iter().for_each(AbortHandle::abort);
        live.len()
    }
}

/// Forwards both ways. Of what comes back, each read that has the pattern is damaged there.
async fn damage(inbound: TcpStream, outbound: TcpStream, pattern: &[u8], count: &AtomicUsize) {
    let (mut from_client, mut to_client) = inbound.into_split();
    let (mut from_server, mut to_server) = outbound.into_split();
    let forth = copy(&mut from_client, &mut to_server);
    let back = async {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
            let bytes = &mut buffer[..read];
            if let Some(at) = bytes.windows(pattern.len()).position(|window| window == pattern) {
                bytes[at] ^= 1;
                count.fetch_add(1, Ordering::Relaxed);
            }
            if to_client.write_all(bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(forth, back).0.ok();
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accept.abort();
        self.cut();
    }
}
