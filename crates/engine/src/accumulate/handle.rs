//! Accumulators in registered functions.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, StringViewArray};
use tidemill_dstream::accumulator::Scalar;

use super::{Deltas, Target, value_type};
use crate::registry::BoxError;

/// What a function's handle stands for where it is called.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    pub(crate) handle: String,
    pub(crate) target: Arc<Target>,
}

/// The accumulators that a registered function can add to, under the names that it has for them.
///
/// What it adds is part of its task: it counts once, however often the task runs, and not at all if the batch fails.
/// What it adds after its task has ended is lost.
#[derive(Clone, Default)]
pub struct Accumulators {
    bound: Arc<[Bound]>,
    deltas: Arc<Deltas>,
}

impl Accumulators {
    pub(crate) fn new(bound: &Arc<[Bound]>, deltas: Arc<Deltas>) -> Self {
        Self {
            bound: Arc::clone(bound),
            deltas,
        }
    }

    /// The accumulator behind a handle, which the function is registered to have
    /// ([`RegistryBuilder::accumulates`](crate::RegistryBuilder::accumulates)).
    ///
    /// # Errors
    /// It is registered to have no such handle.
    pub fn get(&self, handle: &str) -> Result<AccumulatorHandle, BoxError> {
        let bound = self.bound.iter().find(|bound| bound.handle == handle);
        match bound {
            Some(bound) => Ok(AccumulatorHandle {
                target: Arc::clone(&bound.target),
                deltas: Arc::clone(&self.deltas),
            }),
            None => Err(format!("it is not registered to add to an accumulator `{handle}`").into()),
        }
    }
}

impl fmt::Debug for Accumulators {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.bound.iter()).finish()
    }
}

/// An accumulator to add to, for the task that it was taken in.
#[derive(Clone)]
pub struct AccumulatorHandle {
    target: Arc<Target>,
    deltas: Arc<Deltas>,
}

impl AccumulatorHandle {
    /// Adds a value.
    ///
    /// # Errors
    /// It is of another type.
    pub fn add(&self, value: impl Into<Scalar>) -> Result<(), BoxError> {
        let values: ArrayRef = match value.into() {
            Scalar::Boolean(value) => Arc::new(BooleanArray::from(vec![value])),
            Scalar::Integer(value) => Arc::new(Int64Array::from(vec![value])),
            Scalar::Float(value) => Arc::new(Float64Array::from(vec![value])),
            Scalar::Text(text) => Arc::new(StringViewArray::from(vec![text.as_str()])),
            Scalar::Date(days) => Arc::new(arrow::array::Date32Array::from(vec![days])),
            Scalar::Timestamp(nanos) => {
                let values = arrow::array::TimestampNanosecondArray::from(vec![nanos]);
                Arc::new(values.with_timezone("UTC"))
            }
        };
        self.add_all(&values)
    }

    /// Adds each value of an array that is not null.
    ///
    /// # Errors
    /// They are of another type.
    pub fn add_all(&self, values: &ArrayRef) -> Result<(), BoxError> {
        if let Some(wanted) = self.target.takes()
            && value_type(&wanted) != value_type(values.data_type())
            && !(value_type(&wanted) == Some(tidemill_dstream::ValueType::Float) && values.data_type().is_integer())
        {
            let (name, given) = (&self.target.name, values.data_type());
            return Err(format!("accumulator `{name}` takes {wanted}, and {given} was added").into());
        }
        Ok(self.deltas.add(&self.target, values)?)
    }
}

impl fmt::Debug for AccumulatorHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccumulatorHandle({})", self.target.name)
    }
}
