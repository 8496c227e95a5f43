//! Operators: what a step of a stream does, with all that it is told.
//!
//! A stream has named columns. Operators *by key* are told the key columns; the other columns are the record's value.
//! `None` for a number of partitions is the job's own.

use std::time::Duration;

use crate::{Addition, Line};

/// One operator applied to the stream before it.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub operator: Operator,
    pub line: Line,
}

/// A function, by kind. Every operator that takes a function takes any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Function {
    /// A DataFusion SQL expression over the columns in scope.
    Expr(String),
    /// A Rust function that the driver's and the executors' build has registered.
    Native(NativeCall),
}

/// A registered function by its name, and what it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NativeCall {
    pub name: String,
    /// SQL expressions over the columns in scope; empty: all columns in scope, in their order.
    pub args: Vec<String>,
    /// What its handles to accumulators stand for: the name that the function has for one, and that of the job. A handle
    /// that is not here stands for the accumulator of its own name.
    pub accumulators: Vec<(String, String)>,
}

impl NativeCall {
    /// A registered function of all columns in scope.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            args: Vec::new(),
            accumulators: Vec::new(),
        }
    }

    /// The same function of these SQL expressions.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.args = args.into_iter().map(Into::into).collect();
        self
    }

    /// The same with a handle of the function bound to an accumulator of the job.
    #[must_use]
    pub fn accumulator(mut self, handle: impl Into<String>, accumulator: impl Into<String>) -> Self {
        self.accumulators.push((handle.into(), accumulator.into()));
        self
    }
}

impl From<&str> for NativeCall {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<String> for NativeCall {
    fn from(name: String) -> Self {
        Self::new(name)
    }
}

impl Function {
    pub fn expr(sql: impl Into<String>) -> Self {
        Self::Expr(sql.into())
    }

    /// A registered function of all columns in scope.
    pub fn native(name: impl Into<String>) -> Self {
        Self::Native(NativeCall::new(name))
    }
}

impl From<NativeCall> for Function {
    fn from(call: NativeCall) -> Self {
        Self::Native(call)
    }
}

impl From<&str> for Function {
    fn from(sql: &str) -> Self {
        Self::expr(sql)
    }
}

impl From<String> for Function {
    fn from(sql: String) -> Self {
        Self::Expr(sql)
    }
}

/// A function and the column that its result becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedFunction {
    pub name: String,
    pub function: Function,
    pub line: Line,
}

/// How records are made one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Named aggregates, such as `count(*)` and `max(price)`.
    Aggregates(Vec<NamedFunction>),
    /// For each value column an associative function of `a` and `b`, the column's values in two records, `a` the
    /// earlier. The one function of a stream with one value column may go without the column's name (an empty one).
    Binary {
        columns: Vec<NamedFunction>,
        /// In window forms: takes a leaving value `b` out of the reduced value `a`. Windows do not need it; it is
        /// checked and may be used.
        inverse: Vec<NamedFunction>,
    },
}

/// Where `sort_by` looks, in the order of importance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SortKey {
    pub function: Function,
    pub descending: bool,
    /// `None`: last when ascending, first when descending.
    pub nulls_first: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JoinKind {
    Inner,
    LeftOuter,
    RightOuter,
    FullOuter,
}

/// A key column by its names on both sides. The result has it once, under the name on the left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinKey {
    pub left: String,
    pub right: String,
}

impl JoinKey {
    /// A column of one name on both sides.
    pub fn same(name: impl Into<String>) -> Self {
        let name = name.into();
        Self {
            right: name.clone(),
            left: name,
        }
    }
}

/// How a key's state comes from the one before and the batch's records of the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateFunction {
    /// The columns of the state. Each is an expression over the key columns, the columns of the state as it was (null
    /// for a new key) and the `values`; a state whose columns are all null is removed.
    Columns(Vec<NamedFunction>),
    /// A registered state function.
    Native(NativeCall),
}

