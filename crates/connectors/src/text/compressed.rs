//! Plain and compressed files as streams of bytes. The file name's extension tells them apart.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use crate::Error;

/// Compressed bytes are read by this much.
const COMPRESSED_READ_BYTES: usize = 256 << 10;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    Plain,
    /// One or more members, one after the other.
    Gzip,
    /// One or more frames, one after the other.
    Zstd,
}

impl Codec {
    pub(crate) fn of(path: &Path) -> Self {
        match path.extension() {
            Some(ext) if ext.eq_ignore_ascii_case("gz") => Self::Gzip,
            Some(ext) if ext.eq_ignore_ascii_case("zst") => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// The bytes of a text file, decompressed as they are read.
pub(crate) enum TextInput {
    Plain(File),
    Gzip(Box<MultiGzDecoder<BufReader<File>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<File>>>),
}

impl TextInput {
    /// Opens a regular file. Others are refused before they are opened, as opening a pipe would wait for a writer.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let cannot_open = |source| Error::OpenInput {
            path: path.to_owned(),
            source,
        };
        check_is_file(path, &fs::metadata(path).map_err(cannot_open)?)?;
        let file = File::open(path).map_err(cannot_open)?;
        let buffered = |file| BufReader::with_capacity(COMPRESSED_READ_BYTES, file);
        Ok(match Codec::of(path) {
            Codec::Plain => Self::Plain(file),
            Codec::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(buffered(file)))),
            Codec::Zstd => Self::Zstd(Box::new(
                zstd::stream::read::Decoder::with_buffer(buffered(file)).map_err(cannot_open)?,
            )),
        })
    }

    /// Goes to a byte of a plain file; `None` if the file is compressed.
    pub(crate) fn seek(&mut self, offset: u64) -> Option<io::Result<()>> {
        match self {
            Self::Plain(file) => Some(file.seek(SeekFrom::Start(offset)).map(drop)),
            Self::Gzip(_) | Self::Zstd(_) => None,
        }
    }

    /// Appends exactly `wanted` bytes, fewer only at the end of the input.
    pub(crate) fn append_to(&mut self, bytes: &mut Vec<u8>, wanted: u64) -> io::Result<u64> {
        let read = match self {
            Self::Plain(file) => file.take(wanted).read_to_end(bytes),
            Self::Gzip(decoder) => decoder.take(wanted).read_to_end(bytes),
            Self::Zstd(decoder) => decoder.take(wanted).read_to_end(bytes),
        }?;
        Ok(read as u64)
    }
}

/// Refuses directories, pipes, sockets and devices.
pub(crate) fn check_is_file(path: &Path, metadata: &fs::Metadata) -> Result<(), Error> {
    if metadata.is_dir() {
        Err(Error::InputIsDirectory { path: path.to_owned() })
    } else if metadata.is_file() {
        Ok(())
    } else {
        Err(Error::InputNotAFile { path: path.to_owned() })
    }
}
