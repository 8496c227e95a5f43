//! The state of an operator that looks at every key in every batch.
//!
//! Keys and states are columns, in the order in which keys came. A batch evaluates the update over all of them at once:
//! its values are brought to the keys' positions, and new keys stand at the end with a state of nulls. The columns of a
//! version are never changed, so the version before is kept by keeping its columns.

use std::any::Any;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{concat, filter, not, take};
use datafusion::error::Result;
use tidemill_storage::SpillDir;
use tidemill_types::BatchTime;

use super::freeze::{self, FrozenColumns, held_bytes};
use super::saved::{SavedRows, StateVersion, VersionRows, distinct};
use super::spec::{StateSpec, batch, removed};
use super::version::{At, Step, Version, Versions};
use crate::keyed::KeyIndex;
use crate::memory::{Frozen, Kept};

pub(crate) struct AllKeys {
    spec: Arc<StateSpec>,
    index: KeyIndex,
    /// By slot; [`NOWHERE`] for keys that the present version does not have.
    position: Vec<u32>,
    versions: Versions,
    present: Columns,
    /// Those of the version before.
    before: Columns,
    /// Slots that are free if the next version does not have their keys.
    leaving: Vec<u32>,
}

#[derive(Clone, Default)]
struct Columns {
    keys: Vec<ArrayRef>,
    state: Vec<ArrayRef>,
    /// By position.
    slots: Arc<Vec<u32>>,
}

const NOWHERE: u32 = u32::MAX;

impl AllKeys {
    pub(crate) fn new(spec: &Arc<StateSpec>) -> Result<Self> {
        let empty = |types: Vec<_>| types.iter().map(arrow::array::new_empty_array).collect();
        let present = Columns {
            keys: empty(spec.key_types()),
            state: empty(spec.column_types()),
            slots: Arc::default(),
        };
        Ok(Self {
            index: KeyIndex::new(&spec.key_types())?,
            spec: Arc::clone(spec),
            position: Vec::new(),
            versions: Versions::NONE,
            before: present.clone(),
            present,
            leaving: Vec::new(),
        })
    }

    /// A saved state as that of a batch; `None` if it has a key twice.
    pub(super) fn of_saved(spec: &Arc<StateSpec>, index: i64, saved: SavedRows) -> Result<Option<Self>> {
        let mut state = Self::new(spec)?;
        let slots = state.index.intern(&saved.keys)?;
        if !distinct(&slots) {
            return Ok(None);
        }
        // New slots are given in the order of the rows.
        state.position = (0..saved.rows as u32).collect();
        state.present = Columns {
            keys: saved.keys,
            state: saved.state,
            slots: Arc::new(slots),
        };
        state.versions = Versions::loaded(index);
        Ok(Some(state))
    }

    pub(crate) fn version(&self) -> Option<i64> {
        self.versions.now
    }

    pub(crate) fn versions(&self) -> Versions {
        self.versions
    }

    /// The version of a batch, if it is one of the two.
    pub(crate) fn version_at(&self, index: i64) -> Result<Option<StateVersion>> {
        let columns = match self.versions.find(index) {
            None => return Ok(None),
            Some(Version::Now) => &self.present,
            Some(Version::Before) => &self.before,
        };
        let rows = columns.slots.len();
        let columns = columns.keys.iter().chain(&columns.state).cloned().collect();
        Ok(Some(StateVersion {
            spec: Arc::clone(&self.spec),
            rows: VersionRows::Columns(columns, rows),
        }))
    }

    /// Applies a batch: its keys with their values. `initial` is the state before the first.
    pub(crate) fn apply(&mut self, at: At, input: &RecordBatch, initial: Option<&RecordBatch>) -> Result<RecordBatch> {
        let step = at.step(&self.spec.name, self.versions)?;
        match step {
            Step::Again => self.go_back(),
            Step::Begin | Step::Forward => self.settle(),
        }
        self.versions = Versions {
            now: at.previous,
            before: None,
        };
        match self.advance(at.time, input, initial.filter(|_| at.previous.is_none())) {
            Ok(()) => {
                self.versions = Versions {
                    now: Some(at.index),
                    before: Some(at.previous),
                };
                self.rows()
            }
            Err(error) => {
                self.go_back();
                Err(error)
            }
        }
    }

    fn advance(&mut self, time: BatchTime, input: &RecordBatch, initial: Option<&RecordBatch>) -> Result<()> {
        if let Some(initial) = initial {
            self.begin(initial)?;
        }
        self.update(time, input)
    }

    /// The keys and their states.
    pub(crate) fn rows(&self) -> Result<RecordBatch> {
        self.rows_of(&self.present)
    }

    /// The same for the version of a batch, if it is one of the two.
    pub(crate) fn rows_at(&self, index: i64) -> Result<Option<RecordBatch>> {
        let columns = match self.versions.find(index) {
            None => return Ok(None),
            Some(Version::Now) => &self.present,
            Some(Version::Before) => &self.before,
        };
        self.rows_of(columns).map(Some)
    }

    fn rows_of(&self, columns: &Columns) -> Result<RecordBatch> {
        let rows = columns.slots.len();
        let columns = columns.keys.iter().chain(&columns.state).cloned().collect();
        batch(self.spec.state_schema(), columns, rows)
    }

