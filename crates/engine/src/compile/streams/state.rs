//! Operators with keyed state.

use datafusion::logical_expr::LogicalPlan;
use tidemill_dstream::{Diagnostic, Step, StreamDef};

use super::Elaborator;
use crate::compile::diagnose::Place;

impl Elaborator<'_> {
    pub(super) fn keyed_state(
        &mut self,
        _: &StreamDef,
        _: usize,
        step: &Step,
        _: LogicalPlan,
        place: &Place,
    ) -> Result<LogicalPlan, Vec<Diagnostic>> {
        let name = step.operator.name();
        Err(vec![place.diagnostic(format!("{name} is not supported yet"))])
    }
}
