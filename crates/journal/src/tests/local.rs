//! What a local journal survives: files that end anywhere, changed bytes, files that are gone.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::conformance::{Opener, check};
use super::{Session, words};
use crate::backend::Recovered;
use crate::error::{Error, Result};
use crate::local::LocalLog;

struct Directory(TempDir);

impl Opener for Directory {
    type Backend = LocalLog;

    async fn open(&self) -> Result<(LocalLog, Recovered)> {
        LocalLog::open(self.0.path()).await
    }
}

fn directory() -> Directory {
    Directory(TempDir::new().unwrap())
}

/// The files whose names begin so, in order.
fn files(directory: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let named = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(prefix);
    let mut files: Vec<PathBuf> = entries.filter(named).collect();
    files.sort();
    files
}

#[tokio::test]
async fn a_local_journal_is_a_journal() {
    check(directory).await;
}

/// A journal of one segment with the groups `ab`, `c` and `d`; its directory and the segment.
async fn three_groups() -> (Directory, PathBuf, Vec<usize>) {
    let directory = directory();
    let (mut session, _) = directory.session().await;
    let log = files(directory.0.path(), "log").pop().unwrap();
    let size = || usize::try_from(fs::metadata(&log).unwrap().len()).unwrap();
    let mut ends = vec![size()];
    for words in [&["a", "b"][..], &["c"], &["d"]] {
        session.append(words).await.unwrap();
        ends.push(size());
    }
    drop(session);
    (directory, log, ends)
}

#[tokio::test]
async fn a_file_that_ends_anywhere_gives_the_groups_that_are_whole() {
    let (_directory, log, ends) = three_groups().await;
    let bytes = fs::read(&log).unwrap();
    for length in 0..=bytes.len() {
        let copy = directory();
        let name = log.file_name().unwrap();
        fs::write(copy.0.path().join(name), &bytes[..length]).unwrap();
        let (mut session, found) = copy.session().await;
        let whole = ends.iter().filter(|end| **end <= length).count();
        let expected = ["a", "b", "c", "d"];
        assert_eq!(words(&found), expected[..[0, 0, 2, 3, 4][whole]], "{length} bytes");
        // And it goes on from there.
        session.append(&["next"]).await.unwrap();
        drop(session);
        let (_, found) = copy.session().await;
        assert_eq!(words(&found).last().unwrap(), "next", "{length} bytes");
    }
}

#[tokio::test]
async fn a_changed_byte_before_the_last_group_is_an_error_and_never_other_records() {
    let (_directory, log, ends) = three_groups().await;
    let bytes = fs::read(&log).unwrap();
    for at in 0..bytes.len() {
        let copy = directory();
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        fs::write(copy.0.path().join(log.file_name().unwrap()), &changed).unwrap();
        let opened = copy.open().await;
        if at < ends[2] {
            let error = opened.err().unwrap_or_else(|| panic!("byte {at} is damaged"));
            assert!(matches!(error, Error::Damaged { .. }), "{at}: {error}");
        } else {
            let (_, found) = opened.unwrap();
            assert_eq!(words(&found), ["a", "b", "c"], "{at}");
        }
    }
}

#[tokio::test]
async fn a_missing_segment_is_an_error() {
    let directory = directory();
    for word in ["a", "b", "c"] {
        let (mut session, _) = directory.session().await;
        session.append(&[word]).await.unwrap();
    }
    fs::remove_file(&files(directory.0.path(), "log")[1]).unwrap();
    let error = directory.open().await.unwrap_err();
    assert!(error.to_string().contains("records 2 to 2 are missing"), "{error}");
}

#[tokio::test]
async fn a_damaged_snapshot_falls_back_to_the_one_before_it() {
    let directory = directory();
    let (mut session, _) = directory.session().await;
    for (sequence, word) in (1..).zip(["a", "b", "c"]) {
        session.append(&[word]).await.unwrap();
        session.snapshot(sequence, word).await.unwrap();
    }
    drop(session);
    let snapshots = files(directory.0.path(), "snapshot");
    assert_eq!(snapshots.len(), 2);
    fs::write(&snapshots[1], b"nothing").unwrap();
    let (_, found) = directory.session().await;
    assert_eq!(
        (found.snapshot.clone().unwrap().0, words(&found)),
        (2, vec!["c".to_owned()])
    );
}

#[tokio::test]
async fn segments_that_snapshots_stand_for_go() {
    let directory = directory();
    let (mut session, _) = directory.session().await;
    for sequence in 1..=20 {
        session.append(&["word"]).await.unwrap();
        session.snapshot(sequence, "state").await.unwrap();
    }
    assert!(
        files(directory.0.path(), "log").len() <= 3,
        "{:?}",
        files(directory.0.path(), "log")
    );
    assert_eq!(files(directory.0.path(), "snapshot").len(), 2);
}

#[tokio::test]
async fn a_writer_of_a_generation_that_is_gone_is_fenced() {
    let directory = directory();
    let (mut zombie, _) = directory.session().await;
    zombie.append(&["a"]).await.unwrap();
    // As many others as it takes for the zombie's own generation to be let go, and the one after it.
    for _ in 0..70 {
        let (mut session, found) = directory.session().await;
        session.append(&["b"]).await.unwrap();
        let last = found.next();
        session.snapshot(last, "state").await.unwrap();
    }
    assert!(!files(directory.0.path(), "generation")[0].ends_with("generation-00000000000000000001"));
    let refused = zombie.append(&["lost"]).await.unwrap_err();
    assert!(refused.to_string().contains("has taken over"), "{refused}");
}

#[tokio::test]
async fn two_that_open_at_once_are_not_both_the_writer() {
    for _ in 0..20 {
        let directory = directory();
        let (first, second) = tokio::join!(directory.open(), directory.open());
        let (mut first, _) = Session::new(first.unwrap());
        let (mut second, _) = Session::new(second.unwrap());
        let (a, b) = (first.append(&["a"]).await, second.append(&["b"]).await);
        assert!(a.is_err() || b.is_err(), "both became durable");
        assert!(a.is_ok() || b.is_ok(), "neither became durable");
        drop((first, second));
        let (_, found) = directory.session().await;
        assert_eq!(words(&found), [if a.is_ok() { "a" } else { "b" }]);
    }
}
