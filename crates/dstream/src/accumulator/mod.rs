//! Accumulators: what a job counts beside its streams.
//!
//! - An [`AccumulatorDef`] says what kind of values it takes and how they are made one. An `accumulate` step, or a
//!   registered function by its handle, adds to it.
//! - A task collects an [`AccumulatorState`] for each accumulator that it adds to, its *delta*. The deltas of a batch's
//!   tasks, one for each stage and partition whatever ran how often, merge to the batch's state, and that into the
//!   total when the batch is committed.
//! - Merging is associative and commutative, also for sums of floating-point numbers, which are kept exactly. So a value
//!   depends neither on the number of partitions nor on the order in which tasks end.
//! - Null is skipped. NaN is counted by itself and is no part of the value. A sum beyond its type is no value but a
//!   problem that the [`Reading`] tells.
//!
//! Pure data: tasks fill states from arrays in the engine, the driver merges them.

mod exact;
mod hyperloglog;
mod ledger;
mod reading;
mod scalar;
mod state;
#[cfg(test)]
mod tests;

use std::fmt;

pub use exact::{ExactSum, LIMBS};
pub use hyperloglog::{HyperLogLog, REGISTERS};
pub use ledger::{Ledger, MergeFault};
pub use reading::{Bucket, Reading};
pub use scalar::Scalar;
pub use state::{AccumulatorState, DistinctSet, Held, Mismatch, NativeMerge};

use crate::{Function, Line};

/// An accumulator that a job declares.
#[derive(Clone, Debug, PartialEq)]
pub struct AccumulatorDef {
    pub name: String,
    pub kind: AccumulatorKind,
    /// The values that it takes; `None`: those that the job's first step adds.
    pub value_type: Option<ValueType>,
    /// Whether lists of a job's accumulators show it without being asked. Those without a name of their own are not.
    pub listed: bool,
    pub line: Line,
}

impl AccumulatorDef {
    pub fn new(name: impl Into<String>, kind: AccumulatorKind) -> Self {
        Self {
            name: name.into(),
            kind,
            value_type: None,
            listed: true,
            line: Line(None),
        }
    }
}

/// How values are made one.
#[derive(Clone, Debug, PartialEq)]
pub enum AccumulatorKind {
    /// Of whole numbers a whole number, of others a floating-point number.
    Sum,
    /// How many values there were.
    Count,
    Min,
    Max,
    Average,
    /// How many different values there were, exactly, up to a limit.
    Distinct {
        limit: u32,
    },
    /// About how many, in 16 KiB whatever there is.
    ApproxDistinct,
    /// How many values lie between ascending bounds. A bound belongs to the bucket below it.
    Histogram {
        bounds: Vec<f64>,
    },
    /// What the driver's and the executors' build has registered under this name.
    Native {
        name: String,
    },
}

impl AccumulatorKind {
    /// Values up to which a set is exact where nothing else is said.
    pub const DISTINCT_LIMIT: u32 = 10_000;

    /// The kind's name in a job file.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Count => "count",
            Self::Min => "min",
            Self::Max => "max",
            Self::Average => "average",
            Self::Distinct { .. } => "distinct",
            Self::ApproxDistinct => "approx_distinct",
            Self::Histogram { .. } => "histogram",
            Self::Native { .. } => "native",
        }
    }

    /// The names of all kinds but registered ones.
    pub const NAMES: &[&str] = &[
        "sum",
        "count",
        "min",
        "max",
        "average",
        "distinct",
        "approx_distinct",
        "histogram",
    ];

    /// Whether it takes values of a type. What a registered one takes, the engine knows.
    #[must_use]
    pub fn takes(&self, value_type: ValueType) -> bool {
        match self {
            Self::Sum | Self::Average | Self::Histogram { .. } => {
                matches!(value_type, ValueType::Integer | ValueType::Float)
            }
            Self::Count
            | Self::Min
            | Self::Max
            | Self::Distinct { .. }
            | Self::ApproxDistinct
            | Self::Native { .. } => true,
        }
    }

    /// Whether the type of its values makes no difference, so that steps may add different ones.
    #[must_use]
    pub fn takes_any(&self) -> bool {
        matches!(self, Self::Count)
    }
}

/// What kind of values an accumulator takes: widths and units of Arrow's types aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ValueType {
    Boolean,
    /// 64 bits, signed.
    Integer,
    /// 64 bits.
    Float,
    Text,
    Date,
    /// Nanoseconds, UTC.
    Timestamp,
}

impl ValueType {
    /// The type's name in a job file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Integer => "integer",
            Self::Float => "float",
            Self::Text => "text",
            Self::Date => "date",
            Self::Timestamp => "timestamp",
        }
    }

    pub const ALL: &[(&str, Self)] = &[
        ("boolean", Self::Boolean),
        ("integer", Self::Integer),
        ("float", Self::Float),
        ("text", Self::Text),
        ("date", Self::Date),
        ("timestamp", Self::Timestamp),
    ];
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an `accumulate` step adds to one accumulator.
#[derive(Clone, Debug, PartialEq)]
pub struct Addition {
    /// The accumulator's name.
    pub into: String,
    /// Added for each record; null is skipped.
    pub add: Function,
    /// The records for which it is; `None`: all.
    pub when: Option<Function>,
    pub line: Line,
}

impl Addition {
    pub fn new(into: impl Into<String>, add: impl Into<Function>) -> Self {
        Self {
            into: into.into(),
            add: add.into(),
            when: None,
            line: Line(None),
        }
    }
}
