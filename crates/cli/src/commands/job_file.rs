//! Reading job files.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tidemill_client::Error as ClientError;
use tidemill_client::job_file::{ParseOptions, parse};
use tidemill_dstream::{Diagnostics, JobGraph};

use crate::args::JobFile;
use crate::exit::InvalidJob;

/// A parsed job file.
pub(crate) struct Loaded {
    pub(crate) graph: JobGraph,
    file: String,
    /// The directory that relative paths start from.
    pub(crate) base: PathBuf,
}

pub(crate) fn load(job: &JobFile) -> Result<Loaded> {
    let file = job.file.display().to_string();
    let text = std::fs::read_to_string(&job.file).with_context(|| format!("cannot read the job file {file}"))?;
    let base = job
        .file
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    let base = base
        .canonicalize()
        .with_context(|| format!("cannot find the directory of {file}"))?;
    let graph = parse(&text, &ParseOptions::from_env(job.set.clone())).map_err(|diagnostics| InvalidJob {
        file: file.clone(),
        diagnostics,
    })?;
    Ok(Loaded { graph, file, base })
}

impl Loaded {
    /// Names the file in what is wrong with the job.
    pub(crate) fn locate(&self, error: ClientError) -> anyhow::Error {
        match error {
            ClientError::Rejected(diagnostics) => self.invalid(diagnostics),
            other => other.into(),
        }
    }

    pub(crate) fn invalid(&self, diagnostics: Diagnostics) -> anyhow::Error {
        InvalidJob {
            file: self.file.clone(),
            diagnostics,
        }
        .into()
    }
}
