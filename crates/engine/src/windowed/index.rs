//! What a partition knows of a window from slide to slide: two stacks for each key.
//!
//! A window has the last `length` panes. Of each key in it two partial states are at hand, which together are the
//! window's: that of the *front*, the key's older panes, and that of the *back*, its newer ones.
//!
//! ```text
//!              flipped here             now                a pane leaves: the front's state becomes that of
//!    ├── front ─────┤├─── back ──────────┤                     the panes behind it, which is at hand
//!    │ a │ b │ c │ d ││ e │ f │ g │ h │ i │                a pane comes: it is merged into the back's state
//!      │   │   │   └─ d                                    a flip: the back's panes become the front; of each the
//!      │   │   └───── cd      └── efghi                        state from there to the end is computed
//!      │   └───────── bcd
//!      └───────────── abcd
//! ```
//! So an entry (a key in a pane) is merged about three times, whatever the window's length, and no aggregate needs an
//! inverse. Keys flip once in a window's length, at a time that the key's hash chooses: no slide has more flips than
//! another. It is the two-stacks algorithm of sliding-window aggregation (Tangwongsan, Hirzel, Schneider, "In-Order
//! Sliding-Window Aggregation in Worst-Case Constant Time", VLDB J. 30, 2021), by key and staggered.
//!
//! All of it can be built anew of the window's panes, and is the same then, to the last bit of a floating-point sum: when
//! a key flips and how its panes are put together depends on the panes' numbers alone.

use std::collections::{HashMap, VecDeque};

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::DataType;
use datafusion::common::internal_err;
use datafusion::error::Result;

use super::aggregates::{Aggregates, Part};
use crate::keyed::KeyIndex;
use crate::keyed::rows::{RowRef, gather};

/// Times at which keys flip, at most: with fewer keys at each, merging them one by one costs more than it smoothes.
const MAX_PHASES: u64 = 256;

/// Windows up to this many panes compute a front's states from its end to its beginning, longer ones by doubling: that
/// merges more rows, in fewer and larger steps.
const SEQUENTIAL_PANES: u64 = 128;

pub(crate) struct WindowIndex {
    aggregates: Aggregates,
    /// Panes in a window.
    length: u64,
    phases: u64,
    key_columns: usize,
    keys: KeyIndex,
    /// The number of the newest pane that was taken in.
    newest: Option<i64>,
    panes: VecDeque<Pane>,
    slots: Vec<Slot>,
    /// By phase, the entries since its last flip, in the order of their panes.
    since_flip: Vec<Vec<(u32, RowRef)>>,
    /// By phase, the batch of its front states.
    fronts: Vec<Option<u32>>,
    batches: Batches,
}

struct Pane {
    number: i64,
    /// The slot of each of its rows.
    slots: Vec<u32>,
    batch: u32,
}

#[derive(Clone, Copy)]
struct Slot {
    /// Panes in the window that have the key; 0 for a slot without a key.
    panes: u32,
    /// The next front state in the batch of the phase, and the end of the key's.
    front: u32,
    front_end: u32,
    back: RowRef,
}

const EMPTY: Slot = Slot {
    panes: 0,
    front: 0,
    front_end: 0,
    back: RowRef::NONE,
};

impl WindowIndex {
    pub(crate) fn new(key_types: &[DataType], aggregates: Aggregates, length: u64) -> Result<Self> {
        let length = length.max(1);
        let phases = length.min(MAX_PHASES);
        Ok(Self {
            aggregates,
            length,
            phases,
            key_columns: key_types.len(),
            keys: KeyIndex::new(key_types)?,
            newest: None,
            panes: VecDeque::new(),
            slots: Vec::new(),
            since_flip: vec![Vec::new(); phases as usize],
            fronts: vec![None; phases as usize],
            batches: Batches::default(),
        })
    }

    /// The newest pane that was taken in.
    pub(crate) fn newest(&self) -> Option<i64> {
        self.newest
    }

    /// Takes in the next pane, whose rows are keys and states, and lets go of the one that leaves.
    pub(crate) fn push(&mut self, number: i64, rows: &RecordBatch) -> Result<()> {
        if self.newest.is_some_and(|newest| number != newest + 1) {
            return internal_err!("pane {number} after {:?}", self.newest);
        }
        // Half-way through a failure nothing is as it seems: whoever comes next builds it anew.
        self.newest = None;
        self.evict(number - self.length as i64);
        self.add(number, rows)?;
        for phase in self.flipping_at(number) {
            self.flip(phase)?;
        }
        self.newest = Some(number);
        Ok(())
    }

