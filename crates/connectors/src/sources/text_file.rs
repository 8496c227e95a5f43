//! The bounded text source: the lines of one file, or of the files that a glob matches.
//!
//! Files are listed once, when the job starts. Without `batch_lines` the first batch has everything. With it, a scanner
//! goes through the files and finds where each batch ends, one batch at a time: plain files are allocated as byte
//! ranges, which a task reads without looking at what comes before; compressed files as ranges of lines.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use memchr::memchr_iter;
use tidemill_dstream::{FilePart, TextFileSource};

use super::position::{self, Reader, Writer};
use super::spread::{self, InputFile, Piece, human_bytes};
use super::{AllocateRequest, Allocation, InputPlanner};
use crate::Error;
use crate::text::{Codec, TextInput};

/// Bytes that the scanner reads at once.
const SCAN_BYTES: u64 = 1 << 20;

/// Layouts of positions.
const LAYOUT_DONE: u8 = 1;
const LAYOUT_NEXT: u8 = 2;

pub(super) struct TextFilePlanner {
    path: String,
    batch_lines: Option<u64>,
    /// What no batch has yet; the scanner's file is not among them.
    files: VecDeque<InputFile>,
    scan: Option<Scan>,
    /// What has been found for the next batch, and its lines. It stays when a file cannot be read, for another try.
    pending: (Vec<Piece>, u64),
}

impl TextFilePlanner {
    pub(super) fn new(source: &TextFileSource) -> Result<Self, Error> {
        Ok(Self {
            path: source.path.clone(),
            batch_lines: source.batch_lines.map(|lines| lines.max(1)),
            files: list(&source.path)?.into(),
            scan: None,
            pending: (Vec::new(), 0),
        })
    }

    fn allocate_all(&mut self, request: &AllocateRequest) -> Allocation {
        let bytes = self.files.iter().map(|file| file.bytes).sum();
        let description = match self.files.make_contiguous() {
            [file] => format!("{}, {}", file.path, human_bytes(bytes)),
            files => format!("{} files of {}, {}", files.len(), self.path, human_bytes(bytes)),
        };
        let pieces = self.files.drain(..).map(|file| file.piece()).collect();
        Allocation {
            partitions: spread::in_order(pieces, request.partitions),
            rows: None,
            exhausted: true,
            description,
        }
    }

    fn allocate_lines(&mut self, wanted: u64, request: &AllocateRequest) -> Result<Allocation, Error> {
        while self.pending.1 < wanted {
            let missing = wanted - self.pending.1;
            let Some(scan) = self.current_scan()? else {
                break;
            };
            let (piece, found) = scan.advance(missing)?;
            self.pending.0.push(piece);
            self.pending.1 += found;
        }
        let exhausted = self.current_scan()?.is_none();
        let (pieces, lines) = std::mem::take(&mut self.pending);
        let description = match (pieces.first(), pieces.len()) {
            (Some(first), 1) => format!("{lines} lines of {}", first.path),
            (Some(first), files) => format!("{lines} lines of {files} files from {} on", first.path),
            (None, _) => format!("no more lines in {}", self.path),
        };
        Ok(Allocation {
            partitions: spread::in_order(pieces, request.partitions),
            rows: Some(lines),
            exhausted,
            description,
        })
    }

    /// The scan of the first file that has lines left.
    fn current_scan(&mut self) -> Result<Option<&mut Scan>, Error> {
        loop {
            if let Some(scan) = &mut self.scan {
                if scan.has_more()? {
                    break;
                }
                self.scan = None;
            }
            let Some(file) = self.files.front() else {
                break;
            };
            self.scan = Some(Scan::open(file)?);
            self.files.pop_front();
        }
        Ok(self.scan.as_mut())
    }
}

impl InputPlanner for TextFilePlanner {
    fn allocate(&mut self, request: &AllocateRequest) -> Result<Allocation, Error> {
        match self.batch_lines {
            _ if self.files.is_empty() && self.scan.is_none() => {
                let nothing = format!("no more lines in {}", self.path);
                Ok(Allocation::empty(request.partitions, true, nothing))
            }
            None => Ok(self.allocate_all(request)),
            Some(lines) => self.allocate_lines(lines, request),
        }
    }

    /// The file that comes next and how much of it is allocated, and the last file; or that nothing comes.
    fn position(&self) -> Vec<u8> {
        let scan = self.scan.as_ref().map(|scan| (&scan.file, scan.allocated));
        let Some((next, at)) = scan.or_else(|| Some((self.files.front()?, Position::default()))) else {
            return Writer::new(LAYOUT_DONE).finish();
        };
        let last = self.files.back().unwrap_or(next);
        Writer::new(LAYOUT_NEXT)
            .text(&next.path)
            .number(at.bytes)
            .number(at.lines)
            .text(&last.path)
            .finish()
    }

