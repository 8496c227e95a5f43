//! What DataFusion's physical planning is told about running a plan as stages on several machines.

use std::sync::Arc;

use datafusion::common::JoinType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result;
use datafusion::physical_expr::{Partitioning, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_optimizer::output_requirements::OutputRequirementExec;
use datafusion::physical_plan::execution_plan::replace_children_if_necessary;
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, PartitionMode};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::union::{InterleaveExec, UnionExec};
use datafusion::physical_plan::{Distribution, ExecutionPlan, ExecutionPlanProperties};

use crate::order::with_inputs;
use crate::sealed::SealedExec;
use crate::state::StateExec;
use crate::zip_union::ZipUnionExec;

/// DataFusion's rules, with [`DistributedJoins`] where joins have been chosen and rows have not been distributed yet.
pub(crate) fn physical_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules = Vec::new();
    for rule in PhysicalOptimizer::new().rules {
        // Tasks run on threads of their own, where nothing waits for them to yield.
        if rule.name() == "EnsureCooperative" {
            continue;
        }
        let chosen = rule.name() == "join_selection";
        rules.push(rule);
        if chosen {
            rules.push(Arc::new(DistributedJoins) as _);
        }
    }
    rules
}

/// A join whose build side is given whole to every task must not report on build rows: no task knows whether a build row
/// that found no match with it found one elsewhere. (Within one process DataFusion's partitions share that knowledge.)
#[derive(Debug)]
struct DistributedJoins;

impl PhysicalOptimizerRule for DistributedJoins {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        // What is planned for one partition may still read several, and is joined before they are brought together.
        let in_one = |plan: &Arc<dyn ExecutionPlan>| {
            config.execution.target_partitions == 1 && plan.output_partitioning().partition_count() == 1
        };
        plan.transform_up(|node| match node.children().as_slice() {
            [_, probe] if in_one(probe) => Ok(Transformed::no(node)),
            _ => distribute(node),
        })
        .data()
    }

    fn name(&self) -> &str {
        "DistributedJoins"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn distribute(plan: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    if let Some(join) = plan.downcast_ref::<HashJoinExec>()
        && *join.partition_mode() == PartitionMode::CollectLeft
        && reports_build_rows(*join.join_type())
    {
        let distributed = if join.null_aware {
            // NOT IN has to see every row of the other side before it can answer for one.
            let right = in_one_partition(Arc::clone(join.right()));
            replace_children_if_necessary(Arc::clone(&plan), vec![Arc::clone(join.left()), right])?
        } else {
            join.builder()
                .with_partition_mode(PartitionMode::Partitioned)
                .build_exec()?
        };
        return Ok(Transformed::yes(distributed));
    }
    if let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>()
        && reports_build_rows(*join.join_type())
    {
        let right = in_one_partition(Arc::clone(join.right()));
        let distributed = replace_children_if_necessary(Arc::clone(&plan), vec![Arc::clone(join.left()), right])?;
        return Ok(Transformed::yes(distributed));
    }
    Ok(Transformed::no(plan))
}

fn reports_build_rows(join: JoinType) -> bool {
    match join {
        JoinType::Left | JoinType::Full | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => true,
        JoinType::Inner | JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => false,
    }
}

/// A requirement that later rules meet, and then remove.
fn in_one_partition(plan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    Arc::new(OutputRequirementExec::new(
        plan,
        None,
        Distribution::SinglePartition,
        None,
    ))
}

/// State by key has every key where its pinned hash says, for ever, whatever brought the rows there today.
fn by_pinned_hash(state: &StateExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let children: Vec<Arc<dyn ExecutionPlan>> = state.children().into_iter().cloned().collect();
    let Some((input, initial)) = children.split_first() else {
        return Ok(None);
    };
    let partitions = input.output_partitioning().partition_count();
    if partitions == 1 || is_exchanged_by(input, &state.keys()) {
        return Ok(None);
    }
    let exchange = RepartitionExec::try_new(Arc::clone(input), Partitioning::Hash(state.keys(), partitions))?;
    let spec = Arc::clone(state.spec());
    Ok(Some(Arc::new(StateExec::new(
        spec,
        Arc::new(exchange),
        initial.first().cloned(),
    ))))
}

/// Whether an exchange by just these keys brought the rows where they are; all exchanges hash alike.
fn is_exchanged_by(plan: &Arc<dyn ExecutionPlan>, keys: &[Arc<dyn PhysicalExpr>]) -> bool {
    matches!(plan.output_partitioning(), Partitioning::Hash(by, _) if by.as_slice() == keys)
}

/// The planned query with sealed plans opened, and our own operators in place of those that rely on all partitions being
/// in one process.
pub(crate) fn prepare(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    if let Some(sealed) = plan.downcast_ref::<SealedExec>() {
        return Ok(Arc::clone(sealed.plan()));
    }
    let inputs = plan.children().into_iter().map(|input| prepare(Arc::clone(input)));
    let inputs = inputs.collect::<Result<Vec<_>>>()?;
    if plan.is::<UnionExec>() || plan.is::<InterleaveExec>() {
        return Ok(Arc::new(ZipUnionExec::new(inputs, plan.schema())));
    }
    let plan = with_inputs(plan, inputs)?;
    let placed = plan.downcast_ref::<StateExec>().map(by_pinned_hash).transpose()?;
    Ok(placed.flatten().unwrap_or(plan))
}
