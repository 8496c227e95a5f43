//! A table as a bar chart that follows it.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::Result;
use tidemill_client::Client;

use crate::args::Output;
use crate::render::{chart, json};

/// How often, how many times and at how many rows to look.
pub(crate) struct Look {
    pub(crate) every: Duration,
    pub(crate) count: Option<u64>,
    pub(crate) rows: usize,
}

pub(crate) async fn top(driver: &str, table: &str, look: Look, output: Output) -> Result<()> {
    let Look { every, count, rows } = look;
    let client = Client::connect(driver).await?;
    let quoted: Vec<String> = table
        .split('.')
        .map(|part| format!("\"{}\"", part.replace('"', "\"\"")))
        .collect();
    let query = format!("SELECT * FROM {}", quoted.join("."));
    let terminal = std::io::stdout().is_terminal();
    let mut looked = 0;
    loop {
        let (schema, batches) = client.sql(&query).await?;
        let text = match output {
            Output::Table => format!("{table}\n{}", chart::bars(&schema, &batches, rows, terminal)?),
            Output::Json => json::top(table, &batches, rows)?,
        };
        {
            let mut out = std::io::stdout().lock();
            if terminal && output == Output::Table {
                // Clear the screen, go home.
                write!(out, "\x1b[2J\x1b[H")?;
            }
            writeln!(out, "{text}")?;
            out.flush()?;
        }
        looked += 1;
        if count.is_some_and(|count| looked >= count) {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            signal = super::cluster::ended() => return signal,
        }
    }
}
