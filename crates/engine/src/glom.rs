//! All records of a partition as one list.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, ListArray, RecordBatch, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::internal_err;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, ChildrenPropertiesMode, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties, ReplaceChildrenOptions,
};
use futures::stream;

use crate::workspace::gather;

/// The column of lists.
const VALUES: &str = "values";

/// One record for each partition: its records as a list, in their order; also an empty one. A record is the value of
/// the only column, or a struct of several.
#[derive(Debug)]
pub(crate) struct GlomExec {
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl GlomExec {
    pub(crate) fn new(input: Arc<dyn ExecutionPlan>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(glommed(&input.schema())),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self {
            input,
            properties: Arc::new(properties),
        }
    }
}

/// The columns that records of these columns become.
pub(crate) fn glommed(schema: &SchemaRef) -> SchemaRef {
    let list = DataType::List(item(schema));
    Arc::new(Schema::new(vec![Field::new(VALUES, list, false)]))
}

fn item(schema: &SchemaRef) -> FieldRef {
    let item = match schema.fields().as_ref() {
        [only] => only.data_type().clone(),
        several => DataType::Struct(several.iter().cloned().collect()),
    };
    Arc::new(Field::new_list_field(item, true))
}

fn glom(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<RecordBatch> {
    let records = concat_batches(schema, batches)?;
    let lengths = OffsetBuffer::from_lengths([records.num_rows()]);
    let values: ArrayRef = match records.columns() {
        [only] => Arc::clone(only),
        _ => Arc::new(StructArray::from(records)),
    };
    let list = ListArray::try_new(item(schema), lengths, values, None)?;
    Ok(RecordBatch::try_new(glommed(schema), vec![Arc::new(list)])?)
}

impl DisplayAs for GlomExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GlomExec")
    }
}

impl ExecutionPlan for GlomExec {
    fn name(&self) -> &str {
        "GlomExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
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
        match children.into_iter().next() {
            Some(input) => Ok(Arc::new(Self::new(input))),
            None => internal_err!("a GlomExec without an input"),
        }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let work = MemoryConsumer::new("glom").register(context.memory_pool());
        let records = self.input.execute(partition, context)?;
        let schema = self.input.schema();
        let list = stream::once(async move {
            let batches = gather(records, &work, 2).await?;
            glom(&schema, &batches)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), list)))
    }
}
