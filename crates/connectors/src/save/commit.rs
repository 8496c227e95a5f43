//! Makes the staged files of a batch visible.
//!
//! The steps, and what a repeated commit finds after a failure behind each:
//!
//! | step | found |
//! |---|---|
//! | move the winners into the ready directory | some files staged, some ready |
//! | set the directory aside that is overwritten | all ready, nothing visible |
//! | rename the ready directory | nothing staged, nothing ready, all visible |
//! | remove what is left | the same |

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::Path;
use std::{fs, io};

use tidemill_dstream::SaveOutput;
use tidemill_types::{Generation, JobId};

use super::{CommitPlace, StagedFile, create_directory, ready_prefix, staging_root, sync_directory};
use crate::Error;

/// Makes a batch visible: the files, which are the winning attempts', and no others.
///
/// Without files there is no directory, or an empty one if the output wants it. The call can be repeated.
pub fn commit_save(save: &SaveOutput, at: &CommitPlace, files: &[StagedFile]) -> Result<(), Error> {
    if !is_committed(save, at, files)? {
        let visible = at.visible(save);
        if !save.overwrite && exists(&visible)? {
            return Err(Error::BatchDirectoryExists {
                path: visible,
                batch: at.batch,
            });
        }
        if files.is_empty() && !save.empty {
            set_aside(save, at)?;
        } else {
            gather(save, at, files)?;
            set_aside(save, at)?;
            publish(save, at)?;
        }
    }
    // The batch is visible; what could not be removed is in nobody's way.
    for left in [at.staging(save), at.replaced(save)] {
        if let Err(error) = remove(&left) {
            tracing::warn!(%error, "remains of a committed batch stay until the job ends");
        }
    }
    Ok(())
}

/// Removes what was staged for a batch that will not be committed.
pub fn abort_save(save: &SaveOutput, at: &CommitPlace) -> Result<(), Error> {
    remove(&at.ready(save))?;
    remove(&at.staging(save))?;
    let (visible, replaced) = (at.visible(save), at.replaced(save));
    if exists(&replaced)? && !exists(&visible)? {
        rename(&replaced, &visible)?;
    }
    Ok(())
}

/// Removes everything that a job has staged under a generation, while none of its batches waits for its commit.
pub fn cleanup_staging(save: &SaveOutput, job: JobId, generation: Generation) -> Result<(), Error> {
    remove(&staging_root(save, job, generation))?;
    let path = Path::new(&save.path);
    let prefix = ready_prefix(job);
    for name in names_in(path)? {
        if name.to_str().is_some_and(|name| name.starts_with(&prefix)) {
            remove(&path.join(name))?;
        }
    }
    Ok(())
}

/// Whether an earlier call came up to the visible directory: it has the files, and they are nowhere else.
fn is_committed(save: &SaveOutput, at: &CommitPlace, files: &[StagedFile]) -> Result<bool, Error> {
    let visible = at.visible(save);
    if exists(&at.ready(save))? || !visible.is_dir() {
        return Ok(false);
    }
    if files.is_empty() {
        return Ok(save.empty && names_in(&visible)?.is_empty());
    }
    for file in files {
        if exists(&file.staged)? || !is_file_of(&visible.join(&file.name), file.bytes) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Moves the files into the ready directory and removes all others from it.
fn gather(save: &SaveOutput, at: &CommitPlace, files: &[StagedFile]) -> Result<(), Error> {
    let ready = at.ready(save);
    create_directory(&ready)?;
    let mut expected = HashSet::new();
    for file in files {
        let target = ready.join(&file.name);
        match fs::rename(&file.staged, &target) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !is_file_of(&target, file.bytes) {
                    return Err(Error::StagedFileMissing {
                        path: file.staged.clone(),
                    });
                }
            }
            Err(source) => {
                return Err(Error::Rename {
                    from: file.staged.clone(),
                    to: target,
                    source,
                });
            }
        }
        expected.insert(OsString::from(&file.name));
    }
    // A run of the same name that was killed may have left some.
    for name in names_in(&ready)? {
        if !expected.contains(&name) {
            remove(&ready.join(name))?;
        }
    }
    sync_directory(&ready).map_err(|source| Error::WriteOutput { path: ready, source })
}

/// Moves another run's directory of the batch out of the way.
fn set_aside(save: &SaveOutput, at: &CommitPlace) -> Result<(), Error> {
    let visible = at.visible(save);
    if exists(&visible)? {
        let replaced = at.replaced(save);
        remove(&replaced)?;
        rename(&visible, &replaced)?;
    }
    Ok(())
}

fn publish(save: &SaveOutput, at: &CommitPlace) -> Result<(), Error> {
    rename(&at.ready(save), &at.visible(save))?;
    sync_directory(Path::new(&save.path)).map_err(|source| Error::WriteOutput {
        path: (&save.path).into(),
        source,
    })
}

fn is_file_of(path: &Path, bytes: u64) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() == bytes)
}

fn exists(path: &Path) -> Result<bool, Error> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(Error::ListDirectory {
            path: path.to_owned(),
            source,
        }),
    }
}

/// The names in a directory; none if it does not exist.
fn names_in(path: &Path) -> Result<Vec<OsString>, Error> {
    let names = || {
        fs::read_dir(path)?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect()
    };
    match names() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        names => names.map_err(|source| Error::ListDirectory {
            path: path.to_owned(),
            source,
        }),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(|source| Error::Rename {
        from: from.to_owned(),
        to: to.to_owned(),
        source,
    })
}

/// Removes a file or a directory with all that is in it, if it is there.
fn remove(path: &Path) -> Result<(), Error> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|source| Error::Remove {
            path: path.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests;
