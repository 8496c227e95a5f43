//! The plan node of a state operator.

use std::fmt;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use datafusion::common::internal_err;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{Distribution, EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, ChildrenPropertiesMode, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties, ReplaceChildrenOptions,
};
use futures::{TryStreamExt, stream};
use parking_lot::Mutex;

use super::all_keys::AllKeys;
use super::spec::{StateKind, StateSpec, Update};
use super::touched_keys::TouchedKeys;
use super::version::{At, Versions};
use crate::batches::conform;
use crate::binding::Inputs;
use crate::keyed::hash::{hash_keys, partition};
use crate::memory::{Entry, MemoryKey, TaskMemory};
use crate::workspace::gather;

/// Applies a batch's keys and values to the state of its partition.
///
/// Its first input is distributed by the keys. The second, if there is one, has the state before the first batch: all of
/// it, for every partition, which takes the keys that are its own.
#[derive(Debug)]
pub(crate) struct StateExec {
    spec: Arc<StateSpec>,
    input: Arc<dyn ExecutionPlan>,
    initial: Option<Arc<dyn ExecutionPlan>>,
    properties: Arc<PlanProperties>,
}

impl StateExec {
    pub(crate) fn new(
        spec: Arc<StateSpec>,
        input: Arc<dyn ExecutionPlan>,
        initial: Option<Arc<dyn ExecutionPlan>>,
    ) -> Self {
        let partitions = input.output_partitioning().partition_count();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(spec.schema()),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self {
            spec,
            input,
            initial,
            properties: Arc::new(properties),
        }
    }

    pub(crate) fn spec(&self) -> &Arc<StateSpec> {
        &self.spec
    }

    /// The key columns of the input.
    pub(crate) fn keys(&self) -> Vec<Arc<dyn PhysicalExpr>> {
        let keys = self.spec.keys.iter().enumerate();
        keys.map(|(i, field)| Arc::new(Column::new(field.name(), i)) as Arc<dyn PhysicalExpr>)
            .collect()
    }
}

impl DisplayAs for StateExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.spec.kind {
            StateKind::All => "all keys".to_owned(),
            StateKind::Touched { timeout_ms: None, .. } => "keys of the batch".to_owned(),
            StateKind::Touched {
                timeout_ms: Some(ms), ..
            } => format!("keys of the batch, timeout {ms} ms"),
        };
        let names = |fields: &[arrow::datatypes::FieldRef]| -> String {
            let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
            names.join(", ")
        };
        let (keys, columns) = (names(&self.spec.keys), names(&self.spec.columns));
        write!(
            f,
            "StateExec: {}, keys=[{keys}], state=[{columns}], {kind}",
            self.spec.name
        )
    }
}

