//! The paths of a job: what `run` resolves and `submit` ships.
//!
//! A relative path means a place beside the job file, which other processes do not share. A job that runs in this
//! process gets absolute paths. A job that is submitted takes the files along that it reads once or rarely (tables,
//! broadcast variables and queues); what is read for ever or written (watched directories, text files, saved output,
//! checkpoints) has to be a place that all executors reach, so a relative path there is refused.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use tidemill_dstream::{
    BroadcastSource, Diagnostic, Diagnostics, JobGraph, Line, OutputKind, QueueItem, Source, StreamInput,
};

use crate::MAX_MESSAGE_BYTES;

/// The content of a file that a graph names by a relative path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedFile {
    /// As the graph names it.
    pub path: String,
    pub content: Bytes,
}

/// What a path is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Travels with the job.
    Attached,
    /// Has to be reachable from every executor.
    Shared,
}

/// Reads the files that a graph names by relative paths, from beside its job file.
///
/// # Errors
/// Relative paths that cannot travel, files that cannot be read, and more than one message holds.
pub fn attach_files(graph: &JobGraph, base: &Path) -> Result<Vec<AttachedFile>, Diagnostics> {
    let mut graph = graph.clone();
    let mut faults = Vec::new();
    let mut seen = HashSet::new();
    let mut files = Vec::new();
    let mut total = 0;
    visit(&mut graph, |path, purpose, line, place| {
        if !is_relative(path) {
            return;
        }
        if purpose == Use::Shared {
            let message = format!("the relative path `{path}` means nothing to the executors");
            let hint = "use an absolute path that all executors share, or `tidemill run` for a job on this machine";
            faults.push(
                Diagnostic::new(line.0, place, message)
                    .subject(path.as_str())
                    .hint(hint),
            );
        } else if seen.insert(path.clone()) {
            match read(&base.join(&path), MAX_MESSAGE_BYTES - total) {
                Ok(content) => {
                    total += content.len();
                    files.push(AttachedFile {
                        path: path.clone(),
                        content,
                    });
                }
                Err(message) => {
                    let message = format!("cannot attach `{path}`: {message}");
                    let hint = format!("relative paths are looked up in {}", base.display());
                    faults.push(
                        Diagnostic::new(line.0, place, message)
                            .subject(path.as_str())
                            .hint(hint),
                    );
                }
            }
        }
    });
    if faults.is_empty() {
        Ok(files)
    } else {
        Err(Diagnostics(faults))
    }
}

/// The graph with its relative paths taken from `base`, the directory of its job file.
#[must_use]
pub fn resolve_paths(mut graph: JobGraph, base: &Path) -> JobGraph {
    visit(&mut graph, |path, _, _, _| {
        if is_relative(path) {
            // Lossless: the path is text already, and only a base that is not would be changed.
            *path = base
                .join(path.strip_prefix("./").unwrap_or(path))
                .to_string_lossy()
                .into_owned();
        }
    });
    graph
}

/// A file's content, unless it is larger than `room`, which is looked at before it is read.
fn read(path: &Path, room: usize) -> Result<Bytes, String> {
    let size = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if usize::try_from(size).is_ok_and(|size| size <= room) {
        return fs::read(path).map(Bytes::from).map_err(|error| error.to_string());
    }
    let limit = MAX_MESSAGE_BYTES / (1024 * 1024);
    Err(format!(
        "with its {size} bytes the job is larger than {limit} MiB; put it where all executors can read it"
    ))
}

/// Neither absolute nor a URL; an empty path is a fault elsewhere.
fn is_relative(path: &str) -> bool {
    !path.is_empty() && !path.contains("://") && Path::new(path).is_relative()
}

