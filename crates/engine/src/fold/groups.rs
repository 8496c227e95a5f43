//! The fold of all groups at once.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, BooleanBufferBuilder, StructArray, new_empty_array, new_null_array,
};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{concat, filter, interleave};
use datafusion::error::Result;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};

use super::pairwise::Pairwise;
use super::sequential::Sequential;
use super::{Fold, typed};

/// Values that are kept before they are folded, if there are not even more groups: an array that is folded at once
/// should be long, and a fold costs at least a pass over the groups.
const MIN_PENDING: usize = 32 * 1024;

/// Combined values by group, and values to come.
pub(super) struct FoldGroups {
    fold: Arc<Fold>,
    /// By group, one array for each combined column. Groups that are new since the last fold are not in it.
    combined: Vec<ArrayRef>,
    /// Whether a group has any value.
    present: BooleanBuffer,
    pending: Option<Pending>,
    groups: usize,
}

/// Values in their order that are not folded yet, all of a kind.
struct Pending {
    kind: Kind,
    /// Columns by chunk.
    chunks: Vec<Vec<ArrayRef>>,
    /// Groups by chunk.
    groups: Vec<Vec<u32>>,
    rows: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Records,
    Combined,
}

/// The combined values that a fold begins with, by group.
pub(super) struct Before<'a> {
    pub(super) combined: &'a [ArrayRef],
    pub(super) present: &'a BooleanBuffer,
    /// Those of `combined` and the new ones behind them.
    pub(super) groups: usize,
}

impl Before<'_> {
    pub(super) fn has(&self, group: usize) -> bool {
        group < self.present.len() && self.present.value(group)
    }
}

/// Where a value is: in which array, and at which place in it.
pub(super) type At = (usize, usize);

/// The values at these places in arrays of several columns.
pub(super) fn gather(arrays: &[Vec<ArrayRef>], columns: usize, places: &[At]) -> Result<Vec<ArrayRef>> {
    let gathered = (0..columns).map(|column| {
        let arrays: Vec<&dyn Array> = arrays.iter().map(|array| array[column].as_ref()).collect();
        Ok(interleave(&arrays, places)?)
    });
    gathered.collect()
}

impl FoldGroups {
    pub(super) fn new(fold: Arc<Fold>) -> Self {
        Self {
            combined: fold.types().map(new_empty_array).collect(),
            present: BooleanBuffer::new_unset(0),
            pending: None,
            groups: 0,
            fold,
        }
    }

    fn add(&mut self, kind: Kind, columns: Vec<ArrayRef>, groups: Vec<u32>, total: usize) -> Result<()> {
        self.groups = self.groups.max(total);
        if groups.is_empty() {
            return Ok(());
        }
        if self.pending.as_ref().is_some_and(|pending| pending.kind != kind) {
            self.fold()?;
        }
        let pending = self.pending.get_or_insert_with(|| Pending {
            kind,
            chunks: Vec::new(),
            groups: Vec::new(),
            rows: 0,
        });
        pending.rows += groups.len();
        pending.chunks.push(columns);
        pending.groups.push(groups);
        if pending.rows >= self.groups.max(MIN_PENDING) {
            self.fold()?;
        }
        Ok(())
    }

    /// Folds what is pending into the combined values, after which every group is in them.
    fn fold(&mut self) -> Result<()> {
        let before = Before {
            combined: &self.combined,
            present: &self.present,
            groups: self.groups,
        };
        let combined = match &self.pending {
            None => self.widened()?,
            Some(pending) => match (pending.kind, &self.fold.records) {
                (Kind::Records, Some(records)) => {
                    Sequential::new(&self.fold, records, &pending.chunks, &pending.groups).fold(&before)?
                }
                _ => Pairwise::new(&self.fold, &pending.chunks, &pending.groups).fold(&before)?,
            },
        };
        let mut present = BooleanBufferBuilder::new(self.groups);
        present.append_buffer(&self.present);
        present.resize(self.groups);
        for group in self.pending.iter().flat_map(|pending| pending.groups.iter().flatten()) {
            present.set_bit(*group as usize, true);
        }
        self.present = present.finish();
        self.combined = combined;
        self.pending = None;
        Ok(())
    }

