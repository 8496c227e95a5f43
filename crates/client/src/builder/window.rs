//! Windows, and operators that begin with one. Lengths and slides are multiples of the stream's slide; a slide of `None`
//! is that one.

use std::time::Duration;

use tidemill_dstream::{Operator, Reduction};

use super::aggregate::aggregates;
use super::{Columns, DStream, Keys, Reducer};

impl DStream {
    /// The records of the last `length`, every `slide`; `None` is every batch.
    pub fn window(&self, length: Duration, slide: impl Into<Option<Duration>>) -> Self {
        self.then(Operator::Window {
            length,
            slide: slide.into(),
        })
    }

    /// The number of records in a window, in the column `count`.
    pub fn count_by_window(&self, length: Duration, slide: impl Into<Option<Duration>>) -> Self {
        self.then(Operator::CountByWindow {
            length,
            slide: slide.into(),
        })
    }

    /// The distinct records of a window with their numbers, in the column `count`.
    pub fn count_by_value_and_window(&self, length: Duration, slide: impl Into<Option<Duration>>) -> Self {
        self.then(Operator::CountByValueAndWindow {
            length,
            slide: slide.into(),
            partitions: None,
        })
    }

    /// The aggregates of a window, as one record.
    pub fn reduce_by_window(
        &self,
        aggregates: impl Columns,
        length: Duration,
        slide: impl Into<Option<Duration>>,
    ) -> Self {
        self.reduce_window(self::aggregates(aggregates), length, slide.into())
    }

    /// Makes a window one record by a function of two.
    pub fn reduce_by_window_with(
        &self,
        function: impl Into<Reducer>,
        length: Duration,
        slide: impl Into<Option<Duration>>,
    ) -> Self {
        self.reduce_window(function.into().into(), length, slide.into())
    }

    fn reduce_window(&self, reduction: Reduction, length: Duration, slide: Option<Duration>) -> Self {
        self.then(Operator::ReduceByWindow {
            length,
            slide,
            reduction,
        })
    }

    /// The aggregates of each key's records in a window.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill_client::StreamingContext;
    /// # let ctx = StreamingContext::new("trending", Duration::from_secs(1));
    /// let words = ctx.queue_stream([vec!["a", "b"]]);
    /// let (length, slide) = (Duration::from_secs(30), Duration::from_secs(10));
    /// words
    ///     .reduce_by_key_and_window("value", [("count", "count(*)")], length, slide)
    ///     .filter("count > 1")
    ///     .print();
    /// # ctx.graph()?;
    /// # Ok::<(), tidemill_client::dstream::Diagnostics>(())
    /// ```
    pub fn reduce_by_key_and_window(
        &self,
        keys: impl Keys,
        aggregates: impl Columns,
        length: Duration,
        slide: impl Into<Option<Duration>>,
    ) -> Self {
        self.reduce_keys_of_window(keys, self::aggregates(aggregates), length, slide.into())
    }

    /// Makes the records of each key in a window one by a function of two, which may have an inverse.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill_client::{Reducer, StreamingContext};
    /// # let ctx = StreamingContext::new("totals", Duration::from_secs(1));
    /// let words = ctx.queue_stream([vec!["a"]]).map([("word", "value"), ("n", "1")]);
    /// let sum = Reducer::new("a + b").inverse("a - b");
    /// words.reduce_by_key_and_window_with("word", sum, Duration::from_secs(60), None).print();
    /// # ctx.graph()?;
    /// # Ok::<(), tidemill_client::dstream::Diagnostics>(())
    /// ```
    pub fn reduce_by_key_and_window_with(
        &self,
        keys: impl Keys,
        function: impl Into<Reducer>,
        length: Duration,
        slide: impl Into<Option<Duration>>,
    ) -> Self {
        self.reduce_keys_of_window(keys, function.into().into(), length, slide.into())
    }

    fn reduce_keys_of_window(
        &self,
        keys: impl Keys,
        reduction: Reduction,
        length: Duration,
        slide: Option<Duration>,
    ) -> Self {
        self.then(Operator::ReduceByKeyAndWindow {
            keys: keys.keys(),
            length,
            slide,
            reduction,
            filter: None,
            partitions: None,
        })
    }

    /// The values of each key in a window as the list `values`.
    pub fn group_by_key_and_window(
        &self,
        keys: impl Keys,
        length: Duration,
        slide: impl Into<Option<Duration>>,
    ) -> Self {
        self.then(Operator::GroupByKeyAndWindow {
            keys: keys.keys(),
            length,
            slide: slide.into(),
            partitions: None,
        })
    }
}
