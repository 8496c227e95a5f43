//! A table as a bar chart that follows it.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::Result;
use tidemill_client::Client;

use crate::render::chart;

pub(crate) async fn top(driver: &str, table: &str, every: Duration, count: Option<u64>, rows: usize) -> Result<()> {
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
        let text = chart::bars(&schema, &batches, rows, terminal)?;
        {
            let mut out = std::io::stdout().lock();
            if terminal {
                // Clear the screen, go home.
                write!(out, "\x1b[2J\x1b[H")?;
            }
            writeln!(out, "{table}\n{text}")?;
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
