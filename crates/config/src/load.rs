//! Layering: defaults, file, environment, flags.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use config::{Environment, File, FileFormat, Map, Source, Value, ValueKind};

use crate::Error;
use crate::settings::Config;

const DEFAULTS: &str = include_str!("default.toml");
const PREFIX: &str = "TIDEMILL";

/// The commented defaults, as a starting point for a file.
#[must_use]
pub fn defaults_text() -> &'static str {
    DEFAULTS
}

/// Collects the layers. Nothing is global: two loaders in one process do not see each other.
#[derive(Debug, Default)]
pub struct Loader {
    file: Option<PathBuf>,
    environment: Option<HashMap<String, String>>,
    overrides: Vec<(String, String)>,
}

impl Loader {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A TOML file over the defaults.
    #[must_use]
    pub fn file(mut self, path: Option<&Path>) -> Self {
        self.file = path.map(Path::to_path_buf);
        self
    }

    /// Uses these variables in place of the process's environment.
    #[must_use]
    pub fn environment(mut self, variables: HashMap<String, String>) -> Self {
        self.environment = Some(variables);
        self
    }

    /// A flag: `driver.bind`, value as in a file.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<String>) -> Self {
        self.overrides.push((key.to_owned(), value.into()));
        self
    }

    /// The settings.
    ///
    /// # Errors
    /// A file that cannot be read or parsed, unknown keys, values of the wrong type or out of range.
    pub fn load(self) -> Result<Config, Error> {
        let parse = |error: config::ConfigError| Error::Parse(error.to_string());
        let defaults = File::from_str(DEFAULTS, FileFormat::Toml);
        let known = keys(&defaults.collect().map_err(parse)?);
        let mut faults = Vec::new();
        let mut builder = config::Config::builder().add_source(defaults);

        if let Some(path) = &self.file {
            let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
                path: path.clone(),
                source,
            })?;
            let file = File::from_str(&text, FileFormat::Toml);
            let given = keys(&file.collect().map_err(parse)?);
            faults.extend(
                given
                    .iter()
                    .filter_map(|key| unknown(key, &known, &path.display().to_string())),
            );
            builder = builder.add_source(file);
        }

        let environment = Environment::with_prefix(PREFIX)
            .prefix_separator("__")
            .separator("__")
            .source(self.environment);
        let given = keys(&environment.collect().map_err(parse)?);
        faults.extend(given.iter().filter_map(|key| unknown(key, &known, "the environment")));
        builder = builder.add_source(environment);

        for (key, value) in self.overrides {
            match unknown(&key, &known, "the flags") {
                Some(fault) => faults.push(fault),
                None => builder = builder.set_override(&key, value).map_err(parse)?,
            }
        }
        if !faults.is_empty() {
            return Err(Error::Invalid(faults));
        }
        let config: Config = builder
            .build()
            .and_then(config::Config::try_deserialize)
            .map_err(|error| Error::Invalid(vec![error.to_string()]))?;
        let faults = config.faults();
        if faults.is_empty() {
            Ok(config)
        } else {
            Err(Error::Invalid(faults))
        }
    }
}

/// All leaf keys, dotted.
fn keys(map: &Map<String, Value>) -> Vec<String> {
    let mut keys = Vec::new();
    let mut open: Vec<(String, &Value)> = map.iter().map(|(key, value)| (key.clone(), value)).collect();
    while let Some((key, value)) = open.pop() {
        match &value.kind {
            ValueKind::Table(table) => {
                open.extend(table.iter().map(|(name, value)| (format!("{key}.{name}"), value)));
            }
            _ => keys.push(key),
        }
    }
    keys.sort();
    keys
}

fn unknown(key: &str, known: &[String], origin: &str) -> Option<String> {
    if known.iter().any(|name| name == key) {
        return None;
    }
    let nearest = known.iter().min_by_key(|name| strsim::damerau_levenshtein(key, name))?;
    Some(format!(
        "unknown setting `{key}` in {origin} (did you mean `{nearest}`?)"
    ))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn plain() -> Loader {
        Loader::new().environment(HashMap::new())
    }

    #[test]
    fn defaults_are_valid() {
        let config = plain().load().expect("defaults");
        assert_eq!(config.driver.bind, "127.0.0.1:7077");
        assert_eq!(config.shuffle.window.as_u64(), 16 << 20);
    }

    #[test]
    fn each_layer_overrides_the_one_before() {
        let mut file = tempfile::NamedTempFile::new().expect("file");
        writeln!(
            file,
            "[driver]\nbind = \"127.0.0.1:1\"\nmin_executors = 2\n[executor]\nslots = 3"
        )
        .expect("write");
        let environment = HashMap::from([
            ("TIDEMILL__DRIVER__BIND".to_owned(), "127.0.0.1:2".to_owned()),
            ("TIDEMILL__EXECUTOR__SLOTS".to_owned(), "4".to_owned()),
        ]);
        let config = Loader::new()
            .file(Some(file.path()))
            .environment(environment)
            .set("driver.bind", "127.0.0.1:3")
            .load()
            .expect("valid");
        assert_eq!(config.driver.bind, "127.0.0.1:3");
        assert_eq!(config.driver.min_executors, 2);
        assert_eq!(config.executor.slots, 4);
    }

    #[test]
    fn an_unknown_key_names_the_nearest_known_one_wherever_it_stands() {
        let environment = HashMap::from([("TIDEMILL__DRIVER__BNID".to_owned(), "x".to_owned())]);
        let error = Loader::new()
            .environment(environment)
            .set("shufle.window", "1 MiB")
            .load()
            .expect_err("unknown");
        let text = error.to_string();
        assert!(
            text.contains("`driver.bnid` in the environment (did you mean `driver.bind`?)"),
            "{text}"
        );
        assert!(
            text.contains("`shufle.window` in the flags (did you mean `shuffle.window`?)"),
            "{text}"
        );
    }

    #[test]
    fn all_faulty_values_are_reported_at_once() {
        let error = plain()
            .set("driver.bind", "nowhere")
            .set("driver.heartbeat_timeout", "1ms")
            .load()
            .expect_err("faults");
        let text = error.to_string();
        assert!(
            text.contains("driver.bind") && text.contains("driver.heartbeat_timeout"),
            "{text}"
        );
    }

    #[test]
    fn a_value_of_the_wrong_type_names_its_key() {
        let error = plain().set("executor.slots", "many").load().expect_err("type");
        assert!(error.to_string().contains("executor.slots"), "{error}");
    }
}
