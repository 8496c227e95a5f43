//! What a journal in an object store survives.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use proptest::prelude::*;

use super::conformance::{Opener, check};
use super::faulty_store::{Fault, FaultyStore};
use super::words;
use crate::backend::{AppendError, Recovered};
use crate::error::Result;
use crate::object::{ObjectLog, ObjectLogOptions};

struct Objects {
    store: FaultyStore,
    options: ObjectLogOptions,
}

impl Objects {
    /// A store with a retention.
    fn keeping(retention: Duration) -> Self {
        Self {
            store: FaultyStore::new(),
            options: ObjectLogOptions { retention },
        }
    }

    async fn keys(&self, kind: &str) -> Vec<Path> {
        let prefix = Path::from(format!("journal/{kind}"));
        let listed = self.store.list(Some(&prefix)).map_ok(|meta| meta.location);
        let mut keys: Vec<Path> = listed.try_collect().await.unwrap();
        keys.sort();
        keys
    }
}

impl Opener for Objects {
    type Backend = ObjectLog;

    async fn open(&self) -> Result<(ObjectLog, Recovered)> {
        let store: Arc<dyn ObjectStore> = Arc::new(self.store.clone());
        ObjectLog::open(store, Path::from("journal"), self.options).await
    }
}

#[tokio::test]
async fn a_journal_of_objects_is_a_journal() {
    check(|| Objects::keeping(Duration::from_secs(600))).await;
    check(|| Objects::keeping(Duration::ZERO)).await;
}

#[tokio::test]
async fn a_put_whose_answer_was_lost_is_there_once() {
    let objects = Objects::keeping(Duration::from_secs(600));
    let (mut session, _) = objects.session().await;
    objects
        .store
        .faults
        .lock()
        .extend([Fault::Lies, Fault::Fails, Fault::Works]);
    for attempt in ["lies", "fails"] {
        let error = session.append(&["a"]).await.unwrap_err();
        assert!(matches!(error, AppendError::Unavailable(_)), "{attempt}: {error}");
    }
    session.append(&["a"]).await.unwrap();
    session.append(&["b"]).await.unwrap();
    drop(session);
    let (_, found) = objects.session().await;
    assert_eq!(words(&found), ["a", "b"]);
}

#[tokio::test]
async fn a_put_that_lied_to_a_writer_that_died_is_read_or_not_but_never_in_part() {
    let objects = Objects::keeping(Duration::from_secs(600));
    let (mut session, _) = objects.session().await;
    objects.store.faults.lock().push_back(Fault::Lies);
    session.append_unanswered(&["a", "b"]).await;
    drop(session);
    let (mut session, found) = objects.session().await;
    assert_eq!(words(&found), ["a", "b"]);
    objects.store.faults.lock().push_back(Fault::Fails);
    session.append_unanswered(&["c", "d"]).await;
    drop(session);
    let (_, found) = objects.session().await;
    assert_eq!(words(&found), ["a", "b"]);
}

#[tokio::test]
async fn a_writer_whose_next_number_was_deleted_is_fenced() {
    let objects = Objects::keeping(Duration::ZERO);
    let (mut zombie, _) = objects.session().await;
    zombie.append(&["a"]).await.unwrap();
    let before = objects.keys("log").await;
    let (mut present, _) = objects.session().await;
    for sequence in 2..=6 {
        present.append(&["b"]).await.unwrap();
        present.snapshot(sequence, "state").await.unwrap();
    }
    // The number that the zombie takes next can be put again.
    let after = objects.keys("log").await;
    assert!(after[0] > before[before.len() - 1], "{before:?} {after:?}");
    let refused = zombie.append(&["lost"]).await.unwrap_err();
    assert!(
        matches!(refused, AppendError::Fenced { by } if by == present.generation),
        "{refused}"
    );
}

#[tokio::test]
async fn a_missing_object_is_an_error() {
    let objects = Objects::keeping(Duration::from_secs(600));
    let (mut session, _) = objects.session().await;
    for word in ["a", "b", "c"] {
        session.append(&[word]).await.unwrap();
    }
    drop(session);
    objects.store.delete(&objects.keys("log").await[2]).await.unwrap();
    let error = objects.open().await.unwrap_err();
    assert!(
        error.to_string().contains("objects 3 to 3 of the log are missing"),
        "{error}"
    );
}

fn faults() -> impl Strategy<Value = Vec<Fault>> {
    let fault = prop_oneof![3 => Just(Fault::Works), 1 => Just(Fault::Fails), 1 => Just(Fault::Lies)];
    prop::collection::vec(fault, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Two writers take turns, one of them often a zombie, on a store that fails and lies. What either was told is durable
    /// is read, in the order in which it was told, and each once.
    #[test]
    fn what_was_told_to_be_durable_is_read(faults in faults(), turns in prop::collection::vec((any::<bool>(), 0..4_u8), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let objects = Objects::keeping(Duration::from_secs(600));
            let mut sessions = [None, None];
            let (mut promised, mut written) = (Vec::new(), 0);
            objects.store.faults.lock().extend(faults);
            for (which, action) in turns {
                let session = &mut sessions[usize::from(which)];
                if action == 0 || session.is_none() {
                    // An opening that fails is tried again by the next turn.
                    *session = objects.open().await.ok().map(|opened| super::Session::new(opened).0);
                    continue;
                }
                let Some(open) = session else { continue };
                let word = written.to_string();
                written += 1;
                loop {
                    match open.append(&[&word]).await {
                        Ok(()) => break promised.push(word),
                        Err(AppendError::Fenced { .. }) => break *session = None,
                        Err(AppendError::Unavailable(_)) => {}
                    }
                }
            }
            objects.store.faults.lock().clear();
            let (_, found) = objects.session().await;
            let mut read = words(&found).into_iter();
            for word in &promised {
                prop_assert!(read.any(|found| found == *word), "{word} of {promised:?} is not in {:?}", words(&found));
            }
            let mut unique = words(&found);
            unique.sort();
            unique.dedup();
            prop_assert_eq!(unique.len(), found.records.len(), "a record is there twice");
            Ok(())
        })?;
    }
}