/// `update_state_by_key`: called for every key that has state or records in the batch. The result has a record for each
/// key with state: the key columns and those of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdateStateByKey {
    pub keys: Vec<NamedFunction>,
    /// Aggregates of the batch's records of a key, named so that `state` can use them. For a key without records a
    /// count is 0 and any other aggregate null.
    pub values: Vec<NamedFunction>,
    pub state: StateFunction,
    /// SQL over tables, or a table's name: the state before the first batch, with the columns of the key and the state.
    pub initial: Option<String>,
    pub partitions: Option<u32>,
}

/// `map_with_state`: called for keys that have records in the batch, and once for keys that time out. The result has a
/// record for each call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapWithState {
    pub keys: Vec<NamedFunction>,
    /// As in [`UpdateStateByKey`].
    pub values: Vec<NamedFunction>,
    pub state: StateFunction,
    /// The columns of the result: expressions over the key columns, the `values`, the columns of the new state, those of
    /// the old one as `old_<column>`, and `timing_out`, true in the last call for a key that timed out (its state is the
    /// last one). Empty: the key columns and those of the new state.
    pub emit: Vec<NamedFunction>,
    /// A key without records for this long is removed, in the batch in which that is so. Initial states count from the
    /// first batch.
    pub timeout: Option<Duration>,
    pub initial: Option<String>,
    pub partitions: Option<u32>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Operator {
    // === record by record ===
    /// One record to one record of the named columns.
    Map {
        columns: Vec<NamedFunction>,
    },
    /// One record to any number: columns whose expression is a list are spread over records (in step, the shorter
    /// padded with null), the others repeated. An empty or null list gives no record. At least one is a list.
    FlatMap {
        columns: Vec<NamedFunction>,
    },
    /// Keeps the records for which the predicate is true.
    Filter {
        predicate: Function,
    },
    /// `map` that keeps the key columns, and where records are.
    MapValues {
        keys: Vec<String>,
        columns: Vec<NamedFunction>,
    },
    /// `flat_map` that keeps the key columns, and where records are.
    FlatMapValues {
        keys: Vec<String>,
        columns: Vec<NamedFunction>,
    },
    /// Keeps each record with a probability, the same ones whenever a batch runs again.
    Sample {
        fraction: f64,
        seed: u64,
    },
    /// Adds to accumulators for each record, and passes the records on as they are. What is added is what is at this
    /// place: no other step moves across it.
    Accumulate {
        additions: Vec<Addition>,
    },

    // === partition by partition ===
    /// A registered function from the record batches of a partition to others.
    MapPartitions {
        function: NativeCall,
    },
    /// One record for each partition, with all its records as the list `values`.
    Glom,
    /// The records of this stream and of the named ones, which have the same columns by name and type.
    Union {
        with: Vec<String>,
    },
    /// Spreads records evenly, by position.
    Repartition {
        partitions: u32,
    },
    /// Brings records of one key into one partition.
    PartitionBy {
        keys: Vec<String>,
        partitions: Option<u32>,
    },

    // === batch by batch ===
    /// One record with the column `count`; 0 for an empty batch.
    Count,
    /// The distinct records with their numbers, in the column `count`.
    CountByValue {
        partitions: Option<u32>,
    },
    /// The distinct records.
    Distinct {
        partitions: Option<u32>,
    },
    /// Makes the whole batch one record; none for an empty batch.
    Reduce {
        reduction: Reduction,
    },
    /// Makes the records of each key one.
    ReduceByKey {
        keys: Vec<NamedFunction>,
        reduction: Reduction,
        partitions: Option<u32>,
    },
    /// Named aggregates by any grouping; without keys of the whole batch, as SQL has them.
    Aggregate {
        keys: Vec<NamedFunction>,
        aggregates: Vec<NamedFunction>,
        partitions: Option<u32>,
    },
    /// The values of each key as the list `values`, in the order of the records: the value column's, or structs of
    /// several.
    GroupByKey {
        keys: Vec<NamedFunction>,
        partitions: Option<u32>,
    },
    /// Makes the values of each key one combined record, in Spark's three steps.
    CombineByKey {
        keys: Vec<NamedFunction>,
        /// The combined columns made of a key's first record: expressions over the record's columns.
        create: Vec<NamedFunction>,
        /// The combined columns after one more record: expressions over the combined columns and, as `value_<column>`,
        /// the record's. Empty: the record is made one of its own by `create`, and the two are merged.
        merge_value: Vec<NamedFunction>,
        /// Each combined column as a function of `a` and `b`, its values in two combined records, `a` the earlier.
        merge_combiners: Vec<NamedFunction>,
        partitions: Option<u32>,
    },
    /// All records in order. Without a step between, outputs and `LIMIT` see them so.
    SortBy {
        keys: Vec<SortKey>,
        limit: Option<u64>,
    },
    /// Any SQL over the batch, called `input` or by the stream's own name, other streams and tables; or a registered
    /// function from the whole batch to another.
    Transform {
        function: Function,
    },
    /// The same with the other streams named, each of which the query has to read.
    TransformWith {
        with: Vec<String>,
        sql: String,
    },

    // === two streams ===
    /// Pairs of records with equal keys, where null equals null. The result has the keys, then the other columns of
    /// this stream, then those of the other; one that this stream has too is called `<stream>_<column>`.
    Join {
        kind: JoinKind,
        with: String,
        on: Vec<JoinKey>,
        partitions: Option<u32>,
    },
    /// For each key of any of the streams the list of its values in each, in a column named as the stream.
    Cogroup {
        with: Vec<String>,
        keys: Vec<String>,
        partitions: Option<u32>,
    },

    // === windows ===
    /// The records of the last `length`, every `slide` (`None`: as often as the stream has batches).
    Window {
        length: Duration,
        slide: Option<Duration>,
    },
    /// `window` and `count`.
    CountByWindow {
        length: Duration,
        slide: Option<Duration>,
    },
    /// `window` and `count_by_value`.
    CountByValueAndWindow {
        length: Duration,
        slide: Option<Duration>,
        partitions: Option<u32>,
    },
    /// `window` and `reduce`.
    ReduceByWindow {
        length: Duration,
        slide: Option<Duration>,
        reduction: Reduction,
    },
    /// `window`, `reduce_by_key` and `filter`.
    ReduceByKeyAndWindow {
        keys: Vec<NamedFunction>,
        length: Duration,
        slide: Option<Duration>,
        reduction: Reduction,
        filter: Option<Function>,
        partitions: Option<u32>,
    },
    /// `window` and `group_by_key`.
    GroupByKeyAndWindow {
        keys: Vec<NamedFunction>,
        length: Duration,
        slide: Option<Duration>,
        partitions: Option<u32>,
    },

    // === state ===
    UpdateStateByKey(UpdateStateByKey),
    MapWithState(MapWithState),
    /// The first step of a stream from one that ends with `map_with_state`: the keys and states of all keys, after each
    /// batch.
    StateSnapshots,
}

