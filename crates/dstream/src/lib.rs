//! The job graph: what a user submits, described by data.
//!
//! - [`JobGraph`] is a graph of named streams (source or parent, then steps) with outputs, tables and broadcast
//!   variables. The YAML job file, the Rust builder and the wire format are translations of it.
//! - [`validate`](JobGraph::validate) finds everything that can be found without knowing schemas: names, cycles,
//!   windows, missing outputs. Types are checked by the engine, which knows DataFusion.
//! - [`plan`] is what a compiled job looks like to the scheduler: stages, slots, exchanges and outputs, without the
//!   plan bytes.
//!
//! Pure data and pure functions: no clock, no I/O, no locks.

pub mod accumulator;
mod broadcast;
mod diagnostic;
mod graph;
mod input;
mod operator;
pub mod plan;
mod pressure;
mod template;
mod validate;

pub use accumulator::{AccumulatorDef, AccumulatorKind, Addition, ValueType};
pub use broadcast::{BroadcastDef, BroadcastFormat, BroadcastSource, Literal, LiteralType, Shape, literal_type};
pub use diagnostic::{Diagnostic, Diagnostics, nearest};
pub use graph::{
    Compression, FailurePolicy, FileFormat, ForeachUnit, GenerateSource, JobGraph, JobOptions, Line, OutputDef,
    OutputKind, QueueItem, SaveOutput, SocketTextSource, Source, StreamDef, StreamInput, TableDef, TableFormat,
    TextFileSource, TextFilesSource,
};
pub use input::{FilePart, FileRange, InputItem};
pub use operator::{
    Function, JoinKey, JoinKind, MapWithState, NamedFunction, NativeCall, Operator, Reduction, SortKey, StateFunction,
    Step, UpdateStateByKey,
};
pub use pressure::BackPressure;
pub use template::{Piece, Template};
pub use validate::{Consumer, consumers};
