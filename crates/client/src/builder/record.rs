//! Operators that go record by record, move records between partitions, or take the batch as a whole.

use tidemill_dstream::{Function, NativeCall, Operator};

use super::{Columns, DStream, Names, SortKeys};
use crate::columns::DEFAULT_COLUMN;

impl DStream {
    // === Record by record ===

    /// One record to one record: named expressions, or one expression that becomes the column `value`.
    pub fn map(&self, columns: impl Columns) -> Self {
        self.then(Operator::Map {
            columns: columns.columns(DEFAULT_COLUMN),
        })
    }

    /// One record to any number: columns whose expression is a list are spread over records.
    pub fn flat_map(&self, columns: impl Columns) -> Self {
        self.then(Operator::FlatMap {
            columns: columns.columns(DEFAULT_COLUMN),
        })
    }

    /// The records for which the predicate is true.
    pub fn filter(&self, predicate: impl Into<Function>) -> Self {
        self.then(Operator::Filter {
            predicate: predicate.into(),
        })
    }

    /// `map` that keeps the key columns, and where records are.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill_client::StreamingContext;
    /// # let ctx = StreamingContext::new("prices", Duration::from_secs(1));
    /// let lines = ctx.queue_stream([vec!["ann,3"]]);
    /// let sales = lines.map([("user", "split_part(value, ',', 1)"), ("price", "split_part(value, ',', 2)")]);
    /// sales.map_values("user", [("price", "CAST(price AS BIGINT) * 2")]).print();
    /// # ctx.graph()?;
    /// # Ok::<(), tidemill_client::dstream::Diagnostics>(())
    /// ```
    pub fn map_values(&self, keys: impl Names, columns: impl Columns) -> Self {
        self.then(Operator::MapValues {
            keys: keys.names(),
            columns: columns.columns(DEFAULT_COLUMN),
        })
    }

    /// `flat_map` that keeps the key columns, and where records are.
    pub fn flat_map_values(&self, keys: impl Names, columns: impl Columns) -> Self {
        self.then(Operator::FlatMapValues {
            keys: keys.names(),
            columns: columns.columns(DEFAULT_COLUMN),
        })
    }

    /// Each record with a probability, the same ones whenever a batch runs again.
    pub fn sample(&self, fraction: f64, seed: u64) -> Self {
        self.then(Operator::Sample { fraction, seed })
    }

    // === Partition by partition ===

    /// A registered function from the record batches of a partition to others.
    pub fn map_partitions(&self, function: impl Into<NativeCall>) -> Self {
        self.then(Operator::MapPartitions {
            function: function.into(),
        })
    }

    /// One record for each partition, with all its records as the list `values`.
    pub fn glom(&self) -> Self {
        self.then(Operator::Glom)
    }

    /// Spreads records evenly over this number of partitions.
    pub fn repartition(&self, partitions: u32) -> Self {
        self.then(Operator::Repartition { partitions })
    }

    /// Brings records of one key into one partition.
    pub fn partition_by(&self, keys: impl Names) -> Self {
        self.then(Operator::PartitionBy {
            keys: keys.names(),
            partitions: None,
        })
    }

    // === The batch ===

    /// The records in order. A key is an expression, maybe with `DESC` and `NULLS LAST` behind it.
    pub fn sort_by(&self, keys: impl SortKeys) -> Self {
        self.then(Operator::SortBy {
            keys: keys.sort_keys(),
            limit: None,
        })
    }

    /// The first records in order, at most `limit`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill_client::StreamingContext;
    /// # let ctx = StreamingContext::new("top", Duration::from_secs(1));
    /// let words = ctx.queue_stream([vec!["a", "b"]]);
    /// words.count_by_value().sort_by_limit(["count DESC", "value"], 10).print();
    /// # ctx.graph()?;
    /// # Ok::<(), tidemill_client::dstream::Diagnostics>(())
    /// ```
    pub fn sort_by_limit(&self, keys: impl SortKeys, limit: u64) -> Self {
        self.then(Operator::SortBy {
            keys: keys.sort_keys(),
            limit: Some(limit),
        })
    }

    /// Any SQL over the batch, called `input`, and over other named streams and tables; or a registered function from
    /// the whole batch to another.
    pub fn transform(&self, function: impl Into<Function>) -> Self {
        self.then(Operator::Transform {
            function: function.into(),
        })
    }
}