impl Operator {
    /// The step's name in a job file.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Map { .. } => "map",
            Self::FlatMap { .. } => "flat_map",
            Self::Filter { .. } => "filter",
            Self::MapValues { .. } => "map_values",
            Self::FlatMapValues { .. } => "flat_map_values",
            Self::Sample { .. } => "sample",
            Self::Accumulate { .. } => "accumulate",
            Self::MapPartitions { .. } => "map_partitions",
            Self::Glom => "glom",
            Self::Union { .. } => "union",
            Self::Repartition { .. } => "repartition",
            Self::PartitionBy { .. } => "partition_by",
            Self::Count => "count",
            Self::CountByValue { .. } => "count_by_value",
            Self::Distinct { .. } => "distinct",
            Self::Reduce { .. } => "reduce",
            Self::ReduceByKey { .. } => "reduce_by_key",
            Self::Aggregate { .. } => "aggregate",
            Self::GroupByKey { .. } => "group_by_key",
            Self::CombineByKey { .. } => "combine_by_key",
            Self::SortBy { .. } => "sort_by",
            Self::Transform { .. } => "transform",
            Self::TransformWith { .. } => "transform_with",
            Self::Join { kind, .. } => match kind {
                JoinKind::Inner => "join",
                JoinKind::LeftOuter => "left_outer_join",
                JoinKind::RightOuter => "right_outer_join",
                JoinKind::FullOuter => "full_outer_join",
            },
            Self::Cogroup { .. } => "cogroup",
            Self::Window { .. } => "window",
            Self::CountByWindow { .. } => "count_by_window",
            Self::CountByValueAndWindow { .. } => "count_by_value_and_window",
            Self::ReduceByWindow { .. } => "reduce_by_window",
            Self::ReduceByKeyAndWindow { .. } => "reduce_by_key_and_window",
            Self::GroupByKeyAndWindow { .. } => "group_by_key_and_window",
            Self::UpdateStateByKey(_) => "update_state_by_key",
            Self::MapWithState(_) => "map_with_state",
            Self::StateSnapshots => "state_snapshots",
        }
    }

    /// The names of all steps.
    pub const NAMES: &[&str] = &[
        "map",
        "flat_map",
        "filter",
        "map_values",
        "flat_map_values",
        "sample",
        "accumulate",
        "map_partitions",
        "glom",
        "union",
        "repartition",
        "partition_by",
        "count",
        "count_by_value",
        "distinct",
        "reduce",
        "reduce_by_key",
        "aggregate",
        "group_by_key",
        "combine_by_key",
        "sort_by",
        "transform",
        "transform_with",
        "join",
        "left_outer_join",
        "right_outer_join",
        "full_outer_join",
        "cogroup",
        "window",
        "count_by_window",
        "count_by_value_and_window",
        "reduce_by_window",
        "reduce_by_key_and_window",
        "group_by_key_and_window",
        "update_state_by_key",
        "map_with_state",
        "state_snapshots",
    ];

    /// The length and the slide of a step that is a window or begins with one.
    #[must_use]
    pub fn window(&self) -> Option<(Duration, Option<Duration>)> {
        match self {
            Self::Window { length, slide }
            | Self::CountByWindow { length, slide }
            | Self::CountByValueAndWindow { length, slide, .. }
            | Self::ReduceByWindow { length, slide, .. }
            | Self::ReduceByKeyAndWindow { length, slide, .. }
            | Self::GroupByKeyAndWindow { length, slide, .. } => Some((*length, *slide)),
            _ => None,
        }
    }

    /// The steps that this one is short for, or `None` if it stands for itself. What needs the columns of a stream to be
    /// spelled out is not short for anything.
    #[must_use]
    pub fn expand(&self) -> Option<Vec<Operator>> {
        let window = |length: &Duration, slide: &Option<Duration>| Self::Window {
            length: *length,
            slide: *slide,
        };
        match self {
            Self::CountByWindow { length, slide } => Some(vec![window(length, slide), Self::Count]),
            Self::CountByValueAndWindow {
                length,
                slide,
                partitions,
            } => Some(vec![
                window(length, slide),
                Self::CountByValue {
                    partitions: *partitions,
                },
            ]),
            Self::ReduceByWindow {
                length,
                slide,
                reduction,
            } => Some(vec![
                window(length, slide),
                Self::Reduce {
                    reduction: reduction.clone(),
                },
            ]),
            Self::ReduceByKeyAndWindow {
                keys,
                length,
                slide,
                reduction,
                filter,
                partitions,
            } => {
                let reduce = Self::ReduceByKey {
                    keys: keys.clone(),
                    reduction: reduction.clone(),
                    partitions: *partitions,
                };
                let filter = filter.clone().map(|predicate| Self::Filter { predicate });
                Some([window(length, slide), reduce].into_iter().chain(filter).collect())
            }
            Self::GroupByKeyAndWindow {
                keys,
                length,
                slide,
                partitions,
            } => Some(vec![
                window(length, slide),
                Self::GroupByKey {
                    keys: keys.clone(),
                    partitions: *partitions,
                },
            ]),
            _ => None,
        }
    }

    /// The other streams that a step names. Those that only SQL names are not known here.
    #[must_use]
    pub fn streams(&self) -> &[String] {
        match self {
            Self::Union { with } | Self::Cogroup { with, .. } | Self::TransformWith { with, .. } => with,
            Self::Join { with, .. } => std::slice::from_ref(with),
            _ => &[],
        }
    }
}
