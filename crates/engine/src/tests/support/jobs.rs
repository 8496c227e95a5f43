//! Job graphs in few words.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arrow::array::{RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidemill_dstream::{
    Diagnostics, Function, JobGraph, Line, NamedFunction, Operator, OutputDef, OutputKind, Reduction, Source, Step,
    StreamDef, StreamInput,
};

use crate::{CompileOptions, CompiledJob, Registry, TableData, compile};

pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

pub(crate) fn job(streams: Vec<StreamDef>, outputs: Vec<OutputDef>) -> JobGraph {
    JobGraph {
        name: "test".to_owned(),
        batch_interval: INTERVAL,
        streams,
        outputs,
        ..JobGraph::default()
    }
}

pub(crate) fn source(name: &str, steps: Vec<Operator>) -> StreamDef {
    stream(name, StreamInput::Source(Source::Queue(Vec::new())), steps)
}

pub(crate) fn from(name: &str, parent: &str, steps: Vec<Operator>) -> StreamDef {
    stream(name, StreamInput::From(parent.to_owned()), steps)
}

/// The stream stands on line 1, its steps on lines 2 and on.
fn stream(name: &str, input: StreamInput, steps: Vec<Operator>) -> StreamDef {
    let step = |(i, operator)| Step {
        operator,
        line: Line(Some(i as u32 + 2)),
    };
    StreamDef {
        name: name.to_owned(),
        input,
        steps: steps.into_iter().enumerate().map(step).collect(),
        persist: None,
        line: Line(Some(1)),
    }
}

pub(crate) fn columns(named: &[(&str, &str)]) -> Vec<NamedFunction> {
    let column = |(name, sql): &(&str, &str)| NamedFunction {
        name: (*name).to_owned(),
        function: Function::expr(*sql),
        line: Line(None),
    };
    named.iter().map(column).collect()
}

pub(crate) fn map(named: &[(&str, &str)]) -> Operator {
    Operator::Map {
        columns: columns(named),
    }
}

pub(crate) fn flat_map(named: &[(&str, &str)]) -> Operator {
    Operator::FlatMap {
        columns: columns(named),
    }
}

pub(crate) fn filter(sql: &str) -> Operator {
    Operator::Filter {
        predicate: Function::expr(sql),
    }
}

pub(crate) fn reduce_by_key(keys: &[(&str, &str)], aggregates: &[(&str, &str)]) -> Operator {
    Operator::ReduceByKey {
        keys: columns(keys),
        reduction: Reduction::Aggregates(columns(aggregates)),
        partitions: None,
    }
}

pub(crate) fn reduce(aggregates: &[(&str, &str)]) -> Operator {
    Operator::Reduce {
        reduction: Reduction::Aggregates(columns(aggregates)),
    }
}

pub(crate) fn window(length: u64, slide: Option<u64>) -> Operator {
    Operator::Window {
        length: Duration::from_secs(length),
        slide: slide.map(Duration::from_secs),
    }
}

pub(crate) fn transform(sql: &str) -> Operator {
    Operator::Transform {
        function: Function::expr(sql),
    }
}

pub(crate) fn output(from: &str, kind: OutputKind) -> OutputDef {
    OutputDef {
        from: from.to_owned(),
        kind,
        line: Line(Some(90)),
    }
}

/// An output table of the stream's own name.
pub(crate) fn table(from: &str) -> OutputDef {
    output(
        from,
        OutputKind::Table {
            name: from.to_owned(),
            query: None,
        },
    )
}

pub(crate) fn query(from: &str, name: &str, sql: &str) -> OutputDef {
    output(
        from,
        OutputKind::Table {
            name: name.to_owned(),
            query: Some(sql.to_owned()),
        },
    )
}

/// A table of text columns from rows of words.
pub(crate) fn static_table(name: &str, names: &[&str], rows: &[&[&str]]) -> TableData {
    let fields: Vec<Field> = names
        .iter()
        .map(|name| Field::new(*name, DataType::Utf8View, true))
        .collect();
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let column = |i: usize| Arc::new(StringViewArray::from_iter_values(rows.iter().map(|row| row[i]))) as _;
    let columns = (0..names.len()).map(column).collect();
    TableData {
        name: name.to_owned(),
        schema: schema.clone(),
        batches: vec![RecordBatch::try_new(schema, columns).unwrap()],
    }
}

pub(crate) fn try_compile(graph: &JobGraph, tables: &[TableData], partitions: u32) -> Result<CompiledJob, Diagnostics> {
    block_on(compile(graph, tables, &options(partitions)))
}

/// For a build without functions of its own.
pub(crate) fn options(partitions: u32) -> CompileOptions {
    CompileOptions {
        partitions,
        registry: Registry::default(),
    }
}

/// Runs a future as executors do, in a runtime of several threads.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .build()
            .unwrap()
    });
    RUNTIME.block_on(future)
}

/// The faults of a job, one a line.
pub(crate) fn faults(graph: &JobGraph) -> String {
    try_compile(graph, &[], 2).unwrap_err().to_string()
}
