//! DataFusion's planning errors, said so that the author of a job can mend them.

use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use datafusion::execution::session_state::SessionState;
use datafusion::sql::sqlparser::parser::ParserError;
use tidemill_dstream::{Diagnostic, Line, nearest};

use super::accumulators::has_handles;
use crate::error;

/// Where in the job something stands.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) path: String,
    pub(crate) line: Option<u32>,
}

impl Place {
    pub(crate) fn new(path: impl Into<String>, line: Line) -> Self {
        Self {
            path: path.into(),
            line: line.0,
        }
    }

    /// A place inside of this one, on its own line if that is known.
    pub(crate) fn child(&self, name: &str, line: Line) -> Self {
        Self {
            path: format!("{}.{name}", self.path),
            line: line.0.or(self.line),
        }
    }

    pub(crate) fn diagnostic(&self, message: impl Into<String>) -> Diagnostic {
        Diagnostic::new(self.line, self.path.clone(), message)
    }

    /// What DataFusion found, at this place.
    pub(crate) fn explain(&self, error: &DataFusionError, state: &SessionState) -> Diagnostic {
        match error.find_root() {
            DataFusionError::SchemaError(schema, _) => self.schema_error(schema),
            DataFusionError::SQL(parser, _) => {
                let (ParserError::ParserError(text) | ParserError::TokenizerError(text)) = parser.as_ref() else {
                    return self
                        .diagnostic("the expression is nested too deeply")
                        .hint("split it into several steps");
                };
                self.diagnostic(format!("not valid SQL: {}", sentence(text)))
            }
            root => {
                let text = error::message(root);
                match unknown_function(&text) {
                    Some(name) => self.unknown_function(name, state),
                    None => self.diagnostic(shorten(&text)),
                }
            }
        }
    }

    fn schema_error(&self, error: &SchemaError) -> Diagnostic {
        match error {
            SchemaError::FieldNotFound { field, valid_fields } => {
                let wrong = match &field.relation {
                    Some(relation) => format!("{relation}.{}", field.name),
                    None => field.name.clone(),
                };
                let mut known: Vec<&str> = valid_fields.iter().map(|field| field.name.as_str()).collect();
                known.dedup();
                let diagnostic = self
                    .diagnostic(format!("unknown column `{wrong}`"))
                    .suggest(&field.name, known.clone());
                // A name with capitals is found only in quotes.
                match known
                    .iter()
                    .find(|name| name.eq_ignore_ascii_case(&field.name) && **name != field.name)
                {
                    Some(name) => diagnostic.hint(format!("write it in double quotes: \"{name}\"")),
                    None => diagnostic,
                }
            }
            SchemaError::AmbiguousReference { field } => self
                .diagnostic(format!("column `{}` is ambiguous", field.name))
                .subject(field.name.clone())
                .hint("write the name of its stream or table before it: `stream.column`"),
            SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => self
                .diagnostic(format!("column `{name}` is there twice"))
                .subject(name.clone())
                .hint("give one of them another name with AS"),
        }
    }

    fn unknown_function(&self, name: &str, state: &SessionState) -> Diagnostic {
        let names = state
            .scalar_functions()
            .keys()
            .chain(state.aggregate_functions().keys())
            .chain(state.window_functions().keys())
            .map(String::as_str);
        let diagnostic = self.diagnostic(format!("unknown function `{name}`")).subject(name);
        if has_handles(name, state) {
            let hint = format!("it adds to accumulators, so it is called as {{native: {name}}}");
            return diagnostic.hint(hint);
        }
        match nearest(name, names) {
            Some(near) => diagnostic.hint(format!("did you mean `{near}`?")),
            None => diagnostic,
        }
    }
}

fn unknown_function(text: &str) -> Option<&str> {
    text.strip_prefix("Invalid function '")?.split('\'').next()
}

/// The part of a planning error that speaks to the author of the SQL.
fn shorten(text: &str) -> String {
    let mut text = text;
    for prefix in [
        "Error during planning: ",
        "Execution error: ",
        "type_coercion",
        "caused by",
        "Schema error: ",
    ] {
        text = text.strip_prefix(prefix).unwrap_or(text).trim_start();
    }
    // A function call that no signature fits: DataFusion lists all candidates, and how each was tried.
    if let Some(at) = text.find("No function matches") {
        text = &text[at..];
        text = text.split(" You might need").next().unwrap_or(text);
        let call = text.split('\'').nth(1).unwrap_or(text);
        return format!("no function `{call}`: it does not take arguments of these types");
    }
    let text = text.split("\n\tCandidate").next().unwrap_or(text);
    let text = text
        .split(".\nThis issue was likely caused by a bug")
        .next()
        .unwrap_or(text);
    sentence(text)
}

/// Lowercase at the start and no period at the end, in one line.
fn sentence(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = line.trim_end_matches('.');
    let mut chars = line.chars();
    match (chars.next(), chars.clone().next()) {
        (Some(first), Some(second)) if second.is_lowercase() || second == ' ' => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => line.to_owned(),
    }
}
