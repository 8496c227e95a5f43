//! The receiver over real sockets.

use std::sync::atomic::Ordering;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;
use crate::testing::values;

/// Gives the test each line and each event.
struct Forward {
    lines: mpsc::UnboundedSender<String>,
    events: mpsc::UnboundedSender<ReceiverEvent>,
}

impl BlockSink for Forward {
    async fn store(&mut self, block: ReceivedBlock) -> Result<(), SinkError> {
        for line in values([&block.batch]) {
            let _ = self.lines.send(line);
        }
        Ok(())
    }

    async fn border(&mut self, _: BatchTime) -> Result<(), SinkError> {
        Ok(())
    }

    fn status(&mut self, event: ReceiverEvent) {
        let _ = self.events.send(event);
    }
}

struct Running {
    lines: mpsc::UnboundedReceiver<String>,
    events: mpsc::UnboundedReceiver<ReceiverEvent>,
    counters: Arc<ReadCounters>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), Error>>,
}

impl Running {
    /// A receiver from a port of this host, with batches of 20 ms.
    fn start(port: u16) -> Self {
        let source = SocketTextSource {
            host: "127.0.0.1".into(),
            port,
            block_interval: None,
            max_rate: None,
            initial_rate: None,
        };
        let options = ReceiverOptions::new(Duration::from_millis(20), BatchTime(0));
        let counters = Arc::clone(&options.counters);
        let (line_sender, lines) = mpsc::unbounded_channel();
        let (event_sender, events) = mpsc::unbounded_channel();
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut sink = Forward {
                lines: line_sender,
                events: event_sender,
            };
            run_socket_text(&source, options, &mut sink, stopped).await
        });
        Self {
            lines,
            events,
            counters,
            stop,
            task,
        }
    }

    async fn lines(&mut self, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        while lines.len() < count {
            lines.push(self.lines.recv().await.expect("the receiver runs"));
        }
        lines
    }
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

async fn accept(listener: &TcpListener) -> TcpStream {
    listener.accept().await.unwrap().0
}

#[tokio::test]
async fn bad_bytes_arrive_as_well_as_they_can() {
    let (listener, port) = listen().await;
    let mut running = Running::start(port);
    let mut source = accept(&listener).await;
    source
        .write_all(b"crlf\r\nnul \0 inside\n\xff\xfe invalid\n\n")
        .await
        .unwrap();
    source.write_all("gr\u{fc}n \u{1f642}\n".as_bytes()).await.unwrap();
    let lines = running.lines(5).await;
    assert_eq!(
        lines,
        [
            "crlf",
            "nul \0 inside",
            "\u{fffd}\u{fffd} invalid",
            "",
            "gr\u{fc}n \u{1f642}"
        ]
    );
    assert_eq!(running.counters.malformed(), 1);
    assert_eq!(running.counters.rows.load(Ordering::Relaxed), 5);
}

#[tokio::test]
async fn a_line_of_100_megabytes_is_cut_and_the_next_one_is_whole() {
    let (listener, port) = listen().await;
    let mut running = Running::start(port);
    let mut source = accept(&listener).await;
    let sender = tokio::spawn(async move {
        let piece = vec![b'x'; 1_000_000];
        for _ in 0..100 {
            source.write_all(&piece).await.unwrap();
        }
        source.write_all(b"\nnext\n").await.unwrap();
        source
    });
    let lines = running.lines(2).await;
    assert_eq!(lines[0].len(), DEFAULT_MAX_LINE_BYTES);
    assert_eq!(lines[1], "next");
    assert_eq!(running.counters.long_lines.load(Ordering::Relaxed), 1);
    sender.await.unwrap();
}

#[tokio::test]
async fn a_source_that_refuses_at_first_and_closes_later_is_connected_again() {
    let (listener, port) = listen().await;
    drop(listener);
    let mut running = Running::start(port);
    match running.events.recv().await.unwrap() {
        ReceiverEvent::Restarting {
            reason, failures: 1, ..
        } => {
            assert!(
                reason.starts_with(&format!("cannot connect to 127.0.0.1:{port}: ")),
                "{reason}"
            );
        }
        other => panic!("{other:?}"),
    }
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let mut source = accept(&listener).await;
    source.write_all(b"first\nlast without an end").await.unwrap();
    drop(source);
    assert_eq!(running.lines(2).await, ["first", "last without an end"]);
    let mut source = accept(&listener).await;
    source.write_all(b"again\n").await.unwrap();
    assert_eq!(running.lines(1).await, ["again"]);
}

#[tokio::test]
async fn many_lines_arrive_in_order_and_a_stop_ends_the_receiver() {
    let (listener, port) = listen().await;
    let mut running = Running::start(port);
    let mut source = accept(&listener).await;
    let lines: Vec<_> = (0..100_000)
        .map(|i| format!("{i} a line of some eighty bytes {}", "x".repeat(i % 60)))
        .collect();
    let text = lines.join("\n") + "\n";
    let sender = tokio::spawn(async move {
        source.write_all(text.as_bytes()).await.unwrap();
        source
    });
    assert_eq!(running.lines(lines.len()).await, lines);
    running.stop.send(true).unwrap();
    running.task.await.unwrap().unwrap();
    let mut last = None;
    while let Some(event) = running.events.recv().await {
        last = Some(event);
    }
    assert_eq!(last, Some(ReceiverEvent::Stopped));
    sender.await.unwrap();
}