    /// The keys of the window and their results, as columns; without key columns one row, whatever the window has.
    pub(crate) fn evaluate(&self) -> Result<Vec<ArrayRef>> {
        let live = (0..self.slots.len() as u32).filter(|slot| self.slots[*slot as usize].panes > 0);
        // Those with a front first: it is merged before the backs.
        let (mut live, only_back): (Vec<u32>, Vec<u32>) = live.partition(|slot| self.front(*slot).is_some());
        let with_front = live.len();
        live.extend(only_back);
        if self.key_columns == 0 && live.is_empty() {
            return self.aggregates.of_nothing();
        }
        let fronts: Vec<RowRef> = live[..with_front].iter().map(|slot| self.front(*slot)).collect();
        let front_groups: Vec<usize> = (0..with_front).collect();
        let (mut backs, mut back_groups) = (Vec::new(), Vec::new());
        for (group, slot) in live.iter().enumerate() {
            let back = self.slots[*slot as usize].back;
            if back.is_some() {
                backs.push(back);
                back_groups.push(group);
            }
        }
        let fronts = self.gather(&fronts)?;
        let backs = self.gather(&backs)?;
        let parts = [
            Part {
                states: &fronts,
                groups: &front_groups,
                total: with_front,
            },
            Part {
                states: &backs,
                groups: &back_groups,
                total: live.len(),
            },
        ];
        let mut columns = match self.key_columns {
            0 => Vec::new(),
            _ => self.keys.columns(live.iter().copied())?,
        };
        columns.extend(self.aggregates.evaluate(&parts)?);
        Ok(columns)
    }

    /// Bytes held, those of panes included.
    pub(crate) fn size(&self) -> usize {
        let entries: usize = self.panes.iter().map(|pane| pane.slots.capacity()).sum();
        let waiting: usize = self.since_flip.iter().map(Vec::capacity).sum();
        self.keys.size()
            + self.batches.size()
            + entries * size_of::<u32>()
            + waiting * size_of::<(u32, RowRef)>()
            + self.slots.capacity() * size_of::<Slot>()
    }

    // === a pane leaves ===

    fn evict(&mut self, until: i64) {
        while self.panes.front().is_some_and(|pane| pane.number <= until) {
            let Some(pane) = self.panes.pop_front() else { return };
            for slot in pane.slots {
                let state = &mut self.slots[slot as usize];
                state.panes -= 1;
                // Every key has flipped since the pane came, so the pane is the first of the key's front.
                state.front += 1;
                if state.panes == 0 {
                    *state = EMPTY;
                    if self.key_columns > 0 {
                        self.keys.remove(slot);
                    }
                }
            }
            self.batches.drop(pane.batch);
        }
    }

    // === a pane comes ===

    fn add(&mut self, number: i64, rows: &RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let (keys, states) = rows.columns().split_at(self.key_columns);
        let mut slots = match self.key_columns {
            0 => vec![0; rows.num_rows()],
            _ => self.keys.intern(keys)?,
        };
        let slot_count = self.keys.slots().max(1);
        if self.slots.len() < slot_count {
            self.slots.resize(slot_count, EMPTY);
        }
        let mut states = states.to_vec();
        self.unite(&mut slots, &mut states)?;
        let batch = self.batches.add(states, Need::UntilDropped);

        let (mut old, mut new, mut both) = (Vec::new(), Vec::new(), Vec::new());
        for (row, slot) in slots.iter().enumerate() {
            let entry = RowRef { batch, row: row as u32 };
            let phase = self.phase(*slot);
            self.since_flip[phase].push((*slot, entry));
            let state = &mut self.slots[*slot as usize];
            state.panes += 1;
            if state.back.is_some() {
                old.push(state.back);
                new.push(entry);
                both.push(*slot);
            } else {
                state.back = entry;
            }
        }
        if !both.is_empty() {
            let groups: Vec<usize> = (0..both.len()).collect();
            let (old_states, new_states) = (self.gather(&old)?, self.gather(&new)?);
            let merged = self.merge_pairs(&old_states, &new_states, &groups)?;
            let merged = self.batches.add(merged, Need::Rows(both.len()));
            for (row, (slot, old)) in both.into_iter().zip(old).enumerate() {
                self.slots[slot as usize].back = RowRef {
                    batch: merged,
                    row: row as u32,
                };
                self.batches.release(old);
            }
        }
        self.panes.push_back(Pane { number, slots, batch });
        Ok(())
    }

