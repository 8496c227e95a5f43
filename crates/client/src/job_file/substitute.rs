//! `${NAME}` and `${NAME:-default}` in scalars.

use std::collections::{HashMap, HashSet};

use tidemill_dstream::{Diagnostic, nearest};

/// Where the values of `${NAME}` come from.
#[derive(Clone, Debug, Default)]
pub struct ParseOptions {
    /// The environment.
    pub env: HashMap<String, String>,
    /// Values that go before the environment's, the last of a name first. A name that the file does not use is an
    /// error.
    pub set: Vec<(String, String)>,
}

impl ParseOptions {
    /// The environment of this process, and values that go before it.
    #[must_use]
    pub fn from_env(set: Vec<(String, String)>) -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self {
            env: std::env::vars_os().filter_map(text).collect(),
            set,
        }
    }

    fn value(&self, name: &str) -> Option<&str> {
        let set = self
            .set
            .iter()
            .rev()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value);
        set.or_else(|| self.env.get(name)).map(String::as_str)
    }
}

/// Puts values into texts and remembers which names there were.
pub(super) struct Substitution<'a> {
    options: &'a ParseOptions,
    used: HashSet<String>,
}

impl<'a> Substitution<'a> {
    pub(super) fn new(options: &'a ParseOptions) -> Self {
        Self {
            options,
            used: HashSet::new(),
        }
    }

    /// The text with the values of its names.
    ///
    /// # Errors
    /// A sentence about the first name that has no value, or that is not one.
    pub(super) fn apply(&mut self, text: &str) -> Result<String, (String, Option<String>)> {
        let mut result = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            result.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some(after) = rest.strip_prefix("$${") {
                result.push_str("${");
                rest = after;
            } else if let Some(after) = rest.strip_prefix("${") {
                let Some(end) = after.find('}') else {
                    return Err((
                        "`${` is not closed".to_owned(),
                        Some("write `$${` for itself".to_owned()),
                    ));
                };
                result.push_str(&self.value(&after[..end])?);
                rest = &after[end + 1..];
            } else {
                result.push('$');
                rest = &rest[1..];
            }
        }
        result.push_str(rest);
        Ok(result)
    }

    fn value(&mut self, reference: &str) -> Result<String, (String, Option<String>)> {
        let (name, default) = match reference.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (reference, None),
        };
        if !is_name(name) {
            let hint = "names have letters, digits and `_`; write `$${` for itself".to_owned();
            return Err((format!("`${{{reference}}}` does not name a variable"), Some(hint)));
        }
        self.used.insert(name.to_owned());
        if let Some(value) = self.options.value(name).or(default) {
            return Ok(value.to_owned());
        }
        let near = nearest(name, self.options.set.iter().map(|(known, _)| known.as_str()));
        let hint = match near {
            Some(near) => format!("did you mean `{near}`, which is set?"),
            None => format!("set it in the environment or with --set {name}=VALUE, or write ${{{name}:-default}}"),
        };
        Err((format!("the variable `{name}` is not set"), Some(hint)))
    }

    /// Faults for values that were set for names which the file does not use.
    pub(super) fn unused(&self) -> Vec<Diagnostic> {
        let mut names: Vec<&str> = self.used.iter().map(String::as_str).collect();
        names.sort_unstable();
        let unused = self.options.set.iter().filter(|(name, _)| !self.used.contains(name));
        let fault = |(name, _): &(String, String)| {
            let fault = Diagnostic::new(
                None,
                "",
                format!("`{name}` is set, but the job file has no ${{{name}}}"),
            );
            fault.suggest(name, names.iter().copied())
        };
        unused.map(fault).collect()
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> ParseOptions {
        ParseOptions {
            env: HashMap::from([
                ("HOST".to_owned(), "from-env".to_owned()),
                ("PORT".to_owned(), "1".to_owned()),
            ]),
            set: vec![("PORT".to_owned(), "2".to_owned()), ("PORT".to_owned(), "3".to_owned())],
        }
    }

    #[test]
    fn what_is_set_goes_before_the_environment_and_that_before_the_default() {
        let options = options();
        let mut substitution = Substitution::new(&options);
        assert_eq!(
            substitution.apply("${HOST}:${PORT:-9}/${NONE:-a:-b}${E:-}").unwrap(),
            "from-env:3/a:-b"
        );
    }

    #[test]
    fn a_doubled_dollar_before_a_brace_and_a_dollar_elsewhere_are_text() {
        let options = options();
        let mut substitution = Substitution::new(&options);
        assert_eq!(substitution.apply("$${HOST} $HOST $$ $").unwrap(), "${HOST} $HOST $$ $");
        assert_eq!(substitution.apply("$$${HOST}").unwrap(), "$${HOST}");
    }

    #[test]
    fn a_name_without_a_value_and_what_is_no_name_are_faults() {
        let options = options();
        let mut substitution = Substitution::new(&options);
        let mut fault = |text: &str| substitution.apply(text).unwrap_err();
        assert_eq!(fault("${NONE}").0, "the variable `NONE` is not set");
        assert_eq!(fault("${PROT}").1.unwrap(), "did you mean `PORT`, which is set?");
        assert_eq!(fault("a${HOST").0, "`${` is not closed");
        assert_eq!(fault("${a b}").0, "`${a b}` does not name a variable");
    }

    #[test]
    fn a_value_for_a_name_that_is_not_used_is_a_fault() {
        let options = options();
        let mut substitution = Substitution::new(&options);
        substitution.apply("${PROT:-1}").unwrap();
        let faults = substitution.unused();
        assert_eq!(
            faults[0].to_string(),
            "`PORT` is set, but the job file has no ${PORT} (did you mean `PROT`?)"
        );
    }
}
