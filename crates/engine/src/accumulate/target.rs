//! An accumulator as something that values are added to.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use tidemill_dstream::{AccumulatorKind, ValueType};
use tidemill_types::AccumulatorId;

use crate::registry::Accumulator;

#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) id: AccumulatorId,
    /// For people.
    pub(crate) name: String,
    pub(crate) kind: AccumulatorKind,
    pub(crate) value_type: Option<ValueType>,
    /// What a registered kind is.
    pub(crate) native: Option<Arc<dyn Accumulator>>,
}

impl Target {
    /// The type in which values are added; `None`: any, for they are only counted.
    pub(crate) fn takes(&self) -> Option<DataType> {
        match (&self.native, &self.kind) {
            (Some(native), _) => Some(native.takes()),
            (None, AccumulatorKind::Count) => None,
            (None, AccumulatorKind::Histogram { .. }) => Some(DataType::Float64),
            (None, _) => self.value_type.map(arrow_type),
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.name)
    }
}

/// What kind of values a column has; `None`: of none that an accumulator takes.
pub(crate) fn value_type(data_type: &DataType) -> Option<ValueType> {
    match data_type {
        DataType::Boolean => Some(ValueType::Boolean),
        data_type if data_type.is_integer() => Some(ValueType::Integer),
        DataType::Float16 | DataType::Float32 | DataType::Float64 => Some(ValueType::Float),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(ValueType::Text),
        DataType::Date32 | DataType::Date64 => Some(ValueType::Date),
        DataType::Timestamp(..) => Some(ValueType::Timestamp),
        DataType::Dictionary(_, values) => value_type(values),
        _ => None,
    }
}

/// The type in which values of a kind are added.
fn arrow_type(value_type: ValueType) -> DataType {
    match value_type {
        ValueType::Boolean => DataType::Boolean,
        ValueType::Integer => DataType::Int64,
        ValueType::Float => DataType::Float64,
        ValueType::Text => DataType::Utf8View,
        ValueType::Date => DataType::Date32,
        ValueType::Timestamp => DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
    }
}
