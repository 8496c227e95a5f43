//! Functions and named columns, which many steps take, alone or beside settings.

use std::rc::Rc;

use tidemill_dstream::{Diagnostic, Function, Line, NamedFunction, NativeCall, Reduction, nearest};

use super::document::{Data, Entry, Node};
use super::keys;
use super::reader::{Reader, Settings, join};
use super::sources::each;
use crate::columns::{DEFAULT_COLUMN, KEY_COLUMN, is_plain_identifier, key_name};

// === one function ===

/// An expression, or `{native: name, args: [expressions]}`.
pub(super) fn function(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Function> {
    match &node.data {
        Data::Map(_) if is_native(node) => native(reader, node, path).map(Function::Native),
        Data::Map(_) => {
            reader.expected(node, path, "an expression or {native: name}");
            None
        }
        _ => reader.expression(node, path).map(Function::Expr),
    }
}

/// A registered function, in place of an expression.
pub(super) fn is_native(node: &Node) -> bool {
    matches!(&node.data, Data::Map(entries) if entries.iter().any(|entry| entry.key == "native"))
}

/// `{native: name, args: [expressions]}`.
pub(super) fn native(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<NativeCall> {
    let settings = reader.settings(node, path, keys::NATIVE)?;
    call(reader, &settings)
}

/// The call that `native` and `args` say.
pub(super) fn call(reader: &mut Reader<'_>, settings: &Settings<'_>) -> Option<NativeCall> {
    let name = reader.required(settings, "native").and_then(|node| {
        let what = "the name of a registered function";
        reader.text(node, &settings.at("native"), what)
    });
    let args = reader.optional(settings, "args", |reader, node, path| match &node.data {
        Data::List(items) => each(items, path, |item, at| reader.expression(item, at)),
        _ => reader.expression(node, path).map(|sql| vec![sql]),
    });
    let accumulators = reader.optional(settings, "accumulators", bindings);
    Some(NativeCall {
        name: name?,
        args: args?.unwrap_or_default(),
        accumulators: accumulators?.unwrap_or_default(),
    })
}

/// `{handle: accumulator}`.
fn bindings(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Vec<(String, String)>> {
    let settings = reader.mapping(node, path, "{handle of the function: accumulator}")?;
    let all: Vec<Option<(String, String)>> = settings
        .entries()
        .map(|entry| {
            let name = reader.text(&entry.value, &join(path, &entry.key), "the name of an accumulator")?;
            Some((entry.key.clone(), name))
        })
        .collect();
    all.into_iter().collect()
}

// === columns ===

pub(super) fn named(name: &str, function: impl Into<Function>, line: u32) -> NamedFunction {
    NamedFunction {
        name: name.to_owned(),
        function: function.into(),
        line: Line(Some(line)),
    }
}

fn column(reader: &mut Reader<'_>, entry: &Entry, path: &str) -> Option<NamedFunction> {
    let at = join(path, &entry.key);
    if entry.key == "native" {
        let hint = "a registered function stands after its column: `column: {native: name}`";
        reader.hinted(entry.line, &at, "a column cannot be called `native`", hint);
        return None;
    }
    let function = function(reader, &entry.value, &at)?;
    Some(named(&entry.key, function, entry.line))
}

/// `{column: function}`.
pub(super) fn columns(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Vec<NamedFunction>> {
    let settings = reader.mapping(node, path, "{column: expression}")?;
    all_columns(reader, &settings)
}

fn all_columns(reader: &mut Reader<'_>, settings: &Settings<'_>) -> Option<Vec<NamedFunction>> {
    let path = &settings.path;
    let all: Vec<_> = settings.entries().map(|entry| column(reader, entry, path)).collect();
    all.into_iter().collect()
}

/// `{column: function}`, or a function whose result becomes the column `value`.
pub(super) fn columns_or_value(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Vec<NamedFunction>> {
    match &node.data {
        Data::Map(_) if !is_native(node) => columns(reader, node, path),
        Data::List(_) => columns(reader, node, path),
        _ => Some(vec![named(DEFAULT_COLUMN, function(reader, node, path)?, node.line)]),
    }
}

// === keys ===

/// A function, a list of columns, or `{column: function}`.
pub(super) fn keys(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Vec<NamedFunction>> {
    match &node.data {
        Data::Map(_) if !is_native(node) => columns(reader, node, path),
        Data::List(items) => each(items, path, |item, at| {
            let sql = reader.text(item, at, "a column")?;
            if is_plain_identifier(&sql) {
                return Some(named(&sql, sql.as_str(), item.line));
            }
            let hint = "in a list of keys each is a column; write {name: expression} for expressions";
            reader.hinted(item.line, at, "an expression here has no name", hint);
            None
        }),
        _ => {
            let function = function(reader, node, path)?;
            let name = match &function {
                Function::Expr(sql) => key_name(sql).to_owned(),
                Function::Native(_) => KEY_COLUMN.to_owned(),
            };
            Some(vec![named(&name, function, node.line)])
        }
    }
}

/// The value of a `key` that has to be there.
pub(super) fn required_key<'n>(reader: &mut Reader<'_>, settings: &Settings<'n>) -> Option<&'n Rc<Node>> {
    let node = settings.get("key");
    if node.is_none() {
        let fault = Diagnostic::new(Some(settings.line), &settings.path, "`key` is missing");
        reader.faults.push(fault.hint("such as `key: user`"));
    }
    node
}

pub(super) fn required_keys(reader: &mut Reader<'_>, settings: &Settings<'_>) -> Option<Vec<NamedFunction>> {
    let node = required_key(reader, settings)?;
    keys(reader, node, &settings.at("key"))
}

/// A name, or a list of them.
pub(super) fn names(reader: &mut Reader<'_>, node: &Node, path: &str, what: &str) -> Option<Vec<String>> {
    match &node.data {
        Data::List(items) => each(items, path, |item, at| reader.text(item, at, what)),
        _ => reader
            .text(node, path, &format!("{what}, or a list of them"))
            .map(|name| vec![name]),
    }
}

pub(super) fn partitions(reader: &mut Reader<'_>, settings: &Settings<'_>) -> Option<Option<u32>> {
    reader.optional(settings, "partitions", |reader, node, path| {
        reader.number(node, path, u32::MAX)
    })
}

// === settings with columns beside them ===

/// A mapping of some settings; everything else in it is a column.
pub(super) struct Mixed<'n> {
    pub(super) settings: Settings<'n>,
    columns: Settings<'n>,
}

/// Splits a mapping into the `known` settings and columns. `partitions` is a setting if it is a number.
pub(super) fn mixed<'n>(reader: &mut Reader<'_>, node: &'n Node, path: &str, known: &[&str]) -> Option<Mixed<'n>> {
    let all = reader.mapping(node, path, &format!("{{{}, column: expression}}", known.join(", ")))?;
    let (settings, columns) = all.partition(|entry| match entry.key.as_str() {
        "partitions" => known.contains(&"partitions") && is_number(reader, &entry.value),
        key => known.contains(&key),
    });
    Some(Mixed { settings, columns })
}

/// Whether a value is a number, or one will be told what is wrong with its variables.
fn is_number(reader: &mut Reader<'_>, node: &Node) -> bool {
    matches!(node.data, Data::Scalar(_)) && reader.peek(node).is_none_or(|text| text.trim().parse::<f64>().is_ok())
}

impl Mixed<'_> {
    pub(super) fn columns(&self, reader: &mut Reader<'_>) -> Option<Vec<NamedFunction>> {
        all_columns(reader, &self.columns)
    }

    /// The columns, or `native` and `args` for the column `value`.
    pub(super) fn columns_or_value(&self, reader: &mut Reader<'_>) -> Option<Vec<NamedFunction>> {
        let Some(native) = self.columns.get("native") else {
            return self.columns(reader);
        };
        for entry in self
            .columns
            .entries()
            .filter(|entry| !keys::NATIVE.contains(&entry.key.as_str()))
        {
            let hint = "a registered function stands after its column: `column: {native: name}`";
            let message = format!("`{}` stands beside `native`", entry.key);
            reader.hinted(entry.line, &self.columns.at(&entry.key), message, hint);
        }
        let call = call(reader, &self.columns)?;
        Some(vec![named(DEFAULT_COLUMN, Function::Native(call), native.line)])
    }

    /// The columns as aggregates. A number or a duration is none: its key is a setting that is not written right.
    pub(super) fn aggregates(&self, reader: &mut Reader<'_>, known: &[&str]) -> Option<Vec<NamedFunction>> {
        for entry in self.columns.entries() {
            let Some(text) = reader.peek(&entry.value) else {
                continue;
            };
            let is_setting = text.parse::<f64>().is_ok() || humantime::parse_duration(&text).is_ok();
            if is_setting && nearest(&entry.key, known.iter().copied()).is_some_and(|near| near != entry.key) {
                reader.unknown(entry.line, &self.columns.at(&entry.key), "key", &entry.key, known);
            }
        }
        self.columns(reader)
    }

    /// Aggregates, or `function` and `inverse`.
    pub(super) fn reduction(&self, reader: &mut Reader<'_>, known: &[&str]) -> Option<Reduction> {
        if self.settings.get("function").is_none() && self.settings.get("inverse").is_none() {
            return self.aggregates(reader, known).map(Reduction::Aggregates);
        }
        for entry in self.columns.entries() {
            let message = format!(
                "`{}` stands beside `function`, which is in place of aggregates",
                entry.key
            );
            let hint = "write `function: {column: a + b}` for a function of a column";
            reader.hinted(entry.line, &self.columns.at(&entry.key), message, hint);
        }
        let columns = reader
            .required(&self.settings, "function")
            .and_then(|node| value_functions(reader, node, &self.settings.at("function")));
        let inverse = reader.optional(&self.settings, "inverse", value_functions);
        Some(Reduction::Binary {
            columns: columns?,
            inverse: inverse?.unwrap_or_default(),
        })
    }
}

/// A function of the only value column, or one for each: `{column: function}`.
fn value_functions(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Vec<NamedFunction>> {
    match &node.data {
        Data::Map(_) if !is_native(node) => columns(reader, node, path),
        _ => Some(vec![named("", function(reader, node, path)?, node.line)]),
    }
}
