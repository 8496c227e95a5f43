//! Waiting for a condition, never for a time.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::Instant;

const STEP: Duration = Duration::from_millis(10);

/// Asks again until `ask` gives a value. The last refusal is in the error.
///
/// # Errors
/// The deadline passed.
pub async fn eventually<T, F, A>(deadline: Duration, what: &str, mut ask: A) -> Result<T>
where
    A: FnMut() -> F,
    F: Future<Output = Result<T, String>>,
{
    let end = Instant::now() + deadline;
    loop {
        match ask().await {
            Ok(value) => return Ok(value),
            Err(seen) if Instant::now() >= end => bail!("not within {deadline:?}: {what}; last seen: {seen}"),
            Err(_) => tokio::time::sleep(STEP).await,
        }
    }
}
