//! Functions, columns and keys.

use tidemill_dstream::{Function, NamedFunction, NativeCall, Reduction};

use super::super::yaml::{Layout, Value};
use crate::columns::{KEY_COLUMN, is_plain_identifier, key_name};

/// A step's settings, and the columns beside them.
pub(super) type Entries = Vec<(String, Value)>;

pub(super) fn function(function: &Function) -> Value {
    match function {
        Function::Expr(sql) => Value::text(sql),
        Function::Native(call) => native(call),
    }
}

pub(super) fn native(function: &NativeCall) -> Value {
    Value::map(call(function))
}

/// `native` and `args`.
pub(super) fn call(call: &NativeCall) -> Vec<(&'static str, Value)> {
    let mut entries = vec![("native", Value::text(&call.name))];
    if !call.args.is_empty() {
        entries.push(("args", Value::list(&call.args)));
    }
    if !call.accumulators.is_empty() {
        let bound = call.accumulators.iter();
        let bound = bound.map(|(handle, accumulator)| (handle.clone(), Value::text(accumulator)));
        entries.push(("accumulators", Value::Map(bound.collect(), Layout::Short)));
    }
    entries
}

pub(super) fn columns(columns: &[NamedFunction]) -> Entries {
    columns
        .iter()
        .map(|column| (column.name.clone(), function(&column.function)))
        .collect()
}

/// Columns by themselves.
pub(super) fn map(list: &[NamedFunction]) -> Value {
    Value::Map(columns(list), Layout::Short)
}

/// Whether a key is a column under its own name.
fn is_column(key: &NamedFunction) -> bool {
    matches!(&key.function, Function::Expr(sql) if *sql == key.name && is_plain_identifier(sql))
}

pub(super) fn keys(keys: &[NamedFunction]) -> Value {
    let has_given_name = |key: &NamedFunction| match &key.function {
        Function::Expr(sql) => key_name(sql) == key.name,
        Function::Native(_) => KEY_COLUMN == key.name,
    };
    match keys {
        [key] if has_given_name(key) => function(&key.function),
        keys if keys.iter().all(is_column) => Value::list(keys.iter().map(|key| &key.name)),
        keys => map(keys),
    }
}

/// A name, or a list of them.
pub(super) fn names(names: &[String]) -> Value {
    match names {
        [name] => Value::text(name),
        names => Value::list(names),
    }
}

pub(super) fn reduction(reduction: &Reduction) -> Entries {
    match reduction {
        Reduction::Aggregates(aggregates) => columns(aggregates),
        Reduction::Binary { columns, inverse } => {
            let mut entries = vec![("function".to_owned(), value_functions(columns))];
            if !inverse.is_empty() {
                entries.push(("inverse".to_owned(), value_functions(inverse)));
            }
            entries
        }
    }
}

fn value_functions(functions: &[NamedFunction]) -> Value {
    match functions {
        [only] if only.name.is_empty() => function(&only.function),
        functions => map(functions),
    }
}
