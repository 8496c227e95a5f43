//! Functions of a menu, each as SQL text and as what it means.

mod eval;
mod sql;
mod typed;

pub use eval::Scope;
pub(super) use sql::quoted;

use super::{Type, Value};

/// An expression over the columns of a record; with aggregates, over the records of a group.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    Column(String),
    /// Bool, Int or Text.
    Literal(Value),
    /// A null of a type.
    Null(Type),
    Binary(Binary, Box<Expr>, Box<Expr>),
    Not(Box<Expr>),
    IsNull(Box<Expr>),
    /// `CASE WHEN .. THEN .. ELSE .. END`.
    If(Box<Expr>, Box<Expr>, Box<Expr>),
    Call(Call, Vec<Expr>),
    /// A field of a struct.
    Field(Box<Expr>, String),
    /// The number of the batch, from 1: its time in seconds.
    BatchNumber,
    Aggregate(Box<Aggregate>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    Add,
    Subtract,
    Multiply,
    Remainder,
    Equal,
    Less,
    And,
    Or,
    Concat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Coalesce,
    Greatest,
    Least,
    NullIf,
    Upper,
    Lower,
    /// Characters of a text.
    Length,
    /// A whole number as text.
    ToText,
    /// Half of a whole number, which a float holds exactly.
    Half,
    /// A list of its arguments.
    Array,
    /// The whole numbers from 0 up to its argument, which is left out.
    Range,
    /// Elements of a list.
    Size,
}

/// An aggregate over the records of a group for which `filter` is true.
#[derive(Clone, Debug, PartialEq)]
pub struct Aggregate {
    pub function: AggregateFunction,
    pub filter: Option<Expr>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum AggregateFunction {
    CountAll,
    Count(Expr),
    CountDistinct(Expr),
    Sum(Expr),
    Min(Expr),
    Max(Expr),
    /// Of whole numbers.
    Avg(Expr),
}

// === Building ===

/// The column of this name.
pub fn column(name: impl Into<String>) -> Expr {
    Expr::Column(name.into())
}

/// A literal.
pub fn literal(value: impl Into<Value>) -> Expr {
    Expr::Literal(value.into())
}

pub fn call<const N: usize>(function: Call, arguments: [Expr; N]) -> Expr {
    Expr::Call(function, arguments.into())
}

/// An aggregate without a filter.
#[must_use]
pub fn aggregate(function: AggregateFunction) -> Expr {
    Expr::Aggregate(Box::new(Aggregate { function, filter: None }))
}

impl Expr {
    #[must_use]
    pub fn binary(self, operator: Binary, right: Expr) -> Expr {
        Expr::Binary(operator, Box::new(self), Box::new(right))
    }

    #[must_use]
    pub fn is_null(self) -> Expr {
        Expr::IsNull(Box::new(self))
    }

    #[must_use]
    pub fn negated(self) -> Expr {
        Expr::Not(Box::new(self))
    }

    #[must_use]
    pub fn or_else(self, other: Expr) -> Expr {
        call(Call::Coalesce, [self, other])
    }

    #[must_use]
    pub fn field(self, name: impl Into<String>) -> Expr {
        Expr::Field(Box::new(self), name.into())
    }

    /// `CASE WHEN self THEN then ELSE otherwise END`.
    #[must_use]
    pub fn choose(self, then: Expr, otherwise: Expr) -> Expr {
        Expr::If(Box::new(self), Box::new(then), Box::new(otherwise))
    }
}
