//! Diagnostics, as messages and as the detail of an `INVALID_ARGUMENT` status.
//!
//! A status travels in HTTP/2 trailers, for which peers set a limit (16 KiB is common) and beyond which a call fails
//! with a protocol error that says nothing of the job. So a status has as many diagnostics as fit, and says how many
//! were left out.

use prost::Message;
use tidemill_dstream::{Diagnostic, Diagnostics};
use tonic::{Code, Status};

use crate::plan;

/// Encoded diagnostics in a status: 6.7 KiB in base64.
const MAX_DETAILS: usize = 5 * 1024;
/// The text of a status: at most 6 KiB where every byte is percent-encoded.
const MAX_MESSAGE: usize = 2 * 1024;
/// Each text of one diagnostic: a few of any length have to fit.
const MAX_TEXT: usize = 500;

impl From<&Diagnostic> for plan::Diagnostic {
    fn from(diagnostic: &Diagnostic) -> Self {
        Self {
            line: diagnostic.line,
            path: diagnostic.path.clone(),
            subject: diagnostic.subject.clone(),
            message: diagnostic.message.clone(),
            hint: diagnostic.hint.clone(),
        }
    }
}

impl From<plan::Diagnostic> for Diagnostic {
    fn from(diagnostic: plan::Diagnostic) -> Self {
        Self {
            line: diagnostic.line,
            path: diagnostic.path,
            subject: diagnostic.subject,
            message: diagnostic.message,
            hint: diagnostic.hint,
        }
    }
}

impl From<&Diagnostics> for plan::Diagnostics {
    fn from(diagnostics: &Diagnostics) -> Self {
        Self {
            diagnostics: super::every(&diagnostics.0),
        }
    }
}

impl From<plan::Diagnostics> for Diagnostics {
    fn from(diagnostics: plan::Diagnostics) -> Self {
        Self(diagnostics.diagnostics.into_iter().map(Diagnostic::from).collect())
    }
}

/// An `INVALID_ARGUMENT` status whose message is the diagnostics' text and whose details are the diagnostics.
#[must_use]
pub fn diagnostics_status(diagnostics: &Diagnostics) -> Status {
    let fitting = fitting(diagnostics);
    let message = clipped(&fitting.to_string(), MAX_MESSAGE);
    let details = plan::Diagnostics::from(&fitting).encode_to_vec();
    Status::with_details(Code::InvalidArgument, message, details.into())
}

/// The diagnostics of a status that [`diagnostics_status`] made, `None` for any other.
#[must_use]
pub fn diagnostics_from_status(status: &Status) -> Option<Diagnostics> {
    if status.code() != Code::InvalidArgument || status.details().is_empty() {
        return None;
    }
    let decoded = plan::Diagnostics::decode(status.details()).ok()?;
    (!decoded.diagnostics.is_empty()).then(|| decoded.into())
}

/// The first diagnostics that fit a status, with a last one that counts the others.
fn fitting(diagnostics: &Diagnostics) -> Diagnostics {
    let mut left = MAX_DETAILS;
    let mut fitting = Vec::new();
    for diagnostic in &diagnostics.0 {
        let short = Diagnostic {
            line: diagnostic.line,
            path: clipped(&diagnostic.path, MAX_TEXT),
            subject: diagnostic.subject.as_ref().map(|text| clipped(text, MAX_TEXT)),
            message: clipped(&diagnostic.message, MAX_TEXT),
            hint: diagnostic.hint.as_ref().map(|text| clipped(text, MAX_TEXT)),
        };
        // The length itself and the field's tag.
        let length = plan::Diagnostic::from(&short).encoded_len() + 4;
        if length > left {
            let more = diagnostics.0.len() - fitting.len();
            fitting.push(Diagnostic::new(None, "", format!("{more} more faults")));
            break;
        }
        left -= length;
        fitting.push(short);
    }
    Diagnostics(fitting)
}

fn clipped(text: &str, length: usize) -> String {
    if text.len() <= length {
        return text.to_owned();
    }
    format!("{}...", &text[..text.floor_char_boundary(length - 3)])
}
