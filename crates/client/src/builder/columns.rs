//! What can be given where operators take named expressions.

use tidemill_dstream::{Function, Line, NamedFunction};

use crate::columns::{DEFAULT_COLUMN, is_plain_identifier, key_name};

/// Named expressions: pairs of a name and an expression, or one expression, which becomes the column `value`.
pub trait Columns {
    #[doc(hidden)]
    fn columns(self) -> Vec<NamedFunction>;
}

/// The keys of a `reduce_by_key`: a column, an expression (which becomes the column `key`), several columns, or pairs
/// of a name and an expression.
pub trait Keys {
    #[doc(hidden)]
    fn keys(self) -> Vec<NamedFunction>;
}

fn named(name: impl Into<String>, function: impl Into<Function>) -> NamedFunction {
    NamedFunction {
        name: name.into(),
        function: function.into(),
        line: Line(None),
    }
}

fn pairs<N: Into<String>, F: Into<Function>>(pairs: impl IntoIterator<Item = (N, F)>) -> Vec<NamedFunction> {
    pairs
        .into_iter()
        .map(|(name, function)| named(name, function))
        .collect()
}

impl Columns for &str {
    fn columns(self) -> Vec<NamedFunction> {
        vec![named(DEFAULT_COLUMN, self)]
    }
}

impl Columns for String {
    fn columns(self) -> Vec<NamedFunction> {
        vec![named(DEFAULT_COLUMN, self)]
    }
}

impl Columns for Function {
    fn columns(self) -> Vec<NamedFunction> {
        vec![named(DEFAULT_COLUMN, self)]
    }
}

impl<N: Into<String>, F: Into<Function>, const LENGTH: usize> Columns for [(N, F); LENGTH] {
    fn columns(self) -> Vec<NamedFunction> {
        pairs(self)
    }
}

impl<N: Into<String>, F: Into<Function>> Columns for Vec<(N, F)> {
    fn columns(self) -> Vec<NamedFunction> {
        pairs(self)
    }
}

impl Keys for &str {
    fn keys(self) -> Vec<NamedFunction> {
        vec![named(key_name(self), self)]
    }
}

impl Keys for String {
    fn keys(self) -> Vec<NamedFunction> {
        self.as_str().keys()
    }
}

/// Several columns. An expression among them is named by its place, `key_2`.
impl<const LENGTH: usize> Keys for [&str; LENGTH] {
    fn keys(self) -> Vec<NamedFunction> {
        let key = |(index, sql): (usize, &str)| {
            let name = if is_plain_identifier(sql) {
                sql.to_owned()
            } else {
                format!("key_{}", index + 1)
            };
            named(name, sql)
        };
        self.into_iter().enumerate().map(key).collect()
    }
}

impl<N: Into<String>, F: Into<Function>, const LENGTH: usize> Keys for [(N, F); LENGTH] {
    fn keys(self) -> Vec<NamedFunction> {
        pairs(self)
    }
}

impl<N: Into<String>, F: Into<Function>> Keys for Vec<(N, F)> {
    fn keys(self) -> Vec<NamedFunction> {
        pairs(self)
    }
}
