//! The one task that writes a journal, and its handles.
//!
//! ```text
//!   append ─┐                      ┌── what has come meanwhile is the next group
//!   append ─┼─► queue ─► group ─► Backend.append ─► Durable { up_to }
//!   append ─┘                      └── fails: again, with longer and longer pauses, and Stalled once
//! ```

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tidemill_types::Generation;
use tokio::sync::mpsc;

use crate::backend::{AppendError, Backend, Recovered};
use crate::group::Group;

const RETRY: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalOptions {
    /// How long the first record of a group waits for others. Zero where a write is cheap: a group is then what came
    /// while the one before it was written.
    pub linger: Duration,
    /// A group is written when it has this many bytes.
    pub max_group: usize,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self {
            linger: Duration::ZERO,
            max_group: 4 << 20,
        }
    }
}

/// What becomes of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JournalEvent {
    /// All records up to this sequence are durable.
    Durable { up_to: u64 },
    /// The store cannot be written; it is tried again. Said once, until [`Durable`](Self::Durable) comes again.
    Stalled { error: String },
    /// A newer generation has taken over. Nothing will become durable any more.
    Fenced { by: Generation },
}

/// A handle to the writing task, which ends when all handles are gone and all is written.
#[derive(Clone)]
pub struct Journal {
    queue: Arc<Mutex<Queue>>,
    waiting: Arc<AtomicU64>,
    generation: Generation,
}

struct Queue {
    next: u64,
    messages: mpsc::UnboundedSender<Message>,
}

enum Message {
    Record(u64, Bytes),
    Snapshot { up_to: u64, state: Bytes },
}

impl Journal {
    /// Starts the task that writes to `backend`, behind what was recovered from it. Events come to the receiver in the
    /// order in which they happen.
    pub fn start<B: Backend>(
        backend: B,
        recovered: &Recovered,
        options: JournalOptions,
    ) -> (Self, mpsc::UnboundedReceiver<JournalEvent>) {
        let (messages, queue) = mpsc::unbounded_channel();
        let (events, receiver) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            backend,
            options,
            generation: recovered.generation,
            events,
            waiting: Arc::clone(&waiting),
            held: None,
        };
        tokio::spawn(writer.run(queue));
        let queue = Queue {
            next: recovered.next(),
            messages,
        };
        let journal = Self {
            queue: Arc::new(Mutex::new(queue)),
            waiting,
            generation: recovered.generation,
        };
        (journal, receiver)
    }

    /// The generation whose records these are.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Takes a record, which gets the next sequence. It is durable when an event says so.
    pub fn append(&self, record: Bytes) -> u64 {
        self.waiting.fetch_add(record.len() as u64, Ordering::Relaxed);
        let mut queue = self.queue.lock();
        let sequence = queue.next;
        queue.next += 1;
        // Without a writer the journal is fenced, and the record is one that will never be durable.
        let _ = queue.messages.send(Message::Record(sequence, record));
        sequence
    }

    /// Keeps a state that stands for all records up to `up_to`, which are durable. A snapshot that cannot be kept is
    /// logged and left out: the one before it and the records behind that are still there.
    pub fn snapshot(&self, up_to: u64, state: Bytes) {
        let _ = self.queue.lock().messages.send(Message::Snapshot { up_to, state });
    }

    /// Bytes of records that are not durable yet. Whoever appends without end has to look at it.
    #[must_use]
    pub fn waiting_bytes(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

struct Writer<B> {
    backend: B,
    options: JournalOptions,
    generation: Generation,
    events: mpsc::UnboundedSender<JournalEvent>,
    waiting: Arc<AtomicU64>,
    /// A message that was taken and did not go into the group before it.
    held: Option<Message>,
}

impl<B: Backend> Writer<B> {
    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Message>) {
        loop {
            let message = match self.held.take() {
                Some(message) => message,
                None => match queue.recv().await {
                    Some(message) => message,
                    None => return,
                },
            };
            let done = match message {
                Message::Record(first, record) => {
                    let group = self.gather(first, record, &mut queue).await;
                    self.append(&group).await
                }
                Message::Snapshot { up_to, state } => self.snapshot(up_to, state).await,
            };
            if let Err(by) = done {
                // Nobody is left to be told if the receiver is gone.
                let _ = self.events.send(JournalEvent::Fenced { by });
                return;
            }
        }
    }

    /// A group of the record and of those that are there, or come within the time to linger.
    async fn gather(&mut self, first: u64, record: Bytes, queue: &mut mpsc::UnboundedReceiver<Message>) -> Group {
        let mut bytes = record.len();
        let mut records = vec![record];
        let until = tokio::time::Instant::now() + self.options.linger;
        while bytes < self.options.max_group {
            let message = match queue.try_recv() {
                Ok(message) => Some(message),
                Err(_) if self.options.linger.is_zero() => None,
                Err(_) => tokio::time::timeout_at(until, queue.recv()).await.unwrap_or(None),
            };
            match message {
                Some(Message::Record(_, record)) if bytes + record.len() <= self.options.max_group => {
                    bytes += record.len();
                    records.push(record);
                }
                Some(message) => {
                    self.held = Some(message);
                    break;
                }
                None => break,
            }
        }
        Group {
            generation: self.generation,
            first,
            records,
        }
    }

    async fn append(&mut self, group: &Group) -> Result<(), Generation> {
        let mut pause = RETRY;
        let mut stalled = false;
        loop {
            match self.backend.append(group).await {
                Ok(()) => break,
                Err(AppendError::Fenced { by }) => return Err(by),
                Err(AppendError::Unavailable(error)) => {
                    let error = with_causes(&error);
                    tracing::warn!(error, "the journal cannot be written; it is tried again");
                    if !stalled {
                        let _ = self.events.send(JournalEvent::Stalled { error });
                    }
                    stalled = true;
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
        let bytes: usize = group.records.iter().map(Bytes::len).sum();
        self.waiting.fetch_sub(bytes as u64, Ordering::Relaxed);
        let up_to = group.next() - 1;
        let _ = self.events.send(JournalEvent::Durable { up_to });
        Ok(())
    }

    async fn snapshot(&mut self, up_to: u64, state: Bytes) -> Result<(), Generation> {
        match self.backend.snapshot(up_to, state).await {
            Ok(()) => Ok(()),
            Err(AppendError::Fenced { by }) => Err(by),
            Err(AppendError::Unavailable(error)) => {
                let error = with_causes(&error);
                tracing::warn!(error, up_to, "a snapshot of the journal was not kept");
                Ok(())
            }
        }
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
