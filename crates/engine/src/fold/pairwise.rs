//! Combined values merged with their neighbours, round by round.
//!
//! ```text
//!   values of a group    v0  v1  v2  v3  v4
//!   round 1              └─┬──┘  └─┬──┘  │
//!   round 2                └───┬───┘     │
//!   round 3                    └────┬────┘
//! ```
//! Each round evaluates the function once, over the pairs of all groups.

use arrow::array::ArrayRef;
use datafusion::error::Result;

use super::Fold;
use super::groups::{At, Before, gather};

pub(super) struct Pairwise<'a> {
    fold: &'a Fold,
    chunks: &'a [Vec<ArrayRef>],
    groups: &'a [Vec<u32>],
}

/// Neighbours of one group, behind each other in a list of places.
struct Run {
    group: usize,
    from: usize,
    len: usize,
}

impl<'a> Pairwise<'a> {
    /// `chunks` are combined values in order, `groups` the groups of their rows.
    pub(super) fn new(fold: &'a Fold, chunks: &'a [Vec<ArrayRef>], groups: &'a [Vec<u32>]) -> Self {
        Self { fold, chunks, groups }
    }

    /// The combined values of all groups; null for those that have none.
    pub(super) fn fold(&self, before: &Before<'_>) -> Result<Vec<ArrayRef>> {
        let columns = self.fold.columns.fields().len();
        let nulls = self.fold.types().map(|t| arrow::array::new_null_array(t, 1)).collect();
        // The first array is of one null, for groups without values, the second has the values from before.
        let mut arrays: Vec<Vec<ArrayRef>> = vec![nulls, before.combined.to_vec()];
        arrays.extend(self.chunks.iter().cloned());
        let (mut places, mut runs) = self.by_group(before);
        let mut results: Vec<At> = vec![(0, 0); before.groups];
        loop {
            for run in runs.iter().filter(|run| run.len == 1) {
                results[run.group] = places[run.from];
            }
            runs.retain(|run| run.len > 1);
            if runs.is_empty() {
                break;
            }
            let pairs: usize = runs.iter().map(|run| run.len / 2).sum();
            let (mut earlier, mut later) = (Vec::with_capacity(pairs), Vec::with_capacity(pairs));
            let mut next = Vec::with_capacity(pairs + runs.len());
            for run in &mut runs {
                let from = next.len();
                for pair in places[run.from..run.from + run.len].chunks(2) {
                    match pair {
                        [a, b] => {
                            next.push((arrays.len(), earlier.len()));
                            earlier.push(*a);
                            later.push(*b);
                        }
                        alone => next.extend(alone),
                    }
                }
                *run = Run {
                    group: run.group,
                    from,
                    len: next.len() - from,
                };
            }
            let a = gather(&arrays, columns, &earlier)?;
            let b = gather(&arrays, columns, &later)?;
            arrays.push(self.fold.merged(&a, &b, pairs)?);
            places = next;
        }
        gather(&arrays, columns, &results)
    }

    /// The places of all values, group by group and in order, those from before first.
    fn by_group(&self, before: &Before<'_>) -> (Vec<At>, Vec<Run>) {
        let mut counts: Vec<usize> = (0..before.groups).map(|group| usize::from(before.has(group))).collect();
        for group in self.groups.iter().flatten() {
            counts[*group as usize] += 1;
        }
        let mut runs = Vec::new();
        let mut ends = Vec::with_capacity(before.groups);
        let mut total = 0;
        for (group, len) in counts.into_iter().enumerate() {
            ends.push(total);
            if len > 0 {
                runs.push(Run {
                    group,
                    from: total,
                    len,
                });
            }
            total += len;
        }
        let mut places: Vec<At> = vec![(0, 0); total];
        let mut put = |group: usize, at: At| {
            places[ends[group]] = at;
            ends[group] += 1;
        };
        for group in (0..before.groups).filter(|group| before.has(*group)) {
            put(group, (1, group));
        }
        for (chunk, groups) in self.groups.iter().enumerate() {
            for (row, group) in groups.iter().enumerate() {
                put(*group as usize, (chunk + 2, row));
            }
        }
        (places, runs)
    }
}
