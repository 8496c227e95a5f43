//! Everything that can be wrong with a graph before its schemas are known.
//!
//! All faults are found in one pass and reported together. What SQL says of other streams, tables and columns is for
//! the engine, which has a parser; the text of an expression is only looked at for being there.

mod accumulators;
mod broadcast;
mod operator;
mod source;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::HashMap;
use std::time::Duration;

pub use walk::{Consumer, consumers};

use crate::{Diagnostic, Diagnostics, JobGraph, Line, Operator, OutputDef, OutputKind, TableDef, TableFormat};
use walk::{Names, edges};

/// Names become directory names and schema names.
const MAX_NAME: usize = 128;
const MAX_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
/// Every executor keeps a routing entry and buffers for each partition.
const MAX_PARTITIONS: u32 = 4096;
/// Finding the nearest name compares it with all names, so only the first faults are given one: as many comparisons
/// take milliseconds.
const MAX_COMPARISONS: usize = 10_000;
/// Nobody mends more at once, and a graph of millions of references must not become as many messages.
const MAX_FAULTS: usize = 1000;

impl JobGraph {
    /// Finds all faults that can be found without knowing schemas.
    ///
    /// # Errors
    /// All of them, in the order of the job file's sections.
    pub fn validate(&self) -> Result<(), Diagnostics> {
        let mut faults = Faults::default();
        job(self, &mut faults);
        accumulators::check(self, &mut faults);
        tables(self, &mut faults);
        broadcast::check(self, &mut faults);
        streams(self, &mut faults);
        outputs(self, &mut faults);
        faults.into_result()
    }
}

impl TableDef {
    /// The format that is given, else that of the file's extension, before which `.gz` or `.zst` may stand.
    #[must_use]
    pub fn known_format(&self) -> Option<TableFormat> {
        self.format.or_else(|| TableFormat::of(&self.path))
    }
}

/// The faults found so far.
#[derive(Default)]
struct Faults {
    found: Vec<Diagnostic>,
    /// Faults beyond those that are kept.
    more: usize,
    comparisons: usize,
}

impl Faults {
    fn push(&mut self, fault: Diagnostic) {
        if self.found.len() < MAX_FAULTS {
            self.found.push(fault);
        } else {
            self.more += 1;
        }
    }

    fn add(&mut self, line: Line, path: impl Into<String>, message: impl Into<String>) {
        self.push(Diagnostic::new(line.0, path, message));
    }

    fn hinted(&mut self, line: Line, path: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) {
        self.push(Diagnostic::new(line.0, path, message).hint(hint));
    }

    /// A name that is not there, with the nearest that is.
    fn unknown<'a>(
        &mut self,
        line: Line,
        path: impl Into<String>,
        what: &str,
        name: &str,
        known: impl Iterator<Item = &'a str> + Clone,
    ) {
        let fault = Diagnostic::new(line.0, path, format!("unknown {what} `{name}`"));
        if self.comparisons < MAX_COMPARISONS {
            self.comparisons += known.clone().count();
            self.push(fault.suggest(name, known));
        } else {
            self.push(fault.subject(name));
        }
    }

    fn extend(&mut self, faults: impl IntoIterator<Item = Diagnostic>) {
        faults.into_iter().for_each(|fault| self.push(fault));
    }

    fn into_result(mut self) -> Result<(), Diagnostics> {
        if self.more > 0 {
            self.found
                .push(Diagnostic::new(None, "", format!("{} more faults", self.more)));
        }
        if self.found.is_empty() {
            Ok(())
        } else {
            Err(Diagnostics(self.found))
        }
    }

    fn not_empty(&mut self, line: Line, path: String, what: &str, text: &str) {
        if text.trim().is_empty() {
            self.add(line, path, format!("{what} is empty"));
        }
    }

    fn not_zero(&mut self, line: Line, path: String, value: Option<u64>) {
        if value == Some(0) {
            self.add(line, path, "0 is not possible, the least is 1");
        }
    }

    /// Durations travel as whole milliseconds.
    fn whole_millis(&mut self, line: Line, path: String, duration: Option<Duration>) {
        if duration.is_some_and(|d| d.is_zero() || !is_whole_millis(d)) {
            self.add(line, path, "not a whole number of milliseconds, at least 1 ms");
        }
    }

    /// Reports names that stand for more than one thing.
    fn unique<'a>(&mut self, what: &str, names: impl Iterator<Item = (&'a str, Line, String)>) {
        let mut seen: HashMap<&str, Line> = HashMap::new();
        for (name, line, path) in names {
            match seen.get(name) {
                None => {
                    seen.insert(name, line);
                }
                Some(first) => {
                    let where_first = first
                        .0
                        .map_or_else(String::new, |first| format!(", first on line {first}"));
                    let message = format!("{what} `{name}` is defined twice{where_first}");
                    self.push(Diagnostic::new(line.0, path, message).subject(name));
                }
            }
        }
    }
}

fn is_whole_millis(duration: Duration) -> bool {
    duration.subsec_nanos().is_multiple_of(1_000_000)
}

