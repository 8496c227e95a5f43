//! Whether a plan gives the same rows for the same inputs, whenever it runs.
//!
//! DataFusion's volatile functions do here: their values are of the task. Only registered functions may not.

use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::Volatility;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;

use crate::registry::{NativeBatchesExec, NativeScalar};
use crate::template::Spread;

/// Whether a stage's task does.
pub(super) fn is_deterministic(plan: &Arc<dyn ExecutionPlan>, spread: &Spread) -> bool {
    let mut same = match spread {
        Spread::Hash { keys, .. } => keys.iter().all(gives_the_same),
        Spread::Keep | Spread::RoundRobin { .. } | Spread::Single | Spread::Broadcast => true,
    };
    // The closures never fail.
    let _ = plan.apply(|node| {
        let batches = node.downcast_ref::<NativeBatchesExec>();
        same &= batches.is_none_or(|native| native.function().is_deterministic());
        same &= node.downcast_ref().is_none_or(aggregates_alike);
        node.apply_expressions(&mut |expr: &Arc<dyn PhysicalExpr>| {
            same &= gives_the_same(expr);
            Ok(TreeNodeRecursion::Continue)
        })
    });
    same
}

/// Whether the functions of an aggregate give the same for the same records.
pub(super) fn aggregates_alike(aggregate: &AggregateExec) -> bool {
    let mut functions = aggregate.aggr_expr().iter().map(|expr| expr.fun());
    functions.all(|function| function.signature().volatility != Volatility::Volatile)
}

fn gives_the_same(expr: &Arc<dyn PhysicalExpr>) -> bool {
    let mut same = true;
    let walked: Result<_> = expr.apply(|expr| {
        if let Some(call) = expr.downcast_ref::<ScalarFunctionExpr>() {
            same &= NativeScalar::of(call.fun()).is_none_or(NativeScalar::is_deterministic);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    walked.is_ok() && same
}
