use std::fs;

use tempfile::{TempDir, tempdir};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;

struct Server {
    _dir: TempDir,
    address: SocketAddr,
    task: JoinHandle<Result<ReplaySummary, Error>>,
    stop: oneshot::Sender<()>,
}

impl Server {
    async fn start(name: &str, content: &[u8], options: ReplayOptions) -> Self {
        let dir = tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            replay(listener, &path, options, async {
                let _ = stopped.await;
            })
            .await
        });
        Self {
            _dir: dir,
            address,
            task,
            stop,
        }
    }

    async fn connect(&self) -> BufReader<TcpStream> {
        BufReader::new(TcpStream::connect(self.address).await.unwrap())
    }
}

async fn read_line(client: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    client.read_line(&mut line).await.unwrap();
    line
}

const ONCE: ReplayOptions = ReplayOptions {
    rate: None,
    repeat: false,
};

const FOR_EVER: ReplayOptions = ReplayOptions {
    rate: None,
    repeat: true,
};

#[tokio::test]
async fn the_first_client_gets_the_file_as_it_is_and_the_server_ends() {
    let content = [b"one\r\ntwo \0\xff\n".repeat(200_000), b"no end".to_vec()].concat();
    let server = Server::start("a.txt", &content, ONCE).await;
    let mut received = Vec::new();
    server.connect().await.read_to_end(&mut received).await.unwrap();
    assert!(received == content);
    let expected = ReplaySummary {
        connections: 1,
        lines: 400_000,
        bytes: content.len() as u64,
        complete: true,
    };
    assert_eq!(server.task.await.unwrap().unwrap(), expected);
}

#[tokio::test]
async fn a_compressed_file_is_sent_decompressed() {
    let packed = zstd::stream::encode_all(&b"one\ntwo\n"[..], 0).unwrap();
    let server = Server::start("a.txt.zst", &packed, ONCE).await;
    let mut received = String::new();
    server.connect().await.read_to_string(&mut received).await.unwrap();
    assert_eq!(received, "one\ntwo\n");
}

#[tokio::test]
async fn a_client_that_goes_away_ends_a_replay_that_is_not_repeated() {
    let server = Server::start("a.txt", &b"some line\n".repeat(10_000_000 / 10 * 4), ONCE).await;
    let mut client = server.connect().await;
    assert_eq!(read_line(&mut client).await, "some line\n");
    drop(client);
    let summary = server.task.await.unwrap().unwrap();
    assert!(!summary.complete);
    assert_eq!(summary.connections, 1);
}

#[tokio::test]
async fn every_client_of_a_repeated_replay_gets_the_file_again_and_again() {
    let server = Server::start("a.txt", b"one\ntwo", FOR_EVER).await;
    let mut first = server.connect().await;
    let mut second = server.connect().await;
    for client in [&mut first, &mut second] {
        for _ in 0..3 {
            assert_eq!(read_line(client).await, "one\n");
            assert_eq!(read_line(client).await, "two\n");
        }
    }
    drop(first);
    assert_eq!(read_line(&mut server.connect().await).await, "one\n");
    assert_eq!(read_line(&mut second).await, "one\n");
    server.stop.send(()).unwrap();
    let summary = server.task.await.unwrap().unwrap();
    assert_eq!((summary.connections, summary.complete), (3, false));
}

#[tokio::test]
async fn a_server_that_is_told_to_stop_ends_before_its_first_client() {
    let server = Server::start("a.txt", b"one\n", ONCE).await;
    server.stop.send(()).unwrap();
    assert_eq!(server.task.await.unwrap().unwrap(), ReplaySummary::default());
}

#[tokio::test]
async fn an_empty_file_cannot_be_repeated() {
    let server = Server::start("a.txt", b"", FOR_EVER).await;
    let mut received = Vec::new();
    server.connect().await.read_to_end(&mut received).await.unwrap();
    let error = server.task.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::NothingToReplay { .. }), "{error}");
}

#[tokio::test]
async fn a_file_that_is_missing_is_found_before_there_is_a_client() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let never = std::future::pending();
    let error = replay(listener, Path::new("/nowhere/a.txt"), ONCE, never)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("/nowhere/a.txt"), "{error}");
}

/// Sends by a pace until `lines` are sent; the bursts, and when the last was due.
fn bursts(pace: &mut Pace, lines: u64) -> (Vec<u64>, Duration) {
    let mut now = Duration::ZERO;
    let mut bursts = Vec::new();
    while pace.sent < lines {
        match pace.burst(now) {
            Burst::Wait(pause) => now += pause,
            Burst::Lines(lines) => {
                pace.sent += lines;
                bursts.push(lines);
            }
        }
    }
    (bursts, now)
}

#[test]
fn bursts_are_small_and_follow_the_rate() {
    let (bursts, end) = bursts(&mut Pace::new(10_000), 5_000);
    assert_eq!(bursts, [20; 250]);
    assert_eq!(end, Duration::from_millis(500));
}

#[test]
fn a_rate_below_one_line_a_burst_is_exact_as_well() {
    let (bursts, end) = bursts(&mut Pace::new(3), 9);
    assert_eq!(bursts, [1; 9]);
    assert_eq!(end.as_millis(), 3_000);
}

#[test]
fn a_slow_client_is_not_flooded_afterwards() {
    let mut pace = Pace::new(1_000);
    assert_eq!(
        pace.burst(Duration::from_secs(60)),
        Burst::Lines(1_000),
        "one second of it"
    );
    pace.sent += 1_000;
    assert_eq!(pace.burst(Duration::from_secs(60)), Burst::Wait(BURST_INTERVAL));
}

#[tokio::test]
async fn lines_are_sent_whole_with_a_rate() {
    let options = ReplayOptions {
        rate: Some(1_000_000),
        repeat: false,
    };
    let content = "line\n".repeat(3_000);
    let server = Server::start("a.txt", content.as_bytes(), options).await;
    let mut received = String::new();
    server.connect().await.read_to_string(&mut received).await.unwrap();
    assert_eq!(received, content);
    assert_eq!(server.task.await.unwrap().unwrap().lines, 3_000);
}
