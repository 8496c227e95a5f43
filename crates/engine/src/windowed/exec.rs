//! The plan node of an aggregate over a window that slides.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::internal_err;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::execution_plan::ChildrenPropertiesMode;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions};
use futures::stream;
use tidemill_storage::SpillDir;
use tidemill_types::SlotId;

use super::aggregates::Aggregates;
use super::index::WindowIndex;
use crate::batches::conform;
use crate::binding::{Inputs, Panes};
use crate::memory::{Entry, Frozen, Kept};
use crate::slot_scan::SlotScanExec;

/// Keeps a [`WindowIndex`] from slide to slide. Its input is the plan that merges all panes of the window anew.
#[derive(Debug)]
pub(crate) struct WindowMergeExec {
    merge: Arc<dyn ExecutionPlan>,
    window: Window,
}

/// A window in batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) batches: u32,
    /// There is a pane of every `every`-th batch.
    pub(crate) every: u32,
}

impl Window {
    fn panes(self) -> u64 {
        u64::from(self.batches / self.every.max(1)).max(1)
    }

    /// The number of the newest pane at a batch.
    fn newest(self, index: i64) -> i64 {
        index.div_euclid(i64::from(self.every.max(1)))
    }
}

/// Windows of fewer panes are merged anew for less than it costs to keep an index.
const FEWEST_PANES: u64 = 4;

impl WindowMergeExec {
    /// `merge` with an index for windows of which one shares most panes with the next, as it is otherwise. `slide` is in
    /// batches.
    pub(crate) fn over(merge: Arc<dyn ExecutionPlan>, window: Window, slide: u32) -> Result<Arc<dyn ExecutionPlan>> {
        let Some((aggregate, _)) = parts(&merge) else {
            return internal_err!("{} does not merge panes", merge.name());
        };
        let pays = window.panes() >= FEWEST_PANES && u64::from(slide) * 2 <= u64::from(window.batches);
        let keyed = !aggregate.group_expr().expr().is_empty();
        if pays && Aggregates::try_new(aggregate.aggr_expr(), keyed)?.is_some() {
            Ok(Arc::new(Self::new(merge, window)))
        } else {
            Ok(merge)
        }
    }

    pub(crate) fn new(merge: Arc<dyn ExecutionPlan>, window: Window) -> Self {
        Self { merge, window }
    }

    pub(crate) fn window(&self) -> Window {
        self.window
    }
}

/// The aggregate of a plan that merges panes, and the scan of the panes below it.
fn parts(merge: &Arc<dyn ExecutionPlan>) -> Option<(&AggregateExec, &SlotScanExec)> {
    let aggregate = merge.downcast_ref::<AggregateExec>()?;
    let scan = aggregate.input().downcast_ref::<SlotScanExec>()?;
    Some((aggregate, scan))
}

impl DisplayAs for WindowMergeExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WindowMergeExec: panes={}, one at a time", self.window.panes())
    }
}

impl ExecutionPlan for WindowMergeExec {
    fn name(&self) -> &str {
        "WindowMergeExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.merge.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.merge]
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
        let [merge] = <[_; 1]>::try_from(children)
            .map_err(|_| DataFusionError::Internal("a WindowMergeExec has one input".to_owned()))?;
        Ok(Arc::new(Self::new(merge, self.window)))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some((_, scan)) = parts(&self.merge) else {
            return internal_err!("a WindowMergeExec over {}", self.merge.name());
        };
        let inputs = context.session_config().get_extension::<Inputs>();
        let number = u32::try_from(partition).map_err(|e| DataFusionError::External(e.into()))?;
        let kept = inputs.and_then(|inputs| {
            let panes = inputs.panes(scan.slot(), number)?;
            let entry = inputs.memory()?.index(scan.slot())?;
            Some((panes, entry, inputs.at().index))
        });
        let Some((panes, entry, index)) = kept else {
            return self.merge.execute(partition, context);
        };
        let slide = Slide {
            merge: Arc::clone(&self.merge),
            window: self.window,
            slot: scan.slot(),
            index,
            panes,
            entry,
        };
        let chunk = context.session_config().batch_size();
        let rows = stream::once(async move { slide.run() });
        let chunks = futures::StreamExt::flat_map(rows, move |rows| stream::iter(chunks(rows, chunk)));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), chunks)))
    }
}

