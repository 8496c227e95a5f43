//! What is known of where a plan's rows are.

use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{Partitioning, PhysicalExpr};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

/// The number of partitions, and the columns by whose hash rows are spread over them, if they are.
///
/// All exchanges hash alike, so rows of one key are in the same partition of everything that is placed alike: neither an
/// aggregate by the key nor a join on it has to move them again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    partitions: usize,
    hashed: Option<Vec<usize>>,
}

impl Placement {
    /// Nothing is known beside the number of partitions.
    pub(crate) fn of(partitions: usize) -> Self {
        Self {
            partitions,
            hashed: None,
        }
    }

    pub(crate) fn by_hash(columns: Vec<usize>, partitions: usize) -> Self {
        Self {
            partitions,
            hashed: Some(columns),
        }
    }

    /// That of a plan's rows.
    pub(crate) fn after(plan: &Arc<dyn ExecutionPlan>) -> Self {
        let partitioning = plan.output_partitioning();
        let place = |expr: &Arc<dyn PhysicalExpr>| expr.downcast_ref::<Column>().map(Column::index);
        let hashed = match partitioning {
            Partitioning::Hash(exprs, _) => exprs.iter().map(place).collect(),
            _ => None,
        };
        Self {
            partitions: partitioning.partition_count(),
            hashed,
        }
    }

    pub(crate) fn partitions(&self) -> usize {
        self.partitions
    }

    /// The same as DataFusion says it, for rows of these columns of which some may be left out.
    pub(crate) fn partitioning(&self, schema: &Schema, projection: Option<&[usize]>) -> Partitioning {
        let place = |column: &usize| match projection {
            None => Some(*column),
            Some(columns) => columns.iter().position(|projected| projected == column),
        };
        let by = |column: &usize| {
            let name = schema.fields().get(*column)?.name();
            Some(Arc::new(Column::new(name, place(column)?)) as Arc<dyn PhysicalExpr>)
        };
        let hashed = self
            .hashed
            .as_ref()
            .and_then(|columns| columns.iter().map(by).collect());
        match hashed {
            Some(exprs) => Partitioning::Hash(exprs, self.partitions),
            None => Partitioning::UnknownPartitioning(self.partitions),
        }
    }
}
