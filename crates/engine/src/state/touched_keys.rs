//! The state of an operator that looks at the keys of a batch's records.
//!
//! A log: each batch appends the new states of its keys as one *run* of columns, and the index knows for each key where
//! its row is. So a batch costs what its keys cost, however many others there are. Rows that were replaced are dead; the
//! oldest runs are cleaned, some rows in each batch: their live rows are appended again and the run is dropped. Of all
//! rows at least about half are live.
//!
//! ```text
//!   runs    │ a b c d │ a e │ f b │ …        index  a ─► 2nd run     what a batch changed in the index is kept until the
//!             ✗ ✗ · ·   · ·   · ·                   b ─► 3rd run     next one comes, so that it can be taken back
//! ```
//! Timeouts go by a queue of the batches in which keys were touched: a batch looks at the keys of those that are due, and
//! those that were not touched since time out.

use std::any::Any;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{concat, take};
use arrow::datatypes::DataType;
use datafusion::error::Result;
use tidemill_storage::SpillDir;
use tidemill_types::BatchTime;

use super::freeze::{self, FrozenLog, Log, held_bytes};
use super::saved::{LogRows, SavedRows, StateVersion, VersionRows, distinct};
use super::spec::{StateKind, StateSpec, batch, removed};
use super::version::{At, Step, Version, Versions};
use crate::keyed::KeyIndex;
use crate::keyed::rows::{RowRef, gather};
use crate::memory::{Frozen, Kept};

/// Rows of a run, at most: what is cleaned at a time.
const RUN_ROWS: usize = 8192;
/// Dead rows that are not worth cleaning.
const SPARE_ROWS: usize = 8192;
/// The batch of the row that keys without state have.
const NO_STATE: u32 = u32::MAX - 1;

pub(crate) struct TouchedKeys {
    spec: Arc<StateSpec>,
    types: Vec<DataType>,
    index: KeyIndex,
    /// By slot.
    places: Vec<Place>,
    runs: HashMap<u32, Run>,
    /// Numbers of runs, oldest first.
    order: VecDeque<u32>,
    next_run: u32,
    /// Rows of all runs.
    rows: usize,
    /// Keys with state.
    live: usize,
    /// Batch times in milliseconds and the slots touched, oldest first.
    touched: VecDeque<(i64, Vec<u32>)>,
    versions: Versions,
    undo: Undo,
    /// A row of nulls.
    no_state: Vec<ArrayRef>,
}

#[derive(Clone, Copy)]
struct Place {
    row: RowRef,
    /// When the key was touched last.
    touched: i64,
}

const NOWHERE: Place = Place {
    row: RowRef::NONE,
    touched: i64::MIN,
};

struct Run {
    columns: Vec<ArrayRef>,
    /// Of each row.
    slots: Vec<u32>,
}

/// What the last batch changed.
#[derive(Default)]
struct Undo {
    places: Vec<(u32, Place)>,
    /// Runs that it appended.
    runs: Vec<u32>,
    /// Entries of `touched` that it took.
    touched: Vec<(i64, Vec<u32>)>,
    /// Whether it put one there.
    added: bool,
    /// Slots that may be without a state.
    leaving: Vec<u32>,
}

/// Calls of the update function, or of its end by timeout.
struct Calls {
    keys: Vec<ArrayRef>,
    values: Vec<ArrayRef>,
    new: Vec<ArrayRef>,
    old: Vec<ArrayRef>,
    timing_out: bool,
    rows: usize,
}

impl TouchedKeys {
    pub(crate) fn new(spec: &Arc<StateSpec>) -> Result<Self> {
        let types = spec.column_types();
        Ok(Self {
            index: KeyIndex::new(&spec.key_types())?,
            spec: Arc::clone(spec),
            places: Vec::new(),
            runs: HashMap::new(),
            order: VecDeque::new(),
            next_run: 0,
            rows: 0,
            live: 0,
            touched: VecDeque::new(),
            versions: Versions::NONE,
            undo: Undo::default(),
            no_state: types.iter().map(|t| new_null_array(t, 1)).collect(),
            types,
        })
    }

