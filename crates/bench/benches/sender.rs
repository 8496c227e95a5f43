//! A socket that lines come from.
//!
//! A thread of its own accepts one connection after the other and serves each until the reader closes it, so that the
//! cluster and the bare reader read from the same sender. It ends when the sender is dropped.

use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

/// How long a write waits before the sender looks whether it is to end.
const WRITE_TIMEOUT: Duration = Duration::from_millis(100);
/// How much is written at once.
const CHUNK_BYTES: usize = 256 << 10;
/// How often lines are sent at a given rate.
const PACE: Duration = Duration::from_millis(1);

pub(crate) struct Sender {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sender {
    /// Sends the text again and again; at most `rate` of its lines a second, or as fast as they are taken.
    pub(crate) fn repeat(text: Arc<Vec<u8>>, rate: Option<f64>) -> Result<Self> {
        let lines = memchr::memchr_iter(b'\n', &text).count();
        let line_bytes = text.len() as f64 / lines.max(1) as f64;
        let bytes_per_second = rate.map(|rate| rate * line_bytes);
        Self::start(move |socket, stop| repeat(socket, stop, &text, bytes_per_second))
    }

    /// Sends `rate` lines a second that begin with the time at which they are sent, in microseconds since the epoch,
    /// and end with `rest`.
    pub(crate) fn stamped(rate: f64, rest: &str) -> Result<Self> {
        let rest = rest.to_owned();
        Self::start(move |socket, stop| stamped(socket, stop, rate, &rest))
    }

    fn start(serve: impl Fn(&mut TcpStream, &AtomicBool) -> io::Result<()> + Send + 'static) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("sender".to_owned()).spawn(move || {
            for socket in listener.incoming() {
                if stopping.load(Ordering::Relaxed) {
                    return;
                }
                // An error is a reader that went away.
                let _ = socket.and_then(|mut socket| {
                    // Few lines must not wait for the acknowledgement of those before them.
                    socket.set_nodelay(true)?;
                    socket.set_write_timeout(Some(WRITE_TIMEOUT))?;
                    serve(&mut socket, &stopping)
                });
            }
        });
        Ok(Self {
            address,
            stop,
            thread: Some(thread.context("no thread for the sender")?),
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes it where it waits for a connection.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub(crate) fn epoch_micros() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}

fn repeat(socket: &mut TcpStream, stop: &AtomicBool, text: &[u8], bytes_per_second: Option<f64>) -> io::Result<()> {
    let started = Instant::now();
    let (mut at, mut sent) = (0, 0.0);
    while !stop.load(Ordering::Relaxed) {
        let due = bytes_per_second.map_or(f64::MAX, |rate| rate * started.elapsed().as_secs_f64() - sent);
        if due < 1.0 {
            std::thread::sleep(PACE);
            continue;
        }
        let end = text.len().min(at + CHUNK_BYTES).min(at.saturating_add(due as usize));
        let written = write_some(socket, &text[at..end])?;
        sent += written as f64;
        at = (at + written) % text.len();
    }
    Ok(())
}

fn stamped(socket: &mut TcpStream, stop: &AtomicBool, rate: f64, rest: &str) -> io::Result<()> {
    let started = Instant::now();
    let mut sent = 0;
    let mut lines = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let due = (started.elapsed().as_secs_f64() * rate) as u64;
        lines.clear();
        let now = epoch_micros();
        for _ in sent..due {
            writeln!(lines, "{now} {rest}")?;
        }
        sent = due;
        let mut left = lines.as_slice();
        while !left.is_empty() && !stop.load(Ordering::Relaxed) {
            let written = write_some(socket, left)?;
            left = &left[written..];
        }
        std::thread::sleep(PACE);
    }
    Ok(())
}

/// What the socket takes; nothing if it is full.
fn write_some(socket: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match socket.write(bytes) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(0),
        written => written,
    }
}
