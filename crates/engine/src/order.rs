//! Keeps rows in the order that operators were planned on.
//!
//! DataFusion leaves a sort out where the rows are in order already: below a union that merges sorted inputs, or where
//! a column is known to have one value. A plan that is cut into stages, with our own operators in it, no longer knows
//! that, so what an operator relied on is made sure of again.

use std::sync::Arc;

use datafusion::error::Result;
use datafusion::physical_expr_common::sort_expr::{LexOrdering, OrderingRequirements};
use datafusion::physical_plan::execution_plan::replace_children_if_necessary;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

/// The operator over other inputs, which have the rows of its own in the same partitions.
pub(crate) fn with_inputs(
    plan: Arc<dyn ExecutionPlan>,
    inputs: Vec<Arc<dyn ExecutionPlan>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let planned = plan.children().into_iter().zip(plan.required_input_ordering());
    let ordered = planned.zip(inputs).map(|((planned, required), input)| match required {
        Some(required) => in_order(planned, required, input),
        None => Ok(input),
    });
    let ordered = ordered.collect::<Result<_>>()?;
    replace_children_if_necessary(plan, ordered)
}

/// `input`, sorted if `planned` met a requirement that it does not meet.
fn in_order(
    planned: &Arc<dyn ExecutionPlan>,
    required: OrderingRequirements,
    input: Arc<dyn ExecutionPlan>,
) -> Result<Arc<dyn ExecutionPlan>> {
    for alternative in required.into_alternatives().0 {
        let met_by = |plan: &Arc<dyn ExecutionPlan>| {
            let properties = plan.equivalence_properties();
            properties.ordering_satisfy_requirement(alternative.clone())
        };
        if !met_by(planned)? {
            continue;
        }
        if met_by(&input)? {
            return Ok(input);
        }
        let ordering = LexOrdering::from(alternative);
        return Ok(Arc::new(
            SortExec::new(ordering, input).with_preserve_partitioning(true),
        ));
    }
    Ok(input)
}
