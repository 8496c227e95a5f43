//! Broadcast variables of a job graph.

use std::time::Duration;

use tidemill_dstream::{BroadcastDef, BroadcastFormat, BroadcastSource, Line, Literal, Shape, TableFormat};

use super::{Error, each, every, required, to_millis};
use crate::plan;

impl From<&BroadcastDef> for plan::Broadcast {
    fn from(def: &BroadcastDef) -> Self {
        let shape = def
            .shape
            .map_or(plan::BroadcastShape::Unspecified, plan::BroadcastShape::from);
        Self {
            name: def.name.clone(),
            shape: shape.into(),
            reload_ms: def.reload.map(to_millis),
            updatable: def.updatable,
            line: def.line.0,
            source: Some((&def.source).into()),
        }
    }
}

impl TryFrom<plan::Broadcast> for BroadcastDef {
    type Error = Error;

    fn try_from(def: plan::Broadcast) -> Result<Self, Error> {
        let shape = plan::BroadcastShape::try_from(def.shape).map_err(|_| Error::unknown("shape", def.shape))?;
        Ok(Self {
            // Here unspecified has a meaning: the source's own.
            shape: broadcast_shape(shape),
            name: def.name,
            reload: def.reload_ms.map(Duration::from_millis),
            updatable: def.updatable,
            line: Line(def.line),
            source: required("source", def.source)?,
        })
    }
}

impl From<Shape> for plan::BroadcastShape {
    fn from(shape: Shape) -> Self {
        match shape {
            Shape::Scalar => Self::Scalar,
            Shape::List => Self::List,
            Shape::Map => Self::Map,
            Shape::Table => Self::Table,
        }
    }
}

/// The shape, if it is said.
#[must_use]
pub fn broadcast_shape(shape: plan::BroadcastShape) -> Option<Shape> {
    match shape {
        plan::BroadcastShape::Unspecified => None,
        plan::BroadcastShape::Scalar => Some(Shape::Scalar),
        plan::BroadcastShape::List => Some(Shape::List),
        plan::BroadcastShape::Map => Some(Shape::Map),
        plan::BroadcastShape::Table => Some(Shape::Table),
    }
}

/// A value's source outside of a graph.
///
/// # Errors
/// As all conversions.
pub fn broadcast_source(source: plan::BroadcastSource) -> Result<BroadcastSource, Error> {
    source.try_into()
}

impl From<&BroadcastSource> for plan::BroadcastSource {
    fn from(source: &BroadcastSource) -> Self {
        use plan::broadcast_source::Source;
        let source = match source {
            BroadcastSource::File { path, format } => Source::File(plan::BroadcastFile {
                path: path.clone(),
                format: format
                    .map_or(plan::BroadcastFormat::Unspecified, plan::BroadcastFormat::from)
                    .into(),
            }),
            BroadcastSource::Value(value) => Source::Value(value.into()),
            BroadcastSource::List(values) => Source::List(plan::LiteralList { values: every(values) }),
            BroadcastSource::Map(entries) => Source::Map(plan::LiteralMap {
                entries: entries
                    .iter()
                    .map(|(key, value)| plan::LiteralEntry {
                        key: Some(key.into()),
                        value: Some(value.into()),
                    })
                    .collect(),
            }),
            BroadcastSource::Rows(rows) => Source::Rows(plan::LiteralRows {
                rows: rows.iter().map(|row| row_to_wire(row)).collect(),
            }),
            BroadcastSource::Query(sql) => Source::Query(sql.clone()),
            BroadcastSource::Bytes(bytes) => Source::Bytes(bytes.clone()),
            BroadcastSource::Arrow(ipc) => Source::Arrow(ipc.clone()),
        };
        Self { source: Some(source) }
    }
}

fn row_to_wire(row: &[(String, Literal)]) -> plan::LiteralRow {
    let columns = row.iter().map(|(name, value)| plan::NamedLiteral {
        name: name.clone(),
        value: Some(value.into()),
    });
    plan::LiteralRow {
        columns: columns.collect(),
    }
}

