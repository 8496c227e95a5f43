//! Broadcast variables of jobs that run.

use anyhow::{Context, Result};
use tidemill_client::dstream::{BroadcastFormat, TableFormat};
use tidemill_client::{BroadcastUpdate, Client};

use crate::args::{BroadcastChange, FileFormat, Output};
use crate::render::{json, tables};

/// A variable of a job.
pub(crate) struct Variable {
    pub(crate) job: String,
    pub(crate) name: String,
}

pub(crate) async fn list(driver: &str, job: &str, output: Output) -> Result<()> {
    let broadcasts = Client::connect(driver).await?.broadcasts(job).await?;
    match output {
        Output::Table => println!("{}", tables::broadcasts(&broadcasts)),
        Output::Json => println!("{}", json::broadcasts(&broadcasts)?),
    }
    Ok(())
}

pub(crate) async fn change(
    driver: &str,
    variable: &Variable,
    change: &BroadcastChange,
    format: Option<FileFormat>,
    output: Output,
) -> Result<()> {
    let Variable { job, name } = variable;
    let client = Client::connect(driver).await?;
    if change.unpersist {
        client.unpersist_broadcast(job, name).await?;
        return done(name, None, "dropped from memory", output);
    }
    if change.destroy {
        client.destroy_broadcast(job, name).await?;
        return done(name, None, "destroyed", output);
    }
    let update = match &change.file {
        None => BroadcastUpdate::Refresh,
        Some(path) => {
            let content = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            BroadcastUpdate::Content {
                format: format.map_or_else(|| BroadcastFormat::of(&path.to_string_lossy()), BroadcastFormat::from),
                content: content.into(),
            }
        }
    };
    let version = client.update_broadcast(job, name, update).await?;
    done(name, Some(version), "offered to the executors", output)
}

fn done(name: &str, version: Option<u32>, what: &str, output: Output) -> Result<()> {
    match (output, version) {
        (Output::Table, Some(version)) => println!("broadcast {name}: version {version} is {what}"),
        (Output::Table, None) => println!("broadcast {name} is {what}"),
        (Output::Json, version) => println!("{}", json::broadcast_change(name, version)?),
    }
    Ok(())
}

impl From<FileFormat> for BroadcastFormat {
    fn from(format: FileFormat) -> Self {
        match format {
            FileFormat::Text => Self::Text,
            FileFormat::Bytes => Self::Bytes,
            FileFormat::Csv => Self::Table(TableFormat::Csv),
            FileFormat::Json => Self::Table(TableFormat::Json),
            FileFormat::Parquet => Self::Table(TableFormat::Parquet),
        }
    }
}
