//! Broadcast variables: values that every executor holds once and that expressions, SQL and functions read.
//!
//! ```text
//!   driver:    a source ─rows─► BroadcastRows (checked against the shape) ─encode─► bytes, an Arrow IPC stream
//!   executor:  bytes ─BroadcastValue::decode─► rows that share the bytes' memory
//!                                    └─ at the first look-up: a hash table of row numbers
//! ```
//! A task finds the values of its batch by name, through the task-local that is set around every poll of it. So one plan
//! serves every version, and a function of a record needs no argument for it.

mod changing;
mod lookup;
mod query;
mod rows;
mod source;
mod value;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidemill_dstream::{JobGraph, Shape};

pub(crate) use changing::reads_changing;
pub(crate) use lookup::fits;
pub use query::evaluate_query;
pub use rows::BroadcastRows;
pub use source::literal_rows;
pub use value::BroadcastValue;

use crate::TableData;
use crate::functions::TaskScope;
use crate::registry::BoxError;

/// The broadcast variables of a job as planning sees them.
#[derive(Debug, Default)]
pub(crate) struct Declared(HashMap<String, Declaration>);

#[derive(Clone, Debug)]
pub(crate) struct Declaration {
    pub(crate) shape: Shape,
    pub(crate) schema: SchemaRef,
    /// A later batch may have another value.
    pub(crate) changes: bool,
}

impl Declared {
    /// What the graph declares; the columns are those of its rows, which are among the tables.
    pub(crate) fn of(graph: &JobGraph, tables: &[TableData]) -> Self {
        let declared = graph.broadcasts.iter().filter_map(|def| {
            let table = tables.iter().find(|table| table.name == def.name)?;
            let declaration = Declaration {
                shape: def.known_shape(),
                schema: Arc::clone(&table.schema),
                changes: def.changes(),
            };
            Some((def.name.clone(), declaration))
        });
        Self(declared.collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Declaration> {
        self.0.get(name)
    }

    /// Their names, in order.
    pub(crate) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.0.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }
}

/// The values that one batch uses, by name; those that were destroyed are known and have none.
#[derive(Debug, Default)]
pub struct BroadcastValues(HashMap<String, Option<Arc<BroadcastValue>>>);

impl BroadcastValues {
    #[must_use]
    pub fn new(values: impl IntoIterator<Item = (String, Option<Arc<BroadcastValue>>)>) -> Self {
        Self(values.into_iter().collect())
    }

    /// The value of that name.
    ///
    /// # Errors
    /// A sentence: there is none of that name, or it was destroyed.
    pub fn get(&self, name: &str) -> Result<&Arc<BroadcastValue>, String> {
        match self.0.get(name) {
            Some(Some(value)) => Ok(value),
            Some(None) => Err(format!("broadcast `{name}` was destroyed")),
            None => Err(format!("the job has no broadcast `{name}`")),
        }
    }
}

/// The value of a broadcast variable in the batch that is being worked on, for registered functions: those of a record,
/// aggregates, `map_partitions`, `transform` and state updates. The same value until the function returns; a look-up by
/// name, so once for each call and not for each row.
///
/// A function that reads a variable which can change (`reload`, `updatable`) has to be registered as
/// [nondeterministic](crate::Determinism::Nondeterministic), so that windows do not keep what it gave in an earlier batch.
///
/// # Errors
/// There is none of that name, it was destroyed, or nothing is being worked on by this thread.
pub fn broadcast(name: &str) -> Result<Arc<BroadcastValue>, BoxError> {
    let value = TaskScope::current("broadcast", |scope| scope.broadcasts().get(name).map(Arc::clone));
    Ok(value.map_err(|_| format!("broadcast `{name}` was asked for outside of a task"))??)
}
