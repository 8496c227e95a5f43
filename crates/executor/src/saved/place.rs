//! Where saved states are: a directory, or an object store.
//!
//! A file appears whole or not at all, and what [`Checkpoint::put`] has put outlives the process and, in a directory, a
//! power cut: it is written beside its place, brought to disk, and renamed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use url::Url;

use super::file::Identity;

/// The place of a job's saved states.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoint {
    /// As it was given.
    text: String,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    Directory(PathBuf),
    Store { store: Arc<dyn ObjectStore>, prefix: Path },
}

/// Why a file could not be read or written.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) reason: String,
    /// Another try may succeed.
    pub(super) retryable: bool,
}

impl Checkpoint {
    /// A directory, or a URL.
    ///
    /// # Errors
    /// What is wrong with the URL, for people.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let failed = |reason: &dyn std::fmt::Display| format!("checkpoint `{text}` cannot be used: {reason}");
        let place = if text.contains("://") {
            let url = Url::parse(text).map_err(|error| failed(&error))?;
            match url.scheme() {
                "file" => {
                    let directory = url.to_file_path();
                    Place::Directory(directory.map_err(|()| failed(&"it names no directory of this machine"))?)
                }
                _ => {
                    let (store, prefix) = object_store::parse_url(&url).map_err(|error| failed(&error))?;
                    Place::Store {
                        store: store.into(),
                        prefix,
                    }
                }
            }
        } else {
            Place::Directory(text.into())
        };
        Ok(Self {
            text: text.to_owned(),
            place,
        })
    }

    /// The name of a state's file, for people.
    pub(super) fn name_of(&self, state: &Identity) -> String {
        format!("{}/{}", self.text.trim_end_matches('/'), key(state))
    }

    /// Writes the file of a state, in place of one that is there.
    pub(super) async fn put(&self, state: &Identity, bytes: Bytes) -> Result<(), Failed> {
        match &self.place {
            Place::Directory(directory) => {
                let path = directory.join(key(state).as_ref());
                blocking(move || write(&path, &bytes)).await
            }
            Place::Store { store, prefix } => {
                let put = store.put(&within(prefix, state), bytes.into()).await;
                put.map(drop).map_err(Failed::from)
            }
        }
    }

    pub(super) async fn get(&self, state: &Identity) -> Result<Bytes, Failed> {
        match &self.place {
            Place::Directory(directory) => {
                let path = directory.join(key(state).as_ref());
                blocking(move || fs::read(path)).await.map(Bytes::from)
            }
            Place::Store { store, prefix } => {
                let object = store.get(&within(prefix, state)).await?;
                Ok(object.bytes().await?)
            }
        }
    }
}

impl From<object_store::Error> for Failed {
    fn from(error: object_store::Error) -> Self {
        Self {
            retryable: !matches!(error, object_store::Error::NotFound { .. }),
            reason: error.to_string(),
        }
    }
}

/// `state/<state>/<batch>/part-<partition>-of-<partitions>.state`; what has a meaning in paths is encoded.
fn key(state: &Identity) -> Path {
    let Identity {
        state,
        batch,
        partition,
        partitions,
        ..
    } = state;
    let (batch, file) = (batch.0.to_string(), format!("part-{partition}-of-{partitions}.state"));
    ["state", state, &batch, &file].into_iter().collect()
}

fn within(prefix: &Path, state: &Identity) -> Path {
    prefix.parts().chain(key(state).parts()).collect()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Failed> {
    let failed = |reason: String, retryable| Failed { reason, retryable };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(failed(error.to_string(), error.kind() != io::ErrorKind::NotFound)),
        Err(panic) => Err(failed(panic.to_string(), false)),
    }
}

fn write(path: &FilePath, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(path);
    fs::create_dir_all(directory)?;
    // Another executor may be at the same file, if it was given up and does not know it.
    let staged = path.with_extension(format!("{:016x}.tmp", getrandom::u64().map_err(io::Error::other)?));
    let written = File::create_new(&staged).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&staged, path)
    });
    if let Err(error) = written {
        // What stays of it is no saved state.
        let _ = fs::remove_file(&staged);
        return Err(error);
    }
    // Names are durable once their directories are: that of the file, of the batch, and of the state.
    for directory in directory.ancestors().take(3) {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tidemill_types::BatchTime;

    use super::*;

    fn state(name: &str) -> Identity {
        Identity {
            job: "job".to_owned(),
            state: name.to_owned(),
            batch: BatchTime(2000),
            partition: 1,
            partitions: 4,
        }
    }

    #[tokio::test]
    async fn a_state_is_found_under_its_name_in_a_directory_by_path_or_by_url() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("with space");
        let by_path = Checkpoint::parse(root.to_str().unwrap()).unwrap();
        let by_url = Checkpoint::parse(Url::from_file_path(&root).unwrap().as_str()).unwrap();
        by_path.put(&state("totals"), Bytes::from_static(b"one")).await.unwrap();
        assert_eq!(by_url.get(&state("totals")).await.unwrap(), "one");
        by_url.put(&state("totals"), Bytes::from_static(b"two")).await.unwrap();
        let path = root.join("state/totals/2000/part-1-of-4.state");
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(
            fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "nothing stands beside it"
        );
        assert_eq!(by_path.name_of(&state("totals")), path.to_str().unwrap());
    }

    #[tokio::test]
    async fn a_name_never_leads_out_of_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        let checkpoint = Checkpoint::parse(root.to_str().unwrap()).unwrap();
        for name in ["../up", "..", "/top", "a/b"] {
            checkpoint.put(&state(name), Bytes::new()).await.unwrap();
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert_eq!(fs::read_dir(root.join("state")).unwrap().count(), 4);
    }

    #[tokio::test]
    async fn what_is_not_there_is_not_asked_for_again_and_what_fails_otherwise_is() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        let checkpoint = Checkpoint::parse(root.to_str().unwrap()).unwrap();
        assert!(!checkpoint.get(&state("totals")).await.unwrap_err().retryable);
        fs::write(&root, b"a file where the directory should be").unwrap();
        let failed = checkpoint.put(&state("totals"), Bytes::new()).await.unwrap_err();
        assert!(failed.retryable, "{}", failed.reason);
    }

    #[tokio::test]
    async fn an_object_store_has_the_same_names() {
        let checkpoint = Checkpoint::parse("memory:///jobs/one").unwrap();
        checkpoint
            .put(&state("totals"), Bytes::from_static(b"one"))
            .await
            .unwrap();
        assert_eq!(checkpoint.get(&state("totals")).await.unwrap(), "one");
        assert!(!checkpoint.get(&state("other")).await.unwrap_err().retryable);
        let within = within(&Path::from("jobs/one"), &state("totals"));
        assert_eq!(within.as_ref(), "jobs/one/state/totals/2000/part-1-of-4.state");
    }

    #[test]
    fn a_place_that_this_build_cannot_use_is_named() {
        let error = Checkpoint::parse("s3://bucket/jobs").unwrap_err();
        assert!(
            error.starts_with("checkpoint `s3://bucket/jobs` cannot be used: "),
            "{error}"
        );
        assert!(Checkpoint::parse("nonsense://x").is_err());
    }
}
