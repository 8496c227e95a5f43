//! The model as a job graph.

mod files;
mod sql;

use std::time::Duration;

use tidemill_dstream as dstream;
use tidemill_dstream::{
    AccumulatorDef, AccumulatorKind, Addition, Function, JobGraph, JobOptions, Line, MapWithState, NamedFunction,
    NativeCall, Operator, OutputDef, OutputKind, QueueItem, Source, StateFunction, Step, StreamDef, StreamInput,
    UpdateStateByKey,
};

use super::expr::quoted;
use super::registered::{NUMBER, TWICE};
use super::{Expr, JoinKind, Keyed, Model, Named, Op, Query, Reduction, Row, Schema, SortKey, Unfit, Value};
pub use files::File;

/// The batch interval of every lowered job.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// How a source reads its line, which has empty places for nulls.
const FIELDS: [(&str, &str); 3] = [
    ("k", "CAST(nullif(split_part(value, ',', 1), '') AS BIGINT)"),
    ("v", "CAST(nullif(split_part(value, ',', 2), '') AS BIGINT)"),
    ("t", "nullif(split_part(value, ',', 3), '')"),
];

/// The records of a source's batches as lines.
fn line(row: &Row) -> String {
    let fields: Vec<String> = row
        .iter()
        .map(|value| match value {
            Value::Null => String::new(),
            Value::Text(text) => text.clone(),
            other => other.to_string(),
        })
        .collect();
    fields.join(",")
}

impl Model {
    /// The graph that a cluster runs, with one queue of batches for each source and all rows of the outputs printed.
    ///
    /// # Errors
    /// The model is not well typed.
    pub fn lower(&self, name: &str, inputs: &[Vec<Vec<Row>>]) -> Result<JobGraph, Unfit> {
        let schemas = self.schemas()?;
        let ends = self.ends();
        let mut streams = Vec::new();
        for place in (0..self.nodes.len()).filter(|place| ends[*place]) {
            let mut chain = vec![place];
            while let Some(&first) = self.nodes[chain[chain.len() - 1]].inputs.first() {
                if ends[first] {
                    break;
                }
                chain.push(first);
            }
            chain.reverse();
            let first = &self.nodes[chain[0]];
            let input = match first.inputs.first() {
                Some(parent) => StreamInput::From(self.nodes[*parent].name.clone()),
                None => {
                    let source = self.sources().position(|source| source == chain[0]);
                    let batches = source
                        .and_then(|source| inputs.get(source))
                        .map_or(&[][..], Vec::as_slice);
                    let items = batches
                        .iter()
                        .map(|rows| QueueItem::Lines(rows.iter().map(line).collect()));
                    StreamInput::Source(Source::Queue(items.collect()))
                }
            };
            let mut steps = Vec::new();
            for place in chain {
                let node = &self.nodes[place];
                let columns = node.inputs.iter().map(|input| &schemas[*input]);
                let names = node.inputs.iter().map(|input| self.nodes[*input].name.clone());
                let inputs = Inputs {
                    node: node.name.clone(),
                    schemas: columns.collect(),
                    names: names.collect(),
                };
                match node.op {
                    // The one step that says where it stands.
                    Op::Accumulate => steps.push(Operator::Accumulate {
                        additions: vec![Addition::new(&node.name, "1")],
                    }),
                    ref op => steps.extend(inputs.operators(op)?),
                }
            }
            streams.push(StreamDef {
                name: self.nodes[place].name.clone(),
                input,
                steps: steps.into_iter().map(step).collect(),
                persist: None,
                line: Line(None),
            });
        }
        let outputs = self.outputs.iter().map(|output| OutputDef {
            from: self.nodes[*output].name.clone(),
            kind: OutputKind::Print { rows: 100_000 },
            line: Line(None),
        });
        Ok(JobGraph {
            name: name.to_owned(),
            batch_interval: INTERVAL,
            options: JobOptions {
                partitions: Some(self.partitions),
                concurrent_batches: self.concurrent_batches,
                remember: self.remember.map(seconds),
                ..JobOptions::default()
            },
            accumulators: self.accumulators().collect(),
            tables: self.files()?.iter().map(File::definition).collect(),
            broadcasts: Vec::new(),
            streams,
            outputs: outputs.collect(),
        })
    }

    /// One for each node that counts its records.
    fn accumulators(&self) -> impl Iterator<Item = AccumulatorDef> {
        let counting = self.nodes.iter().filter(|node| node.op == Op::Accumulate);
        counting.map(|node| AccumulatorDef::new(&node.name, AccumulatorKind::Count))
    }

