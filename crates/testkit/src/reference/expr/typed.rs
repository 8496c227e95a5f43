//! The types of the menu.

use super::{Aggregate, AggregateFunction, Binary, Call, Expr};
use crate::reference::{Column, Schema, Type, Unfit, Value};

impl Expr {
    /// The column that the expression becomes, over records of `columns`; with `records`, over a group's records of
    /// those columns.
    ///
    /// # Errors
    /// It has no type: a column is not there, or an argument is of a type that the menu does not have there.
    pub fn typed(&self, name: &str, columns: &Schema, records: Option<&Schema>) -> Result<Column, Unfit> {
        let (data_type, nullable) = self.type_of(columns, records)?;
        Ok(Column::new(name, data_type, nullable))
    }

    fn type_of(&self, columns: &Schema, records: Option<&Schema>) -> Result<(Type, bool), Unfit> {
        let of = |expr: &Expr| expr.type_of(columns, records);
        let wanted = |expr: &Expr, wanted: Type| match of(expr)? {
            (found, nullable) if found == wanted => Ok(nullable),
            (found, _) => Err(Unfit::new(format!("{} is {found:?}, not {wanted:?}", expr.sql()))),
        };
        let alike = |left: &Expr, right: &Expr| {
            let ((left_type, left_null), (right_type, right_null)) = (of(left)?, of(right)?);
            if left_type == right_type {
                Ok((left_type, left_null, right_null))
            } else {
                let (left, right) = (left.sql(), right.sql());
                Err(Unfit::new(format!(
                    "{left} is {left_type:?} and {right} is {right_type:?}"
                )))
            }
        };
        let no_such_call = || Err(Unfit::new(format!("{} has other arguments", self.sql())));
        match self {
            Self::Column(name) => {
                let column = columns.column(name)?;
                Ok((column.data_type.clone(), column.nullable))
            }
            Self::Literal(Value::Bool(_)) => Ok((Type::Bool, false)),
            Self::Literal(Value::Int(_)) => Ok((Type::Int, false)),
            Self::Literal(Value::Text(_)) => Ok((Type::Text, false)),
            Self::Literal(value) => Err(Unfit::new(format!("{value} is no literal of the menu"))),
            Self::Null(data_type) => Ok((data_type.clone(), true)),
            Self::Binary(Binary::Equal | Binary::Less, left, right) => {
                let (data_type, left, right) = alike(left, right)?;
                if data_type.is_plain() {
                    Ok((Type::Bool, left || right))
                } else {
                    Err(Unfit::new(format!("{} compares {data_type:?}", self.sql())))
                }
            }
            Self::Binary(operator, left, right) => {
                let data_type = match operator {
                    Binary::And | Binary::Or => Type::Bool,
                    Binary::Concat => Type::Text,
                    _ => Type::Int,
                };
                let nullable = wanted(left, data_type.clone())? | wanted(right, data_type.clone())?;
                Ok((data_type, nullable))
            }
            Self::Not(operand) => Ok((Type::Bool, wanted(operand, Type::Bool)?)),
            Self::IsNull(operand) => of(operand).map(|_| (Type::Bool, false)),
            Self::If(condition, then, otherwise) => {
                wanted(condition, Type::Bool)?;
                let (data_type, then, otherwise) = alike(then, otherwise)?;
                Ok((data_type, then || otherwise))
            }
            Self::Call(function, arguments) => match (function, arguments.as_slice()) {
                (Call::Coalesce | Call::Greatest | Call::Least, [left, right]) => {
                    let (data_type, left, right) = alike(left, right)?;
                    Ok((data_type, left && right))
                }
                (Call::NullIf, [left, right]) => Ok((alike(left, right)?.0, true)),
                (Call::Upper | Call::Lower, [text]) => Ok((Type::Text, wanted(text, Type::Text)?)),
                (Call::Length, [text]) => Ok((Type::Int, wanted(text, Type::Text)?)),
                (Call::ToText, [int]) => Ok((Type::Text, wanted(int, Type::Int)?)),
                (Call::Half, [int]) => Ok((Type::Float, wanted(int, Type::Int)?)),
                (Call::Range, [int]) => Ok((Type::List(Box::new(Type::Int)), wanted(int, Type::Int)?)),
                (Call::Array, [first, ..]) => {
                    let (data_type, _) = of(first)?;
                    for argument in arguments {
                        wanted(argument, data_type.clone())?;
                    }
                    Ok((Type::List(Box::new(data_type)), false))
                }
                (Call::Size, [list]) => match of(list)? {
                    (Type::List(_) | Type::Bag(_), nullable) => Ok((Type::Int, nullable)),
                    _ => no_such_call(),
                },
                _ => no_such_call(),
            },
            Self::Field(operand, name) => match of(operand)? {
                (Type::Struct(fields), nullable) => {
                    let field = fields.iter().find(|field| field.name == *name);
                    let field = field.ok_or_else(|| Unfit::new(format!("{} has no field {name}", operand.sql())))?;
                    Ok((field.data_type.clone(), nullable || field.nullable))
                }
                _ => no_such_call(),
            },
            Self::BatchNumber => Ok((Type::Int, false)),
            Self::Aggregate(aggregate) => {
                let records =
                    records.ok_or_else(|| Unfit::new(format!("{} without a group of records", self.sql())))?;
                aggregate.type_of(records)
            }
        }
    }
}

impl Aggregate {
    fn type_of(&self, records: &Schema) -> Result<(Type, bool), Unfit> {
        if let Some(filter) = &self.filter {
            filter.typed("filter", records, None)?;
        }
        let of = |expr: &Expr| expr.type_of(records, None).map(|(data_type, _)| data_type);
        match &self.function {
            AggregateFunction::CountAll => Ok((Type::Int, false)),
            AggregateFunction::Count(expr) | AggregateFunction::CountDistinct(expr) => {
                if of(expr)?.is_plain() {
                    Ok((Type::Int, false))
                } else {
                    Err(Unfit::new(format!("{} counts lists", self.sql())))
                }
            }
            AggregateFunction::Min(expr) | AggregateFunction::Max(expr) => match of(expr)? {
                data_type if data_type.is_plain() => Ok((data_type, true)),
                _ => Err(Unfit::new(format!("{} compares lists", self.sql()))),
            },
            AggregateFunction::Sum(expr) if of(expr)? == Type::Int => Ok((Type::Int, true)),
            AggregateFunction::Avg(expr) if of(expr)? == Type::Int => Ok((Type::Float, true)),
            AggregateFunction::Sum(_) | AggregateFunction::Avg(_) => {
                Err(Unfit::new(format!("{} is not of whole numbers", self.sql())))
            }
        }
    }
}
