//! From a job graph to stage templates.
//!
//! ```text
//!   JobGraph ─streams─► nodes (logical plans over leaves)
//!            ─planner─► which nodes are datasets, inlined, or remembered as panes
//!                       ─DataFusion─► one physical plan for each of them ─cut─► stages
//! ```
//! A graph is compiled once, at submission. Nothing of a batch is in the result: neither its time nor its data.

mod accumulators;
mod describe;
mod determinism;
mod diagnose;
mod explain;
mod expressions;
mod leaf;
mod native;
mod planner;
mod readers;
mod sql;
mod stages;
mod steps;
mod streams;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use datafusion::execution::registry::FunctionRegistry;
use tidemill_dstream::plan::JobPlan;
use tidemill_dstream::{Diagnostic, Diagnostics, JobGraph, Operator};
use tidemill_types::{DatasetId, StageId};

pub(crate) use accumulators::JobAccumulators;
pub(crate) use diagnose::Place;
pub use explain::explain;
pub(crate) use expressions::check_size_within;
pub(crate) use sql::is_query;

use crate::TableData;
use crate::broadcast::Declared;
use crate::functions::broadcast_functions;
use crate::registry::Registry;
use crate::rules;
use crate::session::planning_state;

/// What the driver decides about a job beside its graph.
#[derive(Clone, Debug)]
pub struct CompileOptions {
    /// Partitions of every source and every exchange by key.
    pub partitions: u32,
    /// The functions that a job may name.
    pub registry: Registry,
}

/// A job, ready to be installed on executors.
#[derive(Clone, Debug)]
pub struct CompiledJob {
    pub plan: JobPlan,
    /// One for each of `plan.stages`, in the same order.
    pub templates: Vec<Bytes>,
    /// The columns of each stream, in definition order.
    pub stream_schemas: Vec<(String, SchemaRef)>,
    /// The key and state columns of each stage that keeps state.
    pub state_schemas: Vec<(StageId, SchemaRef)>,
    /// The streams that are remembered, and the datasets that they are.
    pub remembered: Vec<(String, DatasetId)>,
    pub warnings: Vec<String>,
    /// The functions that it was compiled with.
    pub registry: Registry,
}

/// Type-checks a job and makes its plan. The rows of its broadcast variables are among the tables, by their names.
/// Faults of independent streams and outputs are all found at once.
///
/// This takes milliseconds to tens of them, on a thread of its own: expressions are trees that planning walks
/// recursively, so it has a stack for the deepest that are let through, and a panic in there is this job's fault alone.
pub async fn compile(
    graph: &JobGraph,
    tables: &[TableData],
    options: &CompileOptions,
) -> Result<CompiledJob, Diagnostics> {
    let (graph, tables, options) = (graph.clone(), tables.to_vec(), options.clone());
    let (send, receive) = tokio::sync::oneshot::channel();
    let planning = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let compiled = match runtime {
            Ok(runtime) => runtime.block_on(compile_here(&graph, &tables, &options)),
            Err(error) => Err(internal(&error)),
        };
        // Nobody waits any more if the submission was given up.
        let _ = send.send(compiled);
    };
    std::thread::Builder::new()
        .name("compile".to_owned())
        .stack_size(PLANNING_STACK)
        .spawn(planning)
        .map_err(|error| internal(&error))?;
    receive.await.unwrap_or_else(|_| Err(internal(&"planning panicked")))
}

/// A level of an expression takes up to 10 KiB of it in a debug build.
const PLANNING_STACK: usize = 16 << 20;

async fn compile_here(
    graph: &JobGraph,
    tables: &[TableData],
    options: &CompileOptions,
) -> Result<CompiledJob, Diagnostics> {
    let partitions = options.partitions.max(1);
    let (accumulators, faults) = JobAccumulators::of_job(graph, &options.registry);
    if !faults.is_empty() {
        return Err(Diagnostics(faults));
    }
    let accumulators = Arc::new(accumulators);
    let rules = rules::physical_rules();
    let mut state = planning_state(partitions as usize, rules, &options.registry, Arc::clone(&accumulators))
        .map_err(|error| internal(&crate::error::message(&error)))?;
    for function in broadcast_functions(&Arc::new(Declared::of(graph, tables))) {
        // That of no job, which it replaces, is of no use here.
        let _ = state.register_udf(function);
    }
    let streams = streams::elaborate(graph, tables, &state).await.map_err(Diagnostics)?;
    let stream_schemas = streams.schemas.clone();
    let mut warnings: Vec<String> = streams.unused.iter().map(|name| unused(graph, name)).collect();
    let (accumulators, idle) = accumulators.plans();
    warnings.extend(idle.iter().map(|name| format!("nothing adds to accumulator `{name}`")));
    let mut planned = planner::plan(graph, tables, &state, streams.nodes, partitions)
        .await
        .map_err(Diagnostics::from)?;
    planned.plan.accumulators = accumulators;
    Ok(CompiledJob {
        plan: planned.plan,
        templates: planned.templates,
        stream_schemas,
        state_schemas: planned.state_schemas,
        remembered: planned.remembered,
        warnings,
        registry: options.registry.clone(),
    })
}

/// What is said of a stream that is not computed.
fn unused(graph: &JobGraph, name: &str) -> String {
    let steps = graph.stream(name).into_iter().flat_map(|stream| &stream.steps);
    let accumulates = steps.filter(|step| matches!(step.operator, Operator::Accumulate { .. }));
    match accumulates.count() {
        0 => format!("stream `{name}` is not used by any output"),
        _ => format!("stream `{name}` is not used by any output, so it adds nothing to accumulators"),
    }
}

fn internal(cause: &dyn std::fmt::Display) -> Diagnostics {
    Diagnostic::new(None, "", format!("internal error: {cause}")).into()
}
