//! From an error to a message and an exit code.

use std::process::ExitCode;

use tidemill_client::Error as ClientError;
use tidemill_dstream::Diagnostics;

/// The job file's name beside what is wrong in it.
#[derive(Debug, thiserror::Error)]
#[error("{}", .diagnostics.0.iter().map(|fault| describe(.file, fault)).collect::<Vec<_>>().join("\n"))]
pub(crate) struct InvalidJob {
    pub(crate) file: String,
    pub(crate) diagnostics: Diagnostics,
}

/// Ctrl-C was pressed twice.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(crate) struct Interrupted;

fn describe(file: &str, fault: &tidemill_dstream::Diagnostic) -> String {
    let at = fault
        .line
        .map_or_else(|| file.to_owned(), |line| format!("{file}:{line}"));
    let path = if fault.path.is_empty() {
        String::new()
    } else {
        format!("{}: ", fault.path)
    };
    let hint = fault
        .hint
        .as_ref()
        .map_or_else(String::new, |hint| format!(" ({hint})"));
    format!("{at}: {path}{}{hint}", fault.message)
}

/// The causes in a row, but for those that the message before them tells already.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if let Some(invalid) = error.downcast_ref::<InvalidJob>() {
        eprintln!("{invalid}");
        return ExitCode::from(3);
    }
    if error.is::<Interrupted>() {
        return ExitCode::from(130);
    }
    eprintln!("error: {}", chain(error));
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Unreachable { .. } | ClientError::Address { .. }) => ExitCode::from(4),
        Some(ClientError::Rejected(_)) => ExitCode::from(3),
        _ => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let io = || std::io::Error::other("address in use");
        let told: Result<(), _> = Err(io()).context("cannot listen: address in use (choose another)");
        assert_eq!(
            chain(&told.unwrap_err()),
            "cannot listen: address in use (choose another)"
        );
        let untold: Result<(), _> = Err(io()).context("cannot listen");
        assert_eq!(chain(&untold.unwrap_err()), "cannot listen: address in use");
    }
}
