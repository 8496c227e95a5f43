//! Panes: an aggregate over a window, computed from partial aggregates of its batches.
//!
//! ```text
//!   each slide:  Final ◄─ exchange ◄─ Partial ◄─ narrow steps ◄─ window of n batches
//! becomes
//!   each batch:  PartialReduce ◄─ exchange ◄─ Partial ◄─ narrow steps ◄─ the batch      = a pane, remembered
//!   each slide:  Final ◄─ the last n panes
//! ```
//! A pane has the aggregates' states by key, in the partition of the key, so that a slide costs a merge of states and
//! moves nothing. Steps move below the window only if they are functions of the record alone: a volatile one (the batch
//! time, a random number) and one of a broadcast variable that can change belong to the batch of the slide.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr_common::physical_expr::is_volatile;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::execution_plan::replace_children_if_necessary;
use datafusion::physical_plan::expressions::Column;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

use crate::broadcast::reads_changing;
use crate::slot_scan::SlotScanExec;

/// An aggregate over a window, taken apart.
pub(crate) struct PaneAggregate {
    /// The leaf that reads the window.
    pub(crate) window: Arc<dyn ExecutionPlan>,
    last: Arc<dyn ExecutionPlan>,
    exchange: Option<Arc<dyn ExecutionPlan>>,
    first: Arc<dyn ExecutionPlan>,
}

/// Finds an aggregate at the root of `plan` that stands over a window with nothing but narrow, deterministic steps
/// between. `is_window` tells which leaves are windows.
pub(crate) fn find(plan: &Arc<dyn ExecutionPlan>, is_window: &dyn Fn(&SlotScanExec) -> bool) -> Option<PaneAggregate> {
    let last = plan.downcast_ref::<AggregateExec>()?;
    let (exchange, first) = match last.mode() {
        AggregateMode::Final | AggregateMode::FinalPartitioned => match last.input() {
            input if is_gathering(input) => (Some(Arc::clone(input)), Arc::clone(input.children().first()?)),
            input => (None, Arc::clone(input)),
        },
        AggregateMode::Single | AggregateMode::SinglePartitioned => (None, Arc::clone(plan)),
        AggregateMode::Partial | AggregateMode::PartialReduce => return None,
    };
    let partial = first.downcast_ref::<AggregateExec>()?;
    let split = *last.mode() != AggregateMode::Single && *last.mode() != AggregateMode::SinglePartitioned;
    if split && *partial.mode() != AggregateMode::Partial {
        return None;
    }
    if !is_mergeable(partial) || !is_mergeable(last) {
        return None;
    }
    let window = narrow_leaf(partial.input())?;
    is_window(window.downcast_ref::<SlotScanExec>()?).then(|| PaneAggregate {
        window: Arc::clone(&window),
        last: Arc::clone(plan),
        exchange,
        first,
    })
}

impl PaneAggregate {
    /// The plan of a pane, over the plan of one batch of what the window reads.
    pub(crate) fn pane(&self, batch: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let first = self.aggregate(&self.first)?;
        let batch = projected(&self.window, batch)?;
        let input = replace(first.input(), &self.window, &batch)?;
        let partial: Arc<dyn ExecutionPlan> = Arc::new(AggregateExec::try_new(
            AggregateMode::Partial,
            first.group_expr().clone(),
            first.aggr_expr().to_vec(),
            first.filter_expr().to_vec(),
            input,
            first.input_schema(),
        )?);
        let Some(exchange) = &self.exchange else {
            return Ok(partial);
        };
        let exchanged = replace_children_if_necessary(Arc::clone(exchange), vec![partial])?;
        self.merge(AggregateMode::PartialReduce, exchanged)
    }

    /// The plan of a slide, over a scan of the panes. It has the schema of the aggregate that was found.
    pub(crate) fn slide(&self, panes: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let mode = if panes.output_partitioning().partition_count() == 1 {
            AggregateMode::Final
        } else {
            AggregateMode::FinalPartitioned
        };
        self.merge(mode, panes)
    }

