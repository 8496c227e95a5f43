//! DataFusion's settings, the same for planning on the driver and running on executors.

use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::execution::context::{QueryPlanner, SessionContext};
use datafusion::execution::registry::FunctionRegistry;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};
use datafusion::prelude::SessionConfig;

use crate::compile::JobAccumulators;
use crate::functions::task_functions;
use crate::projections::logical_rules;
use crate::registry::Registry;
use crate::state::StatePlanner;

/// Rows that operators work on at a time.
const BATCH_SIZE: usize = 8192;

/// Rows up to which the build side of a join is given whole to every task: all tables, which every executor holds
/// anyway, and what is known to be small, but never a stream.
const COLLECT_ROWS: usize = 1_000_000_000;

/// What the planner takes the rows of a stream's batch to be: more than any table has.
pub(crate) const STREAM_ROWS: usize = 1_000_000_000_000;

/// Settings under which plans are made and run, for stages of `partitions` partitions.
pub(crate) fn config(partitions: usize) -> Result<SessionConfig> {
    let mut options = ConfigOptions::new();
    for (key, value) in [
        // A dynamic filter is state that outlives a batch, and it would have to cross stages.
        ("datafusion.optimizer.enable_dynamic_filter_pushdown", "false"),
        // Rows move between partitions only where their keys or a single result ask for it.
        ("datafusion.optimizer.enable_round_robin_repartition", "false"),
        ("datafusion.optimizer.repartition_joins", "true"),
        ("datafusion.optimizer.repartition_aggregations", "true"),
        ("datafusion.optimizer.prefer_hash_join", "true"),
        // A physical scalar subquery shares its result between stages, which a cut plan cannot do.
        (
            "datafusion.optimizer.enable_physical_uncorrelated_scalar_subquery",
            "false",
        ),
        ("datafusion.execution.collect_statistics", "false"),
        ("datafusion.execution.enable_recursive_ctes", "false"),
        ("datafusion.execution.spill_compression", "lz4_frame"),
    ] {
        options.set(key, value)?;
    }
    // Panes are remembered, so they are always grouped, however many keys there are.
    options.execution.skip_partial_aggregation_probe_rows_threshold = usize::MAX;
    options.optimizer.hash_join_single_partition_threshold = usize::MAX;
    options.optimizer.hash_join_single_partition_threshold_rows = COLLECT_ROWS;
    Ok(SessionConfig::from(options)
        .with_target_partitions(partitions)
        .with_batch_size(BATCH_SIZE)
        .with_information_schema(false)
        .with_create_default_catalog_and_schema(true))
}

/// A session that plans streams: DataFusion's functions with ours over them and the registered ones, and the given
/// physical rules.
pub(crate) fn planning_state(
    partitions: usize,
    rules: Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>>,
    registry: &Registry,
    accumulators: Arc<JobAccumulators>,
) -> Result<SessionState> {
    let config = config(partitions)?
        .with_extension(Arc::new(registry.clone()))
        .with_extension(accumulators);
    let state = SessionStateBuilder::new()
        .with_config(config)
        .with_default_features()
        .with_optimizer_rules(logical_rules())
        .with_physical_optimizer_rules(rules)
        .with_query_planner(Arc::new(StreamPlanner))
        .build();
    Ok(with_functions(state, registry))
}

/// DataFusion's planner, which also plans our own operators.
#[derive(Debug)]
struct StreamPlanner;

#[async_trait]
impl QueryPlanner for StreamPlanner {
    async fn create_physical_plan(&self, plan: &LogicalPlan, session: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(StatePlanner)])
            .create_physical_plan(plan, session)
            .await
    }
}

/// The session with our own functions and the registered ones.
fn with_functions(mut state: SessionState, registry: &Registry) -> SessionState {
    for function in task_functions().iter().chain(registry.scalars()) {
        // The function of the same name that it replaces is of no use here.
        let _ = state.register_udf(Arc::clone(function));
    }
    for function in registry.aggregates() {
        let _ = state.register_udaf(Arc::clone(function));
    }
    state
}

/// The context in which templates are decoded: it knows every function by name.
pub(crate) fn decoding_context(registry: &Registry) -> Arc<TaskContext> {
    let state = SessionStateBuilder::new_with_default_features()
        .with_runtime_env(runtime())
        .build();
    SessionContext::new_with_state(with_functions(state, registry)).task_ctx()
}

/// Whether a name is that of a function of every session.
pub(crate) fn is_function(name: &str) -> bool {
    let context = Registry::default().context();
    context.scalar_functions().contains_key(name)
        || context.aggregate_functions().contains_key(name)
        || context.window_functions().contains_key(name)
}

/// The memory pool and the disk manager of this process's tasks.
pub(crate) fn runtime() -> Arc<RuntimeEnv> {
    static RUNTIME: LazyLock<Arc<RuntimeEnv>> = LazyLock::new(|| Arc::new(RuntimeEnv::default()));
    Arc::clone(&RUNTIME)
}