    /// A saved state as that of a batch; `None` if it has a key twice.
    pub(super) fn of_saved(spec: &Arc<StateSpec>, index: i64, saved: SavedRows) -> Result<Option<Self>> {
        let mut state = Self::new(spec)?;
        let slots = state.index.intern(&saved.keys)?;
        if !distinct(&slots) {
            return Ok(None);
        }
        state.grow();
        state.append(NOWHERE.touched, &slots, &saved.state)?;
        // What is loaded cannot be taken back.
        state.undo = Undo::default();
        let mut touched: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
        for (slot, time) in slots.into_iter().zip(saved.touched) {
            state.places[slot as usize].touched = time;
            touched.entry(time).or_default().push(slot);
        }
        if state.timeout().is_some() {
            state.touched = touched.into_iter().collect();
        }
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
        let Some(places) = self.places_at(index) else {
            return Ok(None);
        };
        let with_state = || (0_u32..).zip(places.iter()).filter(|(_, place)| place.row.is_some());
        let runs = self.runs.iter().map(|(number, run)| (*number, run.columns.clone()));
        let rows = LogRows {
            keys: self.index.keys(with_state().map(|(slot, _)| slot)),
            places: with_state().map(|(_, place)| place.row).collect(),
            touched: with_state().map(|(_, place)| place.touched).collect(),
            runs: runs.collect(),
        };
        Ok(Some(StateVersion {
            spec: Arc::clone(&self.spec),
            rows: VersionRows::Log(rows),
        }))
    }

    /// Applies a batch: its keys with their values. `initial` is the state before the first.
    pub(crate) fn apply(&mut self, at: At, input: &RecordBatch, initial: Option<&RecordBatch>) -> Result<RecordBatch> {
        let step = at.step(&self.spec.name, self.versions)?;
        if step == Step::Again {
            self.go_back();
        }
        self.versions = Versions {
            now: at.previous,
            before: None,
        };
        self.settle()?;
        match self.changed(at, input, initial.filter(|_| at.previous.is_none())) {
            Ok(rows) => {
                self.versions = Versions {
                    now: Some(at.index),
                    before: Some(at.previous),
                };
                Ok(rows)
            }
            Err(error) => {
                self.go_back();
                Err(error)
            }
        }
    }

    /// The keys with state, and their states.
    pub(crate) fn snapshot(&self) -> Result<RecordBatch> {
        self.rows_of(&self.places)
    }

    /// The same for the version of a batch, if it is one of the two.
    pub(crate) fn rows_at(&self, index: i64) -> Result<Option<RecordBatch>> {
        let places = self.places_at(index);
        places.map(|places| self.rows_of(&places)).transpose()
    }

