//! Printing what a job prints, until it ends.

use std::io::{IsTerminal, Write};

use anyhow::{Result, bail};
use futures::StreamExt;
use tidemill_client::{Client, JobEvent, JobState, JobSummary, PrintedBatch};

use crate::args::Output;
use crate::exit::Interrupted;
use crate::render::{chart, json, rows};

/// How printed batches are shown.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Printer {
    Rows(Output),
    Chart,
}

/// Prints until the job ends. Ctrl-C or SIGTERM stops it gracefully, a second one at once.
pub(crate) async fn follow_to_end(client: &Client, job: &str, printer: Printer) -> Result<()> {
    let mut events = client.follow(job, true).await?;
    let mut stopping = false;
    let ended = loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(JobEvent::Printed(printed))) => print(&printed, printer)?,
                Some(Ok(JobEvent::Batch(_))) => {}
                Some(Ok(JobEvent::Ended(summary))) => break summary,
                Some(Err(error)) => return Err(error.into()),
                None => bail!("the driver ended before the job did"),
            },
            signal = super::cluster::ended() => {
                signal?;
                if stopping {
                    return Err(Interrupted.into());
                }
                stopping = true;
                eprintln!("stopping after the batches that are due (again: at once)");
                client.stop(job, false).await?;
            }
        }
    };
    conclude(&ended)
}

/// Prints until the job ends or the reader leaves; the job is not touched.
pub(crate) async fn watch(client: &Client, job: &str, history: bool, output: Output) -> Result<()> {
    let mut events = client.follow(job, history).await?;
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(JobEvent::Printed(printed))) => print(&printed, Printer::Rows(output))?,
                Some(Ok(JobEvent::Batch(_))) => {}
                Some(Ok(JobEvent::Ended(summary))) => return conclude(&summary),
                Some(Err(error)) => return Err(error.into()),
                None => bail!("the driver ended before the job did"),
            },
            signal = super::cluster::ended() => return signal,
        }
    }
}

fn conclude(ended: &JobSummary) -> Result<()> {
    if ended.lost_rows > 0 {
        eprintln!("warning: {} received rows were lost with an executor", ended.lost_rows);
    }
    match (&ended.state, &ended.error) {
        (JobState::Failed, error) => bail!(
            "job {} failed: {}",
            ended.name,
            error.as_deref().unwrap_or("no reason given")
        ),
        _ => Ok(()),
    }
}

fn print(printed: &PrintedBatch, printer: Printer) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match printer {
        Printer::Rows(Output::Json) => writeln!(out, "{}", json::printed(printed)?)?,
        Printer::Rows(Output::Table) => write!(out, "{}", rows::printed(printed)?)?,
        Printer::Chart => {
            let color = std::io::stdout().is_terminal();
            write!(out, "{}", chart::printed(printed, color)?)?;
        }
    }
    out.flush()?;
    Ok(())
}
