//! The watched directory, by the file rules of Spark's `textFileStream`.
//!
//! ```text
//!            modified before: too old            modified after: next batch
//!   ──────────────────┤ remember window ├────────────────────►
//!                     t - window         t
//! ```
//! A file belongs to batch `t` if it was modified after `t` minus the remember window (and after the start of the job,
//! unless older files are wanted), not after `t`, and was not allocated within the window. The window is a whole number
//! of batches. A file must appear complete, by a rename; names that begin with `.` or `_` are not looked at, so that it
//! can be written under such a name. A directory that does not exist has no files, subdirectories are not entered.
//!
//! In a run that does not wait for the clock the directory is listed once and taken in the order of time and name.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fs, io};

use tidemill_dstream::TextFilesSource;
use tidemill_types::BatchTime;

use super::position::{self, Reader, Writer};
use super::spread::{self, InputFile, human_bytes};
use super::text_file::{expand, is_glob};
use super::{AllocateRequest, Allocation, InputPlanner};
use crate::Error;

/// Layouts of positions.
const LAYOUT_SELECTED: u8 = 1;
const LAYOUT_BACKLOG: u8 = 2;

pub(super) struct TextFilesPlanner {
    dir: String,
    /// Files that were modified up to this time are never taken.
    ignore_until: i64,
    remember: Duration,
    files_per_batch: Option<u32>,
    /// When each file was allocated, for as long as its time would allow it to be allocated again.
    selected: HashMap<String, BatchTime>,
    /// What is left of the only listing of a run that does not wait for the clock.
    backlog: Option<VecDeque<Candidate>>,
    /// The time and the name of the last file that was taken of it.
    taken: (i64, String),
}

/// The time and the name of no file.
const BEFORE_ALL: (i64, String) = (i64::MIN, String::new());

/// A file in the watched directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    modified_ms: i64,
    path: String,
    bytes: u64,
}

impl TextFilesPlanner {
    pub(super) fn new(source: &TextFilesSource, start: BatchTime) -> Result<Self, Error> {
        if is_glob(&source.dir) {
            // A glob that cannot be parsed is a fault of the job, not of its first batch.
            glob::Pattern::new(&source.dir).map_err(|error| Error::InvalidGlob {
                pattern: source.dir.clone(),
                reason: error.msg.to_owned(),
            })?;
        }
        Ok(Self {
            dir: source.dir.clone(),
            ignore_until: if source.new_files_only { start.millis() } else { 0 },
            remember: source.remember,
            files_per_batch: source.files_per_batch,
            selected: HashMap::new(),
            backlog: None,
            taken: BEFORE_ALL,
        })
    }

    fn take_new(&mut self, request: &AllocateRequest) -> Result<Vec<Candidate>, Error> {
        let forget = request.batch - self.window(request.interval);
        let after = self.ignore_until.max(forget.millis());
        let mut files = list(&self.dir)?;
        files.retain(|file| {
            file.modified_ms > after
                && file.modified_ms <= request.batch.millis()
                && self.selected.get(&file.path).is_none_or(|&batch| batch <= forget)
        });
        self.selected.retain(|_, batch| *batch > forget);
        self.selected
            .extend(files.iter().map(|file| (file.path.clone(), request.batch)));
        Ok(files)
    }

    /// The remember window: whole batches, at least one.
    fn window(&self, interval: Duration) -> Duration {
        let interval = interval.as_millis().max(1);
        let batches = self.remember.as_millis().div_ceil(interval).max(1);
        Duration::from_millis(u64::try_from(batches * interval).unwrap_or(u64::MAX))
    }

    fn take_backlog(&mut self) -> Result<Vec<Candidate>, Error> {
        let backlog = match &mut self.backlog {
            Some(backlog) => backlog,
            none => {
                let mut files = list(&self.dir)?;
                let (modified_ms, path) = &self.taken;
                files.retain(|file| (file.modified_ms, &file.path) > (*modified_ms, path));
                none.insert(files.into())
            }
        };
        let count = self
            .files_per_batch
            .map_or(backlog.len(), |files| files.max(1) as usize);
        let files: Vec<Candidate> = backlog.drain(..count.min(backlog.len())).collect();
        if let Some(last) = files.last() {
            self.taken = (last.modified_ms, last.path.clone());
        }
        Ok(files)
    }
}