    fn begin(&mut self, initial: &RecordBatch) -> Result<()> {
        let keys = self.spec.keys.len();
        let slots = self.index.intern(&initial.columns()[..keys])?;
        self.position.resize(self.index.slots(), NOWHERE);
        // Of a key that is there twice the last one.
        let mut rows: Vec<u32> = Vec::with_capacity(slots.len());
        let mut of_key: Vec<u32> = Vec::with_capacity(slots.len());
        for (row, slot) in slots.into_iter().enumerate() {
            let position = &mut self.position[slot as usize];
            if *position == NOWHERE {
                *position = rows.len() as u32;
                rows.push(row as u32);
                of_key.push(slot);
            } else {
                rows[*position as usize] = row as u32;
            }
        }
        let rows = UInt32Array::from(rows);
        let columns = initial.columns().iter().map(|column| Ok(take(column, &rows, None)?));
        let mut columns: Vec<ArrayRef> = columns.collect::<Result<_>>()?;
        self.present.state = columns.split_off(keys);
        self.present.keys = columns;
        self.present.slots = Arc::new(of_key);
        Ok(())
    }

    fn update(&mut self, time: BatchTime, input: &RecordBatch) -> Result<()> {
        let (keys, values) = input.columns().split_at(self.spec.keys.len());
        let slots = self.index.intern(keys)?;
        self.position.resize(self.index.slots(), NOWHERE);
        let known = self.present.slots.len();
        let mut source: Vec<Option<u32>> = vec![None; known];
        let (mut new_rows, mut new_slots) = (Vec::new(), Vec::new());
        for (row, slot) in slots.into_iter().enumerate() {
            match self.position[slot as usize] {
                NOWHERE => {
                    self.position[slot as usize] = source.len() as u32;
                    source.push(Some(row as u32));
                    new_rows.push(row as u32);
                    new_slots.push(slot);
                }
                position => source[position as usize] = Some(row as u32),
            }
        }
        self.leaving.extend(&new_slots);
        let rows = source.len();
        let source = UInt32Array::from(source);
        let values = values.iter().map(|column| Ok(take(column, &source, None)?));
        let values = self.spec.counted(values.collect::<Result<_>>()?);
        let mut next = self.present.clone();
        if !new_rows.is_empty() {
            let new_rows = UInt32Array::from(new_rows);
            for (known, new) in next.keys.iter_mut().zip(keys) {
                *known = concat(&[known, &take(new, &new_rows, None)?])?;
            }
            for column in &mut next.state {
                *column = concat(&[column, &new_null_array(column.data_type(), new_rows.len())])?;
            }
            Arc::make_mut(&mut next.slots).extend(new_slots);
        }
        next.state = self.spec.updated(time, &next.keys, &next.state, &values, rows)?;
        if let Some(removed) = removed(&next.state, rows)? {
            let kept = not(&removed)?;
            for column in next.keys.iter_mut().chain(&mut next.state) {
                *column = filter(column, &kept)?;
            }
            let mut left = Vec::with_capacity(kept.true_count());
            for (slot, kept) in next.slots.iter().zip(kept.values()) {
                if kept {
                    self.position[*slot as usize] = left.len() as u32;
                    left.push(*slot);
                } else {
                    self.position[*slot as usize] = NOWHERE;
                    self.leaving.push(*slot);
                }
            }
            next.slots = Arc::new(left);
        }
        self.present = next;
        Ok(())
    }

    /// The version that was current is the one before now.
    fn settle(&mut self) {
        for slot in std::mem::take(&mut self.leaving) {
            if self.position[slot as usize] == NOWHERE {
                self.index.remove(slot);
            }
        }
        self.before = self.present.clone();
    }

    fn go_back(&mut self) {
        self.present = self.before.clone();
        self.position.fill(NOWHERE);
        for (position, slot) in self.present.slots.iter().enumerate() {
            self.position[*slot as usize] = position as u32;
        }
    }
}

impl Columns {
    fn to_version(&self) -> freeze::Version {
        freeze::Version {
            keys: self.keys.clone(),
            state: self.state.clone(),
            slots: self.slots.to_vec(),
        }
    }

    fn of_version(version: freeze::Version) -> Self {
        Self {
            keys: version.keys,
            state: version.state,
            slots: Arc::new(version.slots),
        }
    }
}

/// A state as it was, from its two versions.
fn thaw(spec: &Arc<StateSpec>, versions: Versions, both: [freeze::Version; 2]) -> Result<Box<dyn Kept>> {
    let [present, before] = both.map(Columns::of_version);
    let mut index = KeyIndex::new(&spec.key_types())?;
    index.restore(&present.keys, &present.slots)?;
    index.restore(&before.keys, &before.slots)?;
    index.free_the_rest();
    let mut position = vec![NOWHERE; index.slots()];
    // Keys that only one of the versions has: they go if the next one does not have them.
    let mut versions_of = vec![0_u8; index.slots()];
    for (at, slot) in present.slots.iter().enumerate() {
        position[*slot as usize] = at as u32;
        versions_of[*slot as usize] += 1;
    }
    for slot in before.slots.iter() {
        versions_of[*slot as usize] += 1;
    }
    let leaving = (0..versions_of.len() as u32).filter(|slot| versions_of[*slot as usize] == 1);
    Ok(Box::new(AllKeys {
        spec: Arc::clone(spec),
        leaving: leaving.collect(),
        index,
        position,
        versions,
        present,
        before,
    }))
}

impl Kept for AllKeys {
    fn size(&self) -> usize {
        let versions = [&self.present, &self.before];
        let columns = versions
            .into_iter()
            .flat_map(|columns| columns.keys.iter().chain(&columns.state));
        let slots = versions.into_iter().map(|columns| columns.slots.capacity());
        let numbers = slots.sum::<usize>() + self.position.capacity() + self.leaving.capacity();
        held_bytes(columns) + self.index.size() + numbers * size_of::<u32>()
    }

    fn freeze(&self, spill: &Arc<SpillDir>) -> Result<Option<Box<dyn Frozen>>> {
        let both = [&self.present, &self.before].map(Columns::to_version);
        let frozen = FrozenColumns::write(&self.spec, self.versions, both, spill, thaw)?;
        Ok(Some(Box::new(frozen)))
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}