/// Visits every path with its use, its line and its place in the graph.
fn visit(graph: &mut JobGraph, mut on: impl FnMut(&mut String, Use, Line, String)) {
    if let Some(place) = &mut graph.options.checkpoint {
        on(place, Use::Shared, Line(None), "checkpoint".to_owned());
    }
    for table in &mut graph.tables {
        on(
            &mut table.path,
            Use::Attached,
            table.line,
            format!("tables.{}.file", table.name),
        );
    }
    for def in &mut graph.broadcasts {
        if let BroadcastSource::File { path, .. } = &mut def.source {
            on(path, Use::Attached, def.line, format!("broadcasts.{}.file", def.name));
        }
    }
    for stream in &mut graph.streams {
        let StreamInput::Source(source) = &mut stream.input else {
            continue;
        };
        let place = format!("streams.{}.source.{}", stream.name, source.name());
        match source {
            Source::TextFile(file) => on(&mut file.path, Use::Shared, stream.line, format!("{place}.path")),
            Source::TextFiles(files) => on(&mut files.dir, Use::Shared, stream.line, format!("{place}.dir")),
            Source::Queue(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    if let QueueItem::File(path) = item {
                        on(path, Use::Attached, stream.line, format!("{place}.files[{index}]"));
                    }
                }
            }
            Source::SocketText(_) | Source::Generate(_) => {}
        }
    }
    for (index, output) in graph.outputs.iter_mut().enumerate() {
        if let OutputKind::Save(save) = &mut output.kind {
            on(
                &mut save.path,
                Use::Shared,
                output.line,
                format!("outputs[{index}].save.path"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job_file::{ParseOptions, parse};

    const JOB: &str = "
name: paths
batch_interval: 1s
tables:
  users: {file: users.csv}
  cities: {file: /data/cities.csv}
streams:
  lines: {source: {queue: {files: [a.txt, ./b.txt, a.txt]}}}
outputs:
  - print: {from: lines}
";

    fn graph(extra: &str) -> JobGraph {
        parse(&format!("{JOB}{extra}"), &ParseOptions::default()).unwrap()
    }

    #[test]
    fn tables_and_queue_files_travel_with_the_job_once_each() {
        let base = tempfile::tempdir().unwrap();
        for name in ["users.csv", "a.txt", "b.txt"] {
            fs::write(base.path().join(name), format!("content of {name}")).unwrap();
        }
        let files = attach_files(&graph(""), base.path()).unwrap();
        let names: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(names, ["users.csv", "a.txt", "./b.txt"]);
        assert_eq!(files[2].content, "content of b.txt");
    }

    #[test]
    fn what_cannot_travel_or_be_read_is_refused_with_its_line() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("users.csv"), "id").unwrap();
        fs::write(base.path().join("a.txt"), "a").unwrap();
        let faults = attach_files(&graph("  - save: {from: lines, path: out}\n"), base.path()).unwrap_err();
        let lines: Vec<_> = faults.0.iter().map(|fault| (fault.line, fault.path.as_str())).collect();
        assert_eq!(
            lines,
            [
                (Some(8), "streams.lines.source.queue.files[1]"),
                (Some(11), "outputs[1].save.path")
            ]
        );
        assert!(faults.0[0].message.starts_with("cannot attach `./b.txt`: "), "{faults}");
        assert!(
            faults.0[1].message.contains("`out` means nothing to the executors"),
            "{faults}"
        );
    }

    #[test]
    fn a_checkpoint_is_a_place_that_executors_share() {
        let mut relative = graph("");
        relative.options.checkpoint = Some("state".to_owned());
        let run = resolve_paths(relative.clone(), Path::new("/jobs"));
        assert_eq!(run.options.checkpoint.as_deref(), Some("/jobs/state"));
        let base = tempfile::tempdir().unwrap();
        let faults = attach_files(&relative, base.path()).unwrap_err();
        assert_eq!(faults.0[0].path, "checkpoint");
    }

    #[test]
    fn a_file_that_no_message_holds_is_refused_unread() {
        let base = tempfile::tempdir().unwrap();
        for name in ["a.txt", "b.txt"] {
            fs::write(base.path().join(name), "").unwrap();
        }
        let users = fs::File::create(base.path().join("users.csv")).unwrap();
        users.set_len(MAX_MESSAGE_BYTES as u64 + 1).unwrap();
        let faults = attach_files(&graph(""), base.path()).unwrap_err();
        assert!(faults.to_string().contains("larger than 64 MiB"), "{faults}");
    }

    #[test]
    fn a_run_takes_relative_paths_from_beside_the_job_file() {
        let graph = resolve_paths(graph("  - save: {from: lines, path: ./out}\n"), Path::new("/jobs"));
        assert_eq!(graph.tables[0].path, "/jobs/users.csv");
        assert_eq!(graph.tables[1].path, "/data/cities.csv");
        let OutputKind::Save(save) = &graph.outputs[1].kind else {
            panic!("not saved")
        };
        assert_eq!(save.path, "/jobs/out");
    }
}
