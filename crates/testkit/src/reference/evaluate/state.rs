//! Operators that remember a state for each key.

use std::collections::{BTreeMap, BTreeSet};

use super::Mistake;
use super::operators::Records;
use crate::reference::{Keyed, Named, Op, Row, Schema, Scope, Unfit, Value};

/// The states of an operator's keys.
#[derive(Clone, Debug, Default)]
pub(super) struct States {
    states: BTreeMap<Row, State>,
    /// Those before the first batch, until it comes.
    initial: BTreeMap<Row, Row>,
}

#[derive(Clone, Debug)]
struct State {
    columns: Row,
    /// The last batch with records of the key.
    touched: u64,
}

impl States {
    /// The states before the first batch.
    pub(super) fn new(op: &Op) -> Self {
        let (Op::UpdateStateByKey(keyed) | Op::MapWithState { keyed, .. }) = op else {
            return Self::default();
        };
        let initial = keyed.initial.iter().map(|row| {
            let (key, columns) = row.split_at(keyed.keys.len());
            (key.to_vec(), columns.to_vec())
        });
        Self {
            states: BTreeMap::new(),
            initial: initial.collect(),
        }
    }

    /// The keys and their states.
    pub(super) fn snapshot(&self) -> Vec<Row> {
        let rows = self
            .states
            .iter()
            .map(|(key, state)| [key.clone(), state.columns.clone()].concat());
        rows.collect()
    }

    pub(super) fn batch(
        &mut self,
        op: &Op,
        records: Records<'_>,
        batch: u64,
        mistake: Option<Mistake>,
    ) -> Result<Vec<Row>, Unfit> {
        for (key, columns) in std::mem::take(&mut self.initial) {
            // They count from the first batch on.
            self.states.insert(
                key,
                State {
                    columns,
                    touched: batch,
                },
            );
        }
        match op {
            Op::UpdateStateByKey(keyed) => self.update_all(&Calls::new(keyed, records, batch)?, mistake),
            Op::MapWithState { keyed, emit, timeout } => {
                let late = u64::from(mistake == Some(Mistake::TimeoutsAreLate));
                let timeout = timeout.map(|timeout| timeout + late);
                self.map_touched(&Calls::new(keyed, records, batch)?, emit, timeout)
            }
            other => Err(Unfit::new(format!("{other:?} has no state"))),
        }
    }

    fn update_all(&mut self, calls: &Calls<'_>, mistake: Option<Mistake>) -> Result<Vec<Row>, Unfit> {
        if mistake == Some(Mistake::UntouchedStateIsLost) {
            self.states.retain(|key, _| calls.groups.contains_key(key));
        }
        let keys: BTreeSet<Row> = self.states.keys().chain(calls.groups.keys()).cloned().collect();
        for key in keys {
            self.call(calls, &key)?;
        }
        Ok(self.snapshot())
    }

    fn map_touched(&mut self, calls: &Calls<'_>, emit: &[Named], timeout: Option<u64>) -> Result<Vec<Row>, Unfit> {
        let mut rows = Vec::new();
        for key in calls.groups.keys() {
            let old = self.columns(calls, key);
            self.call(calls, key)?;
            rows.push(calls.emitted(emit, key, &old, &self.columns(calls, key), false)?);
        }
        let is_over = |state: &State| timeout.is_some_and(|timeout| calls.batch - state.touched >= timeout);
        let over: Vec<Row> = self
            .states
            .iter()
            .filter(|(_, state)| is_over(state))
            .map(|(key, _)| key.clone())
            .collect();
        for key in over {
            let last = self.columns(calls, &key);
            rows.push(calls.emitted(emit, &key, &last, &last, true)?);
            self.states.remove(&key);
        }
        Ok(rows)
    }

    /// A key's state, nulls if it has none.
    fn columns(&self, calls: &Calls<'_>, key: &Row) -> Row {
        let none = || vec![Value::Null; calls.keyed.state.len()];
        self.states.get(key).map_or_else(none, |state| state.columns.clone())
    }

    fn call(&mut self, calls: &Calls<'_>, key: &Row) -> Result<(), Unfit> {
        let columns = calls.updated(key, &self.columns(calls, key))?;
        if columns.iter().all(Value::is_null) {
            self.states.remove(key);
            return Ok(());
        }
        let before = self.states.get(key).map_or(0, |state| state.touched);
        let touched = if calls.groups.contains_key(key) {
            calls.batch
        } else {
            before
        };
        self.states.insert(key.clone(), State { columns, touched });
        Ok(())
    }
}

/// What the functions of an operator are called with in a batch.
struct Calls<'a> {
    keyed: &'a Keyed,
    records: &'a Schema,
    groups: BTreeMap<Row, Vec<Row>>,
    batch: u64,
}

impl<'a> Calls<'a> {
    fn new(keyed: &'a Keyed, records: Records<'a>, batch: u64) -> Result<Self, Unfit> {
        let mut groups: BTreeMap<Row, Vec<Row>> = BTreeMap::new();
        for row in records.rows {
            let key = records.schema.pick(keyed.keys.iter().map(String::as_str), row)?;
            groups.entry(key).or_default().push(row.clone());
        }
        Ok(Self {
            keyed,
            records: records.schema,
            groups,
            batch,
        })
    }

    /// The aggregates of the key's records in this batch.
    fn values(&self, key: &Row) -> Result<Row, Unfit> {
        let rows: &[Row] = self.groups.get(key).map_or(&[], Vec::as_slice);
        let scope = Scope {
            columns: &Schema::default(),
            row: &[],
            records: rows,
            record_columns: self.records,
            batch: self.batch,
        };
        self.keyed.values.iter().map(|value| value.expr.eval(scope)).collect()
    }

    fn scope<'b>(&self, columns: &'b Schema, row: &'b [Value]) -> Scope<'b> {
        Scope {
            columns,
            row,
            records: &[],
            record_columns: columns,
            batch: self.batch,
        }
    }

    /// The key's next state.
    fn updated(&self, key: &Row, old: &Row) -> Result<Row, Unfit> {
        let columns = self.keyed.scope(self.records)?;
        let row = [key.clone(), old.clone(), self.values(key)?].concat();
        let state = self.keyed.state.iter();
        state
            .map(|column| column.expr.eval(self.scope(&columns, &row)))
            .collect()
    }

    fn emitted(&self, emit: &[Named], key: &Row, old: &Row, new: &Row, timing_out: bool) -> Result<Row, Unfit> {
        if emit.is_empty() {
            return Ok([key.clone(), new.clone()].concat());
        }
        let columns = self.keyed.emit_scope(self.records)?;
        let timing_out = vec![Value::Bool(timing_out)];
        let row = [key.clone(), new.clone(), self.values(key)?, old.clone(), timing_out].concat();
        emit.iter()
            .map(|column| column.expr.eval(self.scope(&columns, &row)))
            .collect()
    }
}