impl ExecutionPlan for StateExec {
    fn name(&self) -> &str {
        "StateExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        let initial = self.initial.iter().map(|_| Distribution::SinglePartition);
        [Distribution::KeyPartitioned(self.keys())]
            .into_iter()
            .chain(initial)
            .collect()
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        self.children().iter().map(|_| false).collect()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        [&self.input].into_iter().chain(&self.initial).collect()
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        let emit: &[_] = match &self.spec.kind {
            StateKind::All => &[],
            StateKind::Touched { emit, .. } => emit,
        };
        let update: &[_] = match &self.spec.update {
            Update::Columns(exprs) => exprs,
            Update::Native { .. } => &[],
        };
        for expr in update.iter().chain(emit.iter().map(|(_, expr)| expr)) {
            if f(expr)? == TreeNodeRecursion::Stop {
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut children = children.into_iter();
        let Some(input) = children.next() else {
            return internal_err!("a StateExec without an input");
        };
        Ok(Arc::new(Self::new(Arc::clone(&self.spec), input, children.next())))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let inputs = context.session_config().get_extension::<Inputs>();
        let Some(inputs) = inputs else {
            return internal_err!("the state of `{}` was used outside of a task", self.spec.name);
        };
        let Some(memory) = inputs.memory() else {
            return internal_err!("nothing keeps the state of `{}` here", self.spec.name);
        };
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let (at, entry, versions) = (inputs.at(), memory.entry(MemoryKey::State), memory.versions());
        let initial = match &self.initial {
            Some(initial) if at.previous.is_none() => Some(initial.execute(0, Arc::clone(&context))?),
            _ => None,
        };
        let apply = Apply {
            spec: Arc::clone(&self.spec),
            partition: u32::try_from(partition).map_err(|e| DataFusionError::External(e.into()))?,
            partitions: self.properties.partitioning.partition_count() as u32,
            at,
            entry,
            versions,
            work: MemoryConsumer::new(format!("the state of `{}`", self.spec.name)).register(context.memory_pool()),
        };
        let chunk = context.session_config().batch_size().max(1);
        let rows = stream::once(async move {
            let input = collect(input, &apply.work).await?;
            let initial = match initial {
                Some(initial) => Some(collect(initial, &apply.work).await?),
                None => None,
            };
            apply.run(&input, initial)
        });
        let chunks = rows.map_ok(move |rows: RecordBatch| {
            let starts = (0..rows.num_rows()).step_by(chunk);
            let chunks: Vec<_> = starts
                .map(|at| Ok(rows.slice(at, chunk.min(rows.num_rows() - at))))
                .collect();
            stream::iter(chunks)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.spec.schema(),
            chunks.try_flatten(),
        )))
    }
}

/// All rows as one batch; while it is made there are two copies of them.
async fn collect(rows: SendableRecordBatchStream, work: &MemoryReservation) -> Result<RecordBatch> {
    let schema = rows.schema();
    let batches = gather(rows, work, 2).await?;
    Ok(concat_batches(&schema, &batches)?)
}

/// One batch of one partition.
struct Apply {
    spec: Arc<StateSpec>,
    partition: u32,
    partitions: u32,
    at: At,
    entry: Entry,
    /// Where others look which versions there are.
    versions: Arc<Mutex<Versions>>,
    /// The memory of the batch's keys and values, and of what is made of them.
    work: MemoryReservation,
}

impl Apply {
    fn run(&self, input: &RecordBatch, initial: Option<RecordBatch>) -> Result<RecordBatch> {
        let initial = initial.map(|rows| self.own(&rows)).transpose()?;
        let mut slot = self.entry.lock();
        // The first batch begins with nothing, whatever an earlier run of it and of those behind it has left.
        if self.at.begins_anew(*self.versions.lock()) || slot.kept()?.is_none() {
            slot.put(match self.spec.kind {
                StateKind::All => Box::new(AllKeys::new(&self.spec)?),
                StateKind::Touched { .. } => Box::new(TouchedKeys::new(&self.spec)?),
            });
        }
        let Some(kept) = slot.kept()? else {
            return internal_err!("`{}` has no state", self.spec.name);
        };
        let size = kept.size();
        let kept = kept.as_any();
        let rows = if let Some(state) = kept.downcast_mut::<AllKeys>() {
            // The next version stands beside the two that there are.
            self.work.try_grow(size / 2)?;
            let rows = state.apply(self.at, input, initial.as_ref());
            *self.versions.lock() = state.versions();
            rows
        } else if let Some(state) = kept.downcast_mut::<TouchedKeys>() {
            let rows = state.apply(self.at, input, initial.as_ref());
            *self.versions.lock() = state.versions();
            rows
        } else {
            internal_err!("`{}` keeps something else", self.spec.name)
        };
        slot.settle()?;
        rows
    }

    /// The rows whose keys belong to this partition.
    fn own(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let hashes = hash_keys(&rows.columns()[..self.spec.keys.len()])?;
        let own: BooleanArray = hashes
            .into_iter()
            .map(|hash| Some(partition(hash, self.partitions) == self.partition))
            .collect();
        let own = filter_record_batch(rows, &own)?;
        Ok(conform(&own, &self.spec.state_schema())?)
    }
}

impl TaskMemory {
    /// The keys and states of the last version, and the index of its batch; `None` if there is none.
    pub fn state(&self) -> Result<Option<(i64, RecordBatch)>, crate::Error> {
        self.read(
            |state| state.version().map(|version| Ok((version, state.rows()?))).transpose(),
            |state| {
                state
                    .version()
                    .map(|version| Ok((version, state.snapshot()?)))
                    .transpose()
            },
        )
    }

    /// The keys and states of the version of a batch: the last one or the one before it. `None` if it is neither.
    pub fn state_at(&self, index: i64) -> Result<Option<RecordBatch>, crate::Error> {
        self.read(|state| state.rows_at(index), |state| state.rows_at(index))
    }

    pub(super) fn read<T>(
        &self,
        all: impl FnOnce(&AllKeys) -> Result<Option<T>>,
        touched: impl FnOnce(&TouchedKeys) -> Result<Option<T>>,
    ) -> Result<Option<T>, crate::Error> {
        let entry = self.entry(MemoryKey::State);
        let mut slot = entry.lock();
        let Some(kept) = slot.kept()?.map(|kept| kept.as_any()) else {
            return Ok(None);
        };
        if let Some(state) = kept.downcast_ref::<AllKeys>() {
            Ok(all(state)?)
        } else if let Some(state) = kept.downcast_ref::<TouchedKeys>() {
            Ok(touched(state)?)
        } else {
            Ok(None)
        }
    }
}
