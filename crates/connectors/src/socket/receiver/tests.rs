//! The receiver over scripted connections, on a clock that the test moves.
//!
//! All runs on one thread without real I/O. So when everybody has been given their turns and nothing has changed, all
//! that can happen at this time has happened.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tidemill_types::BatchTime;
use tokio::io::{AsyncRead, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, yield_now};

use super::super::{ReceivedBlock, SinkError};
use super::*;
use crate::testing::values;

const SECOND: Duration = Duration::from_secs(1);

/// The time at which every test begins, between two borders.
const BEGIN: Duration = Duration::from_millis(10_500);

/// What a sink sees.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Block(Vec<String>),
    Border(i64),
    Active,
    Restarting { reason: String, failures: u32 },
    Stopped,
}

fn block(lines: &[&str]) -> Seen {
    Seen::Block(lines.iter().map(|&line| line.to_owned()).collect())
}

/// Tells the test what it sees, and takes a block for each permit.
struct Recorder {
    seen: mpsc::UnboundedSender<Seen>,
    room: Arc<Semaphore>,
}

impl BlockSink for Recorder {
    async fn store(&mut self, block: ReceivedBlock) -> Result<(), SinkError> {
        let room = self
            .room
            .acquire()
            .await
            .map_err(|_| SinkError("the disk is full".into()))?;
        room.forget();
        assert!(block.bytes > 0);
        let _ = self.seen.send(Seen::Block(values([&block.batch])));
        Ok(())
    }

    async fn border(&mut self, border: BatchTime) -> Result<(), SinkError> {
        let _ = self.seen.send(Seen::Border(border.millis()));
        Ok(())
    }

    fn status(&mut self, event: ReceiverEvent) {
        let _ = self.seen.send(match event {
            ReceiverEvent::Active { .. } => Seen::Active,
            ReceiverEvent::Restarting { reason, failures, .. } => Seen::Restarting { reason, failures },
            ReceiverEvent::Stopped => Seen::Stopped,
        });
    }
}

/// A connection, and how it ends.
struct Scripted {
    stream: DuplexStream,
    breaks: bool,
}

impl AsyncRead for Scripted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Ready(Ok(())) if buf.filled().len() == before && self.breaks => {
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
            other => other,
        }
    }
}

/// Connections in order, none meaning that the source refuses, and the time.
#[derive(Clone)]
struct Script {
    connections: Arc<Mutex<VecDeque<Option<Scripted>>>>,
    now: watch::Sender<Duration>,
}

impl Script {
    fn push(&self, connection: Option<Scripted>) {
        self.connections.lock().unwrap().push_back(connection);
    }
}

impl Outside for Script {
    type Stream = Scripted;

    async fn connect(&self) -> io::Result<(Scripted, SocketAddr)> {
        let next = self.connections.lock().unwrap().pop_front().flatten();
        match next {
            Some(stream) => Ok((stream, SocketAddr::from(([127, 0, 0, 1], 1)))),
            None => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }

    async fn sleep(&self, duration: Duration) {
        let mut now = self.now.subscribe();
        let until = *now.borrow() + duration;
        now.wait_for(|now| *now >= until)
            .await
            .expect("the script has a sender");
    }

    fn target(&self) -> String {
        "source".into()
    }
}

struct Fixture {
    script: Script,
    seen: mpsc::UnboundedReceiver<Seen>,
    room: Arc<Semaphore>,
    stop: watch::Sender<bool>,
    options: ReceiverOptions,
    block_interval: Duration,
    recorder: Option<Recorder>,
    stopped: watch::Receiver<bool>,
}

impl Fixture {
    fn new() -> Self {
        let (sender, seen) = mpsc::unbounded_channel();
        let (stop, stopped) = watch::channel(false);
        let room = Arc::new(Semaphore::new(1000));
        let now = watch::Sender::new(BEGIN);
        let mut options = ReceiverOptions::new(SECOND, BatchTime(0));
        let clock = now.clone();
        options.clock = Arc::new(move || *clock.borrow());
        options.max_block_bytes = 1024;
        Self {
            script: Script {
                connections: Arc::default(),
                now,
            },
            seen,
            stop,
            options,
            block_interval: SECOND,
            recorder: Some(Recorder {
                seen: sender,
                room: Arc::clone(&room),
            }),
            room,
            stopped,
        }
    }

    /// A connection that the receiver will get, and its other end.
    fn connection(&self, breaks: bool) -> DuplexStream {
        let (ours, stream) = duplex(256);
        self.script.push(Some(Scripted { stream, breaks }));
        ours
    }

    fn start(&mut self) -> JoinHandle<Result<(), Error>> {
        let (script, options, stop) = (self.script.clone(), self.options.clone(), self.stopped.clone());
        let block_interval = self.block_interval;
        let mut recorder = self.recorder.take().expect("a fixture starts one receiver");
        tokio::spawn(async move {
            Receiver::new(script, block_interval, options, &mut recorder, stop)
                .run()
                .await
        })
    }