    /// Makes rows of one key one row: a pane need not have been aggregated to the end.
    fn unite(&self, slots: &mut Vec<u32>, states: &mut Vec<ArrayRef>) -> Result<()> {
        let mut seen: HashMap<u32, usize, foldhash::fast::FixedState> = HashMap::default();
        let mut distinct = Vec::with_capacity(slots.len());
        let groups: Vec<usize> = slots
            .iter()
            .map(|slot| {
                *seen.entry(*slot).or_insert_with(|| {
                    distinct.push(*slot);
                    distinct.len() - 1
                })
            })
            .collect();
        if distinct.len() == slots.len() {
            return Ok(());
        }
        let part = Part {
            states,
            groups: &groups,
            total: distinct.len(),
        };
        *states = self.aggregates.merge(&[part])?;
        *slots = distinct;
        Ok(())
    }

    // === a flip ===

    fn phase(&self, slot: u32) -> usize {
        match self.key_columns {
            0 => 0,
            _ => (self.keys.hash(slot) % self.phases) as usize,
        }
    }

    /// The phases that flip with a pane.
    fn flipping_at(&self, number: i64) -> Vec<usize> {
        let at = number.rem_euclid(self.length as i64) as u64;
        // Phase `p` flips at `p * length / phases`.
        let first = (at * self.phases).div_ceil(self.length);
        let end = ((at + 1) * self.phases).div_ceil(self.length);
        (first as usize..end as usize).collect()
    }

    /// Makes the back of all keys of a phase their front. What was their front has left by now.
    fn flip(&mut self, phase: usize) -> Result<()> {
        if let Some(old) = self.fronts[phase].take() {
            self.batches.drop(old);
        }
        let mut entries = std::mem::take(&mut self.since_flip[phase]);
        if entries.is_empty() {
            return Ok(());
        }
        // Stable: a key's entries stay in the order of their panes.
        entries.sort_by_key(|(slot, _)| *slot);
        let rows: Vec<RowRef> = entries.iter().map(|(_, row)| *row).collect();
        let states = self.gather(&rows)?;
        // For each entry the end of its key's.
        let mut ends = vec![0u32; entries.len()];
        let mut begin = 0;
        for end in 1..=entries.len() {
            if end == entries.len() || entries[end].0 != entries[begin].0 {
                ends[begin..end].fill(end as u32);
                let slot = &mut self.slots[entries[begin].0 as usize];
                (slot.front, slot.front_end) = (begin as u32, end as u32);
                let back = std::mem::replace(&mut slot.back, RowRef::NONE);
                self.batches.release(back);
                begin = end;
            }
        }
        let suffixes = if self.length <= SEQUENTIAL_PANES {
            self.suffixes_in_steps(states, &ends)?
        } else {
            self.suffixes_by_doubling(states, &ends)?
        };
        self.fronts[phase] = Some(self.batches.add(suffixes, Need::UntilDropped));
        entries.clear();
        self.since_flip[phase] = entries;
        Ok(())
    }

    /// Of each row the states from it to its key's end, merged: those next to the end first, of all keys at once.
    fn suffixes_in_steps(&self, states: Vec<ArrayRef>, ends: &[u32]) -> Result<Vec<ArrayRef>> {
        // Rows by their distance from the end.
        let mut by_distance: Vec<Vec<u32>> = Vec::new();
        for (row, end) in ends.iter().enumerate() {
            let distance = (*end as usize) - row - 1;
            if by_distance.len() <= distance {
                by_distance.resize_with(distance + 1, Vec::new);
            }
            by_distance[distance].push(row as u32);
        }
        if by_distance.len() == 1 {
            return Ok(states);
        }
        let mut place = vec![RowRef::NONE; ends.len()];
        let mut steps: Vec<Vec<ArrayRef>> = Vec::with_capacity(by_distance.len());
        for (distance, rows) in by_distance.into_iter().enumerate() {
            for (i, row) in rows.iter().enumerate() {
                place[*row as usize] = RowRef {
                    batch: distance as u32,
                    row: i as u32,
                };
            }
            let next: Option<Vec<u32>> = (distance > 0).then(|| {
                // The row behind each was in the step before.
                rows.iter().map(|row| place[*row as usize + 1].row).collect()
            });
            let own = take_all(&states, &UInt32Array::from(rows))?;
            steps.push(match next {
                None => own,
                Some(next) => {
                    let groups: Vec<usize> = (0..next.len()).collect();
                    let behind = take_all(&steps[distance - 1], &UInt32Array::from(next))?;
                    self.merge_pairs(&own, &behind, &groups)?
                }
            });
        }
        gather(&place, self.aggregates.types(), |step| &steps[step as usize])
    }

