//! The `accumulate` step in a plan.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::internal_err;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_plan::execution_plan::ChildrenPropertiesMode;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions};
use futures::{Stream, StreamExt};
use parking_lot::Mutex;

use super::{Deltas, Target};
use crate::functions::TaskScope;
use crate::registry::{NativeBatchesExec, NativeScalar};

/// What is added to one accumulator: an expression over the records, whose nulls are skipped.
#[derive(Clone, Debug)]
pub(crate) struct Added {
    pub(crate) target: Arc<Target>,
    pub(crate) value: Arc<dyn PhysicalExpr>,
}

/// Adds for each record, and passes the records on as they are.
#[derive(Debug)]
pub(crate) struct AccumulateExec {
    /// The step's number within the job.
    operator: u32,
    added: Arc<[Added]>,
    input: Arc<dyn ExecutionPlan>,
}

impl AccumulateExec {
    pub(crate) fn new(operator: u32, added: Arc<[Added]>, input: Arc<dyn ExecutionPlan>) -> Self {
        Self { operator, added, input }
    }

    pub(crate) fn operator(&self) -> u32 {
        self.operator
    }

    pub(crate) fn added(&self) -> &Arc<[Added]> {
        &self.added
    }
}

/// Whether an operator adds to accumulators, so that it must not run more often than once for each partition.
pub(crate) fn adds(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let native = plan.downcast_ref::<NativeBatchesExec>();
    let mut adds = plan.is::<AccumulateExec>() || native.is_some_and(|n| !n.function().accumulators().is_empty());
    // The closures never fail.
    let _ = plan.apply_expressions(&mut |expr: &Arc<dyn PhysicalExpr>| {
        expr.apply(|expr| {
            let call = expr.downcast_ref::<ScalarFunctionExpr>();
            let native = call.and_then(|call| NativeScalar::of(call.fun()));
            adds |= native.is_some_and(|native| !native.accumulators().is_empty());
            Ok(TreeNodeRecursion::Continue)
        })
    });
    adds
}

/// The numbers of the steps in a plan, once for each place where one stands.
pub(crate) fn operators_of(plan: &Arc<dyn ExecutionPlan>) -> Vec<u32> {
    let mut operators = Vec::new();
    // The closure never fails.
    let _ = plan.apply(|node| {
        operators.extend(node.downcast_ref().map(AccumulateExec::operator));
        Ok(TreeNodeRecursion::Continue)
    });
    operators
}

impl DisplayAs for AccumulateExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccumulateExec: ")?;
        for (i, added) in self.added.iter().enumerate() {
            f.write_str(if i > 0 { ", " } else { "" })?;
            write!(f, "{:?} += {}", added.target, added.value)?;
        }
        Ok(())
    }
}

impl ExecutionPlan for AccumulateExec {
    fn name(&self) -> &str {
        "AccumulateExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        for added in self.added.iter() {
            visit(&added.value)?;
        }
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match children.into_iter().next() {
            Some(input) => Ok(Arc::new(Self::new(self.operator, Arc::clone(&self.added), input))),
            None => internal_err!("an AccumulateExec without an input"),
        }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let counted = Counted {
            input: self.input.execute(partition, context)?,
            added: Arc::clone(&self.added),
            deltas: TaskScope::current("accumulate", TaskScope::deltas)?,
        };
        let shared = Shared(Arc::new(Mutex::new(Some(counted))));
        TaskScope::current("accumulate", |task| task.watched().add(shared.clone()))?;
        Ok(Box::pin(Passed {
            schema: self.schema(),
            shared,
        }))
    }
}

/// An input whose records are added as they come.
struct Counted {
    input: SendableRecordBatchStream,
    added: Arc<[Added]>,
    deltas: Arc<Deltas>,
}

impl Counted {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<RecordBatch>>> {
        let polled = self.input.poll_next_unpin(cx);
        polled.map(|next| {
            let counted = next?.and_then(|batch| {
                for Added { target, value } in self.added.iter() {
                    let values = value.evaluate(&batch)?.into_array(batch.num_rows())?;
                    self.deltas.add(target, &values)?;
                }
                Ok(batch)
            });
            Some(counted)
        })
    }
}

/// The input, held by whoever reads it and by the task, which takes the rest of it when its reader wants no more.
#[derive(Clone)]
struct Shared(Arc<Mutex<Option<Counted>>>);

/// The inputs whose end a task has to see. Only the task itself holds it: an input may hold what functions have taken of the
/// task, and must go when the task does.
#[derive(Default)]
pub(crate) struct Watched(Mutex<Vec<Shared>>);

impl Watched {
    fn add(&self, input: Shared) {
        self.0.lock().push(input);
    }

    /// Takes what is left of all inputs.
    pub(crate) fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        loop {
            let Some(input) = self.0.lock().last().cloned() else {
                return Poll::Ready(Ok(()));
            };
            loop {
                match input.poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                    Poll::Ready(None) => break,
                }
            }
            self.0.lock().pop();
        }
    }
}

impl Shared {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<RecordBatch>>> {
        let mut counted = self.0.lock();
        let Some(open) = counted.as_mut() else {
            return Poll::Ready(None);
        };
        let polled = open.poll(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            *counted = None;
        }
        polled
    }
}

struct Passed {
    schema: SchemaRef,
    shared: Shared,
}

impl Stream for Passed {
    type Item = Result<RecordBatch>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.shared.poll(cx)
    }
}

impl RecordBatchStream for Passed {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}
