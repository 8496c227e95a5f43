//! The files that come with a submission.
//!
//! Tables and broadcast variables are read here, so their files are kept in a directory of this process for as long as the job lives. What
//! executors would have to read cannot stay in files: the lines of queued files become part of the job.

use std::io;
use std::path::{Path, PathBuf};

use arrow::array::AsArray;
use tidemill_connectors::{ReadOptions, open};
use tidemill_dstream::{BroadcastSource, FilePart, FileRange, InputItem, JobGraph, QueueItem, Source, StreamInput};
use tidemill_rpc::channel::MAX_SUBMISSION;
use tidemill_rpc::control;

/// A directory with the files of one submission. It goes away with this value.
#[derive(Debug)]
pub(crate) struct AttachedFiles {
    directory: PathBuf,
}

/// Why attached files cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot write attached files to {}: {source}", directory.display())]
    Write { directory: PathBuf, source: io::Error },
    #[error("cannot read the attached file {path}: {reason}")]
    Read { path: String, reason: String },
    #[error(
        "the queued files have more than {} MiB of lines; put them where all executors can read them",
        MAX_SUBMISSION >> 20
    )]
    TooManyLines,
}

impl AttachedFiles {
    /// Writes the files and points the graph at them. Blocks on the file system.
    pub(crate) fn place(
        directory: PathBuf,
        files: &[control::AttachedFile],
        graph: &mut JobGraph,
    ) -> Result<Self, Error> {
        let write = |source| Error::Write {
            directory: directory.clone(),
            source,
        };
        std::fs::create_dir_all(&directory).map_err(write)?;
        let attached = Self {
            directory: directory.clone(),
        };
        let mut room = MAX_SUBMISSION;
        for (i, file) in files.iter().enumerate() {
            let name = Path::new(&file.path)
                .file_name()
                .map_or_else(|| "file".into(), |name| name.to_string_lossy());
            let path = directory.join(format!("{i}-{name}"));
            std::fs::write(&path, &file.content).map_err(write)?;
            let path = path.to_string_lossy();
            for table in graph.tables.iter_mut().filter(|table| table.path == file.path) {
                path.as_ref().clone_into(&mut table.path);
            }
            for def in &mut graph.broadcasts {
                if let BroadcastSource::File { path: named, .. } = &mut def.source
                    && *named == file.path
                {
                    path.as_ref().clone_into(named);
                }
            }
            for stream in &mut graph.streams {
                let StreamInput::Source(Source::Queue(items)) = &mut stream.input else {
                    continue;
                };
                for item in items {
                    if matches!(item, QueueItem::File(queued) if *queued == file.path) {
                        *item = QueueItem::Lines(lines(&path, &file.path, &mut room)?);
                    }
                }
            }
        }
        Ok(attached)
    }
}

impl Drop for AttachedFiles {
    fn drop(&mut self) {
        // What is left behind is in the system's temporary directory.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// The lines of a file by the rules of all text sources. They may have `room` bytes.
fn lines(path: &str, name: &str, room: &mut usize) -> Result<Vec<String>, Error> {
    let failed = |error: tidemill_connectors::Error| Error::Read {
        path: name.to_owned(),
        reason: error.to_string(),
    };
    let item = InputItem::File(FileRange {
        path: path.to_owned(),
        part: FilePart::Whole,
    });
    let mut lines = Vec::new();
    for batch in open(&item, &Source::Queue(Vec::new()), &ReadOptions::default()).map_err(failed)? {
        for line in batch.map_err(failed)?.column(0).as_string_view().iter().flatten() {
            *room = room.checked_sub(line.len()).ok_or(Error::TooManyLines)?;
            lines.push(line.to_owned());
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidemill_dstream::{Line, StreamDef, TableDef};

    use super::*;

    fn graph() -> JobGraph {
        JobGraph {
            name: "attached".to_owned(),
            batch_interval: Duration::from_secs(1),
            tables: vec![TableDef {
                name: "users".to_owned(),
                path: "users.csv".to_owned(),
                format: None,
                reload: None,
                line: Line(None),
            }],
            streams: vec![StreamDef {
                name: "lines".to_owned(),
                input: StreamInput::Source(Source::Queue(vec![
                    QueueItem::File("in/a.txt".to_owned()),
                    QueueItem::File("/shared/b.txt".to_owned()),
                ])),
                steps: Vec::new(),
                persist: None,
                line: Line(None),
            }],
            ..JobGraph::default()
        }
    }

    fn file(path: &str, content: &'static [u8]) -> control::AttachedFile {
        control::AttachedFile {
            path: path.to_owned(),
            content: content.into(),
        }
    }

    #[test]
    fn tables_become_files_of_this_process_and_queued_files_lines_of_the_job() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("job");
        let mut graph = graph();
        let files = [file("users.csv", b"id\n1\n"), file("in/a.txt", b"one\r\ntw\xffo\n")];
        let attached = AttachedFiles::place(directory.clone(), &files, &mut graph).unwrap();
        assert_eq!(std::fs::read_to_string(&graph.tables[0].path).unwrap(), "id\n1\n");
        let StreamInput::Source(Source::Queue(items)) = &graph.streams[0].input else {
            panic!("no queue")
        };
        let lines = vec!["one".to_owned(), "tw\u{fffd}o".to_owned()];
        assert_eq!(
            *items,
            [QueueItem::Lines(lines), QueueItem::File("/shared/b.txt".to_owned())]
        );
        drop(attached);
        assert!(!directory.exists());
    }

    #[test]
    fn lines_that_no_message_holds_are_refused_and_leave_nothing_behind() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("job");
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("long"), "x".repeat(100)).unwrap();
        let path = directory.join("long").display().to_string();
        assert!(matches!(lines(&path, "long", &mut 99), Err(Error::TooManyLines)));
        let broken = [file("in/a.txt.gz", b"no gzip")];
        let mut graph = graph();
        if let StreamInput::Source(Source::Queue(items)) = &mut graph.streams[0].input {
            items[0] = QueueItem::File("in/a.txt.gz".to_owned());
        }
        let error = AttachedFiles::place(directory.clone(), &broken, &mut graph).unwrap_err();
        assert!(error.to_string().contains("in/a.txt.gz"), "{error}");
        assert!(!directory.exists());
    }
}
