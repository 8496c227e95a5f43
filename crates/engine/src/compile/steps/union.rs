//! Streams put together.

use std::sync::Arc;

use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Union, ident};

use super::{Faults, StepBuilder, same_type};

impl StepBuilder<'_> {
    /// `others` are streams by name, with plans that scan them.
    pub(in crate::compile) fn union(
        &self,
        input: LogicalPlan,
        others: Vec<(String, LogicalPlan)>,
    ) -> Result<LogicalPlan, Faults> {
        let mut faults = Vec::new();
        let mut aligned = Vec::with_capacity(others.len() + 1);
        for (name, other) in others {
            match self.align(&input, &name, other) {
                Ok(other) => aligned.push(Arc::new(other)),
                Err(fault) => faults.extend(fault),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        aligned.insert(0, Arc::new(input));
        // Of all at once: a union of unions would be as deep as there are streams.
        let union = Union::try_new_with_loose_types(aligned);
        self.finish(union.map(|union| LogicalPlanBuilder::from(LogicalPlan::Union(union))))
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
