//! Logs go to standard error; standard output is for results.

use std::io::IsTerminal;

use tidemill_config::LogFormat;
use tracing_subscriber::EnvFilter;

/// Sets up logging for this process. `RUST_LOG` goes before `filter`.
pub(crate) fn start(filter: &str, format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(filter));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // A second call changes nothing.
    let _ = match format {
        LogFormat::Human => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}
