//! Stages the rows of one attempt as one file.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use flate2::write::GzEncoder;
use tidemill_dstream::{Compression, FileFormat, SaveOutput};

use super::encode::encode;
use super::{StagePlace, StagedFile, check_save_schema, create_directory, sync_directory};
use crate::Error;

/// Rows that are encoded at once, to bound the memory of it.
const ENCODE_ROWS: usize = 16 << 10;

const WRITE_BYTES: usize = 256 << 10;

/// Writes one staged file. There is no file until there is a row, and none after a writer was dropped unfinished.
pub struct StagedWriter {
    path: PathBuf,
    name: String,
    format: FileFormat,
    compression: Compression,
    file: Option<Encoder>,
    encoded: Vec<u8>,
    rows: u64,
}

impl StagedWriter {
    pub fn create(save: &SaveOutput, at: &StagePlace, schema: &SchemaRef) -> Result<Self, Error> {
        check_save_schema(save, schema)?;
        let stem = format!("part-{:05}", at.partition);
        let compressed = match save.compression {
            Compression::None => "",
            Compression::Gzip => ".gz",
            Compression::Zstd => ".zst",
        };
        let extension = save.format.extension();
        let staged = format!("{stem}-a{}.{extension}{compressed}", at.attempt);
        Ok(Self {
            path: at.commit.staging(save).join(staged),
            name: format!("{stem}.{extension}{compressed}"),
            format: save.format,
            compression: save.compression,
            file: None,
            encoded: Vec::new(),
            rows: 0,
        })
    }

    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        let mut from = 0;
        while from < batch.num_rows() {
            let rows = (batch.num_rows() - from).min(ENCODE_ROWS);
            self.write_rows(&batch.slice(from, rows))?;
            from += rows;
        }
        Ok(())
    }

    fn write_rows(&mut self, rows: &RecordBatch) -> Result<(), Error> {
        self.encoded.clear();
        encode(self.format, rows, self.rows == 0, &mut self.encoded).map_err(|source: ArrowError| Error::Encode {
            path: self.path.clone(),
            source,
        })?;
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(Encoder::create(&self.path, self.compression)?),
        };
        file.write_all(&self.encoded).map_err(|source| Error::WriteOutput {
            path: self.path.clone(),
            source,
        })?;
        self.rows += rows.num_rows() as u64;
        Ok(())
    }

    /// The file, which is on disk then; `None` if there were no rows.
    pub fn finish(mut self) -> Result<Option<StagedFile>, Error> {
        let Some(file) = self.file.take() else {
            return Ok(None);
        };
        let synced = file.finish().and_then(|file| {
            file.sync_all()?;
            let bytes = file.metadata()?.len();
            if let Some(directory) = self.path.parent() {
                sync_directory(directory)?;
            }
            Ok(bytes)
        });
        match synced {
            Ok(bytes) => Ok(Some(StagedFile {
                staged: self.path.clone(),
                name: self.name.clone(),
                bytes,
                rows: self.rows,
            })),
            Err(source) => {
                remove_unfinished(&self.path);
                Err(Error::WriteOutput {
                    path: self.path.clone(),
                    source,
                })
            }
        }
    }
}

impl Drop for StagedWriter {
    fn drop(&mut self) {
        if self.file.is_some() {
            remove_unfinished(&self.path);
        }
    }
}

fn remove_unfinished(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::debug!(path = %path.display(), %error, "unfinished staged file stays until its job ends");
    }
}

/// A file and its compression.
enum Encoder {
    Plain(BufWriter<File>),
    Gzip(GzEncoder<BufWriter<File>>),
    Zstd(zstd::stream::write::Encoder<'static, BufWriter<File>>),
}

impl Encoder {
    fn create(path: &Path, compression: Compression) -> Result<Self, Error> {
        let cannot_write = |source| Error::WriteOutput {
            path: path.to_owned(),
            source,
        };
        let file = match File::create(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(directory) = path.parent() {
                    create_directory(directory)?;
                }
                File::create(path)
            }
            file => file,
        };
        let file = BufWriter::with_capacity(WRITE_BYTES, file.map_err(cannot_write)?);
        Ok(match compression {
            Compression::None => Self::Plain(file),
            Compression::Gzip => Self::Gzip(GzEncoder::new(file, flate2::Compression::default())),
            Compression::Zstd => {
                let level = zstd::DEFAULT_COMPRESSION_LEVEL;
                Self::Zstd(zstd::stream::write::Encoder::new(file, level).map_err(cannot_write)?)
            }
        })
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(file) => file.write_all(bytes),
            Self::Gzip(file) => file.write_all(bytes),
            Self::Zstd(file) => file.write_all(bytes),
        }
    }

    fn finish(self) -> io::Result<File> {
        let file = match self {
            Self::Plain(file) => file,
            Self::Gzip(file) => file.finish()?,
            Self::Zstd(file) => file.finish()?,
        };
        file.into_inner().map_err(io::IntoInnerError::into_error)
    }
}
