//! Operators that take in other streams.

use tidemill_dstream::{JoinKind, Operator};

use super::{DStream, JoinKeys, Names};

impl DStream {
    /// The records of both, which have the same columns.
    pub fn union(&self, other: &DStream) -> Self {
        self.union_all([other])
    }

    /// The records of this stream and all others, which have the same columns.
    pub fn union_all<'a>(&self, others: impl IntoIterator<Item = &'a DStream>) -> Self {
        self.then_with(others, Operator::Union { with: Vec::new() })
    }

    /// Pairs of records with equal keys: the keys, then the other columns of this stream, then those of the other.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill_client::StreamingContext;
    /// # let ctx = StreamingContext::new("joined", Duration::from_secs(1));
    /// let line = |text: &str| vec![text.to_owned()];
    /// let clicks = ctx.queue_stream([line("ann")]).map([("user", "value"), ("page", "'/home'")]);
    /// let names = ctx.queue_stream([line("ann")]).map([("id", "value"), ("name", "upper(value)")]);
    /// clicks.join(&names, [("user", "id")]).print();
    /// # ctx.graph()?;
    /// # Ok::<(), tidemill_client::dstream::Diagnostics>(())
    /// ```
    pub fn join(&self, other: &DStream, on: impl JoinKeys) -> Self {
        self.join_as(JoinKind::Inner, other, on)
    }

    /// `join` that keeps records of this stream without a match, with nulls for the other's columns.
    pub fn left_outer_join(&self, other: &DStream, on: impl JoinKeys) -> Self {
        self.join_as(JoinKind::LeftOuter, other, on)
    }

    /// `join` that keeps records of the other stream without a match, with nulls for this one's columns.
    pub fn right_outer_join(&self, other: &DStream, on: impl JoinKeys) -> Self {
        self.join_as(JoinKind::RightOuter, other, on)
    }

    /// `join` that keeps records of both streams without a match.
    pub fn full_outer_join(&self, other: &DStream, on: impl JoinKeys) -> Self {
        self.join_as(JoinKind::FullOuter, other, on)
    }

    fn join_as(&self, kind: JoinKind, other: &DStream, on: impl JoinKeys) -> Self {
        let operator = Operator::Join {
            kind,
            with: String::new(),
            on: on.join_keys(),
            partitions: None,
        };
        self.then_with([other], operator)
    }

    /// For each key of any of the streams the list of its values in each, in a column named as the stream. The streams
    /// have the key columns by these names.
    pub fn cogroup<'a>(&self, others: impl IntoIterator<Item = &'a DStream>, keys: impl Names) -> Self {
        let operator = Operator::Cogroup {
            with: Vec::new(),
            keys: keys.names(),
            partitions: None,
        };
        self.then_with(others, operator)
    }

    /// SQL over this batch, called `input`, and those of the others by their names, each of which it has to read.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill_client::StreamingContext;
    /// # let ctx = StreamingContext::new("rare", Duration::from_secs(1));
    /// let words = ctx.queue_stream([vec!["a", "b"]]);
    /// let stop = ctx.queue_stream([vec!["b"]]).name("stop");
    /// words
    ///     .transform_with([&stop], "SELECT * FROM input WHERE value NOT IN (SELECT value FROM stop)")
    ///     .print();
    /// # ctx.graph()?;
    /// # Ok::<(), tidemill_client::dstream::Diagnostics>(())
    /// ```
    pub fn transform_with<'a>(&self, others: impl IntoIterator<Item = &'a DStream>, sql: impl Into<String>) -> Self {
        let operator = Operator::TransformWith {
            with: Vec::new(),
            sql: sql.into(),
        };
        self.then_with(others, operator)
    }
}
