//! Batches saved as files: `PATH/batch_time=<ms>/part-<partition>.<format>`, visible at once.
//!
//! ```text
//!   executor, each attempt     PATH/.staging-j1-g1/batch_time=1000-o0/part-00003-a0.csv      (StagedWriter)
//!   driver, at commit  1       PATH/.commit-j1-o0-batch_time=1000/part-00003.csv             the winners move
//!                      2       PATH/batch_time=1000                                          one rename
//! ```
//! - Attempts never share a file, and a reader of `PATH` never sees a part of a batch: names that begin with a dot are
//!   not looked at by anything that reads directories of data.
//! - Staged files are on disk before they are reported, the directory before its commit returns.
//! - A commit can be repeated after a failure at any step, also by another process: the names say how far it came, and
//!   what is found moved is not moved again. A directory that was there before is another run's and is not touched,
//!   unless the output may overwrite; then it is set aside, and removed when the new one is in its place.
//!
//! Ownership: an attempt owns its staged file until it is finished, the driver everything from then on. All calls block.

mod check;
mod commit;
mod encode;
mod writer;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use tidemill_dstream::SaveOutput;
use tidemill_types::{Attempt, BatchTime, Generation, JobId, OutputId};

pub use check::{check_save, check_save_schema};
pub use commit::{abort_save, cleanup_staging, commit_save};
pub use writer::StagedWriter;

use crate::Error;

/// One batch of one output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CommitPlace {
    pub job: JobId,
    pub output: OutputId,
    pub batch: BatchTime,
    /// The generation under which the batch's files are staged.
    pub generation: Generation,
}

/// One attempt at one partition of a batch of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StagePlace {
    pub commit: CommitPlace,
    pub partition: u32,
    pub attempt: Attempt,
}

/// A finished file that is not visible yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagedFile {
    /// Where it is.
    pub staged: PathBuf,
    /// Its name in the batch's directory.
    pub name: String,
    pub bytes: u64,
    pub rows: u64,
}

impl CommitPlace {
    /// The batch's directory, as readers see it.
    fn visible(&self, save: &SaveOutput) -> PathBuf {
        Path::new(&save.path).join(format!("batch_time={}", self.batch))
    }

    /// The directory that becomes the visible one.
    fn ready(&self, save: &SaveOutput) -> PathBuf {
        Path::new(&save.path).join(format!(
            "{}o{}-batch_time={}",
            ready_prefix(self.job),
            self.output,
            self.batch
        ))
    }

    /// Where a directory that is being overwritten waits for its removal.
    fn replaced(&self, save: &SaveOutput) -> PathBuf {
        let name = format!(".replaced-j{}-o{}-batch_time={}", self.job, self.output, self.batch);
        Path::new(&save.path).join(name)
    }

    /// Where attempts stage the batch's files.
    fn staging(&self, save: &SaveOutput) -> PathBuf {
        staging_root(save, self.job, self.generation).join(format!("batch_time={}-o{}", self.batch, self.output))
    }
}

fn staging_root(save: &SaveOutput, job: JobId, generation: Generation) -> PathBuf {
    Path::new(&save.path).join(format!(".staging-j{job}-g{generation}"))
}

fn ready_prefix(job: JobId) -> String {
    format!(".commit-j{job}-")
}

/// Creates a directory and those above it, each on disk when this returns.
fn create_directory(path: &Path) -> Result<(), Error> {
    let cannot_create = |source| Error::CreateDirectory {
        path: path.to_owned(),
        source,
    };
    match fs::create_dir(path) {
        Ok(()) => sync_parent(path).map_err(cannot_create),
        Err(_) if path.is_dir() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(Error::OutputNotADirectory { path: path.to_owned() })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => {
                create_directory(parent)?;
                match fs::create_dir(path) {
                    // Another attempt may have been faster.
                    Err(_) if path.is_dir() => Ok(()),
                    created => created.and_then(|()| sync_parent(path)).map_err(cannot_create),
                }
            }
            _ => Err(cannot_create(error)),
        },
        Err(error) => Err(cannot_create(error)),
    }
}

/// Puts the names in a directory on disk.
fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent),
        _ => sync_directory(Path::new(".")),
    }
}

#[cfg(test)]
mod tests;
