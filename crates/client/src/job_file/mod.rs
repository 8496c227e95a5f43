//! Job files: the YAML form of a job graph.
//!
//! - [`parse`] reads a file, [`to_yaml`] writes one; what is written reads as the same graph.
//! - All faults are reported together, each with its line, its place in the graph, and the nearest known name; only a
//!   text that is not YAML has one fault, because the meaning of the rest is not known.
//! - `${NAME}` and `${NAME:-default}` are replaced in values, never in keys, after the YAML was parsed: a value cannot
//!   change the file's structure. `$${` stands for `${`.
//! - Expressions are SQL and not looked into here. Where one stands, `{native: name}` may stand too.

mod accumulators;
mod broadcasts;
mod document;
mod functions;
mod keys;
mod outputs;
mod reader;
mod sources;
mod steps;
mod substitute;
#[cfg(test)]
mod tests;
mod write;
mod yaml;

use tidemill_dstream::{
    BackPressure, Diagnostic, Diagnostics, FailurePolicy, JobGraph, JobOptions, Line, StreamDef, StreamInput, TableDef,
    TableFormat,
};

use tidemill_types::StorageLevel;

use document::{Data, Entry, Node};
pub use keys::{KEYS, STEP_KEYS};
pub(crate) use outputs::PRINT_ROWS;
use reader::{Reader, join};
pub(crate) use sources::REMEMBER;
pub use substitute::ParseOptions;
pub use write::to_yaml;

/// Reads a job file and validates the graph.
///
/// # Errors
/// Everything that is wrong with it and can be seen without knowing schemas.
pub fn parse(text: &str, options: &ParseOptions) -> Result<JobGraph, Diagnostics> {
    let document = document::load(text)?;
    let mut reader = Reader::new(options);
    let graph = job(&mut reader, &document);
    reader.finish();
    match graph {
        Some(graph) if reader.faults.is_empty() => match graph.validate() {
            Ok(()) => Ok(graph),
            Err(faults) => Err(with_lines(faults, &reader)),
        },
        _ => Err(first(reader.faults)),
    }
}

/// Nobody mends more at once, and a long list of wrong values has as many faults.
const MAX_FAULTS: usize = 1000;

fn first(mut faults: Vec<Diagnostic>) -> Diagnostics {
    if faults.len() > MAX_FAULTS {
        let more = faults.len() - MAX_FAULTS;
        faults.truncate(MAX_FAULTS);
        faults.push(Diagnostic::new(None, "", format!("{more} more faults")));
    }
    Diagnostics(faults)
}

/// Puts the exact lines of settings into faults that know only their stream's, or none.
fn with_lines(mut faults: Diagnostics, reader: &Reader<'_>) -> Diagnostics {
    for fault in &mut faults.0 {
        fault.line = reader.line_of(&fault.path).or(fault.line);
    }
    faults.0.sort_by_key(|fault| (fault.line.is_none(), fault.line));
    faults
}

const POLICIES: &[(&str, FailurePolicy)] = &[("stop", FailurePolicy::Stop), ("skip", FailurePolicy::Skip)];

const TABLE_FORMATS: &[(&str, TableFormat)] = &[
    ("csv", TableFormat::Csv),
    ("json", TableFormat::Json),
    ("parquet", TableFormat::Parquet),
];

fn job(reader: &mut Reader<'_>, document: &Node) -> Option<JobGraph> {
    let settings = reader.settings(document, "", keys::JOB)?;
    let name = reader.required_text(&settings, "name");
    let batch_interval = reader
        .required(&settings, "batch_interval")
        .and_then(|node| reader.duration(node, "batch_interval"));
    let defaults = JobOptions::default();
    let number = |reader: &mut Reader<'_>, node: &Node, path: &str| reader.number(node, path, u32::MAX);
    let partitions = reader.optional(&settings, "partitions", number);
    let weight = reader.optional(&settings, "weight", number);
    let max_attempts = reader.optional(&settings, "max_attempts", number);
    let concurrent_batches = reader.optional(&settings, "concurrent_batches", number);
    let policy = reader.optional(&settings, "on_batch_failure", |reader, node, path| {
        reader.choice(node, path, "policy", POLICIES)
    });
    let remember = reader.optional(&settings, "remember", Reader::duration);
    let back_pressure = reader.optional(&settings, "back_pressure", back_pressure);
    let max_queued_batches = reader.optional(&settings, "max_queued_batches", number);
    let checkpoint = reader.optional(&settings, "checkpoint", |reader, node, path| {
        reader.text(node, path, "a directory or a URL")
    });
    let checkpoint_interval = reader.optional(&settings, "checkpoint_interval", Reader::duration);
    let accumulators = match settings.get("accumulators") {
        None => Some(Vec::new()),
        Some(node) => named(reader, node, "accumulators", "accumulator", accumulators::accumulator),
    };
    let tables = match settings.get("tables") {
        None => Some(Vec::new()),
        Some(node) => named(reader, node, "tables", "table", table),
    };
    let broadcasts = match settings.get("broadcasts") {
        None => Some(Vec::new()),
        Some(node) => named(reader, node, "broadcasts", "broadcast", broadcasts::broadcast),
    };
    let streams = match reader.required(&settings, "streams") {
        None => None,
        Some(node) => named(reader, node, "streams", "stream", stream),
    };
    let outputs = match settings.get("outputs") {
        // Validation says what is missing.
        None => Some(Vec::new()),
        Some(node) => outputs::outputs(reader, node),
    };
    Some(JobGraph {
        name: name?,
        batch_interval: batch_interval?,
        options: JobOptions {
            partitions: partitions?,
            weight: weight?.unwrap_or(defaults.weight),
            max_attempts: max_attempts?.unwrap_or(defaults.max_attempts),
            concurrent_batches: concurrent_batches?.unwrap_or(defaults.concurrent_batches),
            on_batch_failure: policy?.unwrap_or(defaults.on_batch_failure),
            remember: remember?,
            back_pressure: back_pressure?.unwrap_or(defaults.back_pressure),
            max_queued_batches: max_queued_batches?.unwrap_or(defaults.max_queued_batches),
            checkpoint: checkpoint?,
            checkpoint_interval: checkpoint_interval?,
        },
        accumulators: accumulators::with_unnamed(accumulators?, reader),
        tables: tables?,
        broadcasts: broadcasts?,
        streams: streams?,
        outputs: outputs?,
    })
}

