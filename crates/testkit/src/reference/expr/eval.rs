//! What the menu means.

use super::{Aggregate, AggregateFunction, Binary, Call, Expr};
use crate::reference::{Row, Schema, Unfit, Value};

/// What an expression can see.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    pub columns: &'a Schema,
    pub row: &'a [Value],
    /// What aggregates are of.
    pub records: &'a [Row],
    pub record_columns: &'a Schema,
    pub batch: u64,
}

/// Whole numbers stay below this size, so that no sum of them overflows and every mean is exact but for one division.
const LIMIT: i64 = 1_000_000_000_000;
/// Numbers in a range.
const LONGEST: i64 = 20;

impl Expr {
    /// # Errors
    /// The expression has no type, or a number becomes too large to compare.
    pub fn eval(&self, scope: Scope<'_>) -> Result<Value, Unfit> {
        let value = match self {
            Self::Column(name) => {
                scope.columns.column(name)?;
                let position = scope.columns.position(name);
                position.map_or(Value::Null, |position| scope.row[position].clone())
            }
            Self::Literal(value) => value.clone(),
            Self::Null(_) => Value::Null,
            Self::Binary(operator, left, right) => binary(*operator, left.eval(scope)?, right.eval(scope)?)?,
            Self::Not(operand) => match operand.eval(scope)? {
                Value::Bool(operand) => Value::Bool(!operand),
                _ => Value::Null,
            },
            Self::IsNull(operand) => Value::Bool(operand.eval(scope)?.is_null()),
            Self::If(condition, then, otherwise) => match condition.eval(scope)? {
                Value::Bool(true) => then.eval(scope)?,
                _ => otherwise.eval(scope)?,
            },
            Self::Call(function, arguments) => {
                let arguments = arguments.iter().map(|argument| argument.eval(scope));
                called(*function, arguments.collect::<Result<_, _>>()?)?
            }
            Self::Field(operand, name) => match operand.eval(scope)? {
                Value::Struct(fields) => fields
                    .into_iter()
                    .find(|(field, _)| field == name)
                    .map_or(Value::Null, |(_, value)| value),
                _ => Value::Null,
            },
            Self::BatchNumber => Value::Int(scope.batch as i64),
            Self::Aggregate(aggregate) => aggregate.eval(scope)?,
        };
        match value {
            Value::Int(int) if int.abs() > LIMIT => Err(Unfit::new(format!("{} is {int}, over the limit", self.sql()))),
            value => Ok(value),
        }
    }
}

fn binary(operator: Binary, left: Value, right: Value) -> Result<Value, Unfit> {
    let int = |of: fn(i64, i64) -> Option<i64>| match (&left, &right) {
        (Value::Int(left), Value::Int(right)) => {
            let result = of(*left, *right);
            result
                .map(Value::Int)
                .ok_or_else(|| Unfit::new(format!("{left} {} {right}", operator.sql())))
        }
        _ => Ok(Value::Null),
    };
    let compared = |of: fn(&Value, &Value) -> bool| {
        if left.is_null() || right.is_null() {
            Value::Null
        } else {
            Value::Bool(of(&left, &right))
        }
    };
    Ok(match operator {
        Binary::Add => int(i64::checked_add)?,
        Binary::Subtract => int(i64::checked_sub)?,
        Binary::Multiply => int(i64::checked_mul)?,
        Binary::Remainder => int(i64::checked_rem)?,
        Binary::Equal => compared(|left, right| left == right),
        Binary::Less => compared(|left, right| left < right),
        Binary::And => match (left, right) {
            (Value::Bool(false), _) | (_, Value::Bool(false)) => Value::Bool(false),
            (Value::Bool(true), Value::Bool(true)) => Value::Bool(true),
            _ => Value::Null,
        },
        Binary::Or => match (left, right) {
            (Value::Bool(true), _) | (_, Value::Bool(true)) => Value::Bool(true),
            (Value::Bool(false), Value::Bool(false)) => Value::Bool(false),
            _ => Value::Null,
        },
        Binary::Concat => match (left, right) {
            (Value::Text(left), Value::Text(right)) => Value::Text(left + &right),
            _ => Value::Null,
        },
    })
}

