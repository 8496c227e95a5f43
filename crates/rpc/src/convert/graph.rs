//! The job graph: the job, its tables, streams and outputs.

use std::time::Duration;

use tidemill_dstream::{
    BackPressure, Compression, FailurePolicy, FileFormat, ForeachUnit, JobGraph, JobOptions, Line, OutputDef,
    OutputKind, SaveOutput, StreamDef, StreamInput, TableDef, TableFormat,
};

use super::function::call;
use super::{Error, each, every, required, storage_level, to_millis};
use crate::plan;

// === JobGraph ===

impl From<&JobGraph> for plan::JobGraph {
    fn from(graph: &JobGraph) -> Self {
        Self {
            name: graph.name.clone(),
            batch_interval_ms: to_millis(graph.batch_interval),
            options: Some((&graph.options).into()),
            tables: every(&graph.tables),
            broadcasts: every(&graph.broadcasts),
            streams: every(&graph.streams),
            outputs: every(&graph.outputs),
            accumulators: every(&graph.accumulators),
        }
    }
}

impl TryFrom<plan::JobGraph> for JobGraph {
    type Error = Error;

    fn try_from(graph: plan::JobGraph) -> Result<Self, Error> {
        Ok(Self {
            name: graph.name,
            batch_interval: Duration::from_millis(graph.batch_interval_ms),
            options: match graph.options {
                Some(options) => options.try_into().map_err(|error: Error| error.inside("options"))?,
                None => JobOptions::default(),
            },
            accumulators: each("accumulators", graph.accumulators)?,
            tables: each("tables", graph.tables)?,
            broadcasts: each("broadcasts", graph.broadcasts)?,
            streams: each("streams", graph.streams)?,
            outputs: each("outputs", graph.outputs)?,
        })
    }
}

impl From<&JobOptions> for plan::JobOptions {
    fn from(options: &JobOptions) -> Self {
        let policy = match options.on_batch_failure {
            FailurePolicy::Stop => plan::FailurePolicy::Stop,
            FailurePolicy::Skip => plan::FailurePolicy::Skip,
        };
        Self {
            partitions: options.partitions,
            weight: options.weight,
            max_attempts: options.max_attempts,
            concurrent_batches: options.concurrent_batches,
            on_batch_failure: policy.into(),
            remember_ms: options.remember.map(to_millis),
            back_pressure: options.back_pressure.as_ref().map(Into::into),
            max_queued_batches: options.max_queued_batches,
            checkpoint: options.checkpoint.clone(),
            checkpoint_interval_ms: options.checkpoint_interval.map(to_millis),
        }
    }
}

impl TryFrom<plan::JobOptions> for JobOptions {
    type Error = Error;

    fn try_from(options: plan::JobOptions) -> Result<Self, Error> {
        Ok(Self {
            partitions: options.partitions,
            weight: options.weight,
            max_attempts: options.max_attempts,
            concurrent_batches: options.concurrent_batches,
            on_batch_failure: match options.on_batch_failure() {
                plan::FailurePolicy::Stop => FailurePolicy::Stop,
                plan::FailurePolicy::Skip => FailurePolicy::Skip,
                plan::FailurePolicy::Unspecified => {
                    return Err(Error::unknown("on_batch_failure", options.on_batch_failure));
                }
            },
            remember: options.remember_ms.map(Duration::from_millis),
            back_pressure: options.back_pressure.map(Into::into),
            max_queued_batches: options.max_queued_batches,
            checkpoint: options.checkpoint,
            checkpoint_interval: options.checkpoint_interval_ms.map(Duration::from_millis),
        })
    }
}

impl From<&BackPressure> for plan::BackPressure {
    fn from(pressure: &BackPressure) -> Self {
        Self {
            proportional: pressure.proportional,
            integral: pressure.integral,
            derived: pressure.derived,
            min_rate: pressure.min_rate,
        }
    }
}

impl From<plan::BackPressure> for BackPressure {
    fn from(pressure: plan::BackPressure) -> Self {
        Self {
            proportional: pressure.proportional,
            integral: pressure.integral,
            derived: pressure.derived,
            min_rate: pressure.min_rate,
        }
    }
}

// === Tables ===

impl From<&TableDef> for plan::Table {
    fn from(table: &TableDef) -> Self {
        let format = match table.format {
            None => plan::TableFormat::Unspecified,
            Some(TableFormat::Csv) => plan::TableFormat::Csv,
            Some(TableFormat::Json) => plan::TableFormat::Json,
            Some(TableFormat::Parquet) => plan::TableFormat::Parquet,
        };
        Self {
            name: table.name.clone(),
            path: table.path.clone(),
            format: format.into(),
            reload_ms: table.reload.map(to_millis),
            line: table.line.0,
        }
    }
}

impl TryFrom<plan::Table> for TableDef {
    type Error = Error;

    fn try_from(table: plan::Table) -> Result<Self, Error> {
        let format = plan::TableFormat::try_from(table.format).map_err(|_| Error::unknown("format", table.format))?;
        Ok(Self {
            name: table.name,
            path: table.path,
            // Here unspecified has a meaning: by the file's extension.
            format: match format {
                plan::TableFormat::Unspecified => None,
                plan::TableFormat::Csv => Some(TableFormat::Csv),
                plan::TableFormat::Json => Some(TableFormat::Json),
                plan::TableFormat::Parquet => Some(TableFormat::Parquet),
            },
            reload: table.reload_ms.map(Duration::from_millis),
            line: Line(table.line),
        })
    }
}