    /// The same in as many steps as the longest key's entries have binary digits: after step `k` a row has the states of
    /// the next `2^k`.
    fn suffixes_by_doubling(&self, mut states: Vec<ArrayRef>, ends: &[u32]) -> Result<Vec<ArrayRef>> {
        let mut distance = 1;
        loop {
            let rows: Vec<u32> = (0..ends.len() as u32)
                .filter(|row| row + distance < ends[*row as usize])
                .collect();
            if rows.is_empty() {
                return Ok(states);
            }
            let mut place: Vec<RowRef> = (0..ends.len() as u32).map(|row| RowRef { batch: 0, row }).collect();
            for (i, row) in rows.iter().enumerate() {
                place[*row as usize] = RowRef {
                    batch: 1,
                    row: i as u32,
                };
            }
            let behind: UInt32Array = rows.iter().map(|row| row + distance).collect();
            let groups: Vec<usize> = (0..rows.len()).collect();
            let own = take_all(&states, &UInt32Array::from(rows))?;
            let merged = self.merge_pairs(&own, &take_all(&states, &behind)?, &groups)?;
            states = gather(&place, self.aggregates.types(), |batch| match batch {
                0 => &states,
                _ => &merged,
            })?;
            distance *= 2;
        }
    }

    // === rows ===

    fn front(&self, slot: u32) -> RowRef {
        let state = &self.slots[slot as usize];
        match self.fronts[self.phase(slot)] {
            Some(batch) if state.front < state.front_end => RowRef {
                batch,
                row: state.front,
            },
            _ => RowRef::NONE,
        }
    }

    fn gather(&self, rows: &[RowRef]) -> Result<Vec<ArrayRef>> {
        gather(rows, self.aggregates.types(), |batch| self.batches.columns(batch))
    }

    fn merge_pairs(&self, first: &[ArrayRef], second: &[ArrayRef], groups: &[usize]) -> Result<Vec<ArrayRef>> {
        let total = groups.len();
        self.aggregates
            .merge(&[first, second].map(|states| Part { states, groups, total }))
    }
}

fn take_all(columns: &[ArrayRef], rows: &UInt32Array) -> Result<Vec<ArrayRef>> {
    columns.iter().map(|column| Ok(take(column, rows, None)?)).collect()
}

/// Batches of states by number, each as long as it is needed.
#[derive(Default)]
struct Batches {
    held: HashMap<u32, Held, foldhash::fast::FixedState>,
    next: u32,
}

struct Held {
    columns: Vec<ArrayRef>,
    need: Need,
}

enum Need {
    /// Panes and fronts: all at once.
    UntilDropped,
    /// What was merged for backs: as long as one of so many rows is a key's.
    Rows(usize),
}

impl Batches {
    fn add(&mut self, columns: Vec<ArrayRef>, need: Need) -> u32 {
        // Numbers come round after weeks; what they named is gone by then.
        while self.next == u32::MAX || self.held.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let number = self.next;
        self.next = number.wrapping_add(1);
        self.held.insert(number, Held { columns, need });
        number
    }

    fn columns(&self, number: u32) -> &[ArrayRef] {
        self.held.get(&number).map_or(&[], |held| &held.columns)
    }

    /// A row is no key's any more.
    fn release(&mut self, row: RowRef) {
        if let Some(Held {
            need: Need::Rows(rows), ..
        }) = self.held.get_mut(&row.batch)
        {
            *rows -= 1;
            if *rows == 0 {
                self.held.remove(&row.batch);
            }
        }
    }

    fn drop(&mut self, number: u32) {
        self.held.remove(&number);
    }

    fn size(&self) -> usize {
        let columns = self.held.values().flat_map(|held| &held.columns);
        columns.map(|column| column.get_array_memory_size()).sum()
    }
}
