//! Queries as SQL.

use super::Inputs;
use super::files::table_of;
use crate::reference::expr::quoted;
use crate::reference::{Expr, Keyed, Named, Query, SortKey, Unfit, Value};

impl Inputs<'_> {
    pub(super) fn sql(&self, query: &Query) -> String {
        let other = || &self.names[1];
        match query {
            Query::Select(columns) => format!("SELECT {} FROM input", select(columns)),
            Query::Group { keys, aggregates } => {
                let keys: Vec<String> = keys.iter().map(|key| quoted(key)).collect();
                let keys = keys.join(", ");
                format!("SELECT {keys}, {} FROM input GROUP BY {keys}", select(aggregates))
            }
            Query::Top { keys, limit } => {
                let keys: Vec<String> = keys.iter().map(order).collect();
                format!("SELECT * FROM input ORDER BY {} LIMIT {limit}", keys.join(", "))
            }
            Query::Number { key } => {
                let names = self.schemas[0].names();
                let order: Vec<String> = names.map(|name| format!("{} ASC NULLS LAST", quoted(name))).collect();
                let (key, order) = (quoted(key), order.join(", "));
                format!(
                    "SELECT *, CAST(row_number() OVER (PARTITION BY {key} ORDER BY {order}) AS BIGINT) AS place FROM input"
                )
            }
            Query::Above { column } => {
                let column = quoted(column);
                format!("SELECT * FROM input WHERE {column} > (SELECT min({column}) FROM input)")
            }
            Query::Join {
                key,
                other_key,
                left,
                right,
                outer,
            } => {
                let right: String = right
                    .iter()
                    .map(|name| format!(", r.{} AS right_{name}", quoted(name)))
                    .collect();
                joined(key, left, &right, *outer, other(), other_key)
            }
            Query::Lookup { key, left, outer, .. } => {
                joined(key, left, ", r.label", *outer, &table_of(&self.node), "id")
            }
            Query::Exists { key, other_key } => {
                let (key, other_key) = (quoted(key), quoted(other_key));
                let other = other();
                format!("SELECT * FROM input i WHERE EXISTS (SELECT 1 FROM {other} r WHERE r.{other_key} = i.{key})")
            }
            Query::NotIn { key, other_key } => {
                let (key, other_key) = (quoted(key), quoted(other_key));
                format!(
                    "SELECT * FROM input WHERE {key} NOT IN (SELECT {other_key} FROM {})",
                    other()
                )
            }
            Query::Native => String::new(),
        }
    }

    /// The initial states as a query.
    pub(super) fn initial(&self, keyed: &Keyed) -> Result<Option<String>, Unfit> {
        if keyed.initial.is_empty() {
            return Ok(None);
        }
        let columns = keyed.with_state(self.schemas[0])?;
        let columns = || columns.columns().iter().enumerate();
        if keyed.is_file {
            let selected = columns().map(|(place, column)| {
                let name = quoted(&column.name);
                // A file has no column without a value.
                match keyed.initial.iter().all(|row| row[place].is_null()) {
                    true => format!("{} AS {name}", Expr::Null(column.data_type.clone()).sql()),
                    false => name,
                }
            });
            let selected: Vec<String> = selected.collect();
            return Ok(Some(format!(
                "SELECT {} FROM {}",
                selected.join(", "),
                table_of(&self.node)
            )));
        }
        let rows = keyed.initial.iter().map(|row| {
            let values = columns().map(|(place, column)| {
                let value = match &row[place] {
                    Value::Null => Expr::Null(column.data_type.clone()),
                    value => Expr::Literal(value.clone()),
                };
                format!("{} AS {}", value.sql(), quoted(&column.name))
            });
            format!("SELECT {}", values.collect::<Vec<_>>().join(", "))
        });
        Ok(Some(rows.collect::<Vec<_>>().join(" UNION ALL ")))
    }
}

fn select(named: &[Named]) -> String {
    let columns: Vec<String> = named
        .iter()
        .map(|named| format!("{} AS {}", named.expr.sql(), quoted(&named.name)))
        .collect();
    columns.join(", ")
}

fn joined(key: &str, left: &[String], right: &str, outer: bool, other: &str, other_key: &str) -> String {
    let left: String = left.iter().map(|name| format!(", l.{}", quoted(name))).collect();
    let join = if outer { "LEFT JOIN" } else { "JOIN" };
    let (key, other_key) = (quoted(key), quoted(other_key));
    format!("SELECT l.{key}{left}{right} FROM input l {join} {other} r ON l.{key} = r.{other_key}")
}

/// A sort key whose nulls are where those of `sort_by` are.
fn order(key: &SortKey) -> String {
    let direction = if key.descending { "DESC" } else { "ASC" };
    let nulls = match key.nulls_first {
        Some(true) => " NULLS FIRST",
        Some(false) => " NULLS LAST",
        None => "",
    };
    format!("{} {direction}{nulls}", quoted(&key.column))
}
