//! Streams put together.

use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, ident};

use super::{Faults, StepBuilder, same_type};

impl StepBuilder<'_> {
    /// `others` are streams by name, with plans that scan them.
    pub(in crate::compile) fn union(
        &self,
        input: LogicalPlan,
        others: Vec<(String, LogicalPlan)>,
    ) -> Result<LogicalPlan, Faults> {
        let mut faults = Vec::new();
        let mut union = LogicalPlanBuilder::from(input.clone());
        for (name, other) in others {
            match self.align(&input, &name, other) {
                Ok(aligned) => {
                    union = union
                        .union(aligned)
                        .map_err(|e| vec![self.place.explain(&e, self.state)])?;
                }
                Err(fault) => faults.extend(fault),
            }
        }
        if faults.is_empty() {
            self.finish(Ok(union))
        } else {
            Err(faults)
        }
    }

    /// The other stream with this one's columns, in this one's order.
    fn align(&self, input: &LogicalPlan, name: &str, other: LogicalPlan) -> Result<LogicalPlan, Faults> {
        let mut faults = Vec::new();
        let theirs = other.schema();
        for (_, field) in input.schema().iter() {
            match theirs.field_with_unqualified_name(field.name()) {
                Ok(found) if same_type(field.data_type(), found.data_type()) => {}
                Ok(found) => faults.push(
                    self.place
                        .diagnostic(format!(
                            "column `{}` is {} here and {} in stream `{name}`",
                            field.name(),
                            field.data_type(),
                            found.data_type()
                        ))
                        .subject(field.name().clone())
                        .hint("cast one of them in a map"),
                ),
                Err(_) => {
                    let known: Vec<&str> = theirs.fields().iter().map(|field| field.name().as_str()).collect();
                    faults.push(
                        self.place
                            .diagnostic(format!("stream `{name}` has no column `{}`", field.name()))
                            .suggest(field.name(), known),
                    );
                }
            }
        }
        let ours = input.schema();
        for field in theirs
            .fields()
            .iter()
            .filter(|field| !ours.has_column_with_unqualified_name(field.name()))
        {
            faults.push(
                self.place
                    .diagnostic(format!(
                        "stream `{name}` has a column `{}` that is not here",
                        field.name()
                    ))
                    .subject(field.name().clone())
                    .hint("both streams need the same columns; choose them in a map"),
            );
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let columns = ours.fields().iter().map(|field| ident(field.name()));
        let columns: Vec<Expr> = columns.collect();
        LogicalPlanBuilder::from(other)
            .project(columns)
            .and_then(LogicalPlanBuilder::build)
            .map_err(|e| vec![self.place.explain(&e, self.state)])
    }
}
