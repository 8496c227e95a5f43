//! How columns get their names where only an expression is given.

/// The column of text sources, and of a map that is one expression.
pub(crate) const DEFAULT_COLUMN: &str = "value";

/// The column of a key that is one expression and not a column, and of keys that are not named.
pub(crate) const KEY_COLUMN: &str = "key";

/// Whether an expression is the name of a column.
pub(crate) fn is_plain_identifier(sql: &str) -> bool {
    sql.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && sql.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The name of a key's column: the key itself, if it is a column.
pub(crate) fn key_name(sql: &str) -> &str {
    if is_plain_identifier(sql) { sql } else { KEY_COLUMN }
}
