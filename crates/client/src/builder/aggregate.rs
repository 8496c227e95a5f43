//! Operators that make several records one, of the batch or by key.

use tidemill_dstream::{NamedFunction, Operator, Reduction};

use super::{Columns, DStream, Keys};
use crate::columns::DEFAULT_COLUMN;

/// An associative function of `a` and `b`, the values of a column in two records, `a` the earlier: one function for a
/// stream with one value column, or one for each value column by its name.
///
/// ```
/// use tidemill_client::Reducer;
///
/// let sum = Reducer::new("a + b").inverse("a - b");
/// let both = Reducer::new([("total", "a + b"), ("dearest", "greatest(a, b)")]);
/// # let _ = (sum, both);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reducer {
    columns: Vec<NamedFunction>,
    inverse: Vec<NamedFunction>,
}

impl Reducer {
    pub fn new(functions: impl Columns) -> Self {
        Self {
            columns: functions.columns(""),
            inverse: Vec::new(),
        }
    }

    /// What takes a value `b` that leaves a window out of the reduced value `a`. Windows do not need it.
    #[must_use]
    pub fn inverse(mut self, functions: impl Columns) -> Self {
        self.inverse = functions.columns("");
        self
    }
}

impl<C: Columns> From<C> for Reducer {
    fn from(functions: C) -> Self {
        Self::new(functions)
    }
}

impl From<Reducer> for Reduction {
    fn from(reducer: Reducer) -> Self {
        Self::Binary {
            columns: reducer.columns,
            inverse: reducer.inverse,
        }
    }
}

/// Named aggregates.
pub(super) fn aggregates(aggregates: impl Columns) -> Reduction {
    Reduction::Aggregates(aggregates.columns(DEFAULT_COLUMN))
}

impl DStream {
    // === The batch ===

    /// The number of records of a batch, in the column `count`; 0 for an empty batch.
    pub fn count(&self) -> Self {
        self.then(Operator::Count)
    }

    /// The distinct records with their numbers, in the column `count`.
    pub fn count_by_value(&self) -> Self {
        self.then(Operator::CountByValue { partitions: None })
    }

    /// The distinct records.
    pub fn distinct(&self) -> Self {
        self.then(Operator::Distinct { partitions: None })
    }

    /// The aggregates of a whole batch, as one record; none for an empty batch.
    pub fn reduce(&self, aggregates: impl Columns) -> Self {
        self.then(Operator::Reduce {
            reduction: self::aggregates(aggregates),
        })
    }

    /// Makes a batch one record by a function of two.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill_client::StreamingContext;
    /// # let ctx = StreamingContext::new("longest", Duration::from_secs(1));
    /// let lines = ctx.queue_stream([vec!["a", "bc"]]);
    /// lines.reduce_with("CASE WHEN length(b) > length(a) THEN b ELSE a END").print();
    /// # ctx.graph()?;
    /// # Ok::<(), tidemill_client::dstream::Diagnostics>(())
    /// ```
    pub fn reduce_with(&self, function: impl Into<Reducer>) -> Self {
        self.then(Operator::Reduce {
            reduction: function.into().into(),
        })
    }

    // === By key ===

    /// Groups by the keys and computes the aggregates.
    pub fn reduce_by_key(&self, keys: impl Keys, aggregates: impl Columns) -> Self {
        self.then(Operator::ReduceByKey {
            keys: keys.keys(),
            reduction: self::aggregates(aggregates),
            partitions: None,
        })
    }

    /// Makes the records of each key one by a function of two.
    pub fn reduce_by_key_with(&self, keys: impl Keys, function: impl Into<Reducer>) -> Self {
        self.then(Operator::ReduceByKey {
            keys: keys.keys(),
            reduction: function.into().into(),
            partitions: None,
        })
    }

    /// Named aggregates by any grouping; with `()` for keys, of the whole batch as SQL has them.
    pub fn aggregate(&self, keys: impl Keys, aggregates: impl Columns) -> Self {
        self.then(Operator::Aggregate {
            keys: keys.keys(),
            aggregates: aggregates.columns(DEFAULT_COLUMN),
            partitions: None,
        })
    }

    /// The values of each key as the list `values`.
    pub fn group_by_key(&self, keys: impl Keys) -> Self {
        self.then(Operator::GroupByKey {
            keys: keys.keys(),
            partitions: None,
        })
    }

    /// Makes the values of each key one combined record: `create` of a key's first record, `merge_value` of the
    /// combined columns and one more record's as `value_<column>`, `merge_combiners` of a combined column's values `a`
    /// and `b`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill_client::StreamingContext;
    /// # let ctx = StreamingContext::new("means", Duration::from_secs(1));
    /// let prices = ctx
    ///     .queue_stream([vec!["tea,3"]])
    ///     .map([("item", "split_part(value, ',', 1)"), ("price", "CAST(split_part(value, ',', 2) AS BIGINT)")]);
    /// let sums = prices.combine_by_key(
    ///     "item",
    ///     [("total", "price"), ("n", "1")],
    ///     [("total", "total + value_price"), ("n", "n + 1")],
    ///     [("total", "a + b"), ("n", "a + b")],
    /// );
    /// sums.map_values("item", [("mean", "total / n")]).print();
    /// # ctx.graph()?;
    /// # Ok::<(), tidemill_client::dstream::Diagnostics>(())
    /// ```
    pub fn combine_by_key(
        &self,
        keys: impl Keys,
        create: impl Columns,
        merge_value: impl Columns,
        merge_combiners: impl Columns,
    ) -> Self {
        self.then(Operator::CombineByKey {
            keys: keys.keys(),
            create: create.columns(DEFAULT_COLUMN),
            merge_value: merge_value.columns(DEFAULT_COLUMN),
            merge_combiners: merge_combiners.columns(DEFAULT_COLUMN),
            partitions: None,
        })
    }
}
