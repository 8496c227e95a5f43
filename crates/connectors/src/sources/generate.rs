//! The generate source: lines made from a template, at a rate.
//!
//! Lines are numbered from zero time on. Batch `k` has the lines `floor(rate·t(k-1)) .. floor(rate·t(k))`, so over any
//! time there are exactly as many as the rate says, and a batch that is read again has the same ones.

use std::ops::Range;

use arrow::array::{RecordBatch, StringViewBuilder};
use tidemill_dstream::{GenerateSource, InputItem};

use super::{AllocateRequest, Allocation, InputPlanner, Template, finish_rows, parse_template};
use crate::Error;
use crate::text::ReadOptions;

pub(super) struct GeneratePlanner {
    rate: u64,
}

impl GeneratePlanner {
    pub(super) fn new(source: &GenerateSource) -> Result<Self, Error> {
        parse_template(&source.template)?;
        Ok(Self { rate: source.rate })
    }

    /// Lines up to the end of a batch.
    fn until(&self, index: i64, request: &AllocateRequest) -> u64 {
        let intervals = u128::try_from(index).unwrap_or(0);
        let lines = u128::from(self.rate) * intervals * request.interval.as_nanos() / 1_000_000_000;
        u64::try_from(lines).unwrap_or(u64::MAX)
    }
}

impl InputPlanner for GeneratePlanner {
    fn allocate(&mut self, request: &AllocateRequest) -> Result<Allocation, Error> {
        let first = self.until(request.index.saturating_sub(1), request);
        let rows = self.until(request.index, request) - first;
        let partitions = u128::from(request.partitions.max(1));
        // A share of u64 lines is at most as large as they are.
        let border = |partition: u128| first + (u128::from(rows) * partition / partitions) as u64;
        Ok(Allocation {
            partitions: (0..partitions)
                .map(|partition| match (border(partition), border(partition + 1)) {
                    (from, until) if from < until => vec![InputItem::Generate { from, until }],
                    _ => Vec::new(),
                })
                .collect(),
            rows: Some(rows),
            exhausted: false,
            description: format!("lines {first}..{}", first + rows),
        })
    }
}

/// The batches of a range of lines.
pub(super) struct Generated {
    template: Template,
    seed: u64,
    left: Range<u64>,
    options: ReadOptions,
    line: String,
}

impl Generated {
    pub(super) fn new(source: &GenerateSource, lines: Range<u64>, options: &ReadOptions) -> Result<Self, Error> {
        Ok(Self {
            template: parse_template(&source.template)?,
            seed: source.seed,
            left: lines,
            options: options.clone(),
            line: String::new(),
        })
    }
}

impl Iterator for Generated {
    type Item = Result<RecordBatch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left.is_empty() {
            return None;
        }
        let from = self.left.start;
        let until = from
            .saturating_add(self.options.batch_rows.max(1) as u64)
            .min(self.left.end);
        self.left.start = until;
        let count = until - from;
        let mut rows = StringViewBuilder::with_capacity(usize::try_from(count).unwrap_or(0));
        let mut bytes = 0;
        for index in from..until {
            self.line.clear();
            self.template
                .render(self.seed, self.options.batch, index, &mut self.line);
            bytes += self.line.len() as u64;
            rows.append_value(&self.line);
        }
        Some(finish_rows(rows, count, bytes, &self.options))
    }
}
