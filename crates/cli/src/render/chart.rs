//! Rows as a bar chart: the first text column labels, the first numeric column measures.

use anyhow::{Context, Result};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, SchemaRef};
use tidemill_client::PrintedBatch;

const WIDTH: usize = 50;

pub(crate) fn printed(printed: &PrintedBatch, color: bool) -> Result<String> {
    let bars = bars(&printed.schema, &printed.rows, usize::MAX, color)?;
    Ok(format!("batch {} ms\n{bars}\n", printed.time))
}

/// At most `limit` rows as bars, in their order.
pub(crate) fn bars(schema: &SchemaRef, batches: &[RecordBatch], limit: usize, color: bool) -> Result<String> {
    let measure = schema
        .fields()
        .iter()
        .position(|field| field.data_type().is_numeric())
        .context("a chart needs a numeric column")?;
    let label = schema
        .fields()
        .iter()
        .position(|field| !field.data_type().is_numeric())
        .unwrap_or(measure);
    let mut rows: Vec<(String, f64)> = Vec::new();
    for batch in batches {
        let labels = cast(batch.column(label), &DataType::Utf8)?;
        let values = cast(batch.column(measure), &DataType::Float64)?;
        let (labels, values) = (labels.as_string::<i32>(), values.as_primitive::<Float64Type>());
        for row in 0..batch.num_rows() {
            let name = if labels.is_null(row) { "null" } else { labels.value(row) };
            let value = if values.is_null(row) { 0.0 } else { values.value(row) };
            rows.push((name.to_owned(), value));
        }
    }
    rows.truncate(limit);
    if rows.is_empty() {
        return Ok("(no rows)\n".to_owned());
    }
    let widest = rows
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0)
        .min(40);
    let greatest = rows.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    let mut text = String::new();
    for (name, value) in rows {
        let name: String = name.chars().take(40).collect();
        let bar = bar(value, greatest);
        let padding = " ".repeat(widest.saturating_sub(name.chars().count()));
        let bar = if color { format!("\x1b[36m{bar}\x1b[0m") } else { bar };
        text.push_str(&format!("{name}{padding}  {bar} {value}\n"));
    }
    Ok(text)
}

/// Eighths of a cell, so that near values differ.
fn bar(value: f64, greatest: f64) -> String {
    const PARTS: [char; 8] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];
    if greatest <= 0.0 || value <= 0.0 {
        return String::new();
    }
    let eighths = (value / greatest * (WIDTH * 8) as f64).round() as usize;
    let mut bar = "█".repeat(eighths / 8);
    if let Some(part) = (eighths % 8).checked_sub(1) {
        bar.push(PARTS[part]);
    }
    bar
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringViewArray};
    use arrow::datatypes::{Field, Schema};

    use super::*;

    #[test]
    fn bars_are_in_proportion_and_in_order() {
        let schema = Arc::new(Schema::new(vec![
            Field::new("tag", DataType::Utf8View, false),
            Field::new("count", DataType::Int64, false),
        ]));
        let batch = RecordBatch::try_new(
            schema.clone(),
            vec![
                Arc::new(StringViewArray::from(vec!["#a", "#bb"])),
                Arc::new(Int64Array::from(vec![100, 50])),
            ],
        )
        .unwrap();
        let text = bars(&schema, &[batch], 10, false).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], format!("#a   {} 100", "█".repeat(50)));
        assert_eq!(lines[1], format!("#bb  {} 50", "█".repeat(25)));
    }

    #[test]
    fn a_table_without_numbers_is_refused() {
        let schema = Arc::new(Schema::new(vec![Field::new("tag", DataType::Utf8, false)]));
        assert!(bars(&schema, &[], 10, false).is_err());
    }
}