    /// The combined values with nulls for groups without values.
    fn widened(&self) -> Result<Vec<ArrayRef>> {
        let missing = self.groups - self.present.len();
        if missing == 0 {
            return Ok(self.combined.clone());
        }
        let columns = self.combined.iter().map(|column| {
            let nulls = new_null_array(column.data_type(), missing);
            Ok(concat(&[column, &nulls])?)
        });
        columns.collect()
    }

    fn emit(&mut self, emit_to: EmitTo) -> Result<(Vec<ArrayRef>, BooleanBuffer)> {
        self.fold()?;
        let first = match emit_to {
            EmitTo::All => self.groups,
            EmitTo::First(n) => n.min(self.groups),
        };
        let rest = self.groups - first;
        let emitted = self.combined.iter().map(|column| column.slice(0, first)).collect();
        let present = self.present.slice(0, first);
        self.combined = self.combined.iter().map(|column| column.slice(first, rest)).collect();
        self.present = self.present.slice(first, rest);
        self.groups = rest;
        Ok((emitted, present))
    }
}

/// The rows that the filter lets through, with their groups.
fn filtered(columns: &[ArrayRef], groups: &[usize], keep: Option<&BooleanArray>) -> Result<(Vec<ArrayRef>, Vec<u32>)> {
    let as_group = |group: &usize| *group as u32;
    let Some(keep) = keep.filter(|keep| keep.true_count() < keep.len()) else {
        return Ok((columns.to_vec(), groups.iter().map(as_group).collect()));
    };
    let kept = columns.iter().map(|column| Ok(filter(column, keep)?));
    let groups = groups.iter().zip(keep).filter(|(_, keep)| *keep == Some(true));
    Ok((
        kept.collect::<Result<_>>()?,
        groups.map(|(group, _)| as_group(group)).collect(),
    ))
}

impl GroupsAccumulator for FoldGroups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        let values = self.fold.typed_inputs(values)?;
        let (values, groups) = filtered(&values, group_indices, opt_filter)?;
        self.add(Kind::Records, values, groups, total_num_groups)
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        let (combined, present) = values.split_at(self.fold.columns.fields().len());
        let present = present.first().map(|present| present.as_boolean());
        let (values, groups) = filtered(combined, group_indices, present)?;
        self.add(Kind::Combined, values, groups, total_num_groups)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let (combined, _) = self.emit(emit_to)?;
        self.fold.result(combined)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let (mut combined, present) = self.emit(emit_to)?;
        combined.push(Arc::new(BooleanArray::new(present, None)));
        Ok(combined)
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let rows = values.first().map_or(0, |column| column.len());
        let mut state = self.fold.created(&self.fold.typed_inputs(values)?, rows)?;
        let present = match opt_filter {
            Some(keep) => keep.iter().map(|keep| Some(keep == Some(true))).collect(),
            None => BooleanArray::new(BooleanBuffer::new_set(rows), None),
        };
        state.push(Arc::new(present));
        Ok(state)
    }

    fn size(&self) -> usize {
        let held = |columns: &[ArrayRef]| {
            columns
                .iter()
                .map(|column| column.get_array_memory_size())
                .sum::<usize>()
        };
        let pending = self.pending.as_ref().map_or(0, |pending| {
            pending.chunks.iter().map(|chunk| held(chunk)).sum::<usize>() + pending.rows * size_of::<u32>()
        });
        held(&self.combined) + self.present.len() / 8 + pending
    }
}

impl Fold {
    fn typed_inputs(&self, values: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
        let fields = self.inputs().fields().iter();
        let columns = values.iter().zip(fields);
        columns
            .map(|(column, field)| typed(Arc::clone(column), field.data_type()))
            .collect()
    }

    /// The combined columns as the one column that an aggregate gives.
    pub(super) fn result(&self, mut combined: Vec<ArrayRef>) -> Result<ArrayRef> {
        if combined.len() == 1 {
            return Ok(combined.remove(0));
        }
        Ok(Arc::new(StructArray::try_new(
            self.columns.fields().clone(),
            combined,
            None,
        )?))
    }
}
