//! From the place that a setting names to the journal there.

use std::path::Path;
use std::sync::Arc;

use url::Url;

use crate::backend::{Backend, Recovered};
use crate::error::{Error, Result};
use crate::local::LocalLog;
use crate::object::{ObjectLog, ObjectLogOptions};

/// Takes the next generation of the journal at `place`: a directory, or the URL of an object store with what it has to
/// know beside that in the environment.
///
/// # Errors
/// [`Error::Place`] for a URL that this build has no store for; otherwise as [`LocalLog::open`] and [`ObjectLog::open`].
pub async fn open(place: &str) -> Result<(Box<dyn Backend>, Recovered)> {
    if !place.contains("://") {
        return local(Path::new(place)).await;
    }
    let wrong = |reason: String| Error::Place {
        place: place.to_owned(),
        reason,
    };
    let url = Url::parse(place).map_err(|error| wrong(error.to_string()))?;
    if url.scheme() == "file" {
        let path = url
            .to_file_path()
            .map_err(|()| wrong("it names another machine".to_owned()))?;
        return local(&path).await;
    }
    let environment = std::env::vars().map(|(key, value)| (key.to_ascii_lowercase(), value));
    let (store, prefix) = object_store::parse_url_opts(&url, environment).map_err(|error| wrong(error.to_string()))?;
    let (log, recovered) = ObjectLog::open(Arc::from(store), prefix, ObjectLogOptions::default()).await?;
    Ok((Box::new(log), recovered))
}

async fn local(directory: &Path) -> Result<(Box<dyn Backend>, Recovered)> {
    let (log, recovered) = LocalLog::open(directory).await?;
    Ok((Box::new(log), recovered))
}

#[cfg(test)]
mod tests {
    use tidemill_types::Generation;

    use super::*;

    #[tokio::test]
    async fn a_path_and_its_url_are_one_journal() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let (_, first) = open(path.to_str().unwrap()).await.unwrap();
        let (_, second) = open(&format!("file://{}", path.display())).await.unwrap();
        assert_eq!((first.generation, second.generation), (Generation(1), Generation(2)));
    }

    #[tokio::test]
    async fn a_store_that_this_build_has_not_is_named() {
        for place in ["gopher://a/b", "://"] {
            let Err(error) = open(place).await else {
                panic!("{place} was opened")
            };
            assert!(error.to_string().contains(place), "{error}");
        }
    }
}
