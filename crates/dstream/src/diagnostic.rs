//! What is wrong with a job, said so that its author can mend it.

use std::fmt;

/// One fault of a job: where it is, what it is, and what may have been meant.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Diagnostic {
    /// The line of the job file, from 1, where known.
    pub line: Option<u32>,
    /// The place in the graph: `streams.hashtags.steps[2].filter`.
    pub path: String,
    /// The column or name at fault, if it is one.
    pub subject: Option<String>,
    /// Lowercase, no final period.
    pub message: String,
    /// What to do, or the nearest known name.
    pub hint: Option<String>,
}

/// Known names that a hint lists; there are fewer steps.
const MAX_NAMES: usize = 40;

impl Diagnostic {
    pub fn new(line: Option<u32>, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            line,
            path: path.into(),
            subject: None,
            message: message.into(),
            hint: None,
        }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Adds "did you mean" with the nearest of the known names, or the list of them.
    #[must_use]
    pub fn suggest<'a>(self, wrong: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> Self {
        let this = self.subject(wrong);
        match nearest(wrong, known.clone()) {
            Some(name) => this.hint(format!("did you mean `{name}`?")),
            None => {
                let names: Vec<&str> = known.into_iter().collect();
                match names.len().checked_sub(MAX_NAMES) {
                    None | Some(0) if names.is_empty() => this,
                    None | Some(0) => this.hint(format!("known: {}", names.join(", "))),
                    Some(more) => this.hint(format!("known: {} and {more} more", names[..MAX_NAMES].join(", "))),
                }
            }
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

/// All faults that were found in a job, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, diagnostic) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

impl From<Diagnostic> for Diagnostics {
    fn from(one: Diagnostic) -> Self {
        Self(vec![one])
    }
}

/// The known name that is nearest to `wrong`, if one is near enough to have been meant.
pub fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = wrong.to_lowercase();
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&lower, &name.to_lowercase()), name))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, name)| *distance <= 1 + wrong.len().max(name.len()) / 4)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_names_a_likely_typing_error_and_nothing_else() {
        assert_eq!(nearest("flatmap", ["map", "flat_map", "filter"]), Some("flat_map"));
        assert_eq!(nearest("fitler", ["map", "flat_map", "filter"]), Some("filter"));
        assert_eq!(nearest("zebra", ["map", "flat_map", "filter"]), None);
    }
}
