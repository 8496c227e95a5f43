//! What can be given where operators take named expressions.

use tidemill_dstream::{Function, JoinKey, Line, NamedFunction, SortKey};

use crate::columns::{KEY_COLUMN, is_plain_identifier, key_name};
use crate::sort_key::sort_key;

/// Named expressions: pairs of a name and an expression, or one expression, which mostly becomes the column `value`.
pub trait Columns {
    /// `alone` is the name of an expression without one.
    #[doc(hidden)]
    fn columns(self, alone: &str) -> Vec<NamedFunction>;
}

/// What records are grouped by: a column, an expression (which becomes the column `key`), several columns, or pairs of
/// a name and an expression. `()` is the whole batch.
pub trait Keys {
    #[doc(hidden)]
    fn keys(self) -> Vec<NamedFunction>;
}

/// Names of columns: one, or several.
pub trait Names {
    #[doc(hidden)]
    fn names(self) -> Vec<String>;
}

/// The columns that a join compares: one that both streams have, several such, or pairs of this stream's and the other's.
pub trait JoinKeys {
    #[doc(hidden)]
    fn join_keys(self) -> Vec<JoinKey>;
}

/// What records are sorted by: texts such as `count DESC NULLS LAST`, or [`SortKey`]s; one, or several.
pub trait SortKeys {
    #[doc(hidden)]
    fn sort_keys(self) -> Vec<SortKey>;
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
    fn columns(self, alone: &str) -> Vec<NamedFunction> {
        vec![named(alone, self)]
    }
}

impl Columns for String {
    fn columns(self, alone: &str) -> Vec<NamedFunction> {
        vec![named(alone, self)]
    }
}

impl Columns for Function {
    fn columns(self, alone: &str) -> Vec<NamedFunction> {
        vec![named(alone, self)]
    }
}

impl<N: Into<String>, F: Into<Function>, const LENGTH: usize> Columns for [(N, F); LENGTH] {
    fn columns(self, _: &str) -> Vec<NamedFunction> {
        pairs(self)
    }
}

impl<N: Into<String>, F: Into<Function>> Columns for Vec<(N, F)> {
    fn columns(self, _: &str) -> Vec<NamedFunction> {
        pairs(self)
    }
}

impl Keys for () {
    fn keys(self) -> Vec<NamedFunction> {
        Vec::new()
    }
}

impl Keys for Function {
    fn keys(self) -> Vec<NamedFunction> {
        match self {
            Function::Expr(sql) => sql.keys(),
            native @ Function::Native(_) => vec![named(KEY_COLUMN, native)],
        }
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

// === Names ===

impl Names for &str {
    fn names(self) -> Vec<String> {
        vec![self.to_owned()]
    }
}

impl Names for String {
    fn names(self) -> Vec<String> {
        vec![self]
    }
}

impl<const LENGTH: usize> Names for [&str; LENGTH] {
    fn names(self) -> Vec<String> {
        self.map(str::to_owned).into()
    }
}

impl Names for Vec<String> {
    fn names(self) -> Vec<String> {
        self
    }
}

// === JoinKeys ===

impl JoinKeys for &str {
    fn join_keys(self) -> Vec<JoinKey> {
        vec![JoinKey::same(self)]
    }
}

impl<const LENGTH: usize> JoinKeys for [&str; LENGTH] {
    fn join_keys(self) -> Vec<JoinKey> {
        self.map(JoinKey::same).into()
    }
}

impl<const LENGTH: usize> JoinKeys for [(&str, &str); LENGTH] {
    fn join_keys(self) -> Vec<JoinKey> {
        let pair = |(left, right): (&str, &str)| JoinKey {
            left: left.to_owned(),
            right: right.to_owned(),
        };
        self.map(pair).into()
    }
}

impl JoinKeys for Vec<JoinKey> {
    fn join_keys(self) -> Vec<JoinKey> {
        self
    }
}

// === SortKeys ===

impl SortKeys for &str {
    fn sort_keys(self) -> Vec<SortKey> {
        vec![sort_key(self)]
    }
}

impl<const LENGTH: usize> SortKeys for [&str; LENGTH] {
    fn sort_keys(self) -> Vec<SortKey> {
        self.map(sort_key).into()
    }
}

impl SortKeys for SortKey {
    fn sort_keys(self) -> Vec<SortKey> {
        vec![self]
    }
}

impl SortKeys for Vec<SortKey> {
    fn sort_keys(self) -> Vec<SortKey> {
        self
    }
}
