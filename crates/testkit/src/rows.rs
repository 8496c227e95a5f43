//! Record batches as plain text, for comparisons.

use arrow::array::RecordBatch;
use arrow::util::display::array_value_to_string;

/// One string a row, columns separated by `|`, in the order of the batches. A value that cannot be shown is `?`.
#[must_use]
pub fn rows(batches: &[RecordBatch]) -> Vec<String> {
    let mut rows = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let cells = batch.columns().iter().map(|column| array_value_to_string(column, row));
            let cells: Vec<String> = cells.map(|cell| cell.unwrap_or_else(|_| "?".to_owned())).collect();
            rows.push(cells.join("|"));
        }
    }
    rows
}