// === Streams ===

impl From<&StreamDef> for plan::Stream {
    fn from(stream: &StreamDef) -> Self {
        let input = match &stream.input {
            StreamInput::Source(source) => plan::stream::Input::Source(source.into()),
            StreamInput::From(parent) => plan::stream::Input::From(parent.clone()),
        };
        Self {
            name: stream.name.clone(),
            input: Some(input),
            steps: every(&stream.steps),
            line: stream.line.0,
            persist: stream.persist.map(|level| level.name().to_owned()),
        }
    }
}

impl TryFrom<plan::Stream> for StreamDef {
    type Error = Error;

    fn try_from(stream: plan::Stream) -> Result<Self, Error> {
        let input = match stream.input.ok_or_else(|| Error::missing("input"))? {
            plan::stream::Input::Source(source) => {
                StreamInput::Source(source.try_into().map_err(|error: Error| error.inside("source"))?)
            }
            plan::stream::Input::From(parent) => StreamInput::From(parent),
        };
        Ok(Self {
            name: stream.name,
            input,
            steps: each("steps", stream.steps)?,
            persist: stream
                .persist
                .map(|level| storage_level("persist", &level))
                .transpose()?,
            line: Line(stream.line),
        })
    }
}

// === Outputs ===

impl From<&OutputDef> for plan::Output {
    fn from(output: &OutputDef) -> Self {
        Self {
            from: output.from.clone(),
            kind: Some((&output.kind).into()),
            line: output.line.0,
        }
    }
}

impl TryFrom<plan::Output> for OutputDef {
    type Error = Error;

    fn try_from(output: plan::Output) -> Result<Self, Error> {
        Ok(Self {
            from: output.from,
            kind: required("kind", output.kind)?,
            line: Line(output.line),
        })
    }
}

impl From<&OutputKind> for plan::OutputKind {
    fn from(kind: &OutputKind) -> Self {
        use plan::output_kind::Kind;
        let kind = match kind {
            OutputKind::Print { rows } => Kind::Print(plan::Print { rows: *rows }),
            OutputKind::Save(save) => Kind::Save(save.into()),
            OutputKind::Table { name, query } => Kind::Table(plan::TableOutput {
                name: name.clone(),
                query: query.clone(),
            }),
            OutputKind::Foreach { function, per } => {
                let per = match per {
                    ForeachUnit::Batch => plan::ForeachUnit::Batch,
                    ForeachUnit::Partition => plan::ForeachUnit::Partition,
                };
                Kind::Foreach(plan::Foreach {
                    function: Some(function.into()),
                    per: per.into(),
                })
            }
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<plan::OutputKind> for OutputKind {
    type Error = Error;

    fn try_from(kind: plan::OutputKind) -> Result<Self, Error> {
        use plan::output_kind::Kind;
        Ok(match kind.kind.ok_or_else(|| Error::missing("kind"))? {
            Kind::Print(print) => Self::Print { rows: print.rows },
            Kind::Save(save) => Self::Save(save.try_into().map_err(|error: Error| error.inside("save"))?),
            Kind::Table(table) => Self::Table {
                name: table.name,
                query: table.query,
            },
            Kind::Foreach(foreach) => Self::Foreach {
                per: match foreach.per() {
                    plan::ForeachUnit::Batch => ForeachUnit::Batch,
                    plan::ForeachUnit::Partition => ForeachUnit::Partition,
                    plan::ForeachUnit::Unspecified => return Err(Error::unknown("foreach.per", foreach.per)),
                },
                function: call("foreach.function", foreach.function)?,
            },
        })
    }
}

impl From<&SaveOutput> for plan::Save {
    fn from(save: &SaveOutput) -> Self {
        let format = match save.format {
            FileFormat::Text => plan::FileFormat::Text,
            FileFormat::Csv => plan::FileFormat::Csv,
            FileFormat::Json => plan::FileFormat::Json,
        };
        let compression = match save.compression {
            Compression::None => plan::Compression::None,
            Compression::Gzip => plan::Compression::Gzip,
            Compression::Zstd => plan::Compression::Zstd,
        };
        Self {
            path: save.path.clone(),
            format: format.into(),
            files: save.files,
            compression: compression.into(),
            overwrite: save.overwrite,
            empty: save.empty,
        }
    }
}

impl TryFrom<plan::Save> for SaveOutput {
    type Error = Error;

    fn try_from(save: plan::Save) -> Result<Self, Error> {
        let format = match save.format() {
            plan::FileFormat::Text => FileFormat::Text,
            plan::FileFormat::Csv => FileFormat::Csv,
            plan::FileFormat::Json => FileFormat::Json,
            plan::FileFormat::Unspecified => return Err(Error::unknown("format", save.format)),
        };
        let compression = match save.compression() {
            plan::Compression::None => Compression::None,
            plan::Compression::Gzip => Compression::Gzip,
            plan::Compression::Zstd => Compression::Zstd,
            plan::Compression::Unspecified => return Err(Error::unknown("compression", save.compression)),
        };
        Ok(Self {
            path: save.path,
            format,
            files: save.files,
            compression,
            overwrite: save.overwrite,
            empty: save.empty,
        })
    }
}
