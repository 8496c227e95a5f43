//! The contract of [`Backend`], for each.

use super::{Session, words};
use crate::backend::{AppendError, Backend, Recovered};
use crate::error::Result;

/// Opens the same journal again and again.
pub(super) trait Opener {
    type Backend: Backend;

    async fn open(&self) -> Result<(Self::Backend, Recovered)>;

    async fn session(&self) -> (Session<Self::Backend>, Recovered) {
        Session::new(self.open().await.unwrap())
    }
}

/// All of it; each on a journal of its own.
pub(super) async fn check<O: Opener>(new: impl Fn() -> O) {
    what_was_appended_is_read_in_order(new()).await;
    an_older_writer_is_fenced_and_not_read(new()).await;
    what_an_older_writer_finished_before_is_read(new()).await;
    a_group_that_is_appended_again_is_there_once(new()).await;
    a_snapshot_stands_for_what_is_before_it(new()).await;
    only_the_last_two_snapshots_are_needed(new()).await;
    every_opening_takes_a_generation(new()).await;
}

async fn what_was_appended_is_read_in_order(opener: impl Opener) {
    let (mut first, found) = opener.session().await;
    assert_eq!((found.next(), found.records.len(), found.snapshot), (1, 0, None));
    first.append(&["a"]).await.unwrap();
    first.append(&["b", "", "c"]).await.unwrap();
    drop(first);
    let (mut second, found) = opener.session().await;
    assert_eq!(words(&found), ["a", "b", "", "c"]);
    assert_eq!(
        found.records.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(),
        [1, 2, 3, 4]
    );
    second.append(&["d"]).await.unwrap();
    drop(second);
    let (_, found) = opener.session().await;
    assert_eq!(words(&found), ["a", "b", "", "c", "d"]);
}

async fn an_older_writer_is_fenced_and_not_read(opener: impl Opener) {
    let (mut zombie, _) = opener.session().await;
    zombie.append(&["a"]).await.unwrap();
    let (mut present, found) = opener.session().await;
    assert_eq!(words(&found), ["a"]);
    let refused = zombie.append(&["lost"]).await.unwrap_err();
    assert!(
        matches!(refused, AppendError::Fenced { by } if by == present.generation),
        "{refused}"
    );
    present.append(&["b"]).await.unwrap();
    zombie.append_unanswered(&["lost", "too"]).await;
    present.append(&["c"]).await.unwrap();
    drop((zombie, present));
    let (_, found) = opener.session().await;
    assert_eq!(words(&found), ["a", "b", "c"]);
}

async fn what_an_older_writer_finished_before_is_read(opener: impl Opener) {
    let (mut older, _) = opener.session().await;
    for word in ["a", "b", "c"] {
        older.append(&[word]).await.unwrap();
        let (mut newer, found) = opener.session().await;
        assert_eq!(words(&found).last().map(String::as_str), Some(word));
        std::mem::swap(&mut older, &mut newer);
    }
    let (_, found) = opener.session().await;
    assert_eq!(words(&found), ["a", "b", "c"]);
}

async fn a_group_that_is_appended_again_is_there_once(opener: impl Opener) {
    let (mut session, _) = opener.session().await;
    session.append(&["a"]).await.unwrap();
    session.append_unanswered(&["b"]).await;
    // Its answer was lost, so it is appended again.
    let appended = session.append(&["b"]).await;
    if appended.is_ok() {
        session.append(&["c"]).await.unwrap();
    }
    drop(session);
    let (_, found) = opener.session().await;
    assert_eq!(words(&found)[..2], ["a", "b"]);
    assert!(found.records.len() <= 3, "{found:?}");
}

async fn a_snapshot_stands_for_what_is_before_it(opener: impl Opener) {
    let (mut session, _) = opener.session().await;
    session.append(&["a", "b"]).await.unwrap();
    session.append(&["c"]).await.unwrap();
    session.append(&["d"]).await.unwrap();
    session.snapshot(3, "abc").await.unwrap();
    session.append(&["e"]).await.unwrap();
    drop(session);
    let (mut session, found) = opener.session().await;
    let (up_to, state) = found.snapshot.clone().unwrap();
    assert_eq!(
        (up_to, &state[..], words(&found)),
        (3, &b"abc"[..], vec!["d".into(), "e".into()])
    );
    assert_eq!(found.next(), 6);
    session.append(&["f"]).await.unwrap();
    drop(session);
    let (_, found) = opener.session().await;
    assert_eq!(words(&found), ["d", "e", "f"]);
}

async fn only_the_last_two_snapshots_are_needed(opener: impl Opener) {
    let (mut session, _) = opener.session().await;
    let mut state = String::new();
    for (sequence, word) in (1..).zip(["a", "b", "c", "d", "e", "f", "g"]) {
        session.append(&[word]).await.unwrap();
        state.push_str(word);
        session.snapshot(sequence, &state).await.unwrap();
    }
    session.append(&["h"]).await.unwrap();
    drop(session);
    let (_, found) = opener.session().await;
    let (up_to, state) = found.snapshot.clone().unwrap();
    assert_eq!(
        (up_to, &state[..], words(&found)),
        (7, &b"abcdefg"[..], vec!["h".into()])
    );
}

async fn every_opening_takes_a_generation(opener: impl Opener) {
    let mut last = 0;
    for _ in 0..5 {
        let (_, found) = opener.session().await;
        assert!(found.generation.0 > last);
        last = found.generation.0;
    }
}
