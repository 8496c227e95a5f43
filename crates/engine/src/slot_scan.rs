//! The leaf of every stage: reads one slot from the inputs that the task was bound to.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Statistics, internal_err};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::coop::cooperative;
use datafusion::physical_plan::execution_plan::{Boundedness, ChildrenPropertiesMode, EmissionType};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions};
use futures::stream;
use tidemill_types::{FailureKind, SlotId, TaskFailure};

use crate::batches::conform;
use crate::binding::{Inputs, Rows, SlotInput};
use crate::placement::Placement;

/// Reads partition `p` of a slot as partition `p` of the plan.
///
/// While a job is compiled, `slot` is the number of the leaf in the compilation; cutting gives it its number within the
/// stage.
#[derive(Debug, Clone)]
pub(crate) struct SlotScanExec {
    slot: SlotId,
    /// For people: `tweets`, `table stopwords`.
    label: String,
    /// Of the slot's batches, before `projection`.
    schema: SchemaRef,
    projection: Option<Vec<usize>>,
    /// An estimate that makes the planner build hash tables of tables rather than of streams. Never exact: the same plan
    /// serves every batch.
    rows: Option<usize>,
    properties: Arc<PlanProperties>,
}

impl SlotScanExec {
    pub(crate) fn try_new(
        slot: SlotId,
        label: impl Into<String>,
        schema: SchemaRef,
        projection: Option<Vec<usize>>,
        placement: &Placement,
        rows: Option<usize>,
    ) -> Result<Self> {
        let projected = match &projection {
            Some(columns) => Arc::new(schema.project(columns)?),
            None => schema.clone(),
        };
        let partitioning = placement.partitioning(&schema, projection.as_deref());
        let properties = PlanProperties::new(
            EquivalenceProperties::new(projected),
            partitioning,
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Self {
            slot,
            label: label.into(),
            schema,
            projection,
            rows,
            properties: Arc::new(properties),
        })
    }

    /// The same scan under another slot number.
    pub(crate) fn with_slot(&self, slot: SlotId) -> Self {
        Self { slot, ..self.clone() }
    }

    pub(crate) fn slot(&self) -> SlotId {
        self.slot
    }

    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    /// The schema of the slot's batches.
    pub(crate) fn slot_schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub(crate) fn projection(&self) -> Option<&[usize]> {
        self.projection.as_deref()
    }

    pub(crate) fn partitions(&self) -> usize {
        self.properties.partitioning.partition_count()
    }
}

impl DisplayAs for SlotScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlotScanExec: slot={}, reads={}", self.slot, self.label)?;
        if let Some(columns) = &self.projection {
            let names: Vec<&str> = columns.iter().map(|i| self.schema.field(*i).name().as_str()).collect();
            write!(f, ", columns=[{}]", names.join(", "))?;
        }
        Ok(())
    }
}

impl ExecutionPlan for SlotScanExec {
    fn name(&self) -> &str {
        "SlotScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(inputs) = context.session_config().get_extension::<Inputs>() else {
            return internal_err!("slot {} was executed outside of a task", self.slot);
        };
        let partition = u32::try_from(partition).map_err(|e| DataFusionError::External(e.into()))?;
        let shape = Shape {
            schema: self.schema.clone(),
            projection: self.projection.clone(),
            chunk: context.session_config().batch_size(),
        };
        let batches: Rows = match inputs.open(self.slot, partition).map_err(external)? {
            SlotInput::Batches(batches) => Box::new(batches.into_iter().map(Ok)),
            SlotInput::Reader(reader) => reader,
            SlotInput::Opener(open) => open().map_err(external)?,
            SlotInput::Panes(panes) => panes.all(),
        };
        let shaped = batches.flat_map(
            move |batch| match batch.map_err(external).and_then(|b| shape.apply(&b)) {
                Ok(chunks) => chunks.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            },
        );
        let rows = RecordBatchStreamAdapter::new(self.schema(), stream::iter(shaped));
        // A task that runs in a runtime yields now and then, so that it can be cancelled.
        Ok(Box::pin(cooperative(rows)))
    }

    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        let unknown = Statistics::new_unknown(&self.schema());
        Ok(Arc::new(match self.rows {
            Some(rows) => unknown.with_num_rows(Precision::Inexact(rows)),
            None => unknown,
        }))
    }
}

/// How a slot's batches become the plan's.
struct Shape {
    schema: SchemaRef,
    projection: Option<Vec<usize>>,
    chunk: usize,
}

impl Shape {
    /// The batch under the slot's own schema (that of its writer may differ in nullability and metadata), projected, in
    /// pieces that fit the processor's caches.
    fn apply(&self, batch: &RecordBatch) -> Result<Vec<RecordBatch>> {
        let batch = conform(batch, &self.schema).map_err(|e| {
            external(TaskFailure::new(
                FailureKind::Internal,
                format!("an input does not have the schema of its slot: {e}"),
            ))
        })?;
        let batch = match &self.projection {
            Some(columns) => batch.project(columns)?,
            None => batch,
        };
        if batch.num_rows() <= 2 * self.chunk {
            return Ok(vec![batch]);
        }
        let starts = (0..batch.num_rows()).step_by(self.chunk);
        Ok(starts
            .map(|at| batch.slice(at, self.chunk.min(batch.num_rows() - at)))
            .collect())
    }
}

fn external(failure: TaskFailure) -> DataFusionError {
    DataFusionError::External(Box::new(failure))
}
