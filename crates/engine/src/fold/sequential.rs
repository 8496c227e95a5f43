//! Records taken into combined values one after the other.
//!
//! Round `i` takes the `i`-th record of every group. Groups are in the order of how many records they have, the most
//! first, so that those of the next round are the first ones of this.

use arrow::array::{ArrayRef, new_null_array};
use datafusion::error::Result;

use super::groups::{At, Before, gather};
use super::{Fold, Records};

pub(super) struct Sequential<'a> {
    fold: &'a Fold,
    by: &'a Records,
    chunks: &'a [Vec<ArrayRef>],
    groups: &'a [Vec<u32>],
}

/// A group with records.
struct Members {
    group: usize,
    records: Vec<At>,
}

impl<'a> Sequential<'a> {
    /// `chunks` are records in order, `groups` the groups of their rows.
    pub(super) fn new(fold: &'a Fold, by: &'a Records, chunks: &'a [Vec<ArrayRef>], groups: &'a [Vec<u32>]) -> Self {
        Self {
            fold,
            by,
            chunks,
            groups,
        }
    }

    /// The combined values of all groups; null for those that have none.
    pub(super) fn fold(&self, before: &Before<'_>) -> Result<Vec<ArrayRef>> {
        let columns = self.fold.columns.fields().len();
        let (mut members, Created { values, starts }) = self.members(before)?;
        members.sort_by_key(|members| std::cmp::Reverse(members.records.len()));
        // Arrays of one null and of the values from before, and of the values of first records.
        let nulls = self.fold.types().map(|t| new_null_array(t, 1)).collect();
        let mut arrays = vec![nulls, before.combined.to_vec(), values];
        let starts: Vec<At> = members.iter().map(|members| starts[members.group]).collect();
        let mut results: Vec<At> = (0..before.groups)
            .map(|group| if before.has(group) { (1, group) } else { (0, 0) })
            .collect();
        let mut current = gather(&arrays, columns, &starts)?;
        let mut active = members.len();
        for round in 0.. {
            let going_on = members[..active].partition_point(|members| members.records.len() > round);
            if going_on < active {
                // The values of the groups that end here.
                let ended = current.iter().map(|column| column.slice(going_on, active - going_on));
                for (i, members) in members[going_on..active].iter().enumerate() {
                    results[members.group] = (arrays.len(), i);
                }
                arrays.push(ended.collect());
            }
            if going_on == 0 {
                break;
            }
            active = going_on;
            let places: Vec<At> = members[..active].iter().map(|members| members.records[round]).collect();
            let records = gather(self.chunks, self.by.columns.fields().len(), &places)?;
            let combined: Vec<ArrayRef> = current.iter().map(|column| column.slice(0, active)).collect();
            current = self.by.merged(self.fold, &combined, &records, active)?;
        }
        gather(&arrays, columns, &results)
    }

    /// The groups that have records, each with those that its combined value does not begin with.
    fn members(&self, before: &Before<'_>) -> Result<(Vec<Members>, Created)> {
        let mut of_group: Vec<u32> = vec![u32::MAX; before.groups];
        let mut members: Vec<Members> = Vec::new();
        let mut firsts: Vec<At> = Vec::new();
        let mut starts: Vec<At> = vec![(0, 0); before.groups];
        for (chunk, groups) in self.groups.iter().enumerate() {
            for (row, group) in groups.iter().enumerate() {
                let (group, at) = (*group as usize, (chunk, row));
                if of_group[group] == u32::MAX {
                    of_group[group] = members.len() as u32;
                    let has_value = before.has(group);
                    starts[group] = if has_value { (1, group) } else { (2, firsts.len()) };
                    members.push(Members {
                        group,
                        records: Vec::new(),
                    });
                    if !has_value {
                        firsts.push(at);
                        continue;
                    }
                }
                members[of_group[group] as usize].records.push(at);
            }
        }
        let records = gather(self.chunks, self.by.columns.fields().len(), &firsts)?;
        let values = self.fold.created(&records, firsts.len())?;
        Ok((members, Created { values, starts }))
    }
}

/// The values of first records, and where each group's value begins.
struct Created {
    values: Vec<ArrayRef>,
    starts: Vec<At>,
}
