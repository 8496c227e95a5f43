//! A text file as a socket source, for trying things out and for tests.
//!
//! The bytes of the file are sent as they are, decompressed if its name says so. With a rate, lines are sent in small
//! bursts spread evenly over time. Each connection has its own pace and begins at the beginning of the file.
//!
//! Without `repeat` the file is sent once, to the first client, and the server ends. With it, every client gets the
//! file again and again until the server is told to stop. A client that goes away ends its own connection only.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use memchr::memchr_iter;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;

use crate::Error;
use crate::text::TextInput;

/// Bytes that are read, and without a rate sent, at once.
const CHUNK_BYTES: u64 = 512 << 10;

/// Chunks that are read ahead.
const CHUNKS_AHEAD: usize = 2;

/// A burst is due this often, unless the rate is lower.
const BURST_INTERVAL: Duration = Duration::from_millis(2);

/// A client that was slow is sent at most this much faster later on.
const LONGEST_CATCH_UP: Duration = Duration::from_secs(1);

/// How long accepting rests after an error, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, Default)]
pub struct ReplayOptions {
    /// Lines a second on each connection; `None`: as fast as the client takes them.
    pub rate: Option<u64>,
    /// Send the file again and again, to every client, for ever.
    pub repeat: bool,
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplaySummary {
    pub connections: u64,
    pub lines: u64,
    pub bytes: u64,
    /// The only client took the whole file. Never true with `repeat`.
    pub complete: bool,
}

/// Serves a text file to the clients of `listener` until it has been sent, or `shutdown` is ready.
pub async fn replay(
    listener: TcpListener,
    path: &Path,
    options: ReplayOptions,
    shutdown: impl Future<Output = ()>,
) -> Result<ReplaySummary, Error> {
    // A file that cannot be read is found before the first client is.
    let file = path.to_owned();
    blocking(move || TextInput::open(&file).map(drop)).await?;

    let totals = Arc::new(Totals::default());
    let served = async {
        if options.repeat {
            serve_all(&listener, path, options, &totals).await
        } else {
            let (stream, peer) = accept(&listener).await;
            totals.connections.fetch_add(1, Ordering::Relaxed);
            let sent = serve(stream, path, options, &totals).await;
            log_end(peer, &sent);
            match sent {
                Ok(()) => Ok(true),
                Err(ServeError::Client(_)) => Ok(false),
                Err(ServeError::Input(error)) => Err(error),
            }
        }
    };
    let complete = tokio::select! {
        served = served => served?,
        () = shutdown => false,
    };
    Ok(totals.summary(complete))
}

#[derive(Default)]
struct Totals {
    connections: AtomicU64,
    lines: AtomicU64,
    bytes: AtomicU64,
}

impl Totals {
    fn summary(&self, complete: bool) -> ReplaySummary {
        ReplaySummary {
            connections: self.connections.load(Ordering::Relaxed),
            lines: self.lines.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            complete,
        }
    }
}

/// Why a connection ended early.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("the client went away: {0}")]
    Client(#[source] io::Error),
    #[error(transparent)]
    Input(#[from] Error),
}

/// Ends only if the file can no longer be read.
async fn serve_all(
    listener: &TcpListener,
    path: &Path,
    options: ReplayOptions,
    totals: &Arc<Totals>,
) -> Result<bool, Error> {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            (stream, peer) = accept(listener) => {
                totals.connections.fetch_add(1, Ordering::Relaxed);
                let (path, totals) = (path.to_owned(), Arc::clone(totals));
                clients.spawn(async move {
                    let sent = serve(stream, &path, options, &totals).await;
                    log_end(peer, &sent);
                    sent
                });
            }
            Some(ended) = clients.join_next() => match ended {
                Ok(Ok(()) | Err(ServeError::Client(_))) => {}
                Ok(Err(ServeError::Input(error))) => return Err(error),
                Err(error) => return Err(Error::Helper { reason: error.to_string() }),
            },
        }
    }
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                tracing::info!(%peer, "client connected");
                return (stream, peer);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn log_end(peer: SocketAddr, sent: &Result<(), ServeError>) {
    match sent {
        Ok(()) => tracing::info!(%peer, "the whole file is sent"),
        Err(error) => tracing::info!(%peer, %error, "connection ended"),
    }
}

/// Sends the file to one client.
async fn serve(mut stream: TcpStream, path: &Path, options: ReplayOptions, totals: &Totals) -> Result<(), ServeError> {
    // Bursts are small; none of them should wait for the answer to the one before.
    stream.set_nodelay(true).map_err(ServeError::Client)?;
    let (sender, mut chunks) = mpsc::channel(CHUNKS_AHEAD);
    let path = path.to_owned();
    let reader = spawn_blocking(move || read_chunks(&path, options.repeat, &sender));
    let connected = Instant::now();
    let mut pace = options.rate.map(Pace::new);
    while let Some(chunk) = chunks.recv().await {
        send(&mut stream, &chunk, pace.as_mut(), connected, totals)
            .await
            .map_err(ServeError::Client)?;
    }
    join(reader.await)?;
    stream.shutdown().await.map_err(ServeError::Client)
}

/// Reads until the end of the file, or until nobody wants more.
fn read_chunks(path: &Path, repeat: bool, chunks: &mpsc::Sender<Vec<u8>>) -> Result<(), Error> {
    loop {
        let mut input = TextInput::open(path)?;
        let mut last = None;
        loop {
            let mut chunk = Vec::with_capacity(CHUNK_BYTES as usize);
            let read = input
                .append_to(&mut chunk, CHUNK_BYTES)
                .map_err(|source| Error::ReadInput {
                    path: path.to_owned(),
                    source,
                })?;
            last = chunk.last().copied().or(last);
            if !chunk.is_empty() && chunks.blocking_send(chunk).is_err() {
                return Ok(());
            }
            if read < CHUNK_BYTES {
                break;
            }
        }
        match last {
            _ if !repeat => return Ok(()),
            None => return Err(Error::NothingToReplay { path: path.to_owned() }),
            // The next round must not continue the last line of this one.
            Some(byte) if byte != b'\n' && chunks.blocking_send(vec![b'\n']).is_err() => return Ok(()),
            Some(_) => {}
        }
    }
}

async fn send(
    stream: &mut TcpStream,
    chunk: &[u8],
    pace: Option<&mut Pace>,
    connected: Instant,
    totals: &Totals,
) -> io::Result<()> {
    let Some(pace) = pace else {
        stream.write_all(chunk).await?;
        totals
            .lines
            .fetch_add(memchr_iter(b'\n', chunk).count() as u64, Ordering::Relaxed);
        totals.bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        return Ok(());
    };
    let mut rest = chunk;
    while !rest.is_empty() {
        let wanted = match pace.burst(connected.elapsed()) {
            Burst::Lines(lines) => lines,
            Burst::Wait(pause) => {
                sleep(pause).await;
                continue;
            }
        };
        let mut lines = 0;
        let mut end = rest.len();
        for newline in memchr_iter(b'\n', rest) {
            lines += 1;
            if lines == wanted {
                end = newline + 1;
                break;
            }
        }
        stream.write_all(&rest[..end]).await?;
        pace.sent += lines;
        totals.lines.fetch_add(lines, Ordering::Relaxed);
        totals.bytes.fetch_add(end as u64, Ordering::Relaxed);
        rest = &rest[end..];
    }
    Ok(())
}

/// When how many lines may have been sent. Times are since the beginning of the connection.
struct Pace {
    rate: u64,
    begun: Duration,
    /// Lines since `begun`.
    sent: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Burst {
    /// Lines to send now, at least one.
    Lines(u64),
    Wait(Duration),
}

impl Pace {
    fn new(rate: u64) -> Self {
        Self {
            rate: rate.max(1),
            begun: Duration::ZERO,
            sent: 0,
        }
    }

    /// When `lines` lines may have been sent, from `begun` on.
    fn time_of(&self, lines: u64) -> Duration {
        let nanos = (u128::from(lines) * 1_000_000_000).div_ceil(u128::from(self.rate));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// What is due at the time `now`.
    fn burst(&mut self, now: Duration) -> Burst {
        let behind = now.saturating_sub(self.begun + self.time_of(self.sent));
        self.begun += behind.saturating_sub(LONGEST_CATCH_UP);
        let elapsed = now.saturating_sub(self.begun);
        let allowed = elapsed.as_nanos() * u128::from(self.rate) / 1_000_000_000;
        match u64::try_from(allowed).unwrap_or(u64::MAX).saturating_sub(self.sent) {
            0 => Burst::Wait(self.time_of(self.sent + 1).saturating_sub(elapsed).max(BURST_INTERVAL)),
            lines => Burst::Lines(lines),
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    join(spawn_blocking(work).await)
}

fn join<T>(joined: Result<Result<T, Error>, tokio::task::JoinError>) -> Result<T, Error> {
    joined.unwrap_or_else(|error| {
        Err(Error::Helper {
            reason: error.to_string(),
        })
    })
}

#[cfg(test)]
mod tests;
