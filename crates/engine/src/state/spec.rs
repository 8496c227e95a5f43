//! What a state operator was told.

use std::fmt;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, ListArray, RecordBatch, RecordBatchOptions, UInt64Array,
    new_null_array,
};
use arrow::buffer::{BooleanBuffer, OffsetBuffer};
use arrow::compute::{and, cast, is_null, not, take};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef};
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::PhysicalExpr;
use tidemill_types::{BatchTime, FailureKind, TaskFailure};

use crate::registry::{StateBatch, StateUpdate};

/// A state operator. Its input has a row for each key of the batch: the key columns, then the values.
#[derive(Clone, Debug)]
pub(crate) struct StateSpec {
    /// For people, and in SQL.
    pub(crate) name: String,
    pub(crate) kind: StateKind,
    pub(crate) keys: Vec<FieldRef>,
    pub(crate) values: Vec<Value>,
    /// The columns of the state.
    pub(crate) columns: Vec<FieldRef>,
    pub(crate) update: Update,
}

/// From an old state to a new one.
#[derive(Clone)]
pub(crate) enum Update {
    /// The columns of the new state, over [`StateSpec::scope`].
    Columns(Vec<Arc<dyn PhysicalExpr>>),
    /// A registered function. Values are lists.
    Native {
        name: String,
        function: Arc<dyn StateUpdate>,
    },
}

impl fmt::Debug for Update {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Columns(columns) => f.debug_tuple("Columns").field(columns).finish(),
            Self::Native { name, .. } => f.debug_tuple("Native").field(name).finish(),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum StateKind {
    /// Every key in every batch; the result is the keys and their states.
    All,
    /// The keys of the batch's records.
    Touched {
        timeout_ms: Option<i64>,
        /// The result of each call, over [`StateSpec::emit_scope`].
        emit: Vec<Emitted>,
        /// Whether the result has the states of all keys too: then it has a column [`SNAPSHOT`] that tells the two apart,
        /// the columns of `emit`, and those of the snapshot under other names.
        snapshots: bool,
    },
}

/// A column of the result, and what it comes to.
pub(crate) type Emitted = (FieldRef, Arc<dyn PhysicalExpr>);

/// A value column of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) field: FieldRef,
    /// For a key without records it is 0, and not null.
    pub(crate) is_count: bool,
}

/// True in rows of a snapshot.
pub(crate) const SNAPSHOT: &str = "__snapshot";
/// True in the last call for a key that timed out.
pub(crate) const TIMING_OUT: &str = "timing_out";

/// The name of the old state's column in `emit`.
pub(crate) fn old_name(column: &str) -> String {
    format!("old_{column}")
}

/// The name of a snapshot's column beside those of `emit`.
pub(crate) fn snapshot_name(column: &str) -> String {
    format!("__snapshot_{column}")
}