/// `false`, `true`, or the weights of the controller.
fn back_pressure(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Option<BackPressure>> {
    let defaults = BackPressure::default();
    if matches!(node.data, Data::Scalar(_)) {
        return Some(reader.boolean(node, path)?.then_some(defaults));
    }
    let settings = reader.settings(node, path, keys::BACK_PRESSURE)?;
    let mut weight = |key, default| {
        let weight = reader.optional(&settings, key, Reader::decimal)?;
        Some(weight.unwrap_or(default))
    };
    let (proportional, integral) = (
        weight("proportional", defaults.proportional),
        weight("integral", defaults.integral),
    );
    let (derived, min_rate) = (
        weight("derived", defaults.derived),
        weight("min_rate", defaults.min_rate),
    );
    Some(Some(BackPressure {
        proportional: proportional?,
        integral: integral?,
        derived: derived?,
        min_rate: min_rate?,
    }))
}

/// A mapping from names to definitions.
fn named<T>(
    reader: &mut Reader<'_>,
    node: &Node,
    path: &str,
    what: &str,
    read: impl Fn(&mut Reader<'_>, &Entry, &str) -> Option<T>,
) -> Option<Vec<T>> {
    if node.is_null() {
        return Some(Vec::new());
    }
    let settings = reader.mapping(node, path, &format!("{{name of the {what}: its settings}}"))?;
    let all: Vec<Option<T>> = settings
        .entries()
        .map(|entry| read(reader, entry, &join(path, &entry.key)))
        .collect();
    all.into_iter().collect()
}

fn table(reader: &mut Reader<'_>, entry: &Entry, path: &str) -> Option<TableDef> {
    let settings = reader.settings(&entry.value, path, keys::TABLE)?;
    let file = reader.required_text(&settings, "file");
    let format = reader.optional(&settings, "format", |reader, node, path| {
        reader.choice(node, path, "format", TABLE_FORMATS)
    });
    let reload = reader.optional(&settings, "reload", Reader::duration);
    Some(TableDef {
        name: entry.key.clone(),
        path: file?,
        format: format?,
        reload: reload?,
        line: Line(Some(entry.line)),
    })
}

fn stream(reader: &mut Reader<'_>, entry: &Entry, path: &str) -> Option<StreamDef> {
    let settings = reader.settings(&entry.value, path, keys::STREAM)?;
    let input = match (settings.get("source"), settings.get("from")) {
        (Some(node), None) => sources::source(reader, node, &settings.at("source")).map(StreamInput::Source),
        (None, Some(node)) => reader
            .text(node, &settings.at("from"), "the name of a stream")
            .map(StreamInput::From),
        (Some(_), Some(_)) => {
            reader.fault(
                entry.line,
                path,
                "a stream has a source or comes from another stream, not both",
            );
            None
        }
        (None, None) => {
            let hint = "give it `source: {...}` or `from: another stream`";
            reader.hinted(entry.line, path, "the stream has no input", hint);
            None
        }
    };
    let persist = reader.optional(&settings, "persist", |reader, node, path| {
        let levels = StorageLevel::ALL.map(|level| (level.name(), level));
        reader.choice(node, path, "storage level", &levels)
    });
    let steps = match settings.get("steps") {
        None => Some(Vec::new()),
        Some(node) => steps::steps(reader, node, &settings.at("steps")),
    };
    Some(StreamDef {
        name: entry.key.clone(),
        input: input?,
        steps: steps?,
        persist: persist?,
        line: Line(Some(entry.line)),
    })
}