fn called(function: Call, arguments: Vec<Value>) -> Result<Value, Unfit> {
    Ok(match (function, arguments.as_slice()) {
        (Call::Coalesce, _) => arguments
            .into_iter()
            .find(|value| !value.is_null())
            .unwrap_or(Value::Null),
        (Call::Greatest, _) => arguments.into_iter().max().unwrap_or(Value::Null),
        (Call::Least, _) => arguments
            .into_iter()
            .filter(|value| !value.is_null())
            .min()
            .unwrap_or(Value::Null),
        (Call::NullIf, [left, right]) if left == right => Value::Null,
        (Call::NullIf, [left, _]) => left.clone(),
        (Call::Array, _) => Value::List(arguments),
        (Call::Upper, [Value::Text(text)]) => Value::Text(text.to_uppercase()),
        (Call::Lower, [Value::Text(text)]) => Value::Text(text.to_lowercase()),
        (Call::Length, [Value::Text(text)]) => Value::Int(text.chars().count() as i64),
        (Call::ToText, [Value::Int(int)]) => Value::Text(int.to_string()),
        (Call::Half, [Value::Int(int)]) => Value::Float(*int as f64 / 2.0),
        (Call::Range, [Value::Int(end)]) if *end > LONGEST => {
            return Err(Unfit::new(format!("a list of {end} numbers")));
        }
        (Call::Range, [Value::Int(end)]) => Value::List((0..*end).map(Value::Int).collect()),
        (Call::Size, [Value::List(values)]) => Value::Int(values.len() as i64),
        _ => Value::Null,
    })
}

impl Aggregate {
    fn eval(&self, scope: Scope<'_>) -> Result<Value, Unfit> {
        let of_record = |expr: &Expr, row: &Row| {
            expr.eval(Scope {
                columns: scope.record_columns,
                row,
                records: &[],
                ..scope
            })
        };
        let mut records = Vec::new();
        for record in scope.records {
            let passes = self
                .filter
                .as_ref()
                .map(|filter| of_record(filter, record))
                .transpose()?;
            if passes.is_none_or(|passes| passes == Value::Bool(true)) {
                records.push(record);
            }
        }
        // All aggregates of an expression pass over its nulls.
        let values = |expr: &Expr| -> Result<Vec<Value>, Unfit> {
            let values = records.iter().map(|record| of_record(expr, record));
            let values: Vec<Value> = values.collect::<Result<_, _>>()?;
            Ok(values.into_iter().filter(|value| !value.is_null()).collect())
        };
        let numbers = |expr: &Expr| -> Result<Vec<i64>, Unfit> {
            let numbers = values(expr)?.into_iter().map(|value| match value {
                Value::Int(int) => Ok(int),
                other => Err(Unfit::new(format!("{other} is not a whole number"))),
            });
            numbers.collect()
        };
        Ok(match &self.function {
            AggregateFunction::CountAll => Value::Int(records.len() as i64),
            AggregateFunction::Count(expr) => Value::Int(values(expr)?.len() as i64),
            AggregateFunction::CountDistinct(expr) => {
                let mut values = values(expr)?;
                values.sort();
                values.dedup();
                Value::Int(values.len() as i64)
            }
            AggregateFunction::Min(expr) => values(expr)?.into_iter().min().unwrap_or(Value::Null),
            AggregateFunction::Max(expr) => values(expr)?.into_iter().max().unwrap_or(Value::Null),
            AggregateFunction::Sum(expr) => match numbers(expr)?.as_slice() {
                [] => Value::Null,
                numbers => Value::Int(numbers.iter().sum()),
            },
            AggregateFunction::Avg(expr) => match numbers(expr)?.as_slice() {
                [] => Value::Null,
                numbers => Value::Float(numbers.iter().sum::<i64>() as f64 / numbers.len() as f64),
            },
        })
    }
}
