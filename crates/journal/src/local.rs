//! A journal in a directory of a local file system.
//!
//! ```text
//!   generation-G        exists once G was taken; kept
//!   log-G-N             groups, appended: the N-th segment of generation G
//!   snapshot-S-G        stands for all records up to S
//! ```
//! A generation is taken by creating its file, which one process alone can. The taker then reads what there is, and begins
//! a segment that says which sequence it goes on with: what an older writer appends behind that is not read. The older
//! writer looks, after its data is on disk and before it calls it durable, whether its generation is still the last.
//! It is if the next one's file is not there and then its own one is: files of generations go oldest first.
//!
//! After a failed write or flush nobody knows what is in a file, so the group goes to a new segment.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tidemill_types::Generation;

use crate::backend::{AppendError, Backend, Recovered};
use crate::error::{Error, Result};
use crate::group::Group;
use crate::segment::{groups, in_a_row};
use crate::snapshot::Snapshot;

/// Files of generations that are kept: a driver that was paused for as many starts of others finds its own gone.
const KEPT_GENERATIONS: u64 = 64;
const KEPT_SNAPSHOTS: usize = 2;

/// See the module's text.
#[derive(Debug)]
pub struct LocalLog {
    /// Used by one blocking call at a time.
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    generation: Generation,
    /// The open segment; none after a failure.
    segment: Option<File>,
    segments: u64,
}

impl LocalLog {
    /// Takes the next generation of the journal in `directory`, which is made if it is not there.
    ///
    /// # Errors
    /// [`Error::File`] if the directory cannot be used; [`Error::Damaged`] and [`Error::Format`] for what cannot be read.
    pub async fn open(directory: impl Into<PathBuf>) -> Result<(Self, Recovered)> {
        let directory = directory.into();
        blocking(move || {
            let (inner, recovered) = Inner::open(directory)?;
            let inner = Arc::new(Mutex::new(inner));
            Ok((Self { inner }, recovered))
        })
        .await
    }
}

#[async_trait]
impl Backend for LocalLog {
    async fn append(&mut self, group: &Group) -> Result<(), AppendError> {
        let (inner, bytes) = (Arc::clone(&self.inner), group.encode());
        blocking(move || inner.lock().append(&bytes)).await
    }

    async fn snapshot(&mut self, up_to: u64, state: Bytes) -> Result<(), AppendError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.lock().snapshot(up_to, state)).await
    }
}

/// Runs it where waiting for a disk stops nobody.
async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(call).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

