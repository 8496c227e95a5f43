//! Broadcast variables: read-only values that every executor holds once.
//!
//! A value is rows of columns, whatever its shape: a scalar is one row of a column `value`, a list a column `value`, a
//! map the columns `key` and `value`, and a table has the columns that it has.

use std::time::Duration;

use bytes::Bytes;

use crate::{Line, TableFormat};

/// A broadcast variable of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct BroadcastDef {
    /// What expressions, SQL and functions call it.
    pub name: String,
    pub source: BroadcastSource,
    /// `None`: the one that the source has by itself.
    pub shape: Option<Shape>,
    /// How often the file is looked at again; `None`: never.
    pub reload: Option<Duration>,
    /// Whether clients may give it new values while the job runs.
    pub updatable: bool,
    pub line: Line,
}

/// What a value looks like, and so what can be asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// One value: `broadcast_value`.
    Scalar,
    /// Many values: `broadcast_contains`.
    List,
    /// A value for each key: `broadcast_get`, and `broadcast_contains` for keys.
    Map,
    /// Rows. A value of any shape can be read as a table; this one only so.
    Table,
}

impl Shape {
    pub const ALL: [Self; 4] = [Self::Scalar, Self::List, Self::Map, Self::Table];

    /// The shape's name in a job file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::List => "list",
            Self::Map => "map",
            Self::Table => "table",
        }
    }
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum BroadcastSource {
    File {
        path: String,
        /// `None`: by the file's extension, text if that says nothing.
        format: Option<BroadcastFormat>,
    },
    Value(Literal),
    List(Vec<Literal>),
    Map(Vec<(Literal, Literal)>),
    /// Rows with their columns, which are those of the first row.
    Rows(Vec<Vec<(String, Literal)>>),
    /// SQL over tables and the broadcasts that stand before this one.
    Query(String),
    /// A scalar of bytes, from a program.
    Bytes(Bytes),
    /// An Arrow IPC stream, from a program.
    Arrow(Bytes),
}

/// How a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BroadcastFormat {
    /// A list of its lines.
    Text,
    /// One value of type Binary.
    Bytes,
    Table(TableFormat),
}

/// A value that stands in the job itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
}

impl From<&str> for Literal {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Literal {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Literal {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<f64> for Literal {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<bool> for Literal {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl<T: Into<Literal>> From<Option<T>> for Literal {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// The type of a column of literals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiteralType {
    Bool,
    Int,
    Float,
    Text,
}

impl LiteralType {
    fn name(self) -> &'static str {
        match self {
            Self::Bool => "true or false",
            Self::Int => "a whole number",
            Self::Float => "a number",
            Self::Text => "text",
        }
    }
}

/// The one type that all of some literals have: whole numbers are numbers too, nulls are of any type, and nulls alone are
/// text.
///
/// # Errors
/// A sentence about the first literal of another type.
pub fn literal_type<'a>(literals: impl IntoIterator<Item = &'a Literal>) -> Result<LiteralType, String> {
    let mut known = None;
    for literal in literals {
        let this = match literal {
            Literal::Null => continue,
            Literal::Bool(_) => LiteralType::Bool,
            Literal::Int(_) => LiteralType::Int,
            Literal::Float(_) => LiteralType::Float,
            Literal::Text(_) => LiteralType::Text,
        };
        known = Some(match (known, this) {
            (None, this) => this,
            (Some(known), this) if known == this => this,
            (Some(LiteralType::Int | LiteralType::Float), LiteralType::Int | LiteralType::Float) => LiteralType::Float,
            (Some(known), this) => {
                return Err(format!(
                    "{} stands where {} was before: all have to be of one type",
                    this.name(),
                    known.name()
                ));
            }
        });
    }
    Ok(known.unwrap_or(LiteralType::Text))
}

impl BroadcastDef {
    /// Whether its value can be another one in a later batch.
    #[must_use]
    pub fn changes(&self) -> bool {
        self.reload.is_some() || self.updatable
    }

    /// The shape that is given, else the one that the source has by itself.
    #[must_use]
    pub fn known_shape(&self) -> Shape {
        self.shape.unwrap_or_else(|| self.source.natural_shape())
    }
}

impl BroadcastSource {
    fn natural_shape(&self) -> Shape {
        match self {
            Self::File { path, format } => match format.unwrap_or_else(|| BroadcastFormat::of(path)) {
                BroadcastFormat::Text => Shape::List,
                BroadcastFormat::Bytes => Shape::Scalar,
                BroadcastFormat::Table(_) => Shape::Table,
            },
            Self::Value(_) | Self::Bytes(_) => Shape::Scalar,
            Self::List(_) => Shape::List,
            Self::Map(_) => Shape::Map,
            Self::Rows(_) | Self::Query(_) | Self::Arrow(_) => Shape::Table,
        }
    }
}

impl BroadcastFormat {
    /// The format that a file's extension tells, before which `.gz` or `.zst` may stand; else text.
    #[must_use]
    pub fn of(path: &str) -> Self {
        TableFormat::of(path).map_or(Self::Text, Self::Table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_have_one_type_and_whole_numbers_are_numbers() {
        use Literal::{Bool, Float, Int, Null, Text};
        assert_eq!(literal_type(&[Null, Int(1), Null]), Ok(LiteralType::Int));
        assert_eq!(literal_type(&[Int(1), Float(0.5), Int(2)]), Ok(LiteralType::Float));
        assert_eq!(literal_type(&[]), Ok(LiteralType::Text));
        let error = literal_type(&[Text("a".to_owned()), Bool(true)]).unwrap_err();
        assert!(
            error.starts_with("true or false stands where text was before"),
            "{error}"
        );
    }

    #[test]
    fn a_file_has_the_shape_of_its_format() {
        for (path, shape) in [
            ("stopwords.txt", Shape::List),
            ("stopwords", Shape::List),
            ("countries.csv", Shape::Table),
            ("countries.json.gz", Shape::Table),
        ] {
            let source = BroadcastSource::File {
                path: path.to_owned(),
                format: None,
            };
            assert_eq!(source.natural_shape(), shape, "{path}");
        }
    }
}