    /// What is seen next, at this time or, as soon as nothing more can happen at this time, later.
    async fn next(&mut self) -> Seen {
        for _ in 0..60_000 {
            settle().await;
            match self.seen.try_recv() {
                Ok(seen) => return seen,
                Err(_) => self.script.now.send_modify(|now| *now += Duration::from_millis(1)),
            }
        }
        panic!("nothing is seen within a minute");
    }

    /// What is seen until a border, without it.
    async fn until_border(&mut self, border: i64) -> Vec<Seen> {
        let mut before = Vec::new();
        loop {
            match self.next().await {
                Seen::Border(at) if at == border => return before,
                other => before.push(other),
            }
        }
    }

    /// Lets time pass up to a time of the receiver's clock.
    async fn wait_until(&self, ms: u64) {
        let until = Duration::from_millis(ms);
        settle().await;
        while *self.script.now.borrow() < until {
            self.script.now.send_modify(|now| *now += Duration::from_millis(1));
            settle().await;
        }
    }
}

/// Gives everybody their turns: more of them than the longest chain of wake-ups in these tests.
async fn settle() {
    for _ in 0..50 {
        yield_now().await;
    }
}

#[tokio::test]
async fn borders_are_reported_also_when_nothing_comes_and_nobody_answers() {
    let mut fixture = Fixture::new();
    fixture.start();
    for border in [11_000, 12_000, 13_000] {
        let before = fixture.until_border(border).await;
        assert!(
            before.iter().all(|seen| matches!(seen, Seen::Restarting { .. })),
            "{before:?}"
        );
    }
    let mut quiet = Fixture::new();
    let _source = quiet.connection(false);
    quiet.start();
    assert_eq!(quiet.until_border(11_000).await, [Seen::Active]);
    assert_eq!(quiet.until_border(12_000).await, []);
}

#[tokio::test]
async fn lines_are_stored_before_the_border_that_follows_them_and_a_line_goes_with_its_end() {
    let mut fixture = Fixture::new();
    let mut source = fixture.connection(false);
    fixture.start();
    source.write_all(b"one\r\ntwo\nthr").await.unwrap();
    assert_eq!(
        fixture.until_border(11_000).await,
        [Seen::Active, block(&["one", "two"])]
    );
    source.write_all(b"ee\n").await.unwrap();
    assert_eq!(fixture.until_border(12_000).await, [block(&["three"])]);
}

#[tokio::test]
async fn blocks_are_cut_at_their_interval() {
    let mut fixture = Fixture::new();
    fixture.block_interval = Duration::from_millis(200);
    let mut source = fixture.connection(false);
    fixture.start();
    source.write_all(b"a\n").await.unwrap();
    fixture.wait_until(10_610).await;
    source.write_all(b"b\n").await.unwrap();
    fixture.wait_until(10_790).await;
    source.write_all(b"c\n").await.unwrap();
    let expected = [Seen::Active, block(&["a"]), block(&["b", "c"])];
    assert_eq!(fixture.until_border(11_000).await, expected);
}

#[tokio::test]
async fn a_block_is_cut_when_the_buffer_is_full_and_no_line_is_lost() {
    let mut fixture = Fixture::new();
    let mut source = fixture.connection(false);
    fixture.start();
    let lines: Vec<_> = (0..500).map(|i| format!("line number {i}")).collect();
    source.write_all((lines.join("\n") + "\n").as_bytes()).await.unwrap();
    let mut received = Vec::new();
    let mut blocks = 0;
    for seen in fixture.until_border(11_000).await {
        if let Seen::Block(lines) = seen {
            assert!(lines.iter().map(|line| line.len() + 1).sum::<usize>() <= 1024);
            received.extend(lines);
            blocks += 1;
        }
    }
    assert_eq!(received, lines);
    assert!(blocks >= 8, "{blocks} blocks");
}

#[tokio::test]
async fn a_block_has_at_most_the_wanted_rows() {
    let mut fixture = Fixture::new();
    fixture.options.max_block_rows = 2;
    let mut source = fixture.connection(false);
    fixture.start();
    source.write_all(b"a\nb\nc\n").await.unwrap();
    let expected = [Seen::Active, block(&["a", "b"]), block(&["c"])];
    assert_eq!(fixture.until_border(11_000).await, expected);
}

#[tokio::test]
async fn nothing_is_read_while_a_block_waits_to_be_stored() {
    let mut fixture = Fixture::new();
    fixture.room.forget_permits(1000);
    let mut source = fixture.connection(false);
    fixture.start();
    // More than the buffer of the receiver and that of the connection.
    let writer = tokio::spawn(async move {
        let lines = "0123456789abcde\n".repeat(1000);
        source.write_all(lines.as_bytes()).await.unwrap();
        source
    });
    fixture.wait_until(13_000).await;
    assert!(!writer.is_finished(), "the source has to wait");
    assert_eq!(fixture.next().await, Seen::Active);
    assert!(
        fixture.seen.try_recv().is_err(),
        "no border is reported that is not stored"
    );
    fixture.room.add_permits(1000);
    let mut rows = 0;
    while rows < 1000 {
        if let Seen::Block(lines) = fixture.next().await {
            rows += lines.len();
        }
    }
    assert_eq!(rows, 1000);
    writer.await.unwrap();
}

#[tokio::test]
async fn a_receiver_that_was_held_up_reports_the_latest_border() {
    let mut fixture = Fixture::new();
    fixture.room.forget_permits(1000);
    let mut source = fixture.connection(false);
    fixture.start();
    source.write_all(b"a\n").await.unwrap();
    fixture.wait_until(14_200).await;
    fixture.room.add_permits(10);
    assert_eq!(fixture.until_border(11_000).await, [Seen::Active, block(&["a"])]);
    assert_eq!(fixture.next().await, Seen::Border(14_000));
    assert_eq!(fixture.next().await, Seen::Border(15_000));
}

#[tokio::test]
async fn a_source_that_closes_within_a_line_has_ended_that_line() {
    let mut fixture = Fixture::new();
    let mut source = fixture.connection(false);
    let mut again = fixture.connection(false);
    fixture.start();
    source.write_all(b"one\nhalf").await.unwrap();
    drop(source);
    again.write_all(b"two\n").await.unwrap();
    let reason = "source closed the connection".to_owned();
    let expected = [
        Seen::Active,
        Seen::Restarting { reason, failures: 1 },
        Seen::Active,
        block(&["one", "half", "two"]),
    ];
    assert_eq!(fixture.until_border(11_000).await, expected);
}

#[tokio::test]
async fn a_connection_that_breaks_leaves_no_half_line() {
    let mut fixture = Fixture::new();
    let mut source = fixture.connection(true);
    let mut again = fixture.connection(false);
    fixture.start();
    source.write_all(b"one\nhalf").await.unwrap();
    drop(source);
    again.write_all(b"two\n").await.unwrap();
    let reason = "the connection to source failed: connection reset".to_owned();
    let expected = [
        Seen::Active,
        Seen::Restarting { reason, failures: 1 },
        Seen::Active,
        block(&["one", "two"]),
    ];
    assert_eq!(fixture.until_border(11_000).await, expected);
}

#[tokio::test]
async fn failures_are_counted_until_something_is_received() {
    let mut fixture = Fixture::new();
    fixture.options.interval = 3600 * SECOND;
    fixture.block_interval = 3600 * SECOND;
    // Two refusals, two servers that close at once, one that sends a line, one that refuses.
    fixture.script.push(None);
    fixture.script.push(None);
    drop(fixture.connection(false));
    drop(fixture.connection(false));
    let mut source = fixture.connection(false);
    source.write_all(b"a\n").await.unwrap();
    drop(source);
    fixture.start();
    let mut failures = Vec::new();
    while failures.len() < 6 {
        if let Seen::Restarting { failures: count, .. } = fixture.next().await {
            failures.push(count);
        }
    }
    assert_eq!(failures, [1, 2, 3, 4, 1, 2]);
}

#[tokio::test]
async fn a_stopped_receiver_has_stored_every_whole_line_and_reports_the_border_after_them() {
    let mut fixture = Fixture::new();
    let mut source = fixture.connection(false);
    let receiver = fixture.start();
    source.write_all(b"one\ntwo\nhal").await.unwrap();
    fixture.wait_until(10_700).await;
    fixture.stop.send(true).unwrap();
    receiver.await.unwrap().unwrap();
    let expected = [
        Seen::Active,
        block(&["one", "two"]),
        Seen::Border(11_000),
        Seen::Stopped,
    ];
    for seen in expected {
        assert_eq!(fixture.next().await, seen);
    }
}

#[tokio::test]
async fn a_receiver_can_be_stopped_while_it_waits_to_connect() {
    let mut fixture = Fixture::new();
    let receiver = fixture.start();
    assert!(matches!(fixture.next().await, Seen::Restarting { .. }));
    fixture.stop.send(true).unwrap();
    receiver.await.unwrap().unwrap();
    assert_eq!(fixture.next().await, Seen::Border(11_000));
    assert_eq!(fixture.next().await, Seen::Stopped);
}

#[tokio::test]
async fn a_sink_that_fails_ends_the_receiver_with_its_reason() {
    let mut fixture = Fixture::new();
    let mut source = fixture.connection(false);
    let receiver = fixture.start();
    fixture.room.close();
    source.write_all(b"one\n").await.unwrap();
    fixture.wait_until(11_000).await;
    let error = receiver.await.unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the receiver's blocks cannot be stored: the disk is full"
    );
}
