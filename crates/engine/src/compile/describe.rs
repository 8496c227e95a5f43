//! What a stage does, in a line.

use std::sync::Arc;

use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};

use crate::slot_scan::SlotScanExec;
use crate::state::StateExec;

/// The operators that matter, from the first input to the root: `source tweets → flat_map → filter → count by tag`.
pub(super) fn describe(plan: &Arc<dyn ExecutionPlan>) -> String {
    let mut parts = Vec::new();
    walk(plan, &mut parts);
    parts.dedup();
    if parts.is_empty() {
        "constant".to_owned()
    } else {
        parts.join(" → ")
    }
}

fn walk(plan: &Arc<dyn ExecutionPlan>, parts: &mut Vec<String>) {
    let children = plan.children();
    let main = match plan.downcast_ref::<StateExec>() {
        // The other one is the state before the first batch.
        Some(_) => children.first(),
        // A join is told by its probe side.
        None => children.last(),
    };
    if let Some(child) = main {
        walk(child, parts);
    }
    if let Some(scan) = plan.downcast_ref::<SlotScanExec>() {
        parts.push(scan.label().to_owned());
        return;
    }
    let name = match plan.name() {
        "FilterExec" => "filter",
        "UnnestExec" => "flat_map",
        "HashJoinExec" | "NestedLoopJoinExec" | "CrossJoinExec" | "SortMergeJoinExec" => "join",
        "ZipUnionExec" => "union",
        "AccumulateExec" => "accumulate",
        "PartitionedTopKExec" => "sort",
        name if name.starts_with("SortExec") => "sort",
        "GlobalLimitExec" | "LocalLimitExec" => "limit",
        "WindowAggExec" | "BoundedWindowAggExec" => "window function",
        "SplitCountExec" => "split and count",
        "StateExec" => "update the state",
        "AggregateExec" => {
            if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
                parts.push(describe_aggregate(aggregate));
            }
            return;
        }
        _ => return,
    };
    parts.push(name.to_owned());
}

fn describe_aggregate(aggregate: &AggregateExec) -> String {
    let verb = match aggregate.mode() {
        AggregateMode::Partial => "aggregate in part",
        AggregateMode::PartialReduce => "merge parts",
        AggregateMode::Final | AggregateMode::FinalPartitioned => "merge",
        AggregateMode::Single | AggregateMode::SinglePartitioned => "aggregate",
    };
    let keys: Vec<&str> = aggregate
        .group_expr()
        .expr()
        .iter()
        .map(|(_, name)| name.as_str())
        .collect();
    if keys.is_empty() {
        verb.to_owned()
    } else {
        format!("{verb} by {}", keys.join(", "))
    }
}
