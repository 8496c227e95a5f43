//! Operators with keyed state.

use datafusion::logical_expr::LogicalPlan;
use tidemill_dstream::{Diagnostic, Operator};

use super::{Elaborator, Site};

impl Elaborator<'_> {
    pub(super) fn keyed_state(
        &mut self,
        site: Site<'_>,
        operator: &Operator,
        _: LogicalPlan,
    ) -> Result<LogicalPlan, Vec<Diagnostic>> {
        let name = operator.name();
        Err(vec![site.place.diagnostic(format!("{name} is not supported yet"))])
    }
}
