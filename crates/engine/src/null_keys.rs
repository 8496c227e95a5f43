//! Joins in which null keys are equal keep to their own keys.
//!
//! DataFusion 55.2 makes an equality in a join's filter one of its keys, whatever the join says of null keys. Where they
//! are equal, `a.x = b.x` would hold for two nulls then. Such an equality stays in the filter.

use std::sync::Arc;

use datafusion::common::NullEquality;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

/// The rule that makes keys of equalities, for joins in which null equals nothing.
#[derive(Debug)]
pub(crate) struct OwnKeys(pub(crate) Arc<dyn OptimizerRule + Send + Sync>);

impl OptimizerRule for OwnKeys {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        match &plan {
            LogicalPlan::Join(join) if join.null_equality == NullEquality::NullEqualsNull => Ok(Transformed::no(plan)),
            _ => self.0.rewrite(plan, config),
        }
    }
}
