//! Values that stand in the job itself, as rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{Field, Schema, SchemaRef};
use tidemill_dstream::{BroadcastSource, Literal, LiteralType, literal_type};

use crate::ipc::decode_ipc;

/// The rows of a source that needs no file and no query; `None` for those.
///
/// # Errors
/// A sentence about a value that is damaged or of several types.
pub fn literal_rows(source: &BroadcastSource) -> Result<Option<(SchemaRef, Vec<RecordBatch>)>, String> {
    let columns: Vec<(String, ArrayRef)> = match source {
        BroadcastSource::File { .. } | BroadcastSource::Query(_) => return Ok(None),
        BroadcastSource::Arrow(ipc) => {
            let rows = decode_ipc(ipc).map_err(|_| "it is no Arrow IPC stream".to_owned())?;
            return Ok(Some(rows));
        }
        BroadcastSource::Bytes(bytes) => {
            let bytes: ArrayRef = Arc::new(BinaryArray::from_vec(vec![bytes]));
            vec![("value".to_owned(), bytes)]
        }
        BroadcastSource::Value(value) => vec![("value".to_owned(), column(&[value])?)],
        BroadcastSource::List(values) => vec![("value".to_owned(), column(&values.iter().collect::<Vec<_>>())?)],
        BroadcastSource::Map(entries) => {
            let keys: Vec<&Literal> = entries.iter().map(|(key, _)| key).collect();
            let values: Vec<&Literal> = entries.iter().map(|(_, value)| value).collect();
            vec![
                ("key".to_owned(), column(&keys)?),
                ("value".to_owned(), column(&values)?),
            ]
        }
        BroadcastSource::Rows(rows) => {
            let names = rows.first().map_or(&[][..], Vec::as_slice);
            let of = |name: &str| {
                let cell = |row: &Vec<(String, Literal)>| {
                    let cell = row.iter().find(|(column, _)| column == name);
                    cell.map_or(Literal::Null, |(_, value)| value.clone())
                };
                let cells: Vec<Literal> = rows.iter().map(cell).collect();
                column(&cells.iter().collect::<Vec<_>>())
            };
            let columns = names.iter().map(|(name, _)| Ok((name.clone(), of(name)?)));
            columns.collect::<Result<_, String>>()?
        }
    };
    let fields = columns
        .iter()
        .map(|(name, column)| Field::new(name, column.data_type().clone(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    let rows = RecordBatch::try_new(Arc::clone(&schema), columns).map_err(|error| error.to_string())?;
    Ok(Some((schema, vec![rows])))
}

fn column(literals: &[&Literal]) -> Result<ArrayRef, String> {
    Ok(match literal_type(literals.iter().copied())? {
        LiteralType::Bool => Arc::new(BooleanArray::from_iter(literals.iter().map(|literal| match literal {
            Literal::Bool(value) => Some(*value),
            _ => None,
        }))),
        LiteralType::Int => Arc::new(Int64Array::from_iter(literals.iter().map(|literal| match literal {
            Literal::Int(value) => Some(*value),
            _ => None,
        }))),
        LiteralType::Float => Arc::new(Float64Array::from_iter(literals.iter().map(|literal| match literal {
            Literal::Float(value) => Some(*value),
            Literal::Int(value) => Some(*value as f64),
            _ => None,
        }))),
        LiteralType::Text => Arc::new(StringViewArray::from_iter(literals.iter().map(
            |literal| match literal {
                Literal::Text(value) => Some(value.as_str()),
                _ => None,
            },
        ))),
    })
}