    /// Whether each node ends a stream: one that has to has a name, or not exactly one reader.
    fn ends(&self) -> Vec<bool> {
        let mut ends: Vec<bool> = self.nodes.iter().map(|node| node.own_stream).collect();
        let mut readers = vec![0; self.nodes.len()];
        for (place, node) in self.nodes.iter().enumerate() {
            for (i, input) in node.inputs.iter().enumerate() {
                readers[*input] += 1;
                ends[*input] |= i > 0 || node.op == Op::StateSnapshots;
            }
            // The name of its stream is that of a column.
            ends[place] |= matches!(node.op, Op::Cogroup { .. });
        }
        for (place, end) in ends.iter_mut().enumerate() {
            *end |= readers[place] != 1 || self.outputs.contains(&place);
        }
        ends
    }
}

fn step(operator: Operator) -> Step {
    Step {
        operator,
        line: Line(None),
    }
}

fn function(name: &str, sql: String) -> NamedFunction {
    NamedFunction {
        name: name.to_owned(),
        function: Function::Expr(sql),
        line: Line(None),
    }
}

fn native(name: &str) -> NativeCall {
    NativeCall::new(name)
}

fn functions(named: &[Named]) -> Vec<NamedFunction> {
    named
        .iter()
        .map(|named| function(&named.name, named.expr.sql()))
        .collect()
}

fn filter(predicate: &Expr) -> Function {
    Function::Expr(predicate.sql())
}

fn seconds(batches: u64) -> Duration {
    INTERVAL * u32::try_from(batches).unwrap_or(u32::MAX)
}

/// The streams that an operator reads.
struct Inputs<'a> {
    /// The name of the node that reads them.
    node: String,
    schemas: Vec<&'a Schema>,
    names: Vec<String>,
}

impl Inputs<'_> {
    fn operators(&self, op: &Op) -> Result<Vec<Operator>, Unfit> {
        Ok(match op {
            Op::Source => vec![Operator::Map {
                columns: FIELDS
                    .iter()
                    .map(|(name, sql)| function(name, (*sql).to_owned()))
                    .collect(),
            }],
            Op::Glom => self.glom(),
            op => vec![self.operator(op)?],
        })
    }

    /// `glom`, and what makes its lists records again.
    fn glom(&self) -> Vec<Operator> {
        let spread = |name: &str| Operator::FlatMap {
            columns: vec![function(name, "values".to_owned())],
        };
        match self.schemas[0].columns() {
            [only] => vec![Operator::Glom, spread(&only.name)],
            columns => {
                let fields = columns
                    .iter()
                    .map(|column| function(&column.name, format!("record['{}']", column.name)));
                let columns = fields.collect();
                vec![Operator::Glom, spread("record"), Operator::Map { columns }]
            }
        }
    }

    fn operator(&self, op: &Op) -> Result<Operator, Unfit> {
        let others = || self.names[1..].to_vec();
        Ok(match op {
            Op::Map(columns) => Operator::Map {
                columns: functions(columns),
            },
            Op::FlatMap(columns) => Operator::FlatMap {
                columns: functions(columns),
            },
            Op::Filter(predicate) => Operator::Filter {
                predicate: filter(predicate),
            },
            Op::MapValues { keys, columns } => Operator::MapValues {
                keys: keys.clone(),
                columns: functions(columns),
            },
            Op::FlatMapValues { keys, columns } => Operator::FlatMapValues {
                keys: keys.clone(),
                columns: functions(columns),
            },
            Op::Sample { all } => Operator::Sample {
                fraction: if *all { 1.0 } else { 0.0 },
                seed: 7,
            },
            Op::MapPartitions => Operator::MapPartitions {
                function: native(TWICE),
            },
            Op::Union => Operator::Union { with: others() },
            Op::Repartition(partitions) => Operator::Repartition {
                partitions: *partitions,
            },
            Op::PartitionBy { keys, partitions } => Operator::PartitionBy {
                keys: keys.clone(),
                partitions: *partitions,
            },
            Op::Count => Operator::Count,
            Op::CountByValue { partitions } => Operator::CountByValue {
                partitions: *partitions,
            },
            Op::Distinct { partitions } => Operator::Distinct {
                partitions: *partitions,
            },
            Op::Reduce(reduction) => Operator::Reduce {
                reduction: reduced(reduction),
            },
            Op::ReduceByKey {
                keys,
                reduction,
                partitions,
            } => Operator::ReduceByKey {
                keys: functions(keys),
                reduction: reduced(reduction),
                partitions: *partitions,
            },
            Op::Aggregate {
                keys,
                aggregates,
                partitions,
            } => Operator::Aggregate {
                keys: functions(keys),
                aggregates: functions(aggregates),
                partitions: *partitions,
            },
            Op::GroupByKey { keys, partitions } => Operator::GroupByKey {
                keys: functions(keys),
                partitions: *partitions,
            },
            Op::CombineByKey {
                keys,
                create,
                merge_value,
                merge_combiners,
                partitions,
            } => Operator::CombineByKey {
                keys: functions(keys),
                create: functions(create),
                merge_value: functions(merge_value),
                merge_combiners: functions(merge_combiners),
                partitions: *partitions,
            },
            Op::SortBy { keys, limit } => Operator::SortBy {
                keys: keys.iter().map(sort_key).collect(),
                limit: *limit,
            },
            Op::Transform(Query::Native) => Operator::Transform {
                function: Function::Native(native(NUMBER)),
            },
            Op::Transform(query) => Operator::Transform {
                function: Function::Expr(self.sql(query)),
            },
            Op::TransformWith(query) => Operator::TransformWith {
                with: others(),
                sql: self.sql(query),
            },
            Op::Join { kind, on, partitions } => Operator::Join {
                kind: match kind {
                    JoinKind::Inner => dstream::JoinKind::Inner,
                    JoinKind::LeftOuter => dstream::JoinKind::LeftOuter,
                    JoinKind::RightOuter => dstream::JoinKind::RightOuter,
                    JoinKind::FullOuter => dstream::JoinKind::FullOuter,
                },
                with: self.names[1].clone(),
                on: on
                    .iter()
                    .map(|(left, right)| dstream::JoinKey {
                        left: left.clone(),
                        right: right.clone(),
                    })
                    .collect(),
                partitions: *partitions,
            },
            Op::Cogroup { keys, partitions } => Operator::Cogroup {
                with: others(),
                keys: keys.clone(),
                partitions: *partitions,
            },
            Op::Window { length, slide } => Operator::Window {
                length: seconds(*length),
                slide: slide.map(seconds),
            },
            Op::Windowed {
                length,
                slide,
                op,
                filter,
            } => windowed(seconds(*length), slide.map(seconds), op, filter.as_ref())?,
            Op::UpdateStateByKey(keyed) => Operator::UpdateStateByKey(UpdateStateByKey {
                keys: columns(&keyed.keys),
                values: functions(&keyed.values),
                state: state(keyed),
                initial: self.initial(keyed)?,
                partitions: keyed.partitions,
            }),
            Op::MapWithState { keyed, emit, timeout } => Operator::MapWithState(MapWithState {
                keys: columns(&keyed.keys),
                values: functions(&keyed.values),
                state: state(keyed),
                emit: functions(emit),
                timeout: timeout.map(seconds),
                initial: self.initial(keyed)?,
                partitions: keyed.partitions,
            }),
            Op::StateSnapshots => Operator::StateSnapshots,
            Op::Source | Op::Accumulate | Op::Glom => return Err(Unfit::new("is no step by itself")),
        })
    }
}