impl Inner {
    fn open(directory: PathBuf) -> Result<(Self, Recovered)> {
        fs::create_dir_all(&directory).map_err(failed("directory", &directory))?;
        let mut names = Names::read(&directory)?;
        let last = names
            .generations
            .iter()
            .chain(names.logs.iter().map(|(log, _)| log))
            .max();
        let mut generation = Generation(last.copied().unwrap_or(0) + 1);
        while !create(&directory.join(generation_name(generation)))? {
            generation = generation.next();
        }
        sync_directory(&directory)?;
        // Read again: the older writer may have begun another segment until now.
        names = Names::read(&directory)?;
        let snapshot = newest_snapshot(&directory, &names)?;
        let mut segments = Vec::new();
        for (log, number) in &names.logs {
            let path = directory.join(log_name(Generation(*log), *number));
            let bytes = Bytes::from(fs::read(&path).map_err(failed("log", &path))?);
            let place = path.display().to_string();
            let groups = groups(&place, &bytes)?;
            segments.push((place, groups));
        }
        let up_to = snapshot.as_ref().map_or(0, |snapshot| snapshot.up_to);
        let recovered = Recovered {
            generation,
            records: in_a_row(up_to, segments)?,
            snapshot: snapshot.map(|snapshot| (snapshot.up_to, snapshot.state)),
        };
        let mut inner = Self {
            directory,
            generation,
            segment: None,
            segments: 0,
        };
        // Says where older segments end.
        let begin = Group {
            generation,
            first: recovered.next(),
            records: Vec::new(),
        };
        match inner.append(&begin.encode()) {
            Ok(()) => Ok((inner, recovered)),
            // Somebody else opened it meanwhile; theirs is the journal now, and nothing of it was promised here.
            Err(AppendError::Fenced { .. }) => Self::open(inner.directory),
            Err(AppendError::Unavailable(error)) => Err(error),
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), AppendError> {
        let written = self.write(bytes);
        if written.is_err() {
            self.segment = None;
        }
        written?;
        self.check_generation()
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let path = self.directory.join(log_name(self.generation, self.segments));
        let mut file = match self.segment.take() {
            Some(file) => file,
            None => {
                self.segments += 1;
                let path = self.directory.join(log_name(self.generation, self.segments));
                let file = OpenOptions::new().create_new(true).append(true).open(&path);
                let file = file.map_err(failed("log", &path))?;
                sync_directory(&self.directory)?;
                file
            }
        };
        let durable = file.write_all(bytes).and_then(|()| file.sync_data());
        durable.map_err(failed("log", &path))?;
        self.segment = Some(file);
        Ok(())
    }

    fn check_generation(&self) -> Result<(), AppendError> {
        let exists = |generation: Generation| {
            let path = self.directory.join(generation_name(generation));
            path.try_exists().map_err(failed("generation", &path))
        };
        let next = self.generation.next();
        if !exists(next)? && exists(self.generation)? {
            return Ok(());
        }
        let taken = Names::read(&self.directory)?.generations;
        let by = taken.last().map_or(next, |last| Generation(*last));
        Err(AppendError::Fenced { by })
    }

    fn snapshot(&mut self, up_to: u64, state: Bytes) -> Result<(), AppendError> {
        let name = format!("snapshot-{up_to:020}-{:020}", self.generation.0);
        let path = self.directory.join(&name);
        let staged = self.directory.join(format!(".{name}"));
        let snapshot = Snapshot {
            generation: self.generation,
            up_to,
            place: 0,
            state,
        };
        let written = File::create(&staged).and_then(|mut file| {
            file.write_all(&snapshot.encode())?;
            file.sync_all()?;
            fs::rename(&staged, &path)
        });
        written.map_err(failed("snapshot", &path))?;
        sync_directory(&self.directory)?;
        self.check_generation()?;
        // The next group begins a segment, so that this one can go some day.
        self.segment = None;
        self.clean()?;
        Ok(())
    }

    /// Lets go what the last two snapshots do not need.
    fn clean(&self) -> Result<()> {
        let names = Names::read(&self.directory)?;
        let older = names.snapshots.len().saturating_sub(KEPT_SNAPSHOTS);
        let Some((needed, _)) = names.snapshots.get(older) else {
            return Ok(());
        };
        for (up_to, generation) in &names.snapshots[..older] {
            self.remove(&snapshot_name(*up_to, Generation(*generation)))?;
        }
        if names.snapshots.len() < KEPT_SNAPSHOTS {
            return Ok(());
        }
        // A segment ends where the next one begins, which its first group says.
        for pair in names.logs.windows(2) {
            let [(generation, number), (next, next_number)] = pair else {
                continue;
            };
            let path = self.directory.join(log_name(Generation(*next), *next_number));
            let bytes = Bytes::from(fs::read(&path).map_err(failed("log", &path))?);
            let groups = groups(&path.display().to_string(), &bytes)?;
            if groups.first().is_none_or(|group| group.first > needed + 1) {
                break;
            }
            self.remove(&log_name(Generation(*generation), *number))?;
        }
        let oldest = self.generation.0.saturating_sub(KEPT_GENERATIONS);
        for generation in names.generations.iter().filter(|generation| **generation < oldest) {
            self.remove(&generation_name(Generation(*generation)))?;
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<()> {
        let path = self.directory.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("file", &path)(error)),
            _ => Ok(()),
        }
    }
}

/// What is in the directory, each kind in order.
#[derive(Default)]
struct Names {
    generations: Vec<u64>,
    /// Generation and number.
    logs: Vec<(u64, u64)>,
    /// Sequence and generation.
    snapshots: Vec<(u64, u64)>,
}

impl Names {
    fn read(directory: &Path) -> Result<Self> {
        let mut names = Self::default();
        for entry in fs::read_dir(directory).map_err(failed("directory", directory))? {
            let name = entry.map_err(failed("directory", directory))?.file_name();
            let Some(name) = name.to_str() else { continue };
            let numbers = |prefix: &str| {
                let numbers = name.strip_prefix(prefix)?.split('-');
                numbers.map(|number| number.parse().ok()).collect::<Option<Vec<u64>>>()
            };
            if let Some([generation]) = numbers("generation-").as_deref() {
                names.generations.push(*generation);
            } else if let Some([generation, number]) = numbers("log-").as_deref() {
                names.logs.push((*generation, *number));
            } else if let Some([up_to, generation]) = numbers("snapshot-").as_deref() {
                names.snapshots.push((*up_to, *generation));
            }
        }
        names.generations.sort_unstable();
        names.logs.sort_unstable();
        names.snapshots.sort_unstable();
        Ok(names)
    }
}

fn generation_name(generation: Generation) -> String {
    format!("generation-{:020}", generation.0)
}

fn log_name(generation: Generation, number: u64) -> String {
    format!("log-{:020}-{number:010}", generation.0)
}

fn snapshot_name(up_to: u64, generation: Generation) -> String {
    format!("snapshot-{up_to:020}-{:020}", generation.0)
}

/// The newest one that is whole.
fn newest_snapshot(directory: &Path, names: &Names) -> Result<Option<Snapshot>> {
    for (up_to, generation) in names.snapshots.iter().rev() {
        let path = directory.join(snapshot_name(*up_to, Generation(*generation)));
        let bytes = fs::read(&path).map_err(failed("snapshot", &path))?;
        if let Some(snapshot) = Snapshot::decode(&bytes.into()) {
            return Ok(Some(snapshot));
        }
        tracing::warn!(path = %path.display(), "a snapshot cannot be read; the one before it is used");
    }
    Ok(None)
}

/// Whether it was not there before.
fn create(path: &Path) -> Result<bool> {
    match OpenOptions::new().create_new(true).write(true).open(path) {
        Ok(file) => {
            file.sync_all().map_err(failed("generation", path))?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed("generation", path)(error)),
    }
}

/// Names are durable once their directory is.
fn sync_directory(directory: &Path) -> Result<()> {
    let synced = File::open(directory).and_then(|file| file.sync_all());
    synced.map_err(failed("directory", directory))
}

fn failed(what: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File {
        what,
        path: path.clone(),
        source,
    }
}
