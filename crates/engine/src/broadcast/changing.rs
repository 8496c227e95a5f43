//! Whether an expression reads a broadcast variable that a later batch may have another value of.

use std::any::Any;
use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};

use crate::functions::BroadcastFunction;

/// Whether it does, so that what it gives is of its batch alone.
pub(crate) fn reads_changing(expr: &Arc<dyn PhysicalExpr>) -> bool {
    let mut changing = false;
    let walked: Result<_> = expr.apply(|expr| {
        if let Some(call) = expr.downcast_ref::<ScalarFunctionExpr>() {
            let function: &dyn Any = call.fun().inner().as_ref();
            let broadcast = function.downcast_ref::<BroadcastFunction>();
            changing |= broadcast.is_some_and(|function| function.changes(call.args()));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    walked.is_err() || changing
}
