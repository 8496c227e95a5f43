//! Channels and limits: how clients and servers of this cluster are set up.

use std::time::Duration;

use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};

/// The greatest message of the control channel: a job with its templates and tables, a table's rows.
pub const MAX_CONTROL_MESSAGE: usize = 256 << 20;
/// The greatest message of the public API: a submission with its files.
pub const MAX_SUBMISSION: usize = 64 << 20;
/// The greatest message between executors; frames are cut far below it.
pub const MAX_DATA_MESSAGE: usize = 64 << 20;

/// The protocol between driver and executors. Both sides must have the same one.
pub const PROTOCOL_VERSION: u32 = 1;

/// What names a build: plans are exchanged only between equal ones.
pub const BUILD: &str = concat!(env!("CARGO_PKG_VERSION"), "-p1");

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 32 << 20;
/// HTTP/2 frames of up to this size are taken: pieces of broadcast values and shuffled rows are not cut into the default
/// 16 KiB, each of which costs a header and a turn.
const FRAME: u32 = 256 << 10;

/// An endpoint for `host:port`, with this cluster's time-outs and windows.
///
/// # Errors
/// The address is not host:port.
pub fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    let uri = if address.contains("://") {
        address.to_owned()
    } else {
        format!("http://{address}")
    };
    Ok(Endpoint::from_shared(uri)?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .tcp_nodelay(true))
}

/// Connects to `host:port`.
///
/// # Errors
/// Nobody answers within five seconds.
pub async fn connect(address: &str) -> Result<Channel, tonic::transport::Error> {
    endpoint(address)?.connect().await
}

/// A server with this cluster's windows and keep-alives.
#[must_use]
pub fn server() -> Server {
    Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
}

/// The connections of a listener, each without Nagle's delay: small messages wait for nobody. The server's own setting
/// holds only for listeners that it binds itself.
#[must_use]
pub fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}
