//! Files for what does not fit into memory.
//!
//! Every spilled set of batches is one Arrow IPC stream (lz4) in a file of its own. A file lives as long as its
//! [`SpillFile`], the directory as long as the process; its checksums, one for each batch, stand in memory, since nobody
//! else reads it. So a reader takes one batch after the other, or only those that it wants.
//!
//! What a killed process left behind is removed by the next one that uses the same parent directory: an owner holds a
//! lock on a file beside its directory.
//!
//! Everything here blocks on the file system.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use parking_lot::RwLock;
use tidemill_types::Incarnation;

use crate::ipc::guarded;
use crate::memory::MemoryKind;
use crate::{Error, Result, compact};

#[cfg(test)]
mod tests;

const PREFIX: &str = "spill-";
const LOCK_SUFFIX: &str = ".lock";
const BUFFER_BYTES: usize = 256 * 1024;

/// The directory of one executor incarnation, removed when the last user is gone.
pub struct SpillDir {
    path: PathBuf,
    lock_path: PathBuf,
    /// Tells other processes that the directory is in use.
    _lock: File,
    limit: u64,
    used: [AtomicU64; MemoryKind::ALL.len()],
    /// Names the next file.
    next: AtomicU64,
    /// Bytes ever written.
    written: AtomicU64,
    /// Files found to be lost or damaged.
    lost: AtomicU64,
    /// Bytes of others in the same directory, which count to the limit too.
    others: RwLock<Option<Box<dyn Fn() -> u64 + Send + Sync>>>,
    /// Told when a file is gone.
    freed: RwLock<Option<Box<dyn Fn() + Send + Sync>>>,
}

impl std::fmt::Debug for SpillDir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpillDir")
            .field("path", &self.path)
            .field("limit", &self.limit)
            .field("used", &self.used())
            .finish_non_exhaustive()
    }
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
                used: Default::default(),
                next: AtomicU64::new(0),
                written: AtomicU64::new(0),
                lost: AtomicU64::new(0),
                others: RwLock::new(None),
                freed: RwLock::new(None),
            })),
            Err(source) => Err(Error::SpillFailed { path, source }),
        }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Has the bytes of somebody else who writes into the directory counted to its limit.
    pub fn share_with(&self, others: impl Fn() -> u64 + Send + Sync + 'static) {
        *self.others.write() = Some(Box::new(others));
    }

    /// Has somebody told when there is room again. It should only pass it on.
    pub(crate) fn on_freed(&self, freed: impl Fn() + Send + Sync + 'static) {
        *self.freed.write() = Some(Box::new(freed));
    }

    /// Bytes in files now.
    #[must_use]
    pub fn used(&self) -> u64 {
        let others = self.others.read().as_ref().map_or(0, |others| others());
        let own: u64 = self.used.iter().map(|used| used.load(Ordering::Acquire)).sum();
        own + others
    }

    /// Bytes of `kind` in files now.
    #[must_use]
    pub fn used_by(&self, kind: MemoryKind) -> u64 {
        let others = match kind {
            // Others are operators of tasks.
            MemoryKind::Tasks => self.others.read().as_ref().map_or(0, |others| others()),
            _ => 0,
        };
        self.used[kind as usize].load(Ordering::Acquire) + others
    }

    /// Bytes written to files so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Files that were written so far.
    #[must_use]
    pub fn files(&self) -> u64 {
        self.next.load(Ordering::Acquire)
    }

    /// Files that could not be read back as they were written.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Acquire)
    }

    /// Whether nothing more may be written. A file that begins below the limit may end above it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.used() >= self.limit
    }

    /// Writes `batches`, which all have the schema `schema`, to a file.
    pub fn write(self: &Arc<Self>, kind: MemoryKind, schema: &SchemaRef, batches: &[RecordBatch]) -> Result<SpillFile> {
        let mut writer = self.begin(kind, schema)?;
        for batch in batches {
            writer.push(batch)?;
        }
        writer.finish()
    }

    /// Begins a file.
    pub fn begin(self: &Arc<Self>, kind: MemoryKind, schema: &SchemaRef) -> Result<SpillWriter> {
        if self.is_full() {
            return Err(Error::SpillFull { limit: self.limit });
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(format!("{number:08x}.arrow"));
        let failed = |source| Error::SpillFailed {
            path: path.clone(),
            source,
        };
        let file = File::create_new(&path).map_err(failed)?;
        // From here on a failure removes the file.
        let place = FilePlace {
            dir: Arc::clone(self),
            kind,
            path: path.clone(),
            bytes: 0,
        };
        let sink = Checked::new(BufWriter::with_capacity(BUFFER_BYTES, file));
        let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
        let mut writer =
            StreamWriter::try_new_with_options(sink, schema, options).map_err(|error| failed(error.into_io()))?;
        let head = writer.get_mut().end_section();
        Ok(SpillWriter {
            place,
            writer,
            sections: vec![head],
            schema: Arc::clone(schema),
        })
    }
}

/// A file that is being written. Dropping it removes what there is of it.
pub struct SpillWriter {
    place: FilePlace,
    writer: StreamWriter<Checked>,
    /// The schema's, then one for each batch.
    sections: Vec<Section>,
    schema: SchemaRef,
}

