//! Union by partition: partition `p` is partition `p` of every input that has one, one input after the other.
//!
//! DataFusion's union numbers the partitions of its inputs consecutively, and its interleave polls them in random order.
//! Here a dataset's partition must be read under its own number, where it is kept, and a task's rows must come in an
//! order that depends on nothing but the task.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, ChildrenPropertiesMode, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties, ReplaceChildrenOptions,
};
use futures::{StreamExt, stream};

use crate::batches::conform;
use crate::placement::Placement;

#[derive(Debug, Clone)]
pub(crate) struct ZipUnionExec {
    inputs: Vec<Arc<dyn ExecutionPlan>>,
    properties: Arc<PlanProperties>,
}

impl ZipUnionExec {
    /// `schema` is that of the union; the inputs have the same types.
    pub(crate) fn new(inputs: Vec<Arc<dyn ExecutionPlan>>, schema: SchemaRef) -> Self {
        let mut placements = inputs.iter().map(Placement::after);
        let first = placements.next().unwrap_or(Placement::of(1));
        // Where all inputs have a row of some key in the same partition, so has the union.
        let placement = placements.fold(first, |all, other| {
            if all == other {
                all
            } else {
                Placement::of(all.partitions().max(other.partitions()))
            }
        });
        let partitioning = placement.partitioning(&schema, None);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            partitioning,
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self {
            inputs,
            properties: Arc::new(properties),
        }
    }
}

impl DisplayAs for ZipUnionExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ZipUnionExec")
    }
}

impl ExecutionPlan for ZipUnionExec {
    fn name(&self) -> &str {
        "ZipUnionExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.inputs.iter().collect()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(children, self.schema())))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let streams: Vec<SendableRecordBatchStream> = self
            .inputs
            .iter()
            .filter(|input| partition < input.output_partitioning().partition_count())
            .map(|input| input.execute(partition, Arc::clone(&context)))
            .collect::<Result<_>>()?;
        let schema = self.schema();
        let rows = stream::iter(streams).flatten().map({
            let schema = schema.clone();
            move |batch| Ok(conform(&batch?, &schema)?)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}