impl StateSpec {
    /// What `update` sees: the keys, the state as it was, the values.
    pub(crate) fn scope(&self) -> SchemaRef {
        let values = self.values.iter().map(|value| nullable(&value.field));
        let fields = self
            .keys
            .iter()
            .map(nullable)
            .chain(self.columns.iter().map(nullable))
            .chain(values);
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// What `emit` sees: the keys, the values, the new state, the old one, and whether the key times out.
    pub(crate) fn emit_scope(&self) -> SchemaRef {
        let values = self.values.iter().map(|value| nullable(&value.field));
        let old = self
            .columns
            .iter()
            .map(|column| Field::new(old_name(column.name()), column.data_type().clone(), true));
        let fields = self
            .keys
            .iter()
            .map(nullable)
            .chain(values)
            .chain(self.columns.iter().map(nullable))
            .chain(old)
            .chain([Field::new(TIMING_OUT, DataType::Boolean, false)]);
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// The keys and their states.
    pub(crate) fn state_schema(&self) -> SchemaRef {
        let fields = self.keys.iter().chain(&self.columns).map(nullable);
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// The rows that come out.
    pub(crate) fn schema(&self) -> SchemaRef {
        let StateKind::Touched { emit, snapshots, .. } = &self.kind else {
            return self.state_schema();
        };
        let emitted = emit.iter().map(|(field, _)| nullable(field));
        if !snapshots {
            return Arc::new(Schema::new(emitted.collect::<Vec<_>>()));
        }
        let state = self.state_schema();
        let kept = state
            .fields()
            .iter()
            .map(|field| Field::new(snapshot_name(field.name()), field.data_type().clone(), true));
        let tag = Field::new(SNAPSHOT, DataType::Boolean, false);
        Arc::new(Schema::new(
            [tag].into_iter().chain(emitted).chain(kept).collect::<Vec<_>>(),
        ))
    }

    pub(crate) fn key_types(&self) -> Vec<DataType> {
        self.keys.iter().map(|field| field.data_type().clone()).collect()
    }

    pub(crate) fn column_types(&self) -> Vec<DataType> {
        self.columns.iter().map(|field| field.data_type().clone()).collect()
    }

    /// The new states of `rows` keys.
    pub(crate) fn updated(
        &self,
        time: BatchTime,
        keys: &[ArrayRef],
        old: &[ArrayRef],
        values: &[ArrayRef],
        rows: usize,
    ) -> Result<Vec<ArrayRef>> {
        let updated = match &self.update {
            Update::Columns(exprs) => {
                let columns = keys.iter().chain(old).chain(values).cloned().collect();
                let scope = batch(self.scope(), columns, rows)?;
                let columns = exprs.iter().map(|expr| expr.evaluate(&scope)?.into_array(rows));
                columns.collect::<Result<Vec<_>>>()?
            }
            Update::Native { name, function } => self.called(name, function.as_ref(), time, keys, old, values, rows)?,
        };
        let typed = updated.into_iter().zip(&self.columns).map(|(column, field)| {
            Ok(if column.data_type() == field.data_type() {
                column
            } else {
                cast(&column, field.data_type())?
            })
        });
        typed.collect()
    }

    /// What a registered function makes of the states.
    #[expect(clippy::too_many_arguments, reason = "the function is given all of it")]
    fn called(
        &self,
        name: &str,
        function: &dyn StateUpdate,
        batch_time: BatchTime,
        keys: &[ArrayRef],
        old: &[ArrayRef],
        values: &[ArrayRef],
        rows: usize,
    ) -> Result<Vec<ArrayRef>> {
        let exists = match removed(old, rows)? {
            Some(none) => not(&none)?,
            None => BooleanArray::new(BooleanBuffer::new_set(rows), None),
        };
        let values = values.iter().map(without_null_lists);
        let states = StateBatch {
            batch_time,
            keys: keys.to_vec(),
            values: values.collect::<Result<_>>()?,
            old: old.to_vec(),
            exists,
        };
        let failed = |message: String| {
            let message = format!("the state function `{name}` of `{}`: {message}", self.name);
            DataFusionError::External(Box::new(TaskFailure::new(FailureKind::User, message)))
        };
        let columns = function.update(states).map_err(|error| failed(error.to_string()))?;
        if columns.len() == self.columns.len() && columns.iter().all(|column| column.len() == rows) {
            return Ok(columns);
        }
        let lengths: Vec<usize> = columns.iter().map(|column| column.len()).collect();
        Err(failed(format!(
            "it gave columns of {lengths:?} rows for {} columns of {rows}",
            self.columns.len()
        )))
    }

    /// Values for keys without records.
    pub(crate) fn no_values(&self, rows: usize) -> Vec<ArrayRef> {
        let values = self.values.iter().map(|value| {
            let nulls = new_null_array(value.field.data_type(), rows);
            if value.is_count { without_nulls(&nulls) } else { nulls }
        });
        values.collect()
    }

    /// Values with 0 for the counts of keys without records.
    pub(crate) fn counted(&self, values: Vec<ArrayRef>) -> Vec<ArrayRef> {
        let counted = values.into_iter().zip(&self.values);
        counted
            .map(|(column, value)| if value.is_count { without_nulls(&column) } else { column })
            .collect()
    }
}

fn nullable(field: &FieldRef) -> Field {
    Field::new(field.name(), field.data_type().clone(), true)
}

/// Counts are of this type; another column stays as it is.
fn without_nulls(column: &ArrayRef) -> ArrayRef {
    match column.as_primitive_opt::<Int64Type>() {
        Some(counts) if counts.null_count() > 0 => Arc::new(Int64Array::from_iter_values(
            counts.iter().map(Option::unwrap_or_default),
        )),
        _ => Arc::clone(column),
    }
}

/// Lists in which those of keys without records are empty.
fn without_null_lists(lists: &ArrayRef) -> Result<ListArray> {
    let lists = lists.as_list::<i32>();
    let DataType::List(item) = lists.data_type() else {
        return Ok(lists.clone());
    };
    if lists.null_count() == 0 {
        return Ok(lists.clone());
    }
    let length = |row: usize| {
        if lists.is_null(row) {
            0
        } else {
            lists.value_length(row) as usize
        }
    };
    // What a null list spans is no value of its key.
    let rows: UInt64Array = (0..lists.len())
        .flat_map(|row| {
            let begin = lists.value_offsets()[row] as u64;
            begin..begin + length(row) as u64
        })
        .collect();
    let offsets = OffsetBuffer::from_lengths((0..lists.len()).map(length));
    let values = take(lists.values(), &rows, None)?;
    Ok(ListArray::new(Arc::clone(item), offsets, values, None))
}

/// Which states are to be removed, because all their columns are null; `None` if none is.
pub(crate) fn removed(columns: &[ArrayRef], rows: usize) -> Result<Option<BooleanArray>> {
    if columns.iter().any(|column| column.logical_null_count() == 0) {
        return Ok(None);
    }
    let mut removed = BooleanArray::new(BooleanBuffer::new_set(rows), None);
    for column in columns {
        removed = and(&removed, &is_null(column)?)?;
    }
    Ok((removed.true_count() > 0).then_some(removed))
}

pub(crate) fn batch(schema: SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
}