    fn merge(&self, mode: AggregateMode, states: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let first = self.aggregate(&self.first)?;
        let last = self.aggregate(&self.last)?;
        Ok(Arc::new(AggregateExec::try_new(
            mode,
            first.group_expr().as_final(),
            last.aggr_expr().to_vec(),
            // Rows were filtered where they were aggregated.
            vec![None; last.aggr_expr().len()],
            states,
            last.input_schema(),
        )?))
    }

    fn aggregate<'a>(&self, plan: &'a Arc<dyn ExecutionPlan>) -> Result<&'a AggregateExec> {
        match plan.downcast_ref::<AggregateExec>() {
            Some(aggregate) => Ok(aggregate),
            None => datafusion::common::internal_err!("a pane without an aggregate"),
        }
    }
}

fn is_gathering(plan: &Arc<dyn ExecutionPlan>) -> bool {
    match plan.downcast_ref::<CoalescePartitionsExec>() {
        Some(coalesce) => coalesce.fetch().is_none(),
        None => plan.is::<RepartitionExec>(),
    }
}

/// Whether states of batches can be merged: no limit that the whole window's groups count against, no order of rows that
/// goes across batches, no grouping sets, whose ids are made with the rows.
fn is_mergeable(aggregate: &AggregateExec) -> bool {
    let groups = aggregate.group_expr();
    aggregate.limit_options().is_none()
        && (groups.is_single() || groups.is_true_no_grouping())
        && !groups.has_grouping_set()
        && aggregate.aggr_expr().iter().all(|expr| expr.order_bys().is_empty())
        && is_deterministic(aggregate)
}

fn is_deterministic(plan: &dyn ExecutionPlan) -> bool {
    let mut deterministic = true;
    let walked = plan.apply_expressions(&mut |expr: &Arc<dyn PhysicalExpr>| {
        deterministic &= !is_volatile(expr) && !reads_changing(expr);
        Ok(TreeNodeRecursion::Continue)
    });
    walked.is_ok() && deterministic
}

/// The leaf below narrow, deterministic steps.
fn narrow_leaf(plan: &Arc<dyn ExecutionPlan>) -> Option<Arc<dyn ExecutionPlan>> {
    let mut plan = plan;
    loop {
        if plan.is::<SlotScanExec>() {
            return Some(Arc::clone(plan));
        }
        let limited = plan.fetch().is_some();
        let narrow = plan.is::<ProjectionExec>() || plan.is::<FilterExec>() || plan.is::<UnnestExec>();
        if !narrow || limited || !is_deterministic(plan.as_ref()) {
            return None;
        }
        plan = plan.children().into_iter().next()?;
    }
}

/// One batch's rows with the columns that the scan of the window gives.
fn projected(window: &Arc<dyn ExecutionPlan>, batch: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let columns = window.downcast_ref::<SlotScanExec>().and_then(SlotScanExec::projection);
    let Some(columns) = columns else {
        return Ok(Arc::clone(batch));
    };
    let schema: SchemaRef = batch.schema();
    let exprs = columns.iter().map(|at| {
        let name = schema.field(*at).name().clone();
        ProjectionExpr {
            expr: Arc::new(Column::new(&name, *at)),
            alias: name,
        }
    });
    Ok(Arc::new(ProjectionExec::try_new(
        exprs.collect::<Vec<_>>(),
        Arc::clone(batch),
    )?))
}

/// `plan` with `new` in place of the node `old`.
pub(crate) fn replace(
    plan: &Arc<dyn ExecutionPlan>,
    old: &Arc<dyn ExecutionPlan>,
    new: &Arc<dyn ExecutionPlan>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let replaced = Arc::clone(plan).transform_down(|node| {
        if Arc::ptr_eq(&node, old) {
            Ok(Transformed::new(Arc::clone(new), true, TreeNodeRecursion::Jump))
        } else {
            Ok(Transformed::no(node))
        }
    })?;
    Ok(replaced.data)
}
