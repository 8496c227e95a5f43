//! Operators that keep a state for each key.

use std::time::Duration;

use tidemill_dstream::{MapWithState, NamedFunction, NativeCall, Operator, StateFunction, UpdateStateByKey};

use super::{Columns, DStream, Keys};
use crate::columns::DEFAULT_COLUMN;

/// How `update_state_by_key` makes a key's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateUpdate {
    state: StateFunction,
    values: Vec<NamedFunction>,
    initial: Option<String>,
    partitions: Option<u32>,
}

impl StateUpdate {
    /// The columns of the state: expressions over the key, the state as it was (null for a new key) and the
    /// [`values`](Self::values). A state whose columns are all null is removed.
    pub fn function(state: impl Columns) -> Self {
        Self::new(StateFunction::Columns(state.columns(DEFAULT_COLUMN)))
    }

    /// A registered state function.
    pub fn native(function: impl Into<NativeCall>) -> Self {
        Self::new(StateFunction::Native(function.into()))
    }

    fn new(state: StateFunction) -> Self {
        Self {
            state,
            values: Vec::new(),
            initial: None,
            partitions: None,
        }
    }

    /// Aggregates of a key's records in the batch.
    #[must_use]
    pub fn values(mut self, aggregates: impl Columns) -> Self {
        self.values = aggregates.columns(DEFAULT_COLUMN);
        self
    }

    /// SQL over tables, or a table's name: the state before the first batch.
    #[must_use]
    pub fn initial_state(mut self, query: impl Into<String>) -> Self {
        self.initial = Some(query.into());
        self
    }

    #[must_use]
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.partitions = Some(partitions);
        self
    }
}

/// How `map_with_state` makes a key's state and what comes out: Spark's `StateSpec`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateSpec {
    state: StateFunction,
    values: Vec<NamedFunction>,
    emit: Vec<NamedFunction>,
    timeout: Option<Duration>,
    initial: Option<String>,
    partitions: Option<u32>,
}

impl StateSpec {
    /// The columns of the state, as in [`StateUpdate::function`].
    pub fn function(state: impl Columns) -> Self {
        Self::new(StateFunction::Columns(state.columns(DEFAULT_COLUMN)))
    }

    /// A registered state function.
    pub fn native(function: impl Into<NativeCall>) -> Self {
        Self::new(StateFunction::Native(function.into()))
    }

    fn new(state: StateFunction) -> Self {
        Self {
            state,
            values: Vec::new(),
            emit: Vec::new(),
            timeout: None,
            initial: None,
            partitions: None,
        }
    }

    /// Aggregates of a key's records in the batch.
    #[must_use]
    pub fn values(mut self, aggregates: impl Columns) -> Self {
        self.values = aggregates.columns(DEFAULT_COLUMN);
        self
    }

    /// The columns of the result: expressions over the key, the values, the new state, the old one as `old_<column>`
    /// and `timing_out`. Without them the result is the key and the new state.
    #[must_use]
    pub fn emit(mut self, columns: impl Columns) -> Self {
        self.emit = columns.columns(DEFAULT_COLUMN);
        self
    }

    /// A key without records for this long is removed, in the batch in which that is so.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// SQL over tables, or a table's name: the state before the first batch.
    #[must_use]
    pub fn initial_state(mut self, query: impl Into<String>) -> Self {
        self.initial = Some(query.into());
        self
    }

    #[must_use]
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.partitions = Some(partitions);
        self
    }
}

impl DStream {
    /// A state for each key, made anew in every batch for every key that has state or records. The result has a record
    /// for each key with state: the key and the state.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill_client::{StateUpdate, StreamingContext};
    /// # let ctx = StreamingContext::new("totals", Duration::from_secs(1));
    /// let words = ctx.queue_stream([vec!["a", "b"], vec!["a"]]);
    /// let totals = StateUpdate::function([("total", "coalesce(total, 0) + n")]).values([("n", "count(*)")]);
    /// words.update_state_by_key("value", totals).print();
    /// # ctx.graph()?;
    /// # Ok::<(), tidemill_client::dstream::Diagnostics>(())
    /// ```
    pub fn update_state_by_key(&self, keys: impl Keys, update: StateUpdate) -> Self {
        self.then(Operator::UpdateStateByKey(UpdateStateByKey {
            keys: keys.keys(),
            values: update.values,
            state: update.state,
            initial: update.initial,
            partitions: update.partitions,
        }))
    }

    /// A state for each key, made anew for keys that have records in the batch, and looked at once more when a key
    /// times out. The result has a record for each of these.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill_client::{StateSpec, StreamingContext};
    /// # let ctx = StreamingContext::new("sessions", Duration::from_secs(1));
    /// let clicks = ctx.queue_stream([vec!["ann"], vec![]]).map([("user", "value")]);
    /// let sessions = StateSpec::function([("clicks", "coalesce(clicks, 0) + n")])
    ///     .values([("n", "count(*)")])
    ///     .emit([("user", "user"), ("clicks", "clicks"), ("ended", "timing_out")])
    ///     .timeout(Duration::from_secs(30));
    /// let sessions = clicks.map_with_state("user", sessions);
    /// sessions.filter("ended").print();
    /// sessions.state_snapshots().count().print();
    /// # ctx.graph()?;
    /// # Ok::<(), tidemill_client::dstream::Diagnostics>(())
    /// ```
    pub fn map_with_state(&self, keys: impl Keys, spec: StateSpec) -> Self {
        self.then(Operator::MapWithState(MapWithState {
            keys: keys.keys(),
            values: spec.values,
            state: spec.state,
            emit: spec.emit,
            timeout: spec.timeout,
            initial: spec.initial,
            partitions: spec.partitions,
        }))
    }

    /// The keys and states of all keys after each batch, of a stream that `map_with_state` made.
    pub fn state_snapshots(&self) -> Self {
        self.then(Operator::StateSnapshots)
    }
}