fn chunks(rows: Result<RecordBatch>, chunk: usize) -> Vec<Result<RecordBatch>> {
    match rows {
        Ok(rows) => {
            let starts = (0..rows.num_rows()).step_by(chunk.max(1));
            starts
                .map(|at| Ok(rows.slice(at, chunk.min(rows.num_rows() - at))))
                .collect()
        }
        Err(error) => vec![Err(error)],
    }
}

/// One slide of one partition.
struct Slide {
    merge: Arc<dyn ExecutionPlan>,
    window: Window,
    slot: SlotId,
    /// Of the batch.
    index: i64,
    panes: Arc<Panes>,
    entry: Entry,
}

impl Slide {
    /// Brings the index to this batch, from the slide before if that is where it is, else from nothing, and reads it.
    fn run(&self) -> Result<RecordBatch> {
        let Some((aggregate, scan)) = parts(&self.merge) else {
            return internal_err!("slot {} has no aggregate", self.slot);
        };
        let mut entry = self.entry.lock();
        let newest = self.window.newest(self.index);
        let oldest = newest - self.window.panes() as i64 + 1;
        // What an earlier attempt of this batch or a later one has taken in cannot be taken out.
        let known = entry
            .kept()?
            .and_then(|kept| kept.as_any().downcast_mut::<WindowIndex>());
        let known = known
            .and_then(|index| index.newest())
            .filter(|known| (oldest - 1..=newest).contains(known));
        if known.is_none() {
            entry.put(Box::new(self.fresh(aggregate)?));
        }
        let index = entry
            .kept()?
            .and_then(|kept| kept.as_any().downcast_mut::<WindowIndex>());
        let Some(index) = index else {
            return internal_err!("slot {} keeps something else", self.slot);
        };
        for number in known.map_or(oldest, |known| known + 1)..=newest {
            index.push(number, &self.pane(number, scan.slot_schema())?)?;
        }
        let columns = index.evaluate()?;
        entry.settle()?;
        let rows = columns.first().map_or(0, |column| column.len());
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(
            self.merge.schema(),
            columns,
            &options,
        )?)
    }

    fn fresh(&self, aggregate: &AggregateExec) -> Result<WindowIndex> {
        let schema = aggregate.input().schema();
        let keys = aggregate.group_expr().expr().len();
        let types: Vec<DataType> = schema.fields()[..keys].iter().map(|f| f.data_type().clone()).collect();
        match Aggregates::try_new(aggregate.aggr_expr(), keys > 0)? {
            Some(aggregates) => WindowIndex::new(&types, aggregates, self.window.panes()),
            None => internal_err!("slot {} has aggregates that cannot be kept", self.slot),
        }
    }

    /// A pane's rows; of one that is not there, none.
    fn pane(&self, number: i64, schema: &SchemaRef) -> Result<RecordBatch> {
        let batches = self.panes.load(number * i64::from(self.window.every.max(1)));
        let batches = batches.map_err(|failure| DataFusionError::External(Box::new(failure)))?;
        let batches: Vec<RecordBatch> = batches
            .iter()
            .map(|batch| conform(batch, schema))
            .collect::<Result<_, _>>()?;
        Ok(concat_batches(schema, &batches)?)
    }
}

impl Kept for WindowIndex {
    fn size(&self) -> usize {
        Self::size(self)
    }

    /// It is made again of the window's panes.
    fn freeze(&self, _: &Arc<SpillDir>) -> Result<Option<Box<dyn Frozen>>> {
        Ok(None)
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}
