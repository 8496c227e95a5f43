//! State in files, while no task uses it.
//!
//! An index is not written: it is made again of its keys, each under the slot that it had. So whatever refers to slots
//! stays right.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, UInt32Type};
use datafusion::error::{DataFusionError, Result};
use tidemill_storage::{MemoryKind, SpillDir, SpillFile};

use super::spec::{StateSpec, batch};
use super::version::Versions;
use crate::memory::{Frozen, Kept};

/// Numbers in the rows of a file.
const NUMBERS: usize = 4;

/// Keys and states of one version, each with its slot.
#[derive(Clone, Default)]
pub(super) struct Version {
    pub(super) keys: Vec<ArrayRef>,
    pub(super) state: Vec<ArrayRef>,
    pub(super) slots: Vec<u32>,
}

/// Where a slot's row is: its batch, its position, and when the key was touched last.
pub(super) type Place = (u32, u32, i64);

/// Makes a state of its present version and the one before it.
type ThawColumns = fn(&Arc<StateSpec>, Versions, [Version; 2]) -> Result<Box<dyn Kept>>;
type ThawLog = fn(&Arc<StateSpec>, Log) -> Result<Box<dyn Kept>>;

fn external(error: tidemill_storage::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

fn slot_field() -> Field {
    // It is found by its place, whatever a job calls its columns.
    Field::new("__slot", DataType::UInt32, false)
}

fn with_slot(fields: impl IntoIterator<Item = Field>) -> SchemaRef {
    Arc::new(Schema::new(
        fields.into_iter().chain([slot_field()]).collect::<Vec<_>>(),
    ))
}

fn slots_of(column: &ArrayRef) -> Vec<u32> {
    column.as_primitive::<UInt32Type>().values().to_vec()
}

/// The versions of a state that is columns.
pub(super) struct FrozenColumns {
    spec: Arc<StateSpec>,
    versions: Versions,
    file: SpillFile,
    thaw: ThawColumns,
}

impl FrozenColumns {
    pub(super) fn write(
        spec: &Arc<StateSpec>,
        versions: Versions,
        both: [Version; 2],
        spill: &Arc<SpillDir>,
        thaw: ThawColumns,
    ) -> Result<Self> {
        let state = spec.state_schema();
        let schema = with_slot(state.fields().iter().map(|field| field.as_ref().clone()));
        let mut file = spill.begin(MemoryKind::State, &schema).map_err(external)?;
        for version in both {
            let rows = version.slots.len();
            let slots: ArrayRef = Arc::new(UInt32Array::from(version.slots));
            let columns = version.keys.into_iter().chain(version.state).chain([slots]);
            let rows = batch(Arc::clone(&schema), columns.collect(), rows)?;
            file.push(&rows).map_err(external)?;
        }
        Ok(Self {
            spec: Arc::clone(spec),
            versions,
            file: file.finish().map_err(external)?,
            thaw,
        })
    }

    fn version(&self, number: usize) -> Result<Version> {
        let rows = self.file.read_batch(number).map_err(external)?;
        let mut keys = rows.columns().to_vec();
        let mut state = keys.split_off(self.spec.keys.len());
        let slots = state.pop().map(|slots| slots_of(&slots)).unwrap_or_default();
        Ok(Version { keys, state, slots })
    }
}

impl Frozen for FrozenColumns {
    fn thaw(&self) -> Result<Box<dyn Kept>> {
        (self.thaw)(&self.spec, self.versions, [self.version(0)?, self.version(1)?])
    }
}

/// A state that is a log, apart from its index.
#[derive(Default)]
pub(super) struct Log {
    /// Of each slot that has a key.
    pub(super) keys: Vec<ArrayRef>,
    pub(super) slots: Vec<u32>,
    pub(super) places: Vec<Place>,
    /// One above the greatest slot that anything refers to, also to those of keys that are gone.
    pub(super) slot_count: usize,
    /// Oldest first: the number, the columns, and the slot of each row.
    pub(super) runs: Vec<(u32, Vec<ArrayRef>, Vec<u32>)>,
    pub(super) next_run: u32,
    pub(super) touched: VecDeque<(i64, Vec<u32>)>,
    pub(super) versions: Option<Versions>,
    pub(super) undo_places: Vec<(u32, Place)>,
    pub(super) undo_runs: Vec<u32>,
    pub(super) undo_touched: Vec<(i64, Vec<u32>)>,
    pub(super) undo_added: bool,
    pub(super) leaving: Vec<u32>,
}

pub(super) struct FrozenLog {
    spec: Arc<StateSpec>,
    /// What is small stays in memory: all but rows.
    rest: Rest,
    keys: SpillFile,
    runs: SpillFile,
    numbers: SpillFile,
    thaw: ThawLog,
}

struct Rest {
    slot_count: usize,
    run_numbers: Vec<u32>,
    next_run: u32,
    versions: Option<Versions>,
    undo_runs: Vec<u32>,
    undo_added: bool,
}

impl FrozenLog {
    pub(super) fn write(spec: &Arc<StateSpec>, log: Log, spill: &Arc<SpillDir>, thaw: ThawLog) -> Result<Self> {
        let nullable = |field: &arrow::datatypes::FieldRef| Field::new(field.name(), field.data_type().clone(), true);
        let keys_schema = with_slot(spec.keys.iter().map(nullable));
        let rows = log.slots.len();
        let slots: ArrayRef = Arc::new(UInt32Array::from(log.slots));
        let columns = log.keys.into_iter().chain([slots]).collect();
        let keys = batch(Arc::clone(&keys_schema), columns, rows)?;
        let keys = spill
            .write(MemoryKind::State, &keys_schema, &[keys])
            .map_err(external)?;

        let runs_schema = with_slot(spec.columns.iter().map(nullable));
        let mut runs = spill.begin(MemoryKind::State, &runs_schema).map_err(external)?;
        let mut run_numbers = Vec::with_capacity(log.runs.len());
        for (number, columns, slots) in log.runs {
            run_numbers.push(number);
            let rows = slots.len();
            let slots: ArrayRef = Arc::new(UInt32Array::from(slots));
            let columns = columns.into_iter().chain([slots]).collect();
            let rows = batch(Arc::clone(&runs_schema), columns, rows)?;
            runs.push(&rows).map_err(external)?;
        }

        let place = |(batch, row, touched): Place| [i64::from(batch), i64::from(row), touched];
        let tables: [Vec<[i64; NUMBERS]>; 5] = [
            log.places
                .into_iter()
                .map(place)
                .map(|[b, r, t]| [b, r, t, 0])
                .collect(),
            of_times(log.touched),
            log.undo_places
                .into_iter()
                .map(|(slot, at)| {
                    let [b, r, t] = place(at);
                    [b, r, t, i64::from(slot)]
                })
                .collect(),
            of_times(log.undo_touched),
            log.leaving.into_iter().map(|slot| [i64::from(slot), 0, 0, 0]).collect(),
        ];
        let schema = numbers_schema();
        let tables = tables.map(|table| numbers(&schema, &table));
        let tables = tables.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(Self {
            spec: Arc::clone(spec),
            rest: Rest {
                slot_count: log.slot_count,
                run_numbers,
                next_run: log.next_run,
                versions: log.versions,
                undo_runs: log.undo_runs,
                undo_added: log.undo_added,
            },
            keys,
            runs: runs.finish().map_err(external)?,
            numbers: spill.write(MemoryKind::State, &schema, &tables).map_err(external)?,
            thaw,
        })
    }

    fn table(&self, number: usize) -> Result<Vec<[i64; NUMBERS]>> {
        let rows = self.numbers.read_batch(number).map_err(external)?;
        let columns: Vec<&[i64]> = rows
            .columns()
            .iter()
            .map(|column| column.as_primitive::<Int64Type>().values().as_ref())
            .collect();
        Ok((0..rows.num_rows())
            .map(|row| std::array::from_fn(|column| columns[column][row]))
            .collect())
    }
}

impl Frozen for FrozenLog {
    fn thaw(&self) -> Result<Box<dyn Kept>> {
        let rest = &self.rest;
        let mut keys = self.keys.read_batch(0).map_err(external)?.columns().to_vec();
        let slots = keys.pop().map(|slots| slots_of(&slots)).unwrap_or_default();
        let mut runs = Vec::with_capacity(rest.run_numbers.len());
        for (at, number) in rest.run_numbers.iter().enumerate() {
            let mut columns = self.runs.read_batch(at).map_err(external)?.columns().to_vec();
            let slots = columns.pop().map(|slots| slots_of(&slots)).unwrap_or_default();
            runs.push((*number, columns, slots));
        }
        let place = |row: &[i64; NUMBERS]| (row[0] as u32, row[1] as u32, row[2]);
        let log = Log {
            keys,
            slots,
            places: self.table(0)?.iter().map(place).collect(),
            slot_count: rest.slot_count,
            runs,
            next_run: rest.next_run,
            touched: by_time(self.table(1)?).into(),
            versions: rest.versions,
            undo_places: self.table(2)?.iter().map(|row| (row[3] as u32, place(row))).collect(),
            undo_runs: rest.undo_runs.clone(),
            undo_touched: by_time(self.table(3)?),
            undo_added: rest.undo_added,
            leaving: self.table(4)?.iter().map(|row| row[0] as u32).collect(),
        };
        (self.thaw)(&self.spec, log)
    }
}

fn numbers_schema() -> SchemaRef {
    let fields = (0..NUMBERS).map(|number| Field::new(format!("n{number}"), DataType::Int64, false));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn numbers(schema: &SchemaRef, rows: &[[i64; NUMBERS]]) -> Result<RecordBatch> {
    let columns = (0..NUMBERS).map(|column| {
        let values = rows.iter().map(|row| row[column]);
        Arc::new(Int64Array::from_iter_values(values)) as ArrayRef
    });
    batch(Arc::clone(schema), columns.collect(), rows.len())
}

fn of_times(entries: impl IntoIterator<Item = (i64, Vec<u32>)>) -> Vec<[i64; NUMBERS]> {
    let entries = entries.into_iter();
    let rows = entries.flat_map(|(time, slots)| slots.into_iter().map(move |slot| [time, i64::from(slot), 0, 0]));
    rows.collect()
}

fn by_time(rows: Vec<[i64; NUMBERS]>) -> Vec<(i64, Vec<u32>)> {
    let mut entries: Vec<(i64, Vec<u32>)> = Vec::new();
    for [time, slot, ..] in rows {
        match entries.last_mut().filter(|(last, _)| *last == time) {
            Some((_, slots)) => slots.push(slot as u32),
            None => entries.push((time, vec![slot as u32])),
        }
    }
    entries
}

/// Bytes of the memory behind columns; memory that several of them share counts once.
pub(super) fn held_bytes<'a>(columns: impl IntoIterator<Item = &'a ArrayRef>) -> usize {
    let mut seen: HashMap<usize, usize> = HashMap::new();
    for column in columns {
        add_buffers(&column.to_data(), &mut seen);
    }
    seen.into_values().sum()
}

fn add_buffers(data: &arrow::array::ArrayData, seen: &mut HashMap<usize, usize>) {
    let nulls = data.nulls().map(|nulls| nulls.buffer());
    for buffer in data.buffers().iter().chain(nulls) {
        seen.insert(buffer.data_ptr().as_ptr() as usize, buffer.capacity());
    }
    for child in data.child_data() {
        add_buffers(child, seen);
    }
}
