//! Cuts a physical plan into stages at its exchanges.
//!
//! ```text
//!   AggregateExec final              stage 1: AggregateExec final
//!     RepartitionExec hash    ──►               SlotScanExec (shuffle from stage 0)
//!       AggregateExec partial        ═════════ exchange by hash ═════════
//!         SlotScanExec               stage 0: AggregateExec partial
//!                                               SlotScanExec
//! ```
//! Within a stage, partition `p` reads partition `p` of its slots, and nothing moves between partitions. The build side
//! of a join is the exception: it is one partition which every task reads, so it is a table or comes by broadcast.

use std::sync::Arc;

use datafusion::common::internal_err;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{Partitioning, PhysicalExpr};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode, SortMergeJoinExec,
};
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use tidemill_dstream::plan::SlotPartition;
use tidemill_types::SlotId;

use crate::accumulate::adds;
use crate::order::with_inputs;
use crate::placement::Placement;
use crate::session::STREAM_ROWS;
use crate::slot_scan::SlotScanExec;
use crate::state::StateExec;
use crate::template::Spread;
use crate::windowed::WindowMergeExec;
use crate::zip_union::ZipUnionExec;

/// A stage of one plan.
#[derive(Debug)]
pub(crate) struct CutStage {
    pub(crate) plan: Arc<dyn ExecutionPlan>,
    pub(crate) spread: Spread,
    pub(crate) partitions: u32,
    pub(crate) slots: Vec<CutSlot>,
    /// For each partition, the slot partitions that it reads.
    pub(crate) reads: Vec<Vec<SlotPartition>>,
}

#[derive(Debug)]
pub(crate) struct CutSlot {
    pub(crate) id: SlotId,
    pub(crate) origin: SlotOrigin,
    pub(crate) partitions: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotOrigin {
    /// A leaf by its number in the compilation.
    Leaf(SlotId),
    /// The exchange at the end of another stage of the same plan, by its position.
    Shuffle(usize),
}

/// The stages of a plan, each behind those that it reads from; the last one has the plan's rows. `is_table` tells the
/// leaves that every executor holds whole.
pub(crate) fn cut(plan: Arc<dyn ExecutionPlan>, is_table: &dyn Fn(SlotId) -> bool) -> Result<Vec<CutStage>> {
    let mut cutter = Cutter {
        stages: Vec::new(),
        is_table,
    };
    cutter.stage(plan, Spread::Keep)?;
    Ok(cutter.stages)
}

struct Cutter<'a> {
    stages: Vec<CutStage>,
    is_table: &'a dyn Fn(SlotId) -> bool,
}

