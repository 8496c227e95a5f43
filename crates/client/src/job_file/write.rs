//! A job graph as a job file.

mod broadcasts;
mod functions;
mod steps;

use std::time::Duration;

use functions::call;
use tidemill_dstream::{
    AccumulatorDef, AccumulatorKind, FailurePolicy, ForeachUnit, JobGraph, JobOptions, OutputDef, OutputKind,
    QueueItem, SaveOutput, Source, StreamDef, StreamInput, TableDef,
};

use super::outputs::{COMPRESSIONS, FILE_FORMATS, FOREACH_UNITS};
use super::yaml::{Layout, Value, document};
use super::{POLICIES, TABLE_FORMATS};

/// Writes a graph as a job file, which [`parse`](super::parse) reads as the same graph.
///
/// Settings that have their default value are left out. The graphs without a file are those that have a column named
/// `native`, or one that is named as a setting of its step beside which it stands: an aggregate named `key` in a
/// `reduce_by_key`, where a job file has the keys; and those with a broadcast variable whose value is of a program.
#[must_use]
pub fn to_yaml(graph: &JobGraph) -> String {
    let mut entries = vec![
        ("name", Value::text(&graph.name)),
        ("batch_interval", duration(graph.batch_interval)),
    ];
    options(&graph.options, &mut entries);
    if !graph.accumulators.is_empty() {
        let accumulators = graph
            .accumulators
            .iter()
            .map(|definition| (definition.name.clone(), accumulator(definition)));
        entries.push(("accumulators", Value::Map(accumulators.collect(), Layout::Block)));
    }
    if !graph.tables.is_empty() {
        let tables = graph
            .tables
            .iter()
            .map(|definition| (definition.name.clone(), table(definition)));
        entries.push(("tables", Value::Map(tables.collect(), Layout::Block)));
    }
    if !graph.broadcasts.is_empty() {
        let defs = graph
            .broadcasts
            .iter()
            .map(|def| (def.name.clone(), broadcasts::broadcast(def)));
        entries.push(("broadcasts", Value::Map(defs.collect(), Layout::Block)));
    }
    let streams = graph
        .streams
        .iter()
        .map(|definition| (definition.name.clone(), stream(definition)));
    entries.push(("streams", Value::Map(streams.collect(), Layout::Block)));
    entries.push((
        "outputs",
        Value::List(graph.outputs.iter().map(output).collect(), Layout::Block),
    ));
    document(&entries)
}

fn duration(duration: Duration) -> Value {
    Value::word(humantime::format_duration(duration))
}

/// The word of a value that has one for each.
fn word<T: PartialEq>(known: &[(&str, T)], value: &T) -> Value {
    Value::word(
        known
            .iter()
            .find(|(_, other)| other == value)
            .map_or("", |(word, _)| word),
    )
}

