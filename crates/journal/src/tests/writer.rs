//! The writing task: groups, order, and what it tells.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::path::Path;
use tokio::sync::{Notify, mpsc};

use super::faulty_store::{Fault, FaultyStore};
use super::words;
use crate::object::{ObjectLog, ObjectLogOptions};
use crate::writer::{Journal, JournalEvent, JournalOptions};

async fn open(store: &FaultyStore, options: JournalOptions) -> (Journal, mpsc::UnboundedReceiver<JournalEvent>) {
    let store: Arc<dyn ObjectStore> = Arc::new(store.clone());
    let log = ObjectLog::open(store, Path::from("journal"), ObjectLogOptions::default());
    let (log, recovered) = log.await.unwrap();
    Journal::start(log, &recovered, options)
}

async fn recovered(store: &FaultyStore) -> Vec<String> {
    let store: Arc<dyn ObjectStore> = Arc::new(store.clone());
    let log = ObjectLog::open(store, Path::from("journal"), ObjectLogOptions::default());
    words(&log.await.unwrap().1)
}

fn word(number: u64) -> Bytes {
    number.to_string().into()
}

#[tokio::test]
async fn records_that_wait_together_are_written_together() {
    let plain = FaultyStore::new();
    let gate = Arc::new(Notify::new());
    let gated = FaultyStore {
        gate: Some(Arc::clone(&gate)),
        ..plain.clone()
    };
    gate.notify_one();
    let (journal, mut events) = open(&gated, JournalOptions::default()).await;
    assert_eq!(journal.append(word(1)), 1);
    // The first group is being put; what comes now waits for it.
    tokio::task::yield_now().await;
    for sequence in 2..=100 {
        assert_eq!(journal.append(word(sequence)), sequence);
    }
    assert!(journal.waiting_bytes() > 0);
    gate.notify_one();
    assert_eq!(events.recv().await, Some(JournalEvent::Durable { up_to: 1 }));
    gate.notify_one();
    assert_eq!(events.recv().await, Some(JournalEvent::Durable { up_to: 100 }));
    assert_eq!(journal.waiting_bytes(), 0);
    let expected: Vec<String> = (1..=100).map(|number: u32| number.to_string()).collect();
    assert_eq!(recovered(&plain).await, expected);
}

#[tokio::test(start_paused = true)]
async fn a_group_is_put_when_the_first_record_has_waited_long_enough() {
    let store = FaultyStore::new();
    let linger = Duration::from_millis(100);
    let options = JournalOptions {
        linger,
        ..JournalOptions::default()
    };
    let (journal, mut events) = open(&store, options).await;
    let begin = tokio::time::Instant::now();
    journal.append(word(1));
    tokio::time::sleep(Duration::from_millis(60)).await;
    journal.append(word(2));
    assert_eq!(events.recv().await, Some(JournalEvent::Durable { up_to: 2 }));
    assert_eq!(begin.elapsed(), linger);
}

#[tokio::test]
async fn a_group_ends_at_its_limit() {
    let store = FaultyStore::new();
    let options = JournalOptions {
        max_group: 10,
        ..JournalOptions::default()
    };
    let (journal, mut events) = open(&store, options).await;
    for _ in 0..4 {
        journal.append(Bytes::from_static(b"123456"));
    }
    for up_to in 1..=4 {
        assert_eq!(events.recv().await, Some(JournalEvent::Durable { up_to }));
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_tried_again_and_told_once() {
    let store = FaultyStore::new();
    let (journal, mut events) = open(&store, JournalOptions::default()).await;
    let faults: VecDeque<Fault> = [Fault::Fails, Fault::Lies, Fault::Fails].into();
    store.faults.lock().extend(faults);
    journal.append(word(1));
    let Some(JournalEvent::Stalled { error }) = events.recv().await else {
        panic!("a stalled journal says so");
    };
    assert!(
        error.contains("`journal/log/00000000000000000002` failed") && error.contains("timed out"),
        "{error}"
    );
    assert_eq!(events.recv().await, Some(JournalEvent::Durable { up_to: 1 }));
    assert_eq!(recovered(&store).await, ["1"]);
}

#[tokio::test]
async fn a_fenced_writer_says_so_and_ends() {
    let store = FaultyStore::new();
    let (older, mut events) = open(&store, JournalOptions::default()).await;
    let (newer, _events) = open(&store, JournalOptions::default()).await;
    older.append(word(1));
    let by = newer.generation();
    assert_eq!(events.recv().await, Some(JournalEvent::Fenced { by }));
    older.append(word(2));
    assert_eq!(events.recv().await, None);
    assert_eq!(recovered(&store).await, Vec::<String>::new());
}

#[tokio::test]
async fn what_is_queued_is_written_though_the_handles_are_gone() {
    let store = FaultyStore::new();
    let (journal, mut events) = open(&store, JournalOptions::default()).await;
    for number in 1..=3 {
        journal.append(word(number));
    }
    journal.snapshot(3, Bytes::from_static(b"state"));
    drop(journal);
    while events.recv().await.is_some() {}
    assert_eq!(recovered(&store).await, Vec::<String>::new());
}