impl InputPlanner for TextFilesPlanner {
    fn allocate(&mut self, request: &AllocateRequest) -> Result<Allocation, Error> {
        let files = if request.no_wait {
            self.take_backlog()?
        } else {
            self.take_new(request)?
        };
        let exhausted = request.no_wait && self.backlog.as_ref().is_some_and(VecDeque::is_empty);
        if files.is_empty() {
            let nothing = format!("no new files in {}", self.dir);
            return Ok(Allocation::empty(request.partitions, exhausted, nothing));
        }
        let bytes = files.iter().map(|file| file.bytes).sum();
        let description = match files.as_slice() {
            [file] => format!("{}, {}", file.path, human_bytes(bytes)),
            files => format!("{} files in {}, {}", files.len(), self.dir, human_bytes(bytes)),
        };
        let pieces = files
            .iter()
            .map(|file| InputFile::new(&file.path, file.bytes).piece())
            .collect();
        // Batch after batch begins at another partition, so that single files are not all read in one place.
        let first = u64::try_from(request.index).unwrap_or(0);
        Ok(Allocation {
            partitions: spread::round_robin(pieces, request.partitions, first),
            rows: None,
            exhausted,
            description,
        })
    }

    /// The files that must not be taken again; of a listing that is taken in order, the last one.
    fn position(&self) -> Vec<u8> {
        // After a restart nothing is listed yet.
        if self.backlog.is_some() || self.taken != BEFORE_ALL {
            let (modified_ms, path) = &self.taken;
            return Writer::new(LAYOUT_BACKLOG)
                .number(modified_ms.cast_unsigned())
                .text(path)
                .finish();
        }
        let mut selected: Vec<_> = self.selected.iter().collect();
        selected.sort_unstable();
        let writer = Writer::new(LAYOUT_SELECTED).number(selected.len() as u64);
        let all = selected.into_iter().fold(writer, |writer, (path, batch)| {
            writer.text(path).number(batch.0.cast_unsigned())
        });
        all.finish()
    }

    fn restore(&mut self, position: &[u8]) -> Result<(), Error> {
        let (layout, mut reader) = Reader::new(position)?;
        match layout {
            LAYOUT_BACKLOG => self.taken = (reader.number()?.cast_signed(), reader.text()?),
            LAYOUT_SELECTED => {
                for _ in 0..reader.number()? {
                    let (path, batch) = (reader.text()?, reader.number()?.cast_signed());
                    self.selected.insert(path, BatchTime(batch));
                }
            }
            _ => return Err(position::damaged()),
        }
        Ok(())
    }
}

/// The files of a directory, or of the directories and files that a glob matches, by time and name.
fn list(dir: &str) -> Result<Vec<Candidate>, Error> {
    let roots = if is_glob(dir) && !Path::new(dir).exists() {
        expand(dir)?
    } else {
        vec![PathBuf::from(dir)]
    };
    let mut files = Vec::new();
    for root in roots {
        match fs::metadata(&root) {
            Ok(metadata) if metadata.is_dir() => list_directory(&root, &mut files)?,
            Ok(metadata) => files.extend(candidate(&root, &metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::ListDirectory { path: root, source }),
        }
    }
    files.sort();
    files.dedup();
    Ok(files)
}

fn list_directory(dir: &Path, files: &mut Vec<Candidate>) -> Result<(), Error> {
    let cannot_list = |source| Error::ListDirectory {
        path: dir.to_owned(),
        source,
    };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(cannot_list)?,
    };
    for entry in entries {
        let path = entry.map_err(cannot_list)?.path();
        match fs::metadata(&path) {
            Ok(metadata) => files.extend(candidate(&path, &metadata)),
            // Removed since the directory was read, or a link to nowhere.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::ListDirectory { path, source }),
        }
    }
    Ok(())
}

/// The file, unless its name or its kind is one that is not looked at.
fn candidate(path: &Path, metadata: &fs::Metadata) -> Option<Candidate> {
    let name = path.file_name()?;
    if !metadata.is_file() || matches!(name.as_encoded_bytes().first(), Some(b'.' | b'_')) {
        return None;
    }
    let Some(path) = path.to_str() else {
        tracing::warn!(path = %path.display(), "file ignored because its name is not UTF-8");
        return None;
    };
    Some(Candidate {
        modified_ms: unix_millis(metadata.modified().ok()?),
        path: path.to_owned(),
        bytes: metadata.len(),
    })
}

fn unix_millis(time: SystemTime) -> i64 {
    let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => millis(after),
        Err(before) => -millis(before.duration()),
    }
}

#[cfg(test)]
mod tests;
