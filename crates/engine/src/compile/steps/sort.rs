//! Records in order.

use datafusion::error::Result;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use tidemill_dstream::{Line, SortKey};

use super::{Faults, StepBuilder};
use crate::compile::expressions::Scope;
use crate::compile::sql::draw_before_sorting;

impl StepBuilder<'_> {
    pub(in crate::compile) fn sort_by(
        &self,
        input: LogicalPlan,
        keys: &[SortKey],
        limit: Option<u64>,
    ) -> Result<LogicalPlan, Faults> {
        let scope = Scope::after(&input, self.state);
        let (mut sorts, mut faults) = (Vec::new(), Vec::new());
        for (i, key) in keys.iter().enumerate() {
            match scope.scalar(&key.function, &self.place.child(&format!("keys[{i}]"), Line(None))) {
                Ok(typed) => {
                    let nulls_first = key.nulls_first.unwrap_or(key.descending);
                    sorts.push(typed.expr.sort(!key.descending, nulls_first));
                }
                Err(fault) => faults.push(fault),
            }
        }
        if keys.is_empty() {
            faults.push(self.place.diagnostic("nothing to sort by"));
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let limit = limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        self.finish(LogicalPlanBuilder::from(input).sort_with_limit(sorts, limit))
            .and_then(|plan| {
                draw_before_sorting(plan)
                    .map(|drawn| drawn.data)
                    .map_err(|e| vec![self.place.explain(&e, self.state)])
            })
    }
}
