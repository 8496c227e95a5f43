//! What one task adds.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Date32Type, Float64Type, Int64Type, TimeUnit, TimestampNanosecondType};
use datafusion::common::internal_err;
use datafusion::error::Result;
use parking_lot::Mutex;
use tidemill_dstream::AccumulatorKind;
use tidemill_dstream::accumulator::{AccumulatorState, Scalar};
use tidemill_types::AccumulatorId;

use super::Target;
use crate::error::function_failure;
use crate::keyed::hash::hash_keys;

/// Bytes of a registered kind's state: it travels with every report.
const MAX_NATIVE_BYTES: usize = 16 << 20;

/// The states that a task collects. Operators and functions of the task share it; the task is polled by one thread at a
/// time.
#[derive(Default)]
pub(crate) struct Deltas {
    states: Mutex<BTreeMap<AccumulatorId, AccumulatorState>>,
}

impl Deltas {
    /// Adds every value of an array that is not null. They are of the type that the target takes, or can be cast to it.
    pub(crate) fn add(&self, target: &Target, values: &ArrayRef) -> Result<()> {
        let cast_values = match target.takes() {
            Some(wanted) if wanted != *values.data_type() => cast(values, &wanted)?,
            _ => Arc::clone(values),
        };
        let mut states = self.states.lock();
        let state = states
            .entry(target.id)
            .or_insert_with(|| AccumulatorState::zero(&target.kind, target.value_type));
        match &target.native {
            Some(native) => {
                let values = cast_values.len() - cast_values.logical_null_count();
                if values > 0 {
                    let Ok(bytes) = state.native_mut(|| native.zero()) else {
                        return internal_err!("`{}` is no registered accumulator", target.name);
                    };
                    let added = native.add(bytes, &cast_values);
                    added.map_err(|error| function_failure(&target.name, error))?;
                    if bytes.len() > MAX_NATIVE_BYTES {
                        let error = format!("a state of {} bytes, the limit is {MAX_NATIVE_BYTES}", bytes.len());
                        return Err(function_failure(&target.name, error.into()));
                    }
                    state.add_count(values as u64);
                }
                Ok(())
            }
            None => add(state, &target.kind, &cast_values),
        }
    }

    /// What was added, by accumulator, without those that nothing was added to.
    pub(crate) fn take(&self) -> Vec<(AccumulatorId, AccumulatorState)> {
        let states = std::mem::take(&mut *self.states.lock());
        states.into_iter().filter(|(_, state)| !state.is_zero()).collect()
    }
}

/// Adds values of the type that the kind takes.
fn add(state: &mut AccumulatorState, kind: &AccumulatorKind, values: &ArrayRef) -> Result<()> {
    match kind {
        AccumulatorKind::Count => {
            state.add_count((values.len() - values.logical_null_count()) as u64);
            return Ok(());
        }
        AccumulatorKind::ApproxDistinct => return add_hashes(state, kind, values),
        _ => {}
    }
    match values.data_type() {
        DataType::Null => Ok(()),
        DataType::Boolean => each(state, kind, values.as_boolean().iter().flatten().map(Scalar::Boolean)),
        DataType::Int64 => {
            let values = values.as_primitive::<Int64Type>().iter().flatten();
            each(state, kind, values.map(Scalar::Integer))
        }
        DataType::Float64 => {
            let values = values.as_primitive::<Float64Type>().iter().flatten();
            each(state, kind, values.map(Scalar::float))
        }
        DataType::Date32 => {
            let values = values.as_primitive::<Date32Type>().iter().flatten();
            each(state, kind, values.map(Scalar::Date))
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            let values = values.as_primitive::<TimestampNanosecondType>().iter().flatten();
            each(state, kind, values.map(Scalar::Timestamp))
        }
        DataType::Utf8View => {
            let mut rows = 0;
            let texts = values.as_string_view().iter().flatten().inspect(|_| rows += 1);
            // Each text is copied once, if it can make a difference at all.
            let different: Vec<&str> = match kind {
                AccumulatorKind::Min => texts.min().into_iter().collect(),
                AccumulatorKind::Max => texts.max().into_iter().collect(),
                _ => texts.collect::<HashSet<&str>>().into_iter().collect(),
            };
            state.add_count(rows - different.len() as u64);
            each(state, kind, different.into_iter().map(Scalar::from))
        }
        other => internal_err!("a {} cannot take values of {other}", kind.name()),
    }
}

fn each(state: &mut AccumulatorState, kind: &AccumulatorKind, values: impl Iterator<Item = Scalar>) -> Result<()> {
    for value in values {
        if state.add(kind, &value, |_| 0).is_err() {
            return internal_err!("a {} cannot take a {}", kind.name(), value.value_type());
        }
    }
    Ok(())
}

/// By the pinned hash of keys, which is the same in every process and build.
fn add_hashes(state: &mut AccumulatorState, kind: &AccumulatorKind, values: &ArrayRef) -> Result<()> {
    let floats = match values.data_type() {
        DataType::Float64 => Some(values.as_primitive::<Float64Type>()),
        _ => None,
    };
    let values = match floats {
        // Minus zero is zero.
        Some(floats) => Arc::new(floats.unary::<_, Float64Type>(|value| value + 0.0)) as ArrayRef,
        None => Arc::clone(values),
    };
    let nulls = values.logical_nulls();
    let is_null = |row: usize| nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
    let is_nan = |floats: &Float64Array, row: usize| floats.value(row).is_nan();
    for (row, hash) in hash_keys(std::slice::from_ref(&values))?.into_iter().enumerate() {
        if is_null(row) {
            continue;
        }
        if floats.is_some_and(|floats| is_nan(floats, row)) {
            state.nan += 1;
        } else if state.add(kind, &Scalar::Boolean(true), |_| hash).is_err() {
            return internal_err!("an approx_distinct without a sketch");
        }
    }
    Ok(())
}
