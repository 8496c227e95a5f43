//! Steps and their functions.

use std::time::Duration;

use tidemill_dstream::{Function, Line, NamedFunction, Operator, Step};

use super::{Error, each, every, required, to_millis};
use crate::plan;
use crate::plan::step::Operator as Wire;

impl From<&Step> for plan::Step {
    fn from(step: &Step) -> Self {
        let operator = match &step.operator {
            Operator::Map { columns } => Wire::Map(plan::Map {
                columns: every(columns),
            }),
            Operator::FlatMap { columns } => Wire::FlatMap(plan::FlatMap {
                columns: every(columns),
            }),
            Operator::Filter { predicate } => Wire::Filter(plan::Filter {
                predicate: Some(predicate.into()),
            }),
            Operator::Union { with } => Wire::Union(plan::Union { with: with.clone() }),
            Operator::Window { length, slide } => Wire::Window(plan::Window {
                length_ms: to_millis(*length),
                slide_ms: slide.map(to_millis),
            }),
            Operator::ReduceByKey { keys, aggregates } => Wire::ReduceByKey(plan::ReduceByKey {
                keys: every(keys),
                aggregates: every(aggregates),
            }),
            Operator::Reduce { aggregates } => Wire::Reduce(plan::Reduce {
                aggregates: every(aggregates),
            }),
            Operator::Count => Wire::Count(plan::Count {}),
            Operator::Transform { sql } => Wire::Transform(plan::Transform { sql: sql.clone() }),
        };
        Self {
            operator: Some(operator),
            line: step.line.0,
        }
    }
}

impl TryFrom<plan::Step> for Step {
    type Error = Error;

    fn try_from(step: plan::Step) -> Result<Self, Error> {
        let operator = match step.operator.ok_or_else(|| Error::missing("operator"))? {
            Wire::Map(map) => Operator::Map {
                columns: each("map.columns", map.columns)?,
            },
            Wire::FlatMap(map) => Operator::FlatMap {
                columns: each("flat_map.columns", map.columns)?,
            },
            Wire::Filter(filter) => Operator::Filter {
                predicate: required("filter.predicate", filter.predicate)?,
            },
            Wire::Union(union) => Operator::Union { with: union.with },
            Wire::Window(window) => Operator::Window {
                length: Duration::from_millis(window.length_ms),
                slide: window.slide_ms.map(Duration::from_millis),
            },
            Wire::ReduceByKey(reduce) => Operator::ReduceByKey {
                keys: each("reduce_by_key.keys", reduce.keys)?,
                aggregates: each("reduce_by_key.aggregates", reduce.aggregates)?,
            },
            Wire::Reduce(reduce) => Operator::Reduce {
                aggregates: each("reduce.aggregates", reduce.aggregates)?,
            },
            Wire::Count(plan::Count {}) => Operator::Count,
            Wire::Transform(transform) => Operator::Transform { sql: transform.sql },
        };
        Ok(Self {
            operator,
            line: Line(step.line),
        })
    }
}

impl From<&Function> for plan::Function {
    fn from(function: &Function) -> Self {
        let kind = match function {
            Function::Expr(sql) => plan::function::Kind::Expr(sql.clone()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<plan::Function> for Function {
    type Error = Error;

    fn try_from(function: plan::Function) -> Result<Self, Error> {
        match function.kind.ok_or_else(|| Error::missing("kind"))? {
            plan::function::Kind::Expr(sql) => Ok(Self::Expr(sql)),
        }
    }
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
