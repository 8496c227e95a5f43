//! The leaves of logical plans: what a stream reads, named before it is known how it will be provided.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::TableReference;
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, TableScan, TableType};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use tidemill_types::{DatasetId, SlotId, StreamId};

use crate::placement::Placement;
use crate::sealed::SealedExec;
use crate::slot_scan::SlotScanExec;

/// A stream, or a part of one, within a compilation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NodeId(pub(super) usize);

/// What a leaf stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Leaf {
    /// The batch's input of a source.
    Source(StreamId),
    /// A node's rows of the same batch: in the end its plan, if this is its only reader, or its dataset.
    Stream(NodeId),
    /// A node's rows of the last `batches` intervals: in the end its dataset, or panes.
    Window {
        node: NodeId,
        batches: u32,
    },
    /// Remembered batches of a dataset that exists.
    Dataset {
        dataset: DatasetId,
        batches: u32,
    },
    Table(String),
}

/// A leaf as DataFusion sees it.
#[derive(Clone, Debug)]
pub(super) struct LeafTable {
    pub(super) leaf: Leaf,
    /// In how many batches the leaf has rows: every `slide`-th.
    pub(super) slide: u32,
    pub(super) label: String,
    pub(super) schema: SchemaRef,
    /// What is needed to scan it; unknown until its producer is planned.
    pub(super) physical: Option<Physical>,
}

#[derive(Clone, Debug)]
pub(super) enum Physical {
    Slot {
        /// The leaf's number in the compilation.
        slot: SlotId,
        placement: Placement,
        /// An estimate.
        rows: usize,
    },
    /// A node that is planned by itself and has no other reader.
    Sealed(Arc<dyn ExecutionPlan>),
}

impl LeafTable {
    /// A plan that scans the leaf, its columns qualified by `name`.
    pub(super) fn scan(self, name: &str) -> Result<LogicalPlan> {
        LogicalPlanBuilder::scan(TableReference::bare(name), provider_as_source(Arc::new(self)), None)?.build()
    }

    /// The leaf that a logical scan reads.
    pub(super) fn of(scan: &TableScan) -> Option<LeafTable> {
        let provider = source_as_provider(&scan.source).ok()?;
        provider.downcast_ref::<LeafTable>().cloned()
    }

    /// The leaf, if the plan is nothing but its scan.
    pub(super) fn bare(plan: &LogicalPlan) -> Option<LeafTable> {
        match plan {
            LogicalPlan::TableScan(scan) if scan.projection.is_none() && scan.fetch.is_none() => Self::of(scan),
            _ => None,
        }
    }
}

#[async_trait]
impl TableProvider for LeafTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        let projection = projection.filter(|columns| **columns != all).cloned();
        match &self.physical {
            Some(Physical::Slot { slot, placement, rows }) => Ok(Arc::new(SlotScanExec::try_new(
                *slot,
                &self.label,
                self.schema.clone(),
                projection,
                placement,
                Some(*rows),
            )?)),
            Some(Physical::Sealed(plan)) => projected(Arc::new(SealedExec::new(Arc::clone(plan))), projection),
            None => datafusion::common::internal_err!("{} was planned before its producer", self.label),
        }
    }
}

fn projected(plan: Arc<dyn ExecutionPlan>, columns: Option<Vec<usize>>) -> Result<Arc<dyn ExecutionPlan>> {
    let Some(columns) = columns else {
        return Ok(plan);
    };
    let schema = plan.schema();
    let exprs = columns.into_iter().map(|at| {
        let name = schema.field(at).name();
        ProjectionExpr::new(Arc::new(Column::new(name, at)), name.clone())
    });
    Ok(Arc::new(ProjectionExec::try_new(exprs.collect::<Vec<_>>(), plan)?))
}
