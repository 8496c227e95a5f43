//! The accumulators of a job while it is type-checked: what each takes is declared, or said by what is added first.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{LogicalPlan, cast, when};
use datafusion::physical_expr::PhysicalExpr;
use parking_lot::Mutex;
use tidemill_dstream::plan::AccumulatorPlan;
use tidemill_dstream::{AccumulatorKind, Addition, Diagnostic, JobGraph, Line, NativeCall, ValueType};
use tidemill_types::AccumulatorId;

use super::diagnose::Place;
use super::expressions::{Scope, physical};
use crate::accumulate::{Added, Bound, Target, value_type};
use crate::registry::{Accumulator, Function, Registry};

type Faults = Vec<Diagnostic>;

/// Part of the session, as everything that type-checking an expression can need.
#[derive(Default)]
pub(crate) struct JobAccumulators {
    entries: Mutex<Vec<Entry>>,
}

struct Entry {
    plan: AccumulatorPlan,
    native: Option<Arc<dyn Accumulator>>,
    /// What said its type, for people.
    typed_by: Option<String>,
    used: bool,
}

impl JobAccumulators {
    /// Those of a job, with what is wrong with registered kinds.
    pub(super) fn of_job(graph: &JobGraph, registry: &Registry) -> (Self, Faults) {
        let mut faults = Faults::new();
        let entries = graph.accumulators.iter().enumerate().map(|(i, accumulator)| {
            let place = Place::new(format!("accumulators.{}", accumulator.name), accumulator.line);
            let native = match &accumulator.kind {
                AccumulatorKind::Native { name } => match registered(name, registry, &place) {
                    Ok(native) => Some(native),
                    Err(fault) => {
                        faults.push(fault);
                        None
                    }
                },
                _ => None,
            };
            let takes = native.as_ref().and_then(|native| value_type(&native.takes()));
            if let (Some(declared), Some(takes)) = (accumulator.value_type, takes)
                && declared != takes
            {
                let message = format!("it takes {takes} values, and the type is {declared}");
                faults.push(place.child("type", Line(None)).diagnostic(message));
            }
            let value_type = accumulator.value_type.or(takes);
            Entry {
                plan: AccumulatorPlan {
                    id: AccumulatorId(i as u32),
                    name: accumulator.name.clone(),
                    kind: accumulator.kind.clone(),
                    value_type,
                    listed: accumulator.listed,
                },
                native,
                typed_by: value_type.map(|_| place.path),
                used: false,
            }
        });
        let entries = Mutex::new(entries.collect());
        (Self { entries }, faults)
    }

    pub(super) fn of(state: &SessionState) -> Arc<Self> {
        state.config().get_extension().unwrap_or_default()
    }

    /// All of them, and the names of those that nothing adds to.
    pub(super) fn plans(&self) -> (Vec<AccumulatorPlan>, Vec<String>) {
        let entries = self.entries.lock();
        let unused = entries.iter().filter(|entry| !entry.used);
        (
            entries.iter().map(|entry| entry.plan.clone()).collect(),
            unused.map(|entry| entry.plan.name.clone()).collect(),
        )
    }

    /// The accumulator of a name as something to which values of a type are added.
    fn target(&self, name: &str, given: &DataType, place: &Place) -> Result<Target, Diagnostic> {
        let mut entries = self.entries.lock();
        let names: Vec<String> = entries.iter().map(|entry| entry.plan.name.clone()).collect();
        let Some(entry) = entries.iter_mut().find(|entry| entry.plan.name == name) else {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let fault = place.diagnostic(format!("unknown accumulator `{name}`"));
            return Err(fault.suggest(name, names));
        };
        entry.used = true;
        let kind = entry.plan.kind.clone();
        if !kind.takes_any() {
            let given = known_type(given, &kind, name, place)?;
            entry.check(given, place)?;
        }
        Ok(Target {
            id: entry.plan.id,
            name: name.to_owned(),
            kind,
            value_type: entry.plan.value_type,
            native: entry.native.clone(),
        })
    }
}

impl Entry {
    /// Checks that it takes values of a type, which it takes from now on if it was not known.
    fn check(&mut self, given: ValueType, place: &Place) -> Result<(), Diagnostic> {
        let (name, kind) = (&self.plan.name, &self.plan.kind);
        if !kind.takes(given) {
            let message = format!(
                "`{name}` is of kind {}, which takes numbers, and this is {given}",
                kind.name()
            );
            let hint = match given {
                ValueType::Boolean => "write CASE WHEN .. THEN 1 ELSE 0 END, or `when` with a count",
                _ => "cast it, or use a count",
            };
            return Err(place.diagnostic(message).subject(name.clone()).hint(hint));
        }
        match self.plan.value_type {
            None => {
                self.plan.value_type = Some(given);
                self.typed_by = Some(place.path.clone());
                Ok(())
            }
            Some(takes) if takes == given => Ok(()),
            // Every whole number that is not very large is one.
            Some(ValueType::Float) if given == ValueType::Integer && self.native.is_none() => Ok(()),
            Some(takes) => {
                let by = self.typed_by.as_deref().unwrap_or_default();
                let message = format!("`{name}` takes {takes} values by {by}, and this is {given}");
                let hint = match (takes, given) {
                    (ValueType::Integer, ValueType::Float) => "declare it with `type: float`, or cast one of them",
                    _ => "cast it, or declare another accumulator",
                };
                Err(place.diagnostic(message).subject(name.clone()).hint(hint))
            }
        }
    }
}