impl Cutter<'_> {
    /// Finishes a stage with `plan` as its root, behind the stages below it.
    fn stage(&mut self, plan: Arc<dyn ExecutionPlan>, spread: Spread) -> Result<usize> {
        let mut slots = Vec::new();
        let plan = self.rewrite(plan, &mut slots)?;
        let partitions = partitions(&plan);
        let reads = (0..partitions)
            .map(|partition| {
                let mut reads = Vec::new();
                collect_reads(&plan, partition, &mut reads)?;
                Ok(reads)
            })
            .collect::<Result<_>>()?;
        self.stages.push(CutStage {
            plan,
            spread,
            partitions: partitions as u32,
            slots,
            reads,
        });
        Ok(self.stages.len() - 1)
    }

    /// The part of `plan` that belongs to the stage whose slots are `slots`.
    fn rewrite(&mut self, plan: Arc<dyn ExecutionPlan>, slots: &mut Vec<CutSlot>) -> Result<Arc<dyn ExecutionPlan>> {
        if let Some(scan) = plan.downcast_ref::<SlotScanExec>() {
            let id = SlotId(slots.len() as u32);
            slots.push(CutSlot {
                id,
                origin: SlotOrigin::Leaf(scan.slot()),
                partitions: scan.partitions() as u32,
            });
            return Ok(Arc::new(scan.with_slot(id)));
        }
        if let Some(repartition) = plan.downcast_ref::<RepartitionExec>() {
            return self.repartition(repartition, slots);
        }
        if let Some(coalesce) = plan.downcast_ref::<CoalescePartitionsExec>() {
            return self.gather(Arc::clone(coalesce.input()), Spread::Single, coalesce.fetch(), slots);
        }
        if let Some(merge) = plan.downcast_ref::<SortPreservingMergeExec>() {
            return self.merge(merge, slots);
        }
        let children: Vec<Arc<dyn ExecutionPlan>> = plan.children().into_iter().cloned().collect();
        check_children(&plan)?;
        let shared = shared_child(&plan);
        let tasks = partitions(&plan);
        let rewritten = children.into_iter().enumerate().map(|(i, child)| {
            if shared == Some(i) && tasks > 1 {
                self.replicate(child, slots)
            } else {
                self.rewrite(child, slots)
            }
        });
        let rewritten = rewritten.collect::<Result<Vec<_>>>()?;
        with_inputs(plan, rewritten)
    }

    fn repartition(
        &mut self,
        repartition: &RepartitionExec,
        slots: &mut Vec<CutSlot>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = Arc::clone(repartition.input());
        let ordering = repartition.properties().output_ordering().cloned();
        let spread = match repartition.partitioning() {
            Partitioning::Hash(_, 1) | Partitioning::RoundRobinBatch(1) if partitions(&input) == 1 => {
                return self.rewrite(input, slots);
            }
            Partitioning::Hash(keys, n) => Spread::Hash {
                keys: keys.clone(),
                partitions: *n as u32,
            },
            // By position only where an attempt's rows always come in one order.
            Partitioning::RoundRobinBatch(n) if keeps_order(&input) => Spread::RoundRobin { partitions: *n as u32 },
            Partitioning::RoundRobinBatch(n) => Spread::Hash {
                keys: all_columns(&input),
                partitions: *n as u32,
            },
            other => return internal_err!("an exchange by {other} cannot be cut"),
        };
        let scan = self.exchange(input, spread, slots)?;
        Ok(match ordering {
            // The operators above were planned on rows that arrive in order.
            Some(ordering) => Arc::new(SortExec::new(ordering, scan).with_preserve_partitioning(true)),
            None => scan,
        })
    }

    /// All rows in one partition, at most `fetch` of them.
    fn gather(
        &mut self,
        input: Arc<dyn ExecutionPlan>,
        spread: Spread,
        fetch: Option<usize>,
        slots: &mut Vec<CutSlot>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let limited = |plan: Arc<dyn ExecutionPlan>| -> Arc<dyn ExecutionPlan> {
            match fetch {
                Some(fetch) => Arc::new(GlobalLimitExec::new(plan, 0, Some(fetch))),
                None => plan,
            }
        };
        if partitions(&input) == 1 && matches!(spread, Spread::Single) {
            return Ok(limited(self.rewrite(input, slots)?));
        }
        let input = match fetch {
            Some(fetch) => Arc::new(LocalLimitExec::new(input, fetch)),
            None => input,
        };
        Ok(limited(self.exchange(input, spread, slots)?))
    }

    /// All rows in one partition and in order. The exchange gives one run after the other, so they are sorted again.
    fn merge(&mut self, merge: &SortPreservingMergeExec, slots: &mut Vec<CutSlot>) -> Result<Arc<dyn ExecutionPlan>> {
        let input = Arc::clone(merge.input());
        if partitions(&input) == 1 {
            return self.gather(input, Spread::Single, merge.fetch(), slots);
        }
        // Below the exchange sorting pays only for what it leaves out.
        let input = match input.downcast_ref::<SortExec>() {
            Some(sort) if sort.fetch().is_none() && merge.fetch().is_none() => Arc::clone(sort.input()),
            _ => input,
        };
        let scan = self.exchange(input, Spread::Single, slots)?;
        Ok(Arc::new(
            SortExec::new(merge.expr().clone(), scan).with_fetch(merge.fetch()),
        ))
    }

    /// A side of a join that every task of a stage reads whole.
    fn replicate(&mut self, plan: Arc<dyn ExecutionPlan>, slots: &mut Vec<CutSlot>) -> Result<Arc<dyn ExecutionPlan>> {
        if self.is_everywhere(&plan) {
            return self.rewrite(plan, slots);
        }
        match plan.downcast_ref::<CoalescePartitionsExec>() {
            Some(coalesce) => self.gather(Arc::clone(coalesce.input()), Spread::Broadcast, coalesce.fetch(), slots),
            None => self.exchange(plan, Spread::Broadcast, slots),
        }
    }

    /// Whether a task can compute the plan from what its executor has anyway.
    fn is_everywhere(&self, plan: &Arc<dyn ExecutionPlan>) -> bool {
        if let Some(scan) = plan.downcast_ref::<SlotScanExec>() {
            return (self.is_table)(scan.slot());
        }
        // It counts once, not once for each task.
        if adds(plan) {
            return false;
        }
        let children = plan.children();
        if children.is_empty() {
            return plan.is::<EmptyExec>() || plan.is::<PlaceholderRowExec>();
        }
        partitions(plan) == 1 && children.into_iter().all(|child| self.is_everywhere(child))
    }

    /// Ends a stage with `input` and reads its rows in this one.
    fn exchange(
        &mut self,
        input: Arc<dyn ExecutionPlan>,
        spread: Spread,
        slots: &mut Vec<CutSlot>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = input.schema();
        let partitions = spread.exchange().map_or(1, |exchange| exchange.partitions());
        let label = describe(&spread);
        let from = self.stage(input, spread)?;
        let id = SlotId(slots.len() as u32);
        slots.push(CutSlot {
            id,
            origin: SlotOrigin::Shuffle(from),
            partitions,
        });
        Ok(Arc::new(SlotScanExec::try_new(
            id,
            label,
            schema,
            None,
            &Placement::of(partitions as usize),
            Some(STREAM_ROWS),
        )?))
    }
}

