//! Functions from record batches to others: of a partition, or of a whole batch.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::internal_err;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, ChildrenPropertiesMode, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
    ReplaceChildrenOptions,
};
use futures::{Stream, StreamExt, stream};
use tidemill_types::BatchTime;

use super::{BoxError, Determinism};
use crate::accumulate::{AccumulatorHandle, Accumulators, Bound};
use crate::batches::conform;
use crate::binding::Inputs;
use crate::error::{function_failure, task_failure};
use crate::functions::TaskScope;
use crate::workspace::gather;

/// Record batches as they come.
pub type BatchStream = Pin<Box<dyn Stream<Item = Result<RecordBatch, BoxError>> + Send>>;

/// For which rows a function is called, and what it can reach beside them.
#[derive(Clone, Debug)]
pub struct BatchContext {
    pub batch_time: BatchTime,
    /// 0 of a whole batch.
    pub partition: u32,
    pub accumulators: Accumulators,
}

impl BatchContext {
    /// The accumulator behind a handle of the function.
    ///
    /// # Errors
    /// It is registered to have no such handle.
    pub fn accumulator(&self, handle: &str) -> Result<AccumulatorHandle, BoxError> {
        self.accumulators.get(handle)
    }
}

/// A function from the record batches of a partition to others. It is called once for each partition of each batch,
/// also for an empty one.
pub trait MapPartitions: Send + Sync + 'static {
    /// The columns that it gives for records of these columns.
    ///
    /// # Errors
    /// It is not for such records.
    fn schema(&self, input: &SchemaRef) -> Result<SchemaRef, BoxError>;

    /// The partition's records made others. The streams have to end, and their errors are passed on.
    ///
    /// # Errors
    /// It cannot begin.
    fn map(&self, context: BatchContext, input: BatchStream) -> Result<BatchStream, BoxError>;
}

/// A function from all record batches of a batch to others. It is called once a batch, also for an empty one.
pub trait Transform: Send + Sync + 'static {
    /// The columns that it gives for records of these columns.
    ///
    /// # Errors
    /// It is not for such records.
    fn schema(&self, input: &SchemaRef) -> Result<SchemaRef, BoxError>;

    /// # Errors
    /// It fails for these records.
    fn transform(&self, context: BatchContext, input: Vec<RecordBatch>) -> Result<Vec<RecordBatch>, BoxError>;
}

/// Either of them, by its name.
#[derive(Clone)]
pub(crate) struct BatchesFunction {
    name: Arc<str>,
    determinism: Determinism,
    call: Call,
    /// What its handles stand for in this call.
    accumulators: Arc<[Bound]>,
}

#[derive(Clone)]
enum Call {
    Partitions(Arc<dyn MapPartitions>),
    Transform(Arc<dyn Transform>),
}

impl BatchesFunction {
    pub(super) fn partitions(name: &str, determinism: Determinism, function: Arc<dyn MapPartitions>) -> Self {
        Self {
            name: name.into(),
            determinism,
            call: Call::Partitions(function),
            accumulators: Arc::default(),
        }
    }

