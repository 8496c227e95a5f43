//! A journal in an object store.
//!
//! ```text
//!   generation/G        exists once G was taken; kept
//!   log/N               the N-th group
//!   snapshot/N-G        stands for all records in the log up to object N
//! ```
//! Every object of the log is put on the condition that it is not there, which is the fence: of two writers one alone gets
//! a number. A put of unknown outcome is repeated; if the object is there by then, its bytes tell whether it is this
//! writer's. An opening takes a number for a group without records, so that the older writer's next one is refused.
//!
//! Objects that a snapshot stands for are deleted no sooner than `retention` after they were put. So a number that could
//! be taken twice belongs to a writer that has been silent for as long; one that has not heard for a good part of that
//! time looks whether a newer generation was taken before it calls a group durable.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode};
use tidemill_types::Generation;

use crate::backend::{AppendError, Backend, Recovered};
use crate::error::{Error, Result};
use crate::group::Group;
use crate::segment::{in_a_row, whole_group};
use crate::snapshot::Snapshot;

const KEPT_SNAPSHOTS: usize = 2;

#[derive(Clone, Copy, Debug)]
pub struct ObjectLogOptions {
    /// Objects are not deleted before this time after they were put.
    pub retention: Duration,
}

impl Default for ObjectLogOptions {
    fn default() -> Self {
        Self {
            retention: Duration::from_secs(600),
        }
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct ObjectLog {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    options: ObjectLogOptions,
    generation: Generation,
    /// The number of the next object.
    next: u64,
    /// The last sequence in each object since the last snapshot but one.
    ends: VecDeque<(u64, u64)>,
    /// When it was last known that no newer generation was taken.
    newest_at: Instant,
}

impl ObjectLog {
    /// Takes the next generation of the journal under `prefix`.
    ///
    /// # Errors
    /// [`Error::Object`] if the store cannot be used; [`Error::Damaged`] and [`Error::Format`] for what cannot be read.
    pub async fn open(
        store: Arc<dyn ObjectStore>,
        prefix: Path,
        options: ObjectLogOptions,
    ) -> Result<(Self, Recovered)> {
        let mut log = Self {
            store,
            prefix,
            options,
            generation: Generation(0),
            next: 1,
            ends: VecDeque::new(),
            newest_at: Instant::now(),
        };
        log.take_generation().await?;
        loop {
            log.newest_at = Instant::now();
            let recovered = log.read().await?;
            let begin = Group {
                generation: log.generation,
                first: recovered.next(),
                records: Vec::new(),
            };
            match log.append(&begin).await {
                Ok(()) => return Ok((log, recovered)),
                // An older writer got the number, or a newer generation was taken: look again.
                Err(AppendError::Fenced { by }) if by > log.generation => log.take_generation().await?,
                Err(AppendError::Fenced { .. }) => {}
                Err(AppendError::Unavailable(error)) => return Err(error),
            }
        }
    }

    async fn take_generation(&mut self) -> Result<()> {
        let taken = self.numbers("generation").await?;
        let mut generation = Generation(taken.last().map_or(0, |(numbers, _)| numbers[0]) + 1);
        // If the outcome of a put is unknown and it was one, that number stays unused.
        while !self.create("generation", generation.0, Bytes::new()).await? {
            generation = generation.next();
        }
        self.generation = generation;
        Ok(())
    }

    async fn read(&mut self) -> Result<Recovered> {
        let mut snapshot = None;
        for (_, meta) in self.numbers("snapshot").await?.iter().rev() {
            snapshot = Snapshot::decode(&self.get("snapshot", &meta.location).await?);
            if snapshot.is_some() {
                break;
            }
            tracing::warn!(key = %meta.location, "a snapshot cannot be read; the one before it is used");
        }
        let (up_to, place) = snapshot
            .as_ref()
            .map_or((0, 0), |snapshot| (snapshot.up_to, snapshot.place));
        let mut segments = Vec::new();
        self.next = place + 1;
        self.ends.clear();
        for (numbers, meta) in self.numbers("log").await? {
            if numbers[0] <= place {
                continue;
            }
            if numbers[0] != self.next {
                return Err(Error::Damaged {
                    place: meta.location.to_string(),
                    reason: format!("objects {} to {} of the log are missing", self.next, numbers[0] - 1),
                });
            }
            let key = meta.location.to_string();
            let group = whole_group(&key, &self.get("log", &meta.location).await?)?;
            self.next += 1;
            self.ends.push_back((numbers[0], group.next() - 1));
            segments.push((key, vec![group]));
        }
        Ok(Recovered {
            generation: self.generation,
            records: in_a_row(up_to, segments)?,
            snapshot: snapshot.map(|snapshot| (snapshot.up_to, snapshot.state)),
        })
    }

    /// The objects of a kind by the numbers in their names, in order.
    async fn numbers(&self, kind: &'static str) -> Result<Vec<(Vec<u64>, ObjectMeta)>> {
        let prefix = self.prefix.clone().join(kind);
        let listed: Vec<ObjectMeta> = self
            .store
            .list(Some(&prefix))
            .try_collect()
            .await
            .map_err(failed(kind, &prefix))?;
        let named = listed.into_iter().filter_map(|meta| {
            let numbers = meta.location.filename()?.split('-').map(|number| number.parse().ok());
            Some((numbers.collect::<Option<Vec<u64>>>()?, meta))
        });
        let mut named: Vec<_> = named.collect();
        named.sort_by(|(left, _), (right, _)| left.cmp(right));
        Ok(named)
    }

    async fn get(&self, kind: &'static str, location: &Path) -> Result<Bytes> {
        let object = self.store.get(location).await.map_err(failed(kind, location))?;
        object.bytes().await.map_err(failed(kind, location))
    }

    fn location(&self, kind: &str, name: &str) -> Path {
        self.prefix.clone().join(kind).join(name)
    }

    /// Whether the object was not there before.
    async fn create(&self, kind: &'static str, number: u64, bytes: Bytes) -> Result<bool> {
        let location = self.location(kind, &format!("{number:020}"));
        let put = self
            .store
            .put_opts(&location, bytes.into(), PutMode::Create.into())
            .await;
        match put {
            Ok(_) => Ok(true),
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => Ok(false),
            Err(error) => Err(failed(kind, &location)(error)),
        }
    }

    async fn check_generation(&mut self) -> Result<(), AppendError> {
        let now = Instant::now();
        if now.duration_since(self.newest_at) < self.options.retention / 4 {
            return Ok(());
        }
        let taken = self.numbers("generation").await?;
        match taken.last() {
            Some((numbers, _)) if numbers[0] > self.generation.0 => Err(AppendError::Fenced {
                by: Generation(numbers[0]),
            }),
            _ => {
                self.newest_at = now;
                Ok(())
            }
        }
    }

    /// Lets go what the last two snapshots do not need.
    async fn clean(&mut self) -> Result<()> {
        let snapshots = self.numbers("snapshot").await?;
        let older = snapshots.len().saturating_sub(KEPT_SNAPSHOTS);
        for (_, meta) in &snapshots[..older] {
            self.delete(&meta.location).await?;
        }
        if snapshots.len() < KEPT_SNAPSHOTS {
            return Ok(());
        }
        let Some((numbers, _)) = snapshots.get(older) else {
            return Ok(());
        };
        let place = numbers[0];
        self.ends.retain(|(object, _)| *object > place);
        let now = std::time::SystemTime::now();
        for (numbers, meta) in self.numbers("log").await? {
            let age = now.duration_since(meta.last_modified.into()).unwrap_or_default();
            if numbers[0] <= place && age >= self.options.retention {
                self.delete(&meta.location).await?;
            }
        }
        Ok(())
    }

    async fn delete(&self, location: &Path) -> Result<()> {
        match self.store.delete(location).await {
            Err(StoreError::NotFound { .. }) | Ok(()) => Ok(()),
            Err(error) => Err(failed("file", location)(error)),
        }
    }
}

#[async_trait]
impl Backend for ObjectLog {
    async fn append(&mut self, group: &Group) -> Result<(), AppendError> {
        let bytes = group.encode();
        if !self.create("log", self.next, bytes.clone()).await? {
            let location = self.location("log", &format!("{:020}", self.next));
            let found = self.get("log", &location).await?;
            if found != bytes {
                let by = whole_group(location.as_ref(), &found)?.generation;
                return Err(AppendError::Fenced { by });
            }
        }
        self.check_generation().await?;
        self.ends.push_back((self.next, group.next() - 1));
        self.next += 1;
        Ok(())
    }

    async fn snapshot(&mut self, up_to: u64, state: Bytes) -> Result<(), AppendError> {
        let whole = self.ends.iter().take_while(|(_, end)| *end <= up_to).last();
        // Within an object, or before all that is known: the objects stay until a later snapshot.
        let Some((place, _)) = whole.copied() else {
            return Ok(());
        };
        let snapshot = Snapshot {
            generation: self.generation,
            up_to,
            place,
            state,
        };
        let location = self.location("snapshot", &format!("{place:020}-{:020}", self.generation.0));
        let put = self.store.put(&location, snapshot.encode().into()).await;
        put.map_err(failed("snapshot", &location))?;
        self.clean().await?;
        Ok(())
    }
}

fn failed(what: &'static str, location: &Path) -> impl Fn(StoreError) -> Error {
    let key = location.to_string();
    move |source| Error::Object {
        what,
        key: key.clone(),
        source,
    }
}