impl SpillWriter {
    /// Appends a batch of the file's schema.
    pub fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        if self.place.dir.is_full() {
            return Err(Error::SpillFull {
                limit: self.place.dir.limit,
            });
        }
        let path = &self.place.path;
        let failed = |error: arrow::error::ArrowError| Error::SpillFailed {
            path: path.clone(),
            source: error.into_io(),
        };
        self.writer.write(&compact(batch)?).map_err(failed)?;
        let section = self.writer.get_mut().end_section();
        self.place.grow(section.bytes);
        self.sections.push(section);
        Ok(())
    }

    /// Batches so far.
    #[must_use]
    pub fn batches(&self) -> usize {
        self.sections.len() - 1
    }

    /// Writes the rest out.
    pub fn finish(self) -> Result<SpillFile> {
        let Self {
            mut place,
            mut writer,
            mut sections,
            schema,
        } = self;
        let path = place.path.clone();
        let failed = |source| Error::SpillFailed { path, source };
        // The end of the stream is not written: readers know where it is.
        writer.get_mut().inner.flush().map_err(failed)?;
        place.grow(sections[0].bytes);
        sections.shrink_to_fit();
        Ok(SpillFile {
            whole: has_dictionary(&schema),
            place,
            sections,
            schema,
        })
    }
}

/// Whether batches refer to what was written before them.
fn has_dictionary(schema: &SchemaRef) -> bool {
    schema
        .flattened_fields()
        .iter()
        .any(|field| matches!(field.data_type(), DataType::Dictionary(_, _)))
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

/// A file and the bytes that it counts; both go with this.
#[derive(Debug)]
struct FilePlace {
    dir: Arc<SpillDir>,
    kind: MemoryKind,
    path: PathBuf,
    bytes: u64,
}

impl FilePlace {
    fn grow(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.dir.used[self.kind as usize].fetch_add(bytes, Ordering::AcqRel);
        self.dir.written.fetch_add(bytes, Ordering::AcqRel);
    }
}

impl Drop for FilePlace {
    fn drop(&mut self) {
        self.dir.used[self.kind as usize].fetch_sub(self.bytes, Ordering::AcqRel);
        // A file that cannot be removed goes with the directory.
        let _ = fs::remove_file(&self.path);
        if let Some(freed) = &*self.dir.freed.read() {
            freed();
        }
    }
}

/// Batches in a file, which is removed with this.
#[derive(Debug)]
pub struct SpillFile {
    place: FilePlace,
    sections: Vec<Section>,
    schema: SchemaRef,
    /// Batches cannot be read one by one.
    whole: bool,
}

/// Consecutive bytes of a file.
#[derive(Clone, Copy, Debug)]
struct Section {
    offset: u64,
    bytes: u64,
    checksum: u32,
}

impl SpillFile {
    /// Its size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.place.bytes
    }

    /// Its batches.
    #[must_use]
    pub fn batches(&self) -> usize {
        self.sections.len() - 1
    }

    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Reads the batches back; a file that is not what was written is [`Error::SpillLost`].
    pub fn read(&self) -> Result<Vec<RecordBatch>> {
        self.read_sections(1..self.sections.len())
    }

    /// Reads one batch, by its number in the order of writing.
    pub fn read_batch(&self, number: usize) -> Result<RecordBatch> {
        let batches = if self.whole {
            self.read()?.into_iter().skip(number).take(1).collect()
        } else {
            self.read_sections(number + 1..number + 2)?
        };
        let missing = || self.lost(format!("it has no batch {number}"));
        batches.into_iter().next().ok_or_else(missing)
    }

    fn read_sections(&self, which: std::ops::Range<usize>) -> Result<Vec<RecordBatch>> {
        let lost = |error: io::Error| self.lost(error.to_string());
        let mut file = File::open(&self.place.path).map_err(lost)?;
        let length = file.metadata().map_err(lost)?.len();
        if length != self.place.bytes {
            return Err(self.lost(format!("{length} bytes instead of {}", self.place.bytes)));
        }
        let mut bytes = Vec::new();
        for section in std::iter::once(&self.sections[0]).chain(self.sections.get(which).unwrap_or_default()) {
            file.seek(SeekFrom::Start(section.offset)).map_err(lost)?;
            let begin = bytes.len();
            let read = (&mut file).take(section.bytes).read_to_end(&mut bytes).map_err(lost)?;
            if read as u64 != section.bytes || crc32fast::hash(&bytes[begin..]) != section.checksum {
                return Err(self.lost("the checksum is another".into()));
            }
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
        self.place.dir.lost.fetch_add(1, Ordering::AcqRel);
        Error::SpillLost {
            path: self.place.path.clone(),
            reason,
        }
    }
}

/// Counts and sums up what passes.
struct Checked {
    inner: BufWriter<File>,
    /// Where the present section begins.
    begin: u64,
    bytes: u64,
    checksum: crc32fast::Hasher,
}

impl Checked {
    fn new(inner: BufWriter<File>) -> Self {
        Self {
            inner,
            begin: 0,
            bytes: 0,
            checksum: crc32fast::Hasher::new(),
        }
    }

    fn end_section(&mut self) -> Section {
        let section = Section {
            offset: self.begin,
            bytes: self.bytes - self.begin,
            checksum: std::mem::take(&mut self.checksum).finalize(),
        };
        self.begin = self.bytes;
        section
    }
}

impl Write for Checked {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(data)?;
        self.bytes += written as u64;
        self.checksum.update(&data[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        // The arrow library flushes after every message.
        Ok(())
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
