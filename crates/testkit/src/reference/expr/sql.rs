//! The menu as SQL text.

use super::{Aggregate, AggregateFunction, Binary, Call, Expr};
use crate::reference::{Type, Value};

/// A column's name in SQL, which reserves some.
pub(in crate::reference) fn quoted(name: &str) -> String {
    match name {
        "values" | "user" => format!("\"{name}\""),
        _ => name.to_owned(),
    }
}

impl Type {
    /// The type's name in a cast.
    pub(super) fn sql(&self) -> String {
        match self {
            Self::Bool => "BOOLEAN".to_owned(),
            Self::Int => "BIGINT".to_owned(),
            Self::Float => "DOUBLE".to_owned(),
            Self::Text => "VARCHAR".to_owned(),
            Self::List(item) | Self::Bag(item) => format!("{}[]", item.sql()),
            Self::Struct(columns) => {
                let fields: Vec<String> = columns
                    .iter()
                    .map(|column| format!("{} {}", quoted(&column.name), column.data_type.sql()))
                    .collect();
                format!("STRUCT({})", fields.join(", "))
            }
        }
    }
}

impl Binary {
    pub(super) fn sql(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Remainder => "%",
            Self::Equal => "=",
            Self::Less => "<",
            Self::And => "AND",
            Self::Or => "OR",
            Self::Concat => "||",
        }
    }
}

impl Expr {
    /// The expression as SQL.
    #[must_use]
    pub fn sql(&self) -> String {
        match self {
            Self::Column(name) => quoted(name),
            Self::Literal(Value::Text(text)) => format!("'{}'", text.replace('\'', "''")),
            Self::Literal(Value::Int(int)) if *int < 0 => format!("({int})"),
            Self::Literal(value) => value.to_string(),
            Self::Null(data_type) => format!("CAST(NULL AS {})", data_type.sql()),
            Self::Binary(operator, left, right) => format!("({} {} {})", left.sql(), operator.sql(), right.sql()),
            Self::Not(operand) => format!("(NOT {})", operand.sql()),
            Self::IsNull(operand) => format!("({} IS NULL)", operand.sql()),
            Self::If(condition, then, otherwise) => {
                format!(
                    "CASE WHEN {} THEN {} ELSE {} END",
                    condition.sql(),
                    then.sql(),
                    otherwise.sql()
                )
            }
            Self::Call(function, arguments) => {
                let arguments: Vec<String> = arguments.iter().map(Expr::sql).collect();
                let arguments = arguments.join(", ");
                match function {
                    Call::Coalesce => format!("coalesce({arguments})"),
                    Call::Greatest => format!("greatest({arguments})"),
                    Call::Least => format!("least({arguments})"),
                    Call::NullIf => format!("nullif({arguments})"),
                    Call::Upper => format!("upper({arguments})"),
                    Call::Lower => format!("lower({arguments})"),
                    Call::Length => format!("CAST(character_length({arguments}) AS BIGINT)"),
                    Call::ToText => format!("CAST({arguments} AS VARCHAR)"),
                    Call::Half => format!("(CAST({arguments} AS DOUBLE) / 2)"),
                    Call::Array => format!("make_array({arguments})"),
                    Call::Range => format!("range(0, {arguments})"),
                    Call::Size => format!("CAST(cardinality({arguments}) AS BIGINT)"),
                }
            }
            Self::Field(operand, name) => format!("{}['{name}']", operand.sql()),
            Self::BatchNumber => "CAST(to_unixtime(batch_time()) AS BIGINT)".to_owned(),
            Self::Aggregate(aggregate) => aggregate.sql(),
        }
    }
}

impl Aggregate {
    pub(super) fn sql(&self) -> String {
        let call = match &self.function {
            AggregateFunction::CountAll => "count(*)".to_owned(),
            AggregateFunction::Count(of) => format!("count({})", of.sql()),
            AggregateFunction::CountDistinct(of) => format!("count(DISTINCT {})", of.sql()),
            AggregateFunction::Sum(of) => format!("sum({})", of.sql()),
            AggregateFunction::Min(of) => format!("min({})", of.sql()),
            AggregateFunction::Max(of) => format!("max({})", of.sql()),
            AggregateFunction::Avg(of) => format!("avg({})", of.sql()),
        };
        match &self.filter {
            Some(filter) => format!("{call} FILTER (WHERE {})", filter.sql()),
            None => call,
        }
    }
}
