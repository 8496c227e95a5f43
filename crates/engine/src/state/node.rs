//! A state operator in logical plans, and how it becomes physical.

use std::any::Any;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::{DFSchema, DFSchemaRef, internal_err};
use datafusion::error::Result;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, InvariantLevel, LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_plan::ExecutionPlan;

use super::exec::StateExec;
use super::spec::StateSpec;

/// Its expressions are physical already: they see columns, those of the old state, that no plan has.
#[derive(Clone, Debug)]
pub(crate) struct StateNode {
    spec: Arc<StateSpec>,
    /// The keys and values of a batch, then the state before the first.
    inputs: Vec<LogicalPlan>,
    schema: DFSchemaRef,
}

impl StateNode {
    pub(crate) fn try_new(spec: StateSpec, input: LogicalPlan, initial: Option<LogicalPlan>) -> Result<Self> {
        Ok(Self {
            schema: Arc::new(DFSchema::try_from(spec.schema())?),
            spec: Arc::new(spec),
            inputs: [input].into_iter().chain(initial).collect(),
        })
    }
}

impl UserDefinedLogicalNode for StateNode {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn name(&self) -> &str {
        "State"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        self.inputs.iter().collect()
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn check_invariants(&self, _: InvariantLevel) -> Result<()> {
        Ok(())
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "State: {}", self.spec.name)
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Arc<dyn UserDefinedLogicalNode>> {
        Ok(Arc::new(Self { inputs, ..self.clone() }))
    }

    fn dyn_hash(&self, mut state: &mut dyn Hasher) {
        Arc::as_ptr(&self.spec).hash(&mut state);
        self.inputs.hash(&mut state);
    }

    fn dyn_eq(&self, other: &dyn UserDefinedLogicalNode) -> bool {
        other
            .as_any()
            .downcast_ref::<Self>()
            .is_some_and(|other| Arc::ptr_eq(&self.spec, &other.spec) && self.inputs == other.inputs)
    }

    fn dyn_ord(&self, _: &dyn UserDefinedLogicalNode) -> Option<Ordering> {
        None
    }
}

/// Plans state operators.
#[derive(Debug)]
pub(crate) struct StatePlanner;

#[async_trait]
impl datafusion::physical_planner::ExtensionPlanner for StatePlanner {
    async fn plan_extension(
        &self,
        _: &dyn datafusion::physical_planner::PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        inputs: &[Arc<dyn ExecutionPlan>],
        _: &dyn Session,
        _: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(node) = node.as_any().downcast_ref::<StateNode>() else {
            return Ok(None);
        };
        let [input, initial @ ..] = inputs else {
            return internal_err!("`{}` has no input", node.spec.name);
        };
        Ok(Some(Arc::new(StateExec::new(
            Arc::clone(&node.spec),
            Arc::clone(input),
            initial.first().cloned(),
        ))))
    }
}