/// What an exchange does, for people.
pub(crate) fn describe(spread: &Spread) -> String {
    match spread {
        Spread::Keep => "result".to_owned(),
        Spread::Hash { keys, .. } => {
            let keys: Vec<String> = keys
                .iter()
                .map(
                    |key| match key.downcast_ref::<datafusion::physical_expr::expressions::Column>() {
                        Some(column) => column.name().to_owned(),
                        None => key.to_string(),
                    },
                )
                .collect();
            format!("exchange by hash of {}", keys.join(", "))
        }
        Spread::RoundRobin { .. } => "exchange round robin".to_owned(),
        Spread::Single => "exchange to one partition".to_owned(),
        Spread::Broadcast => "exchange to all".to_owned(),
    }
}

/// Whether the rows of a plan come in an order that its inputs determine. What is kept from batch to batch has its own.
fn keeps_order(plan: &Arc<dyn ExecutionPlan>) -> bool {
    !plan.is::<WindowMergeExec>() && !plan.is::<StateExec>() && plan.children().into_iter().all(keeps_order)
}

fn all_columns(plan: &Arc<dyn ExecutionPlan>) -> Vec<Arc<dyn PhysicalExpr>> {
    let schema = plan.schema();
    let columns = schema.fields().iter().enumerate();
    columns
        .map(|(i, field)| Arc::new(Column::new(field.name(), i)) as Arc<dyn PhysicalExpr>)
        .collect()
}

fn partitions(plan: &Arc<dyn ExecutionPlan>) -> usize {
    plan.output_partitioning().partition_count()
}

/// The child of which every partition of the plan reads all rows.
fn shared_child(plan: &Arc<dyn ExecutionPlan>) -> Option<usize> {
    if plan.is::<StateExec>() {
        // The state before the first batch.
        return Some(1);
    }
    let collects = match plan.downcast_ref::<HashJoinExec>() {
        Some(join) => *join.partition_mode() == PartitionMode::CollectLeft,
        None => plan.is::<NestedLoopJoinExec>() || plan.is::<CrossJoinExec>(),
    };
    collects.then_some(0)
}

/// Only operators whose partitions are known to be independent of each other may have several inputs.
fn check_children(plan: &Arc<dyn ExecutionPlan>) -> Result<()> {
    let known = plan.children().len() <= 1
        || plan.is::<HashJoinExec>()
        || plan.is::<NestedLoopJoinExec>()
        || plan.is::<CrossJoinExec>()
        || plan.is::<SortMergeJoinExec>()
        || plan.is::<ZipUnionExec>()
        || plan.is::<StateExec>();
    if known {
        Ok(())
    } else {
        Err(DataFusionError::NotImplemented(format!("{} over streams", plan.name())))
    }
}

/// The slot partitions that partition `partition` of the plan reads.
fn collect_reads(plan: &Arc<dyn ExecutionPlan>, partition: usize, reads: &mut Vec<SlotPartition>) -> Result<()> {
    if let Some(scan) = plan.downcast_ref::<SlotScanExec>() {
        reads.push(SlotPartition {
            slot: scan.slot(),
            partition: partition as u32,
        });
        return Ok(());
    }
    let shared = shared_child(plan);
    let optional = plan.is::<ZipUnionExec>();
    for (i, child) in plan.children().into_iter().enumerate() {
        let available = partitions(child);
        if shared == Some(i) {
            if available != 1 {
                return internal_err!("the build side of {} has {available} partitions", plan.name());
            }
            collect_reads(child, 0, reads)?;
        } else if available == partitions(plan) || (optional && partition < available) {
            collect_reads(child, partition, reads)?;
        } else if !optional {
            return internal_err!("{} has {} partitions over {available}", plan.name(), partitions(plan));
        }
    }
    Ok(())
}