fn options(options: &JobOptions, entries: &mut Vec<(&'static str, Value)>) {
    let defaults = JobOptions::default();
    if let Some(partitions) = options.partitions {
        entries.push(("partitions", Value::word(partitions)));
    }
    for (key, value, default) in [
        ("weight", options.weight, defaults.weight),
        ("max_attempts", options.max_attempts, defaults.max_attempts),
        (
            "concurrent_batches",
            options.concurrent_batches,
            defaults.concurrent_batches,
        ),
        (
            "max_queued_batches",
            options.max_queued_batches,
            defaults.max_queued_batches,
        ),
    ] {
        if value != default {
            entries.push((key, Value::word(value)));
        }
    }
    if options.on_batch_failure != FailurePolicy::Stop {
        entries.push(("on_batch_failure", word(POLICIES, &options.on_batch_failure)));
    }
    entries.extend(options.remember.map(|remember| ("remember", duration(remember))));
    let checkpoint = options.checkpoint.as_ref();
    entries.extend(checkpoint.map(|place| ("checkpoint", Value::text(place))));
    let interval = options.checkpoint_interval;
    entries.extend(interval.map(|interval| ("checkpoint_interval", duration(interval))));
    if options.back_pressure != defaults.back_pressure {
        let pressure = options.back_pressure.map(|pressure| {
            Value::map([
                ("proportional", Value::word(pressure.proportional)),
                ("integral", Value::word(pressure.integral)),
                ("derived", Value::word(pressure.derived)),
                ("min_rate", Value::word(pressure.min_rate)),
            ])
        });
        entries.push(("back_pressure", pressure.unwrap_or_else(|| Value::word(false))));
    }
}

fn accumulator(accumulator: &AccumulatorDef) -> Value {
    let mut entries = match &accumulator.kind {
        AccumulatorKind::Native { name } => vec![("native", Value::text(name))],
        kind => vec![("kind", Value::text(kind.name()))],
    };
    match &accumulator.kind {
        AccumulatorKind::Distinct { limit } if *limit != AccumulatorKind::DISTINCT_LIMIT => {
            entries.push(("limit", Value::word(limit)));
        }
        AccumulatorKind::Histogram { bounds } => {
            let bounds = bounds.iter().map(Value::word).collect();
            entries.push(("bounds", Value::List(bounds, Layout::Short)));
        }
        _ => {}
    }
    let value_type = accumulator.value_type;
    entries.extend(value_type.map(|value_type| ("type", Value::text(value_type.name()))));
    if !accumulator.listed {
        entries.push(("listed", Value::word(false)));
    }
    Value::map(entries)
}

fn table(table: &TableDef) -> Value {
    let mut entries = vec![("file", Value::text(&table.path))];
    entries.extend(table.format.map(|format| ("format", word(TABLE_FORMATS, &format))));
    entries.extend(table.reload.map(|reload| ("reload", duration(reload))));
    Value::map(entries)
}

fn stream(stream: &StreamDef) -> Value {
    let (key, input) = match &stream.input {
        StreamInput::Source(input) => ("source", Value::map([(input.name(), source(input))])),
        StreamInput::From(parent) => ("from", Value::text(parent)),
    };
    let mut entries = vec![(key.to_owned(), input)];
    entries.extend(stream.persist.map(|level| ("persist".to_owned(), Value::word(level))));
    if !stream.steps.is_empty() {
        let steps = stream.steps.iter().map(|step| steps::step(&step.operator));
        entries.push(("steps".to_owned(), Value::List(steps.collect(), Layout::Block)));
    }
    Value::Map(entries, Layout::Block)
}

fn source(source: &Source) -> Value {
    match source {
        Source::SocketText(socket) => {
            let mut entries = vec![("host", Value::text(&socket.host)), ("port", Value::word(socket.port))];
            entries.extend(
                socket
                    .block_interval
                    .map(|interval| ("block_interval", duration(interval))),
            );
            entries.extend(socket.max_rate.map(|rate| ("max_rate", Value::word(rate))));
            entries.extend(socket.initial_rate.map(|rate| ("initial_rate", Value::word(rate))));
            Value::map(entries)
        }
        Source::TextFile(file) => {
            let mut entries = vec![("path", Value::text(&file.path))];
            entries.extend(file.batch_lines.map(|lines| ("batch_lines", Value::word(lines))));
            Value::map(entries)
        }
        Source::TextFiles(files) => {
            let mut entries = vec![("dir", Value::text(&files.dir))];
            if !files.new_files_only {
                entries.push(("new_files_only", Value::word(false)));
            }
            if files.remember != super::sources::REMEMBER {
                entries.push(("remember", duration(files.remember)));
            }
            entries.extend(
                files
                    .files_per_batch
                    .map(|files| ("files_per_batch", Value::word(files))),
            );
            Value::map(entries)
        }
        Source::Queue(items) => queue(items),
        Source::Generate(generate) => {
            let mut entries = vec![
                ("rate", Value::word(generate.rate)),
                ("template", Value::text(&generate.template)),
            ];
            if generate.seed != 0 {
                entries.push(("seed", Value::word(generate.seed)));
            }
            Value::map(entries)
        }
    }
}

fn queue(items: &[QueueItem]) -> Value {
    let item = |item: &QueueItem| match item {
        QueueItem::File(file) => Value::text(file),
        QueueItem::Lines(lines) => Value::list(lines),
    };
    let list = Value::List(items.iter().map(item).collect(), Layout::Short);
    if items.iter().all(|item| matches!(item, QueueItem::File(_))) {
        Value::map([("files", list)])
    } else if items.iter().all(|item| matches!(item, QueueItem::Lines(_))) {
        Value::map([("lines", list)])
    } else {
        list
    }
}

fn output(output: &OutputDef) -> Value {
    let mut entries = vec![("from", Value::text(&output.from))];
    match &output.kind {
        OutputKind::Print { rows } => {
            if *rows != super::outputs::PRINT_ROWS {
                entries.push(("rows", Value::word(rows)));
            }
        }
        OutputKind::Save(save) => save_settings(save, &mut entries),
        OutputKind::Table { name, query } => {
            entries.push(("name", Value::text(name)));
            entries.extend(query.as_ref().map(|query| ("query", Value::text(query))));
        }
        OutputKind::Foreach { function, per } => {
            entries.extend(call(function));
            if *per != ForeachUnit::Batch {
                entries.push(("per", word(FOREACH_UNITS, per)));
            }
        }
    }
    Value::map([(output.kind.name(), Value::map(entries))])
}

fn save_settings(save: &SaveOutput, entries: &mut Vec<(&'static str, Value)>) {
    entries.push(("path", Value::text(&save.path)));
    entries.push(("format", word(FILE_FORMATS, &save.format)));
    entries.extend(save.files.map(|files| ("files", Value::word(files))));
    if save.compression != Default::default() {
        entries.push(("compression", word(COMPRESSIONS, &save.compression)));
    }
    for (key, value) in [("overwrite", save.overwrite), ("empty", save.empty)] {
        if value {
            entries.push((key, Value::word(true)));
        }
    }
}
