//! The functions of steps and outputs.

use tidemill_dstream::{Function, Line, NamedFunction, NativeCall, Reduction, StateFunction};

use super::{Error, each, every, required};
use crate::plan;

impl From<&Function> for plan::Function {
    fn from(function: &Function) -> Self {
        use plan::function::Kind;
        let kind = match function {
            Function::Expr(sql) => Kind::Expr(sql.clone()),
            Function::Native(call) => Kind::Native(call.into()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<plan::Function> for Function {
    type Error = Error;

    fn try_from(function: plan::Function) -> Result<Self, Error> {
        use plan::function::Kind;
        match function.kind.ok_or_else(|| Error::missing("kind"))? {
            Kind::Expr(sql) => Ok(Self::Expr(sql)),
            Kind::Native(call) => Ok(Self::Native(call.into())),
        }
    }
}

impl From<&NativeCall> for plan::NativeCall {
    fn from(call: &NativeCall) -> Self {
        Self {
            name: call.name.clone(),
            args: call.args.clone(),
            accumulators: call
                .accumulators
                .iter()
                .map(|(handle, accumulator)| plan::AccumulatorBinding {
                    handle: handle.clone(),
                    accumulator: accumulator.clone(),
                })
                .collect(),
        }
    }
}

impl From<plan::NativeCall> for NativeCall {
    fn from(call: plan::NativeCall) -> Self {
        Self {
            name: call.name,
            args: call.args,
            accumulators: call
                .accumulators
                .into_iter()
                .map(|binding| (binding.handle, binding.accumulator))
                .collect(),
        }
    }
}

/// The call of a field that has to be there.
pub(super) fn call(field: &str, call: Option<plan::NativeCall>) -> Result<NativeCall, Error> {
    call.map(Into::into).ok_or_else(|| Error::missing(field))
}

impl From<&NamedFunction> for plan::NamedFunction {
    fn from(named: &NamedFunction) -> Self {
        Self {
            name: named.name.clone(),
            function: Some((&named.function).into()),
            line: named.line.0,
        }
    }
}

impl TryFrom<plan::NamedFunction> for NamedFunction {
    type Error = Error;

    fn try_from(named: plan::NamedFunction) -> Result<Self, Error> {
        Ok(Self {
            name: named.name,
            function: required("function", named.function)?,
            line: Line(named.line),
        })
    }
}

// === Functions with two fields of which one is set ===

impl From<&Function> for plan::Transform {
    fn from(function: &Function) -> Self {
        match function {
            Function::Expr(sql) => Self {
                sql: sql.clone(),
                native: None,
            },
            Function::Native(call) => Self {
                sql: String::new(),
                native: Some(call.into()),
            },
        }
    }
}

pub(super) fn transformation(transform: plan::Transform) -> Function {
    match transform.native {
        Some(call) => Function::Native(call.into()),
        None => Function::Expr(transform.sql),
    }
}

pub(super) fn from_reduction(reduction: &Reduction) -> (Vec<plan::NamedFunction>, Option<plan::BinaryReduction>) {
    match reduction {
        Reduction::Aggregates(aggregates) => (every(aggregates), None),
        Reduction::Binary { columns, inverse } => {
            let binary = plan::BinaryReduction {
                columns: every(columns),
                inverse: every(inverse),
            };
            (Vec::new(), Some(binary))
        }
    }
}

pub(super) fn reduction(
    step: &str,
    aggregates: Vec<plan::NamedFunction>,
    binary: Option<plan::BinaryReduction>,
) -> Result<Reduction, Error> {
    match binary {
        None => Ok(Reduction::Aggregates(each(&format!("{step}.aggregates"), aggregates)?)),
        Some(binary) => Ok(Reduction::Binary {
            columns: each(&format!("{step}.binary.columns"), binary.columns)?,
            inverse: each(&format!("{step}.binary.inverse"), binary.inverse)?,
        }),
    }
}

// === State ===

impl From<&StateFunction> for plan::StateFunction {
    fn from(function: &StateFunction) -> Self {
        use plan::state_function::Kind;
        let kind = match function {
            StateFunction::Columns(columns) => Kind::Columns(plan::StateColumns {
                columns: every(columns),
            }),
            StateFunction::Native(call) => Kind::Native(call.into()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<plan::StateFunction> for StateFunction {
    type Error = Error;

    fn try_from(function: plan::StateFunction) -> Result<Self, Error> {
        use plan::state_function::Kind;
        match function.kind.ok_or_else(|| Error::missing("kind"))? {
            Kind::Columns(columns) => Ok(Self::Columns(each("columns", columns.columns)?)),
            Kind::Native(call) => Ok(Self::Native(call.into())),
        }
    }
}