impl TryFrom<plan::BroadcastSource> for BroadcastSource {
    type Error = Error;

    fn try_from(source: plan::BroadcastSource) -> Result<Self, Error> {
        use plan::broadcast_source::Source;
        Ok(match source.source.ok_or_else(|| Error::missing("source"))? {
            Source::File(file) => {
                let format = plan::BroadcastFormat::try_from(file.format)
                    .map_err(|_| Error::unknown("file.format", file.format))?;
                Self::File {
                    path: file.path,
                    format: format_from_wire(format),
                }
            }
            Source::Value(value) => Self::Value(value.into()),
            Source::List(list) => Self::List(list.values.into_iter().map(Literal::from).collect()),
            Source::Map(map) => Self::Map(each("map.entries", map.entries)?),
            Source::Rows(rows) => Self::Rows(each("rows.rows", rows.rows)?),
            Source::Query(sql) => Self::Query(sql),
            Source::Bytes(bytes) => Self::Bytes(bytes),
            Source::Arrow(ipc) => Self::Arrow(ipc),
        })
    }
}

impl TryFrom<plan::LiteralEntry> for (Literal, Literal) {
    type Error = Error;

    fn try_from(entry: plan::LiteralEntry) -> Result<Self, Error> {
        let (key, value) = (entry.key, entry.value);
        Ok((
            key.ok_or_else(|| Error::missing("key"))?.into(),
            value.ok_or_else(|| Error::missing("value"))?.into(),
        ))
    }
}

impl TryFrom<plan::LiteralRow> for Vec<(String, Literal)> {
    type Error = Error;

    fn try_from(row: plan::LiteralRow) -> Result<Self, Error> {
        let column = |column: plan::NamedLiteral| {
            let value = column.value.ok_or_else(|| Error::missing("value"))?;
            Ok((column.name, value.into()))
        };
        row.columns.into_iter().map(column).collect()
    }
}

impl From<BroadcastFormat> for plan::BroadcastFormat {
    fn from(format: BroadcastFormat) -> Self {
        match format {
            BroadcastFormat::Text => Self::Text,
            BroadcastFormat::Bytes => Self::Bytes,
            BroadcastFormat::Table(TableFormat::Csv) => Self::Csv,
            BroadcastFormat::Table(TableFormat::Json) => Self::Json,
            BroadcastFormat::Table(TableFormat::Parquet) => Self::Parquet,
        }
    }
}

fn format_from_wire(format: plan::BroadcastFormat) -> Option<BroadcastFormat> {
    Some(match format {
        plan::BroadcastFormat::Unspecified => return None,
        plan::BroadcastFormat::Text => BroadcastFormat::Text,
        plan::BroadcastFormat::Bytes => BroadcastFormat::Bytes,
        plan::BroadcastFormat::Csv => BroadcastFormat::Table(TableFormat::Csv),
        plan::BroadcastFormat::Json => BroadcastFormat::Table(TableFormat::Json),
        plan::BroadcastFormat::Parquet => BroadcastFormat::Table(TableFormat::Parquet),
    })
}

impl From<&Literal> for plan::Literal {
    fn from(literal: &Literal) -> Self {
        use plan::literal::Value;
        let value = match literal {
            Literal::Null => None,
            Literal::Bool(value) => Some(Value::Bool(*value)),
            Literal::Int(value) => Some(Value::Int(*value)),
            Literal::Float(value) => Some(Value::Float(*value)),
            Literal::Text(value) => Some(Value::Text(value.clone())),
        };
        Self { value }
    }
}

impl From<plan::Literal> for Literal {
    fn from(literal: plan::Literal) -> Self {
        use plan::literal::Value;
        match literal.value {
            None => Self::Null,
            Some(Value::Bool(value)) => Self::Bool(value),
            Some(Value::Int(value)) => Self::Int(value),
            Some(Value::Float(value)) => Self::Float(value),
            Some(Value::Text(value)) => Self::Text(value),
        }
    }
}