/// A duration as a job file would say it.
fn humane(duration: Duration) -> String {
    let nanos = duration.subsec_nanos();
    if nanos == 0 {
        format!("{}s", duration.as_secs())
    } else if is_whole_millis(duration) {
        format!("{}ms", duration.as_millis())
    } else {
        format!("{duration:?}")
    }
}

fn is_job_name(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

/// Whether SQL can use a name without quotes, the case of letters aside.
fn is_identifier(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn job(graph: &JobGraph, faults: &mut Faults) {
    let nowhere = Line(None);
    if graph.name.is_empty() {
        faults.add(nowhere, "name", "the job has no name");
    } else if !is_job_name(&graph.name) {
        let message = format!("`{}` cannot name a job", clipped(&graph.name));
        let hint = "letters, digits, `_`, `-` and `.`, beginning with a letter, digit or `_`, at most 128 of them";
        faults.hinted(nowhere, "name", message, hint);
    }
    let interval = graph.batch_interval;
    if interval.is_zero() {
        faults.hinted(nowhere, "batch_interval", "the batch interval is 0", "the least is 1ms");
    } else if !is_whole_millis(interval) {
        let message = format!(
            "the batch interval {} is not a whole number of milliseconds",
            humane(interval)
        );
        faults.add(nowhere, "batch_interval", message);
    } else if interval > MAX_INTERVAL {
        let message = format!("the batch interval {} is longer than a day", humane(interval));
        faults.add(nowhere, "batch_interval", message);
    }
    let options = &graph.options;
    if let Some(partitions) = options.partitions
        && !(1..=MAX_PARTITIONS).contains(&partitions)
    {
        faults.add(
            nowhere,
            "partitions",
            format!("{partitions} is not between 1 and {MAX_PARTITIONS}"),
        );
    }
    faults.not_zero(nowhere, "weight".to_owned(), Some(options.weight.into()));
    faults.not_zero(nowhere, "max_attempts".to_owned(), Some(options.max_attempts.into()));
    faults.not_zero(
        nowhere,
        "concurrent_batches".to_owned(),
        Some(options.concurrent_batches.into()),
    );
    faults.whole_millis(nowhere, "remember".to_owned(), options.remember);
    faults.not_zero(
        nowhere,
        "max_queued_batches".to_owned(),
        Some(options.max_queued_batches.into()),
    );
    faults.whole_millis(nowhere, "checkpoint_interval".to_owned(), options.checkpoint_interval);
    match &options.checkpoint {
        Some(place) if place.trim().is_empty() => faults.add(nowhere, "checkpoint", "the place is empty"),
        None if options.checkpoint_interval.is_some() => faults.hinted(
            nowhere,
            "checkpoint_interval",
            "nothing is saved without a `checkpoint`",
            "say where: checkpoint: /a/directory",
        ),
        _ => {}
    }
    if let Some(pressure) = &options.back_pressure {
        for (key, value, least) in [
            ("proportional", pressure.proportional, f64::MIN_POSITIVE),
            ("integral", pressure.integral, 0.0),
            ("derived", pressure.derived, 0.0),
            ("min_rate", pressure.min_rate, f64::MIN_POSITIVE),
        ] {
            if !value.is_finite() || value < least {
                let bound = if least > 0.0 { "above 0" } else { "0 or more" };
                faults.add(
                    nowhere,
                    format!("back_pressure.{key}"),
                    format!("{value} is not {bound}"),
                );
            }
        }
    }
}

fn tables(graph: &JobGraph, faults: &mut Faults) {
    for table in &graph.tables {
        let path = format!("tables.{}", table.name);
        identifier(faults, table.line, &path, "table", &table.name);
        faults.whole_millis(table.line, format!("{path}.reload"), table.reload);
        if table.path.trim().is_empty() {
            faults.add(table.line, format!("{path}.file"), "the path is empty");
        } else if table.known_format().is_none() {
            let message = format!("the format of `{}` cannot be told from its name", clipped(&table.path));
            faults.hinted(
                table.line,
                format!("{path}.format"),
                message,
                "set format to csv, json or parquet",
            );
        }
    }
    // SQL names them all alike.
    let tables = graph
        .tables
        .iter()
        .map(|table| (table.name.as_str(), table.line, format!("tables.{}", table.name)));
    let streams = graph
        .streams
        .iter()
        .map(|stream| (stream.name.as_str(), stream.line, format!("streams.{}", stream.name)));
    let broadcasts = graph
        .broadcasts
        .iter()
        .map(|def| (def.name.as_str(), def.line, format!("broadcasts.{}", def.name)));
    let what = if graph.broadcasts.is_empty() {
        "stream or table"
    } else {
        "stream, table or broadcast"
    };
    faults.unique(what, tables.chain(broadcasts).chain(streams));
}

fn streams(graph: &JobGraph, faults: &mut Faults) {
    if graph.streams.is_empty() {
        faults.add(Line(None), "streams", "no streams");
    }
    let names = Names::new(graph);
    references(graph, &names, faults);
    for stream in &graph.streams {
        let path = format!("streams.{}", stream.name);
        identifier(faults, stream.line, &path, "stream", &stream.name);
        if let crate::StreamInput::Source(source) = &stream.input {
            source::check(source, stream.line, &path, faults);
        }
        for (index, step) in stream.steps.iter().enumerate() {
            let path = format!("{path}.steps[{index}].{}", step.operator.name());
            operator::check(step, &path, faults);
            accumulators::check_step(graph, step, &path, faults);
        }
    }
    let order = walk::order(graph, &names);
    faults.extend(order.cycles.iter().map(|cycle| walk::cycle_fault(graph, cycle)));
    operator::check_slides(graph, &names, &order, faults);
    operator::check_snapshots(graph, &names, faults);
}

/// Reports streams that are named after `from` or in a step and are not there.
fn references(graph: &JobGraph, names: &Names<'_>, faults: &mut Faults) {
    for stream in &graph.streams {
        for edge in edges(stream) {
            let joins = |step: usize| matches!(stream.steps[step].operator, Operator::Join { .. });
            let broadcast = |name: &str| graph.broadcasts.iter().any(|def| def.name == name);
            if names.get(edge.parent).is_some() || (edge.step.is_some_and(joins) && broadcast(edge.parent)) {
                continue;
            }
            let (line, path) = match edge.step {
                None => (stream.line, format!("streams.{}.from", stream.name)),
                Some(step) => (
                    stream.steps[step].line,
                    format!(
                        "streams.{}.steps[{step}].{}",
                        stream.name,
                        stream.steps[step].operator.name()
                    ),
                ),
            };
            let others = graph
                .streams
                .iter()
                .map(|s| s.name.as_str())
                .filter(|name| *name != stream.name)
                .chain(
                    graph
                        .broadcasts
                        .iter()
                        .filter(|_| edge.step.is_some_and(joins))
                        .map(|def| def.name.as_str()),
                );
            faults.unknown(line, path, "stream", edge.parent, others);
        }
    }
}

fn outputs(graph: &JobGraph, faults: &mut Faults) {
    if graph.outputs.is_empty() {
        let hint = "add print, save or table under outputs";
        faults.hinted(
            Line(None),
            "outputs",
            "no output operation registered, so nothing would run",
            hint,
        );
    }
    let names = Names::new(graph);
    for (index, output) in graph.outputs.iter().enumerate() {
        let path = output_path(index, output);
        if names.get(&output.from).is_none() {
            let known = graph.streams.iter().map(|stream| stream.name.as_str());
            faults.unknown(output.line, format!("{path}.from"), "stream", &output.from, known);
        }
        match &output.kind {
            OutputKind::Print { rows } => faults.not_zero(output.line, format!("{path}.rows"), Some((*rows).into())),
            OutputKind::Save(save) => {
                faults.not_empty(output.line, format!("{path}.path"), "the path", &save.path);
                faults.not_zero(output.line, format!("{path}.files"), save.files.map(u64::from));
            }
            OutputKind::Foreach { function, .. } => {
                faults.not_empty(
                    output.line,
                    format!("{path}.native"),
                    "the name of the function",
                    &function.name,
                );
                if !function.accumulators.is_empty() {
                    let message = "a foreach output has no handles to accumulators: it may be called more than once";
                    faults.add(output.line, format!("{path}.accumulators"), message);
                }
            }
            OutputKind::Table { name, query } => {
                identifier(faults, output.line, &format!("{path}.name"), "table", name);
                if let Some(query) = query {
                    faults.not_empty(output.line, format!("{path}.query"), "the query", query);
                }
            }
        }
    }
    let places = || {
        graph
            .outputs
            .iter()
            .enumerate()
            .map(|(index, output)| (output_path(index, output), output))
    };
    faults.unique(
        "output table",
        places().filter_map(|(path, output)| match &output.kind {
            OutputKind::Table { name, .. } => Some((name.as_str(), output.line, path)),
            _ => None,
        }),
    );
    // Two outputs would write the same directory of each batch.
    faults.unique(
        "output path",
        places().filter_map(|(path, output)| match &output.kind {
            OutputKind::Save(save) if !save.path.is_empty() => {
                Some((save.path.trim_end_matches('/'), output.line, path))
            }
            _ => None,
        }),
    );
}

fn output_path(index: usize, output: &OutputDef) -> String {
    format!("outputs[{index}].{}", output.kind.name())
}

fn identifier(faults: &mut Faults, line: Line, path: &str, what: &str, name: &str) {
    if !is_identifier(name) {
        let message = format!("`{}` cannot name a {what}", clipped(name));
        faults.hinted(
            line,
            path,
            message,
            "letters, digits and `_`, not beginning with a digit, at most 128 of them",
        );
    }
}

/// As much of a text as fits a message.
fn clipped(text: &str) -> String {
    const LENGTH: usize = 100;
    match text.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
