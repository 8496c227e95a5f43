//! What every backend has to do, and what breaks them.

mod conformance;
mod faulty_store;
mod local;
mod object;
mod writer;

use bytes::Bytes;
use tidemill_types::Generation;

use crate::backend::{AppendError, Backend, Recovered};
use crate::group::Group;

/// A group of one-word records behind `next`.
fn group(generation: Generation, next: u64, words: &[&str]) -> Group {
    Group {
        generation,
        first: next,
        records: words
            .iter()
            .map(|word| Bytes::copy_from_slice(word.as_bytes()))
            .collect(),
    }
}

/// A writer that knows its next sequence.
struct Session<B> {
    backend: B,
    generation: Generation,
    next: u64,
}

impl<B: Backend> Session<B> {
    fn new((backend, recovered): (B, Recovered)) -> (Self, Recovered) {
        let session = Self {
            backend,
            generation: recovered.generation,
            next: recovered.next(),
        };
        (session, recovered)
    }

    async fn append(&mut self, words: &[&str]) -> Result<(), AppendError> {
        let group = group(self.generation, self.next, words);
        self.backend.append(&group).await?;
        self.next = group.next();
        Ok(())
    }

    async fn snapshot(&mut self, up_to: u64, state: &str) -> Result<(), AppendError> {
        let state = Bytes::copy_from_slice(state.as_bytes());
        self.backend.snapshot(up_to, state).await
    }

    /// The group may be written or not: nobody was told.
    async fn append_unanswered(&mut self, words: &[&str]) {
        let group = group(self.generation, self.next, words);
        let _ = self.backend.append(&group).await;
    }
}

fn words(recovered: &Recovered) -> Vec<String> {
    let texts = recovered
        .records
        .iter()
        .map(|(_, record)| String::from_utf8_lossy(record).into_owned());
    texts.collect()
}