fn columns(names: &[String]) -> Vec<NamedFunction> {
    names.iter().map(|name| function(name, quoted(name))).collect()
}

fn state(keyed: &Keyed) -> StateFunction {
    let columns = keyed
        .state
        .iter()
        .map(|column| function(&column.name, column.expr.sql()));
    StateFunction::Columns(columns.collect())
}

fn reduced(reduction: &Reduction) -> dstream::Reduction {
    match reduction {
        Reduction::Aggregates(aggregates) => dstream::Reduction::Aggregates(functions(aggregates)),
        Reduction::Binary { columns, inverse } => dstream::Reduction::Binary {
            columns: functions(columns),
            inverse: functions(inverse),
        },
    }
}

fn sort_key(key: &SortKey) -> dstream::SortKey {
    dstream::SortKey {
        function: Function::expr(quoted(&key.column)),
        descending: key.descending,
        nulls_first: key.nulls_first,
    }
}

fn windowed(length: Duration, slide: Option<Duration>, op: &Op, predicate: Option<&Expr>) -> Result<Operator, Unfit> {
    Ok(match op {
        Op::ReduceByKey {
            keys,
            reduction,
            partitions,
        } => Operator::ReduceByKeyAndWindow {
            keys: functions(keys),
            length,
            slide,
            reduction: reduced(reduction),
            filter: predicate.map(filter),
            partitions: *partitions,
        },
        _ if predicate.is_some() => return Err(Unfit::new("only reduce_by_key_and_window filters")),
        Op::Count => Operator::CountByWindow { length, slide },
        Op::CountByValue { partitions } => Operator::CountByValueAndWindow {
            length,
            slide,
            partitions: *partitions,
        },
        Op::Reduce(reduction) => Operator::ReduceByWindow {
            length,
            slide,
            reduction: reduced(reduction),
        },
        Op::GroupByKey { keys, partitions } => Operator::GroupByKeyAndWindow {
            keys: functions(keys),
            length,
            slide,
            partitions: *partitions,
        },
        other => return Err(Unfit::new(format!("{other:?} has no windowed form"))),
    })
}