    /// Where the rows of a version are, by slot.
    fn places_at(&self, index: i64) -> Option<Cow<'_, [Place]>> {
        match self.versions.find(index)? {
            Version::Now => Some(Cow::Borrowed(&self.places)),
            Version::Before => {
                let mut places = self.places.clone();
                for (slot, before) in self.undo.places.iter().rev() {
                    places[*slot as usize] = *before;
                }
                Some(Cow::Owned(places))
            }
        }
    }

    fn rows_of(&self, places: &[Place]) -> Result<RecordBatch> {
        let (mut slots, mut rows) = (Vec::with_capacity(self.live), Vec::with_capacity(self.live));
        for (slot, place) in places.iter().enumerate() {
            if place.row.is_some() {
                slots.push(slot as u32);
                rows.push(place.row);
            }
        }
        let mut columns = self.index.columns(slots.into_iter())?;
        columns.extend(self.states(&rows)?);
        batch(self.spec.state_schema(), columns, rows.len())
    }

    fn changed(&mut self, at: At, input: &RecordBatch, initial: Option<&RecordBatch>) -> Result<RecordBatch> {
        if let Some(initial) = initial {
            self.begin(at.time.0, initial)?;
        }
        let touched = self.touch(at.time, input)?;
        let timed_out = self.time_out(at.time.0)?;
        let calls: Vec<Calls> = [touched].into_iter().chain(timed_out).collect();
        self.result(&calls)
    }

    fn begin(&mut self, time: i64, initial: &RecordBatch) -> Result<()> {
        let (keys, state) = initial.columns().split_at(self.spec.keys.len());
        let slots = self.index.intern(keys)?;
        self.grow();
        self.append(time, &slots, state)?;
        if self.timeout().is_some() && !slots.is_empty() {
            self.touched.push_back((time, slots));
            // Taken back with the rest of the first batch.
            self.undo.added = true;
        }
        Ok(())
    }

    /// Calls the update for the keys of the batch.
    fn touch(&mut self, at: BatchTime, input: &RecordBatch) -> Result<Calls> {
        let time = at.0;
        let rows = input.num_rows();
        let (keys, values) = input.columns().split_at(self.spec.keys.len());
        let slots = self.index.intern(keys)?;
        self.grow();
        self.undo.leaving.extend(&slots);
        let places = slots.iter().map(|slot| self.places[*slot as usize].row);
        let places: Vec<RowRef> = places
            .map(|row| {
                if row.is_some() {
                    row
                } else {
                    RowRef {
                        batch: NO_STATE,
                        row: 0,
                    }
                }
            })
            .collect();
        let old = self.states(&places)?;
        let values = self.spec.counted(values.to_vec());
        let new = self.spec.updated(at, keys, &old, &values, rows)?;
        let removed = removed(&new, rows)?;
        match &removed {
            None => self.append(time, &slots, &new)?,
            Some(removed) => {
                let (kept, gone) = split(&slots, removed);
                let columns = new.iter().map(|column| Ok(take(column, &kept.0, None)?));
                let columns: Vec<ArrayRef> = columns.collect::<Result<_>>()?;
                self.append(time, &kept.1, &columns)?;
                gone.into_iter().for_each(|slot| self.forget(slot));
            }
        }
        if self.timeout().is_some() && rows > 0 {
            match self.touched.back_mut().filter(|(last, _)| *last == time) {
                Some((_, touched)) => touched.extend(slots),
                None => {
                    self.touched.push_back((time, slots));
                    self.undo.added = true;
                }
            }
        }
        Ok(Calls {
            keys: keys.to_vec(),
            values,
            new,
            old,
            timing_out: false,
            rows,
        })
    }

    /// Removes the keys whose time is up.
    fn time_out(&mut self, now: i64) -> Result<Option<Calls>> {
        let Some(timeout) = self.timeout() else {
            return Ok(None);
        };
        let mut due: Vec<u32> = Vec::new();
        while self
            .touched
            .front()
            .is_some_and(|(time, _)| now.saturating_sub(*time) >= timeout)
        {
            let Some((time, slots)) = self.touched.pop_front() else {
                break;
            };
            let still = slots.iter().filter(|slot| {
                let place = &self.places[**slot as usize];
                place.row.is_some() && place.touched == time
            });
            due.extend(still);
            self.undo.touched.push((time, slots));
        }
        due.sort_unstable();
        due.dedup();
        if due.is_empty() {
            return Ok(None);
        }
        let places: Vec<RowRef> = due.iter().map(|slot| self.places[*slot as usize].row).collect();
        let state = self.states(&places)?;
        let keys = self.index.columns(due.iter().copied())?;
        let rows = due.len();
        for slot in due {
            self.undo.leaving.push(slot);
            self.forget(slot);
        }
        Ok(Some(Calls {
            keys,
            values: self.spec.no_values(rows),
            new: state.clone(),
            old: state,
            timing_out: true,
            rows,
        }))
    }

    fn timeout(&self) -> Option<i64> {
        match self.spec.kind {
            StateKind::Touched { timeout_ms, .. } => timeout_ms,
            StateKind::All => None,
        }
    }

    // === the log ===

    fn grow(&mut self) {
        self.places.resize(self.index.slots().max(self.places.len()), NOWHERE);
    }

    /// Appends the new states of some keys.
    fn append(&mut self, time: i64, slots: &[u32], columns: &[ArrayRef]) -> Result<()> {
        for begin in (0..slots.len()).step_by(RUN_ROWS) {
            let rows = RUN_ROWS.min(slots.len() - begin);
            let columns = columns.iter().map(|column| column.slice(begin, rows)).collect();
            let run = self.add_run(columns, slots[begin..begin + rows].to_vec());
            self.undo.runs.push(run);
            for (row, slot) in slots[begin..begin + rows].iter().enumerate() {
                let row = RowRef {
                    batch: run,
                    row: row as u32,
                };
                self.place(*slot, Place { row, touched: time });
            }
        }
        Ok(())
    }

    fn forget(&mut self, slot: u32) {
        if self.places[slot as usize].row.is_some() {
            self.place(slot, NOWHERE);
        }
    }

    fn place(&mut self, slot: u32, place: Place) {
        let before = std::mem::replace(&mut self.places[slot as usize], place);
        self.live += usize::from(place.row.is_some());
        self.live -= usize::from(before.row.is_some());
        self.undo.places.push((slot, before));
    }

    fn add_run(&mut self, columns: Vec<ArrayRef>, slots: Vec<u32>) -> u32 {
        while self.next_run >= NO_STATE || self.runs.contains_key(&self.next_run) {
            self.next_run = self.next_run.wrapping_add(1);
        }
        let number = self.next_run;
        self.next_run += 1;
        self.rows += slots.len();
        self.runs.insert(number, Run { columns, slots });
        self.order.push_back(number);
        number
    }

    fn states(&self, rows: &[RowRef]) -> Result<Vec<ArrayRef>> {
        gather(rows, &self.types, |run| match run {
            NO_STATE => &self.no_state,
            run => self.runs.get(&run).map_or(&[], |run| run.columns.as_slice()),
        })
    }

    // === versions ===

    /// Makes what the last batch changed final, and cleans as many rows as a batch appends or a little more.
    fn settle(&mut self) -> Result<()> {
        let undo = std::mem::take(&mut self.undo);
        for slot in undo.leaving {
            if !self.places[slot as usize].row.is_some() {
                self.index.remove(slot);
            }
        }
        let appended: usize = undo
            .runs
            .iter()
            .filter_map(|run| self.runs.get(run))
            .map(|run| run.slots.len())
            .sum();
        let mut budget = 2 * appended + RUN_ROWS;
        while self.rows > 2 * self.live + SPARE_ROWS && budget > 0 {
            let Some(oldest) = self.order.pop_front() else { break };
            let Some(run) = self.runs.remove(&oldest) else { continue };
            self.rows -= run.slots.len();
            budget = budget.saturating_sub(run.slots.len());
            let live: Vec<u32> = (0..run.slots.len() as u32)
                .filter(|row| {
                    let place = self.places[run.slots[*row as usize] as usize].row;
                    place
                        == RowRef {
                            batch: oldest,
                            row: *row,
                        }
                })
                .collect();
            if live.is_empty() {
                continue;
            }
            let slots: Vec<u32> = live.iter().map(|row| run.slots[*row as usize]).collect();
            let live = UInt32Array::from(live);
            let columns = run.columns.iter().map(|column| Ok(take(column, &live, None)?));
            let columns = columns.collect::<Result<_>>()?;
            let moved = self.add_run(columns, slots.clone());
            for (row, slot) in slots.into_iter().enumerate() {
                self.places[slot as usize].row = RowRef {
                    batch: moved,
                    row: row as u32,
                };
            }
        }
        Ok(())
    }

    /// Takes back what was changed since [`Self::settle`].
    fn go_back(&mut self) {
        let undo = std::mem::take(&mut self.undo);
        for (slot, place) in undo.places.into_iter().rev() {
            let now = std::mem::replace(&mut self.places[slot as usize], place);
            self.live += usize::from(place.row.is_some());
            self.live -= usize::from(now.row.is_some());
        }
        for run in &undo.runs {
            if let Some(run) = self.runs.remove(run) {
                self.rows -= run.slots.len();
            }
        }
        self.order.retain(|run| !undo.runs.contains(run));
        if undo.added {
            self.touched.pop_back();
        }
        for touched in undo.touched.into_iter().rev() {
            self.touched.push_front(touched);
        }
        // Keys that only this batch had go when the next one settles.
        self.undo.leaving = undo.leaving;
    }

    // === results ===

    fn result(&self, calls: &[Calls]) -> Result<RecordBatch> {
        let StateKind::Touched { emit, snapshots, .. } = &self.spec.kind else {
            return datafusion::common::internal_err!("`{}` looks at all keys", self.spec.name);
        };
        let mut parts: Vec<Vec<ArrayRef>> = Vec::with_capacity(calls.len());
        for calls in calls {
            let timing_out: ArrayRef = Arc::new(BooleanArray::from(vec![calls.timing_out; calls.rows]));
            let columns = [&calls.keys, &calls.values, &calls.new, &calls.old];
            let columns = columns.into_iter().flatten().cloned().chain([timing_out]);
            let scope = batch(self.spec.emit_scope(), columns.collect(), calls.rows)?;
            let emitted = emit.iter().map(|(field, expr)| {
                let column = expr.evaluate(&scope)?.into_array(calls.rows)?;
                Ok(arrow::compute::cast(&column, field.data_type())?)
            });
            parts.push(emitted.collect::<Result<_>>()?);
        }
        let emitted: Vec<ArrayRef> = (0..emit.len())
            .map(|column| {
                let arrays: Vec<&dyn Array> = parts.iter().map(|part| part[column].as_ref()).collect();
                Ok(concat(&arrays)?)
            })
            .collect::<Result<_>>()?;
        let rows = calls.iter().map(|calls| calls.rows).sum::<usize>();
        if !snapshots {
            return batch(self.spec.schema(), emitted, rows);
        }
        let snapshot = self.snapshot()?;
        let others = snapshot.num_rows();
        let tag = (0..rows).map(|_| false).chain((0..others).map(|_| true));
        let tag: ArrayRef = Arc::new(BooleanArray::from_iter(tag.map(Some)));
        let mut columns = vec![tag];
        for column in &emitted {
            columns.push(concat(&[column, &new_null_array(column.data_type(), others)])?);
        }
        for column in snapshot.columns() {
            columns.push(concat(&[&new_null_array(column.data_type(), rows), column])?);
        }
        batch(self.spec.schema(), columns, rows + others)
    }
}