    fn restore(&mut self, position: &[u8]) -> Result<(), Error> {
        let (layout, mut reader) = Reader::new(position)?;
        if layout == LAYOUT_DONE {
            self.files.clear();
            return Ok(());
        }
        if layout != LAYOUT_NEXT {
            return Err(position::damaged());
        }
        let (next, bytes, lines, last) = (reader.text()?, reader.number()?, reader.number()?, reader.text()?);
        // By name, as they are listed. Files that have come since behind the last one are of no concern.
        let wanted = Path::new(&next)..=Path::new(&last);
        self.files.retain(|file| wanted.contains(&Path::new(&file.path)));
        let changed = |what: &str| Error::Position {
            reason: format!("{next} {what}"),
        };
        let Some(file) = self.files.front().filter(|file| file.path == next) else {
            return Err(changed("is not there any more"));
        };
        if lines > 0 {
            let mut scan = Scan::open(file)?;
            scan.advance(lines)?;
            if (scan.allocated.bytes, scan.allocated.lines) != (bytes, lines) {
                return Err(changed("has changed"));
            }
            self.scan = Some(scan);
            self.files.pop_front();
        }
        Ok(())
    }
}

/// The files of a path or a glob by name. At least one.
fn list(path: &str) -> Result<Vec<InputFile>, Error> {
    if Path::new(path).exists() || !is_glob(path) {
        return Ok(vec![InputFile::stat(path)?]);
    }
    let mut files = Vec::new();
    for path in expand(path)? {
        if path.is_file() {
            files.push(InputFile::stat(name_of(&path)?)?);
        }
    }
    if files.is_empty() {
        return Err(Error::NoInputMatches {
            pattern: path.to_owned(),
        });
    }
    Ok(files)
}

pub(super) fn is_glob(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// The paths that a glob matches, by name. Names that begin with a dot have to be asked for.
pub(super) fn expand(pattern: &str) -> Result<Vec<PathBuf>, Error> {
    let options = glob::MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: true,
    };
    let matches = glob::glob_with(pattern, options).map_err(|error| Error::InvalidGlob {
        pattern: pattern.to_owned(),
        reason: error.msg.to_owned(),
    })?;
    let mut paths = matches
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Error::ListDirectory {
            path: error.path().to_owned(),
            source: error.into(),
        })?;
    paths.sort();
    Ok(paths)
}

/// A path travels to the executors as text.
pub(super) fn name_of(path: &Path) -> Result<&str, Error> {
    path.to_str()
        .ok_or_else(|| Error::InputNameNotUtf8 { path: path.to_owned() })
}

/// A walk through the lines of one file.
struct Scan {
    file: InputFile,
    input: TextInput,
    chunk: Vec<u8>,
    /// Bytes of the chunk that have been passed.
    at: usize,
    /// Bytes and lines of the text up to which it has been allocated.
    allocated: Position,
    passed: Position,
    /// The last byte that was passed is not a newline.
    within_line: bool,
    end_of_file: bool,
}

#[derive(Clone, Copy, Default)]
struct Position {
    bytes: u64,
    lines: u64,
}

impl Scan {
    fn open(file: &InputFile) -> Result<Self, Error> {
        Ok(Self {
            input: TextInput::open(Path::new(&file.path))?,
            file: file.clone(),
            chunk: Vec::new(),
            at: 0,
            allocated: Position::default(),
            passed: Position::default(),
            within_line: false,
            end_of_file: false,
        })
    }

    fn has_more(&mut self) -> Result<bool, Error> {
        if self.at == self.chunk.len() && !self.end_of_file {
            self.chunk.clear();
            self.at = 0;
            let read = self.input.append_to(&mut self.chunk, SCAN_BYTES);
            let read = read.map_err(|source| Error::ReadInput {
                path: PathBuf::from(&self.file.path),
                source,
            })?;
            self.end_of_file = read < SCAN_BYTES;
        }
        Ok(self.at < self.chunk.len())
    }

    /// Passes up to `wanted` lines and says how many there were.
    fn advance(&mut self, wanted: u64) -> Result<(Piece, u64), Error> {
        let enough = self.allocated.lines + wanted;
        while self.passed.lines < enough && self.has_more()? {
            self.pass_chunk(enough);
        }
        if self.passed.lines < enough && self.within_line {
            // The last line of the file has no end.
            self.passed.lines += 1;
            self.within_line = false;
        }
        let from = std::mem::replace(&mut self.allocated, self.passed);
        let (bytes, lines) = (self.passed.bytes - from.bytes, self.passed.lines - from.lines);
        let part = match self.file.codec {
            Codec::Plain => FilePart::Bytes {
                offset: from.bytes,
                length: bytes,
            },
            Codec::Gzip | Codec::Zstd => FilePart::Lines {
                first: from.lines,
                count: lines,
            },
        };
        let path = self.file.path.clone();
        Ok((Piece { path, part, bytes }, lines))
    }

    /// Passes the lines of the chunk up to line number `enough`.
    fn pass_chunk(&mut self, enough: u64) {
        let bytes = &self.chunk[self.at..];
        let mut passed = 0;
        for end in memchr_iter(b'\n', bytes) {
            passed = end + 1;
            self.passed.lines += 1;
            if self.passed.lines == enough {
                break;
            }
        }
        self.within_line = self.passed.lines < enough && passed < bytes.len();
        if self.passed.lines < enough {
            passed = bytes.len();
        }
        self.at += passed;
        self.passed.bytes += passed as u64;
    }
}
