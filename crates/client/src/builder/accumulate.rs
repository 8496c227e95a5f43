//! Accumulators and what is added to them.

use std::sync::Arc;

use parking_lot::Mutex;
use tidemill_dstream::accumulator::Reading;
use tidemill_dstream::{AccumulatorDef, AccumulatorKind, Addition, Diagnostic, Function, Operator, ValueType};

use super::{DStream, Job, StreamingContext};
use crate::error::Result;

/// An accumulator of a [`StreamingContext`]. Clones are the same accumulator.
#[derive(Clone, Debug)]
pub struct Accumulator {
    job: Arc<Mutex<Job>>,
    name: String,
}

impl StreamingContext {
    /// Declares an accumulator, which [`DStream::accumulate`] and registered functions add to.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidemill_client::StreamingContext;
    /// use tidemill_client::dstream::AccumulatorKind;
    ///
    /// # let ctx = StreamingContext::new("lines", Duration::from_secs(1));
    /// let blank = ctx.accumulator("blank_lines", AccumulatorKind::Count);
    /// let lines = ctx.queue_stream([vec!["a", "", "b"]]);
    /// lines.accumulate_when(&blank, "1", "trim(value) = ''").print();
    /// # ctx.graph()?;
    /// # Ok::<(), tidemill_client::dstream::Diagnostics>(())
    /// ```
    pub fn accumulator(&self, name: impl Into<String>, kind: AccumulatorKind) -> Accumulator {
        self.accumulator_with(AccumulatorDef::new(name, kind))
    }

    /// An accumulator without a name of its own, which lists leave out unless they are asked for all.
    pub fn unnamed_accumulator(&self, kind: AccumulatorKind) -> Accumulator {
        let name = {
            let job = self.job.lock();
            let is_free = |name: &String| job.accumulators.iter().all(|known| known.name != *name);
            let mut names = (1..).map(|number| format!("accumulator_{number}"));
            names.find(is_free).unwrap_or_default()
        };
        self.accumulator_with(AccumulatorDef {
            listed: false,
            ..AccumulatorDef::new(name, kind)
        })
    }

    /// An accumulator with all its settings.
    pub fn accumulator_with(&self, accumulator: AccumulatorDef) -> Accumulator {
        let name = accumulator.name.clone();
        self.job.lock().change("`accumulator`").accumulators.push(accumulator);
        Accumulator {
            job: Arc::clone(&self.job),
            name,
        }
    }
}

impl Accumulator {
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Declares the type of its values, which else is that of what is added first.
    #[must_use]
    pub fn of(self, value_type: ValueType) -> Self {
        let mut job = self.job.lock();
        let accumulators = &mut job.change("`of`").accumulators;
        if let Some(accumulator) = accumulators.iter_mut().find(|known| known.name == self.name) {
            accumulator.value_type = Some(value_type);
        }
        drop(job);
        self
    }

    /// The total over all batches that are committed.
    ///
    /// # Errors
    /// [`Error::Lifecycle`](crate::Error::Lifecycle) before the start; what [`JobHandle::accumulator`](crate::JobHandle::accumulator) says.
    pub async fn total(&self) -> Result<Reading> {
        let context = StreamingContext {
            job: Arc::clone(&self.job),
        };
        Ok(context.handle()?.accumulator(&self.name).await?.total)
    }
}

impl DStream {
    /// Adds to an accumulator for each record, and passes the records on as they are. Null is skipped.
    pub fn accumulate(&self, into: &Accumulator, add: impl Into<Function>) -> Self {
        self.added(into, Addition::new(into.name(), add))
    }

    /// The same for the records for which the condition is true.
    pub fn accumulate_when(&self, into: &Accumulator, add: impl Into<Function>, when: impl Into<Function>) -> Self {
        let addition = Addition {
            when: Some(when.into()),
            ..Addition::new(into.name(), add)
        };
        self.added(into, addition)
    }

    fn added(&self, into: &Accumulator, addition: Addition) -> Self {
        if !Arc::ptr_eq(&self.job, &into.job) {
            let message = format!("`accumulate` into `{}` of another StreamingContext", into.name());
            self.job.lock().faults.push(Diagnostic::new(None, "streams", message));
        }
        self.then(Operator::Accumulate {
            additions: vec![addition],
        })
    }
}