/// Rows and slots of the states that stay, and slots of those that go.
fn split(slots: &[u32], removed: &BooleanArray) -> ((UInt32Array, Vec<u32>), Vec<u32>) {
    let (mut rows, mut kept, mut gone) = (Vec::new(), Vec::new(), Vec::new());
    for (row, (slot, removed)) in slots.iter().zip(removed.values()).enumerate() {
        if removed {
            gone.push(*slot);
        } else {
            rows.push(row as u32);
            kept.push(*slot);
        }
    }
    ((UInt32Array::from(rows), kept), gone)
}

impl Place {
    fn to_frozen(self) -> freeze::Place {
        (self.row.batch, self.row.row, self.touched)
    }

    fn of_frozen((batch, row, touched): freeze::Place) -> Self {
        Self {
            row: RowRef { batch, row },
            touched,
        }
    }
}

impl TouchedKeys {
    fn log(&self) -> Result<Log> {
        let slots: Vec<u32> = self.index.live().collect();
        let run = |number: &u32| {
            let run = self.runs.get(number)?;
            Some((*number, run.columns.clone(), run.slots.clone()))
        };
        Ok(Log {
            keys: self.index.columns(slots.iter().copied())?,
            places: slots
                .iter()
                .map(|slot| self.places[*slot as usize].to_frozen())
                .collect(),
            slots,
            slot_count: self.places.len(),
            runs: self.order.iter().filter_map(run).collect(),
            next_run: self.next_run,
            touched: self.touched.clone(),
            versions: Some(self.versions),
            undo_places: self
                .undo
                .places
                .iter()
                .map(|(slot, place)| (*slot, place.to_frozen()))
                .collect(),
            undo_runs: self.undo.runs.clone(),
            undo_touched: self.undo.touched.clone(),
            undo_added: self.undo.added,
            leaving: self.undo.leaving.clone(),
        })
    }
}

