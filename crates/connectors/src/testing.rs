//! What several tests need.

use std::path::Path;

use arrow::array::{AsArray, RecordBatch};

use crate::Error;

/// The values of batches of text.
pub(crate) fn values<'a>(batches: impl IntoIterator<Item = &'a RecordBatch>) -> Vec<String> {
    batches
        .into_iter()
        .flat_map(|batch| {
            assert_eq!(batch.schema(), crate::text_schema());
            assert_eq!(batch.column(0).null_count(), 0);
            let values = batch.column(0).as_string_view().iter();
            values
                .map(|value| value.unwrap_or_default().to_owned())
                .collect::<Vec<_>>()
        })
        .collect()
}

/// All values that a reader gives.
pub(crate) fn read_all(batches: impl Iterator<Item = Result<RecordBatch, Error>>) -> Result<Vec<String>, Error> {
    let batches = batches.collect::<Result<Vec<_>, _>>()?;
    assert!(batches.iter().all(|batch| batch.num_rows() > 0));
    Ok(values(&batches))
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().expect("test paths are UTF-8").to_owned()
}

/// What lines are, said as simply as possible.
pub(crate) fn naive_lines(bytes: &[u8], max_line: usize) -> Vec<String> {
    let mut lines: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
    if lines.last().is_some_and(|last| last.is_empty()) {
        lines.pop();
    }
    lines
        .into_iter()
        .map(|line| {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.len() <= max_line {
                return String::from_utf8_lossy(line).into_owned();
            }
            let mut end = max_line;
            while end > 0 && max_line - end < 3 && line[end] & 0xc0 == 0x80 {
                end -= 1;
            }
            if line[end] & 0xc0 == 0x80 {
                end = max_line;
            }
            String::from_utf8_lossy(&line[..end]).into_owned()
        })
        .collect()
}
