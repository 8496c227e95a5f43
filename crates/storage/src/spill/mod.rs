//! Files for what does not fit into memory.
//!
//! Every spilled set of batches is one Arrow IPC stream (lz4) in a file of its own. A file lives as long as its
//! [`SpillFile`], the directory as long as the process; its checksum stands in memory, since nobody else reads it.
//! What a killed process left behind is removed by the next one that uses the same parent directory: an owner holds a
//! lock on a file beside its directory.
//!
//! Everything here blocks on the file system.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use tidemill_types::Incarnation;

use crate::ipc::guarded;
use crate::{Error, Result, compact};

#[cfg(test)]
mod tests;

const PREFIX: &str = "spill-";
const LOCK_SUFFIX: &str = ".lock";
const BUFFER_BYTES: usize = 256 * 1024;

/// The directory of one executor incarnation, removed when the last user is gone.
#[derive(Debug)]
pub struct SpillDir {
    path: PathBuf,
    lock_path: PathBuf,
    /// Tells other processes that the directory is in use.
    _lock: File,
    limit: u64,
    used: AtomicU64,
    /// Names the next file.
    next: AtomicU64,
    /// Bytes ever written.
    written: AtomicU64,
}

impl SpillDir {
    /// Makes the directory of `incarnation` in `parent`, which may have to be made too, for at most `limit` bytes.
    pub fn create(parent: &Path, incarnation: Incarnation, limit: u64) -> Result<Arc<Self>> {
        let path = parent.join(format!("{PREFIX}{:016x}", incarnation.0));
        let lock_path = parent.join(format!("{PREFIX}{:016x}{LOCK_SUFFIX}", incarnation.0));
        let make = || -> io::Result<File> {
            fs::create_dir_all(parent)?;
            remove_abandoned(parent);
            let lock = File::create(&lock_path)?;
            lock.try_lock().map_err(io::Error::from)?;
            fs::create_dir(&path)?;
            Ok(lock)
        };
        match make() {
            Ok(lock) => Ok(Arc::new(Self {
                path,
                lock_path,
                _lock: lock,
                limit,
                used: AtomicU64::new(0),
                next: AtomicU64::new(0),
                written: AtomicU64::new(0),
            })),
            Err(source) => Err(Error::SpillFailed { path, source }),
        }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes in files now.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    /// Bytes written to files so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Whether nothing more may be written. A file that begins below the limit may end above it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.used() >= self.limit
    }

    /// Writes `batches`, which all have the schema `schema`, to a file.
    pub fn write(self: &Arc<Self>, schema: &SchemaRef, batches: &[RecordBatch]) -> Result<SpillFile> {
        if self.is_full() {
            return Err(Error::SpillFull { limit: self.limit });
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(format!("{number:08x}.arrow"));
        let written = Self::write_file(&path, schema, batches);
        let (bytes, checksum) = written.inspect_err(|_| {
            // The file may not exist, and a part of one that stays is removed with the directory.
            let _ = fs::remove_file(&path);
        })?;
        self.used.fetch_add(bytes, Ordering::AcqRel);
        self.written.fetch_add(bytes, Ordering::AcqRel);
        Ok(SpillFile {
            dir: Arc::clone(self),
            path,
            bytes,
            checksum,
            schema: Arc::clone(schema),
        })
    }

    fn write_file(path: &Path, schema: &SchemaRef, batches: &[RecordBatch]) -> Result<(u64, u32)> {
        let failed = |source| Error::SpillFailed {
            path: path.to_path_buf(),
            source,
        };
        let file = File::create_new(path).map_err(failed)?;
        let sink = BufWriter::with_capacity(BUFFER_BYTES, Checked::new(file));
        let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
        let mut writer = StreamWriter::try_new_with_options(sink, schema, options).map_err(|e| failed(e.into_io()))?;
        for batch in batches {
            writer.write(&compact(batch)?).map_err(|e| failed(e.into_io()))?;
        }
        let sink = writer.into_inner().map_err(|e| failed(e.into_io()))?;
        let checked = sink.into_inner().map_err(|e| failed(e.into_error()))?;
        Ok((checked.bytes, checked.checksum.finalize()))
    }
}

impl Drop for SpillDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a spill directory stays behind");
        }
        // The next process that finds it unlocked removes it otherwise.
        let _ = fs::remove_file(&self.lock_path);
    }
}

/// Removes the directories in `parent` whose owners are gone.
///
/// An owner that is about to take its lock may lose the lock file here; it then has a directory that is not removed
/// after a crash, never one that is removed under it, since it makes its directory after that.
fn remove_abandoned(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for lock_path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
        let name = lock_path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(directory) = name.strip_suffix(LOCK_SUFFIX).filter(|name| name.starts_with(PREFIX)) else {
            continue;
        };
        let Ok(lock) = File::open(&lock_path) else { continue };
        if lock.try_lock().is_err() {
            continue;
        }
        let path = parent.join(directory);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "cannot remove an abandoned spill directory");
                continue;
            }
            _ => tracing::info!(path = %path.display(), "removed an abandoned spill directory"),
        }
        let _ = fs::remove_file(&lock_path);
    }
}

/// Batches in a file, which is removed with this.
#[derive(Debug)]
pub struct SpillFile {
    dir: Arc<SpillDir>,
    path: PathBuf,
    bytes: u64,
    checksum: u32,
    schema: SchemaRef,
}

impl SpillFile {
    /// Its size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Reads the batches back; a file that is not what was written is [`Error::SpillLost`].
    pub fn read(&self) -> Result<Vec<RecordBatch>> {
        let bytes = fs::read(&self.path).map_err(|error| self.lost(error.to_string()))?;
        if bytes.len() as u64 != self.bytes {
            return Err(self.lost(format!("{} bytes instead of {}", bytes.len(), self.bytes)));
        }
        if crc32fast::hash(&bytes) != self.checksum {
            return Err(self.lost("the checksum is another".into()));
        }
        guarded(|| {
            let reader = StreamReader::try_new(io::Cursor::new(bytes), None)?;
            // The schema of the stream is equal but another value; readers compare schemas by pointer first.
            reader
                .map(|batch| {
                    let batch = batch?;
                    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
                    Ok(RecordBatch::try_new_with_options(
                        Arc::clone(&self.schema),
                        batch.columns().to_vec(),
                        &options,
                    )?)
                })
                .collect()
        })
        .map_err(|error| self.lost(error.to_string()))
    }

    fn lost(&self, reason: String) -> Error {
        Error::SpillLost {
            path: self.path.clone(),
            reason,
        }
    }
}

impl Drop for SpillFile {
    fn drop(&mut self) {
        self.dir.used.fetch_sub(self.bytes, Ordering::AcqRel);
        // A file that cannot be removed goes with the directory.
        let _ = fs::remove_file(&self.path);
    }
}

/// Counts and sums up what passes.
struct Checked {
    file: File,
    bytes: u64,
    checksum: crc32fast::Hasher,
}

impl Checked {
    fn new(file: File) -> Self {
        Self {
            file,
            bytes: 0,
            checksum: crc32fast::Hasher::new(),
        }
    }
}

impl Write for Checked {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.file.write(data)?;
        self.bytes += written as u64;
        self.checksum.update(&data[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The I/O error inside an error of the writer.
trait IntoIo {
    fn into_io(self) -> io::Error;
}

impl IntoIo for arrow::error::ArrowError {
    fn into_io(self) -> io::Error {
        match self {
            Self::IoError(_, source) => source,
            other => io::Error::other(other),
        }
    }
}
