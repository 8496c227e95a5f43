//! The rows of record batches as plain values.

use anyhow::{Context, Result, bail};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};

use crate::reference::{Row, Value};

/// The rows of a batch, each with a value for every column of the batch.
///
/// # Errors
/// A column is of a type that has no [`Value`].
pub fn values(batch: &RecordBatch) -> Result<Vec<Row>> {
    let mut rows = vec![Row::new(); batch.num_rows()];
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let values = column_values(column).with_context(|| format!("column `{}`", field.name()))?;
        rows.iter_mut().zip(values).for_each(|(row, value)| row.push(value));
    }
    Ok(rows)
}

fn column_values(column: &ArrayRef) -> Result<Vec<Value>> {
    let one_of_several = match column.data_type() {
        data_type if data_type.is_integer() => DataType::Int64,
        data_type if data_type.is_floating() => DataType::Float64,
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeList(item) | DataType::ListView(item) | DataType::FixedSizeList(item, _) => {
            DataType::List(item.clone())
        }
        other => other.clone(),
    };
    let column = cast(column, &one_of_several)?;
    (0..column.len()).map(|row| value(&column, row)).collect()
}

fn value(column: &ArrayRef, row: usize) -> Result<Value> {
    if column.is_null(row) {
        return Ok(Value::Null);
    }
    Ok(match column.data_type() {
        DataType::Null => Value::Null,
        DataType::Boolean => Value::Bool(column.as_boolean().value(row)),
        DataType::Int64 => Value::Int(column.as_primitive::<Int64Type>().value(row)),
        DataType::Float64 => Value::Float(column.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8 => Value::text(column.as_string::<i32>().value(row)),
        DataType::List(_) => Value::List(column_values(&column.as_list::<i32>().value(row))?),
        DataType::Struct(fields) => {
            let columns = column.as_struct().columns().iter();
            let values = fields.iter().zip(columns).map(|(field, column)| {
                let mut only = column_values(&column.slice(row, 1))?;
                Ok((field.name().clone(), only.pop().unwrap_or(Value::Null)))
            });
            Value::Struct(values.collect::<Result<_>>()?)
        }
        other => bail!("{other} has no plain value"),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int32Array, ListArray, StringViewArray, StructArray};
    use arrow::datatypes::{Field, Int32Type};

    use super::*;

    #[test]
    fn columns_of_all_kinds_become_plain_values() {
        let ints: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None]));
        let texts: ArrayRef = Arc::new(StringViewArray::from(vec!["a", "b"]));
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None]);
        let field = |name, column: &ArrayRef| Arc::new(Field::new(name, column.data_type().clone(), true));
        let structs = StructArray::from(vec![
            (field("n", &ints), Arc::clone(&ints)),
            (field("t", &texts), Arc::clone(&texts)),
        ]);
        let batch = RecordBatch::try_from_iter([
            ("int", ints),
            ("text", texts),
            ("list", Arc::new(lists) as ArrayRef),
            ("struct", Arc::new(structs) as ArrayRef),
        ]);
        let rows = values(&batch.unwrap()).unwrap();
        let shown: Vec<String> = rows.into_iter().map(|row| Value::List(row).to_string()).collect();
        assert_eq!(
            shown,
            [
                "[1, \"a\", [1, null], {n: 1, t: \"a\"}]",
                "[null, \"b\", null, {n: null, t: \"b\"}]"
            ]
        );
    }
}