fn known_type(given: &DataType, kind: &AccumulatorKind, name: &str, place: &Place) -> Result<ValueType, Diagnostic> {
    value_type(given).ok_or_else(|| {
        let message = format!("`{name}` is of kind {}, which cannot take {given}", kind.name());
        let hint = match given {
            DataType::Null => "null is always skipped",
            given if given.is_decimal() => "CAST(.. AS DOUBLE), or count the smallest unit as BIGINT",
            _ => "accumulators take booleans, numbers, texts, dates and timestamps; a count takes anything",
        };
        place.diagnostic(message).subject(name).hint(hint)
    })
}

fn registered(name: &str, registry: &Registry, place: &Place) -> Result<Arc<dyn Accumulator>, Diagnostic> {
    if let Some(accumulator) = registry.accumulator(name) {
        return Ok(Arc::clone(accumulator));
    }
    let place = place.child("native", Line(None));
    let known: Vec<&str> = registry
        .names()
        .filter(|name| registry.accumulator(name).is_some())
        .collect();
    let message = match registry.get(name) {
        Some(other) => format!("`{name}` is registered as {}, not as an accumulator", other.kind()),
        None => format!("no accumulator `{name}` is registered"),
    };
    Err(match known.as_slice() {
        [] => place
            .diagnostic(message)
            .subject(name)
            .hint("this build has none; register it in a build of your own"),
        known => place.diagnostic(message).suggest(name, known.to_vec()),
    })
}

/// What an `accumulate` step adds, over the records of `input`.
pub(super) fn additions(
    additions: &[Addition],
    input: &LogicalPlan,
    state: &SessionState,
    place: &Place,
) -> Result<Vec<Added>, Faults> {
    let accumulators = JobAccumulators::of(state);
    let mut faults = Faults::new();
    let mut added = Vec::new();
    for (i, addition) in additions.iter().enumerate() {
        let place = match additions {
            [_] => Place {
                line: addition.line.0.or(place.line),
                ..place.clone()
            },
            _ => Place {
                path: format!("{}[{i}]", place.path),
                line: addition.line.0.or(place.line),
            },
        };
        match addition_of(addition, &accumulators, input, state, &place) {
            Ok(one) => added.push(one),
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() { Ok(added) } else { Err(faults) }
}

fn addition_of(
    addition: &Addition,
    accumulators: &JobAccumulators,
    input: &LogicalPlan,
    state: &SessionState,
    place: &Place,
) -> Result<Added, Diagnostic> {
    let scope = Scope::after(input, state);
    let add = place.child("add", Line(None));
    let value = scope.scalar(&addition.add, &add)?;
    let target = accumulators.target(&addition.into, &value.data_type, &add)?;
    let mut expr = match target.takes() {
        Some(wanted) if wanted != value.data_type => cast(value.expr, wanted),
        _ => value.expr,
    };
    if let Some(condition) = &addition.when {
        let place = place.child("when", Line(None));
        let condition = scope.scalar(condition, &place)?;
        if !matches!(condition.data_type, DataType::Boolean | DataType::Null) {
            let message = format!("the condition is {}, it has to be Boolean", condition.data_type);
            return Err(place.diagnostic(message));
        }
        // Null is skipped, and what is not added is not computed.
        expr = when(condition.expr, expr).end().map_err(|e| place.explain(&e, state))?;
    }
    let value: Arc<dyn PhysicalExpr> = physical(expr, input.schema(), state).map_err(|e| place.explain(&e, state))?;
    let target = Arc::new(target);
    Ok(Added { target, value })
}

/// What the handles of a function stand for in a call.
pub(super) fn bind(call: &NativeCall, state: &SessionState, place: &Place) -> Result<Arc<[Bound]>, Diagnostic> {
    let accumulators = JobAccumulators::of(state);
    let registry = state.config().get_extension::<Registry>().unwrap_or_default();
    let handles = registry.handles(&call.name);
    let place = place.child("accumulators", Line(None));
    let unknown = call
        .accumulators
        .iter()
        .find(|(handle, _)| !handles.iter().any(|(known, _)| known == handle));
    if let Some((handle, _)) = unknown {
        let known: Vec<&str> = handles.iter().map(|(handle, _)| handle.as_str()).collect();
        let fault = place.diagnostic(format!("`{}` has no handle `{handle}`", call.name));
        return Err(match known.as_slice() {
            [] => fault.subject(handle).hint("it adds to no accumulator"),
            _ => fault.suggest(handle, known),
        });
    }
    let bound = handles.iter().map(|(handle, adds)| {
        let given = call.accumulators.iter().find(|(known, _)| known == handle);
        let name = given.map_or(handle, |(_, accumulator)| accumulator);
        let target = accumulators
            .target(name, adds, &place.child(handle, Line(None)))
            .map_err(|fault| match given {
                None if fault.message.starts_with("unknown accumulator") => {
                    let message = format!("`{}` adds to `{handle}`, which nothing is bound to", call.name);
                    let hint = format!("declare an accumulator `{handle}`, or write `accumulators: {{{handle}: ..}}`");
                    place.diagnostic(message).subject(handle).hint(hint)
                }
                _ => fault,
            })?;
        Ok(Bound {
            handle: handle.clone(),
            target: Arc::new(target),
        })
    });
    bound.collect()
}

/// Whether a function can be called by a name alone.
pub(super) fn has_handles(name: &str, state: &SessionState) -> bool {
    let registry = state.config().get_extension::<Registry>().unwrap_or_default();
    !registry.handles(name).is_empty() && matches!(registry.get(name), Some(Function::Scalar(_)))
}
