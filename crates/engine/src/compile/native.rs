//! Registered Rust functions where a job names them.

use std::sync::Arc;

use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, ScalarUDF};
use tidemill_dstream::{Diagnostic, Function as JobFunction, Line, NativeCall};

use super::accumulators::bind;
use super::diagnose::Place;
use super::expressions::Scope;
use super::steps::StepBuilder;
use crate::registry::{BatchesFunction, Function, NativeScalar, Registry, StateUpdate};

/// Names that a message lists.
const MAX_NAMES: usize = 40;

/// The functions that a job may name.
fn registered(state: &SessionState) -> Arc<Registry> {
    state.config().get_extension::<Registry>().unwrap_or_default()
}

/// The function that is called, or what is wrong with its name.
fn find(call: &NativeCall, state: &SessionState, place: &Place) -> Result<Function, Diagnostic> {
    let registry = registered(state);
    if let Some(function) = registry.get(&call.name) {
        return Ok(function.clone());
    }
    let fault = place
        .child("native", Line(None))
        .diagnostic(format!("no function `{}` is registered", call.name))
        .subject(call.name.clone());
    let names: Vec<String> = registry.names().map(|name| format!("`{name}`")).collect();
    Err(match names.len().checked_sub(MAX_NAMES) {
        _ if names.is_empty() => fault.hint("this build has none; register it in a build of your own"),
        None | Some(0) => fault.hint(format!("this build has {}", names.join(", "))),
        Some(more) => fault.hint(format!(
            "this build has {} and {more} more",
            names[..MAX_NAMES].join(", ")
        )),
    })
}

/// A function of another kind than the step needs.
fn unfit(call: &NativeCall, function: &Function, wanted: &str, place: &Place) -> Diagnostic {
    place
        .child("native", Line(None))
        .diagnostic(format!(
            "`{}` is registered as {}, and this step needs {wanted}",
            call.name,
            function.kind()
        ))
        .subject(call.name.clone())
}

/// A state update.
pub(super) fn state_update(
    call: &NativeCall,
    state: &SessionState,
    place: &Place,
) -> Result<Arc<dyn StateUpdate>, Diagnostic> {
    match find(call, state, place)? {
        Function::State(function) => Ok(function),
        other => Err(unfit(call, &other, "a state update", place)),
    }
}

/// A call as an expression: of a function of a record, or of an aggregate.
pub(super) fn call(call: &NativeCall, scope: &Scope<'_>, place: &Place) -> Result<Expr, Diagnostic> {
    let function = find(call, scope.state, place)?;
    let args = || arguments(call, scope, place);
    match &function {
        Function::Scalar(function) => {
            let bound = bind(call, scope.state, place)?;
            match NativeScalar::of(function) {
                Some(native) if !bound.is_empty() => Ok(ScalarUDF::from(native.bound(bound)).call(args()?)),
                _ => Ok(function.call(args()?)),
            }
        }
        Function::Aggregate(function) => Ok(function.call(args()?)),
        other => Err(unfit(call, other, "a function of a record", place)),
    }
}

/// What a function is given: the expressions of the call, or all columns in scope.
fn arguments(call: &NativeCall, scope: &Scope<'_>, place: &Place) -> Result<Vec<Expr>, Diagnostic> {
    if call.args.is_empty() {
        let columns = scope.columns.columns().into_iter();
        return Ok(columns.map(Expr::Column).collect());
    }
    let args = call.args.iter().enumerate().map(|(i, sql)| {
        let place = place.child(&format!("args[{i}]"), Line(None));
        scope.scalar(&JobFunction::expr(sql), &place).map(|typed| typed.expr)
    });
    args.collect()
}

impl StepBuilder<'_> {
    /// The records that a function of record batches is given. Its columns are called by their aliases, if they have some,
    /// else as they were, else as the expression.
    pub(super) fn arguments(&self, input: LogicalPlan, call: &NativeCall) -> Result<LogicalPlan, Vec<Diagnostic>> {
        if call.args.is_empty() {
            return Ok(input);
        }
        let scope = Scope::after(&input, self.state);
        let args = arguments(call, &scope, self.place).map_err(|fault| vec![fault])?;
        let named = args.into_iter().zip(&call.args).map(|(arg, sql)| {
            let dialect = self.state.config_options().sql_parser.dialect;
            let parsed = self.state.sql_to_expr_with_alias(sql, &dialect).ok();
            let name = match (parsed.and_then(|parsed| parsed.alias), &arg) {
                (Some(alias), _) => alias.value,
                (None, Expr::Column(column)) => column.name.clone(),
                (None, _) => sql.clone(),
            };
            arg.alias(name)
        });
        self.finish(LogicalPlanBuilder::from(input).project(named))
    }

    /// A function of record batches: of the whole batch if `whole`, of a partition if not.
    pub(super) fn batches(
        &self,
        input: &LogicalPlan,
        call: &NativeCall,
        whole: bool,
    ) -> Result<BatchesFunction, Vec<Diagnostic>> {
        let function = find(call, self.state, self.place).map_err(|fault| vec![fault])?;
        let function = match function {
            Function::Batches(function) if function.is_transform() == whole => function,
            other => {
                let wanted = match whole {
                    true => "a function for transform",
                    false => "a function for map_partitions",
                };
                return Err(vec![unfit(call, &other, wanted, self.place)]);
            }
        };
        let schema = Arc::new(input.schema().as_arrow().clone());
        if let Err(error) = function.schema(&schema) {
            let place = self.place.child("native", Line(None));
            return Err(vec![
                place
                    .diagnostic(format!("`{}` does not take these records: {error}", call.name))
                    .subject(call.name.clone()),
            ]);
        }
        let bound = bind(call, self.state, self.place).map_err(|fault| vec![fault])?;
        Ok(function.bound(bound))
    }

    /// Checks that a foreach output is registered.
    pub(super) fn check_foreach(&self, call: &NativeCall) -> Result<(), Vec<Diagnostic>> {
        let function = find(call, self.state, self.place).map_err(|fault| vec![fault])?;
        match function {
            Function::Foreach(_) => Ok(()),
            other => {
                let fault = unfit(call, &other, "a foreach output", self.place);
                Err(vec![fault])
            }
        }
    }
}
