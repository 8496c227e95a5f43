//! Registered Rust functions where a job names them.

use tidemill_dstream::{Diagnostic, NativeCall};

use super::diagnose::Place;

/// A function that this build does not have, with those that it has.
pub(super) fn unregistered(call: &NativeCall, known: &[&str], place: &Place) -> Diagnostic {
    let place = place.child("native", tidemill_dstream::Line(None));
    let diagnostic = place.diagnostic(format!("no function `{}` is registered", call.name));
    if known.is_empty() {
        return diagnostic
            .subject(call.name.clone())
            .hint("this build has none; register it in a build of your own");
    }
    let listed: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
    diagnostic
        .subject(call.name.clone())
        .hint(format!("this build has {}", listed.join(", ")))
}