/// A state as it was.
fn thaw(spec: &Arc<StateSpec>, log: Log) -> Result<Box<dyn Kept>> {
    let mut state = TouchedKeys::new(spec)?;
    state.index.restore(&log.keys, &log.slots)?;
    state.index.free_the_rest();
    state.places = vec![NOWHERE; log.slot_count.max(state.index.slots())];
    for (slot, place) in log.slots.into_iter().zip(log.places) {
        state.places[slot as usize] = Place::of_frozen(place);
    }
    state.live = state.places.iter().filter(|place| place.row.is_some()).count();
    for (number, columns, slots) in log.runs {
        state.rows += slots.len();
        state.order.push_back(number);
        state.runs.insert(number, Run { columns, slots });
    }
    state.next_run = log.next_run;
    state.touched = log.touched;
    state.versions = log.versions.unwrap_or(Versions::NONE);
    state.undo = Undo {
        places: log
            .undo_places
            .into_iter()
            .map(|(slot, place)| (slot, Place::of_frozen(place)))
            .collect(),
        runs: log.undo_runs,
        touched: log.undo_touched,
        added: log.undo_added,
        leaving: log.leaving,
    };
    Ok(Box::new(state))
}

impl Kept for TouchedKeys {
    fn size(&self) -> usize {
        let columns = self.runs.values().flat_map(|run| &run.columns);
        let touched = self.touched.iter().chain(&self.undo.touched);
        let touched: usize = touched.map(|(_, slots)| slots.capacity()).sum();
        let numbers = self.rows + touched + self.undo.leaving.capacity();
        held_bytes(columns)
            + self.index.size()
            + self.places.capacity() * size_of::<Place>()
            + self.undo.places.capacity() * size_of::<(u32, Place)>()
            + numbers * size_of::<u32>()
    }

    fn freeze(&self, spill: &Arc<SpillDir>) -> Result<Option<Box<dyn Frozen>>> {
        let frozen = FrozenLog::write(&self.spec, self.log()?, spill, thaw)?;
        Ok(Some(Box::new(frozen)))
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}