    pub(super) fn transform(name: &str, determinism: Determinism, function: Arc<dyn Transform>) -> Self {
        Self {
            name: name.into(),
            determinism,
            call: Call::Transform(function),
            accumulators: Arc::default(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The function in a call that binds its handles.
    pub(crate) fn bound(&self, accumulators: Arc<[Bound]>) -> Self {
        Self {
            accumulators,
            ..self.clone()
        }
    }

    pub(crate) fn accumulators(&self) -> &Arc<[Bound]> {
        &self.accumulators
    }

    pub(crate) fn is_deterministic(&self) -> bool {
        self.determinism == Determinism::Deterministic
    }

    /// Whether it takes the whole batch.
    pub(crate) fn is_transform(&self) -> bool {
        matches!(self.call, Call::Transform(_))
    }

    pub(super) fn kind(&self) -> &'static str {
        match self.call {
            Call::Partitions(_) => "a function for map_partitions",
            Call::Transform(_) => "a function for transform",
        }
    }

    pub(crate) fn schema(&self, input: &SchemaRef) -> Result<SchemaRef, BoxError> {
        match &self.call {
            Call::Partitions(function) => function.schema(input),
            Call::Transform(function) => function.schema(input),
        }
    }

    fn run(
        &self,
        context: BatchContext,
        input: SendableRecordBatchStream,
        work: MemoryReservation,
    ) -> Result<SendableRecordBatchStream> {
        let schema = self.schema(&input.schema());
        let schema = schema.map_err(|error| function_failure(&self.name, error))?;
        // Failures before the function go through it and come out as they were.
        let mapped = match &self.call {
            Call::Partitions(function) => {
                let rows = input.map(|batch| batch.map_err(|error| task_failure(&error).into()));
                let mapped = function.map(context, Box::pin(rows));
                mapped.map_err(|error| function_failure(&self.name, error))?
            }
            Call::Transform(function) => {
                let function = Arc::clone(function);
                let whole = async move {
                    let rows = gather(input, &work, 1).await.map_err(|error| task_failure(&error))?;
                    function.transform(context, rows)
                };
                Box::pin(stream::once(whole).flat_map(|result| {
                    let batches = match result {
                        Ok(batches) => batches.into_iter().map(Ok).collect(),
                        Err(error) => vec![Err(error)],
                    };
                    stream::iter(batches)
                }))
            }
        };
        let (name, wanted) = (Arc::clone(&self.name), Arc::clone(&schema));
        let rows = mapped.map(move |batch| {
            let batch = batch.map_err(|error| function_failure(&name, error))?;
            conform(&batch, &wanted).map_err(|error| {
                let error = format!("gave other columns than it said: {error}");
                function_failure(&name, error.into())
            })
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}

impl fmt::Debug for BatchesFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BatchesFunction({})", self.name)
    }
}

/// Applies a registered function to the record batches of each partition; one that takes the whole batch has its input
/// in one.
#[derive(Debug)]
pub(crate) struct NativeBatchesExec {
    function: BatchesFunction,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl NativeBatchesExec {
    pub(crate) fn try_new(function: BatchesFunction, input: Arc<dyn ExecutionPlan>) -> Result<Self> {
        let schema = function.schema(&input.schema());
        let schema = schema.map_err(|error| function_failure(&function.name, error))?;
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Ok(Self {
            function,
            input,
            properties: Arc::new(properties),
        })
    }

    pub(crate) fn function(&self) -> &BatchesFunction {
        &self.function
    }
}

impl DisplayAs for NativeBatchesExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NativeBatchesExec: function={}", self.function.name)
    }
}

impl ExecutionPlan for NativeBatchesExec {
    fn name(&self) -> &str {
        "NativeBatchesExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        vec![match self.function.is_transform() {
            true => Distribution::SinglePartition,
            false => Distribution::UnspecifiedDistribution,
        }]
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
            Some(input) => Ok(Arc::new(Self::try_new(self.function.clone(), input)?)),
            None => internal_err!("a NativeBatchesExec without an input"),
        }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(inputs) = context.session_config().get_extension::<Inputs>() else {
            return internal_err!("`{}` was called outside of a task", self.function.name);
        };
        let called_for = BatchContext {
            batch_time: inputs.at().time,
            partition: partition as u32,
            accumulators: match self.function.accumulators.is_empty() {
                true => Accumulators::default(),
                false => {
                    let deltas = TaskScope::current(&self.function.name, TaskScope::deltas)?;
                    Accumulators::new(&self.function.accumulators, deltas)
                }
            },
        };
        let work = MemoryConsumer::new(self.function.name()).register(context.memory_pool());
        let input = self.input.execute(partition, context)?;
        self.function.run(called_for, input, work)
    }
}
