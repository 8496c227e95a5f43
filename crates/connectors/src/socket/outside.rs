//! What a receiver needs of the world: connections and time.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::{sleep, timeout};

/// A server that does not answer for this long counts as one that refuses.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A source to connect to, and the passing of time. Tests have a scripted one.
pub(super) trait Outside: Send + Sync {
    type Stream: AsyncRead + Unpin + Send;

    fn connect(&self) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>> + Send;

    /// Waits by the clock that the receiver goes by.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send;

    /// What it connects to, for people.
    fn target(&self) -> String;
}

/// A TCP server, by name and port. All addresses of the name are tried.
pub(super) struct Tcp {
    pub(super) host: String,
    pub(super) port: u16,
}

impl Outside for Tcp {
    type Stream = TcpStream;

    async fn connect(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let connect = async {
            let mut failure = None;
            for peer in lookup_host((self.host.as_str(), self.port)).await? {
                match connect_to(peer).await {
                    Ok(stream) => return Ok((stream, peer)),
                    Err(error) => failure = Some(error),
                }
            }
            Err(failure.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
        };
        timeout(CONNECT_TIMEOUT, connect).await.unwrap_or_else(|_| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()),
            ))
        })
    }

    async fn sleep(&self, duration: Duration) {
        sleep(duration).await;
    }

    fn target(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

async fn connect_to(peer: SocketAddr) -> io::Result<TcpStream> {
    let socket = if peer.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    // Otherwise a source whose machine is gone would look like one that has nothing to send, for ever.
    socket.set_keepalive(true)?;
    socket.connect(peer).await
}
