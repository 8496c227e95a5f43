//! The values of a job's accumulators, as far as its batches are committed.
//!
//! The job's committer merges what the tasks of a batch added, before it makes outputs visible; what it came to arrives
//! with its answer, and counts once the scheduler has completed the batch.

use std::collections::VecDeque;

use tidemill_dstream::accumulator::Reading;
use tidemill_dstream::plan::AccumulatorPlan;
use tidemill_rpc::control;
use tidemill_rpc::control::follow_job_response::Event as Told;
use tidemill_types::{BatchTime, JobId};
use tonic::Status;
use tracing::warn;

use crate::event_loop::EventLoop;
use crate::job::JobRecord;

/// What a batch came to, and the totals after it, in the order of the plan.
#[derive(Clone, Debug)]
pub(crate) struct Accumulated {
    pub(crate) batch: Vec<Reading>,
    pub(crate) totals: Vec<Reading>,
}

#[derive(Debug)]
pub(crate) struct Accumulators {
    plans: Vec<AccumulatorPlan>,
    totals: Vec<Reading>,
    /// The last batches, newest last.
    batches: VecDeque<(BatchTime, Vec<Reading>)>,
    /// Of a batch that the committer is done with and that is not completed yet.
    next: Option<(BatchTime, Accumulated)>,
}

impl Accumulators {
    /// With the values that they begin with.
    pub(crate) fn new(plans: Vec<AccumulatorPlan>, totals: Vec<Reading>) -> Self {
        Self {
            plans,
            totals,
            batches: VecDeque::new(),
            next: None,
        }
    }

    fn summary(&self, place: usize, batches: usize) -> Option<control::AccumulatorSummary> {
        let (plan, total) = (self.plans.get(place)?, self.totals.get(place)?);
        let batches = self.batches.iter().rev().take(batches);
        let batches = batches.filter_map(|(time, readings)| {
            Some(control::AccumulatorBatch {
                batch_time_ms: time.0,
                reading: Some(readings.get(place)?.into()),
            })
        });
        Some(control::AccumulatorSummary {
            name: plan.name.clone(),
            kind: plan.kind.name().to_owned(),
            r#type: plan.value_type.map_or("", |value_type| value_type.name()).to_owned(),
            listed: plan.listed,
            total: Some(total.into()),
            batches: batches.collect(),
        })
    }

    /// Those that are listed, or all, with so many of the last batches.
    pub(crate) fn summaries(&self, all: bool, batches: usize) -> Vec<control::AccumulatorSummary> {
        let shown = self.plans.iter().enumerate().filter(|(_, plan)| all || plan.listed);
        shown.filter_map(|(place, _)| self.summary(place, batches)).collect()
    }

    /// Takes in the batch, and says what has become of all.
    fn complete(&mut self, batch: BatchTime, limit: usize) -> Option<control::AccumulatorsUpdated> {
        let (_, accumulated) = self.next.take().filter(|(time, _)| *time == batch)?;
        if self.plans.is_empty() {
            return None;
        }
        self.totals = accumulated.totals;
        let values = self.plans.iter().zip(&accumulated.batch).zip(&self.totals);
        let updates = values.map(|((plan, batch), total)| control::AccumulatorUpdate {
            name: plan.name.clone(),
            listed: plan.listed,
            batch: Some(batch.into()),
            total: Some(total.into()),
        });
        let updated = control::AccumulatorsUpdated {
            batch_time_ms: batch.0,
            accumulators: updates.collect(),
        };
        while self.batches.len() >= limit.max(1) {
            self.batches.pop_front();
        }
        self.batches.push_back((batch, accumulated.batch));
        Some(updated)
    }

    /// The accumulators that have a problem in `next` and had none, with it.
    fn new_problems<'a>(&'a self, next: &'a [Reading]) -> impl Iterator<Item = (&'a str, &'a str)> {
        let totals = self.plans.iter().zip(self.totals.iter().zip(next));
        totals.filter_map(|(plan, (before, after))| {
            let problem = after.problem.as_deref().filter(|_| before.problem.is_none());
            Some((plan.name.as_str(), problem?))
        })
    }
}

impl JobRecord {
    /// The committer is done with a batch.
    pub(crate) fn accumulated(&mut self, job: JobId, batch: BatchTime, accumulated: Accumulated) {
        for (accumulator, problem) in self.accumulators.new_problems(&accumulated.totals) {
            warn!(%job, %batch, accumulator, problem, "an accumulator has no value any more");
        }
        self.accumulators.next = Some((batch, accumulated));
    }
}

impl EventLoop {
    /// The batch is completed: what it added counts.
    pub(crate) fn on_accumulated(&mut self, job: JobId, batch: BatchTime) {
        let limit = self.options.retained_batches;
        let Some(record) = self.jobs.get_mut(&job) else { return };
        if let Some(updated) = record.accumulators.complete(batch, limit) {
            record.publish(Told::AccumulatorsUpdated(updated));
        }
    }

    pub(crate) fn list_accumulators(
        &self,
        request: &control::ListAccumulatorsRequest,
    ) -> Result<control::ListAccumulatorsResponse, Status> {
        let id = self.find(&request.job).ok_or_else(|| self.unknown_job(&request.job))?;
        let record = self.jobs.get(&id).ok_or_else(|| self.unknown_job(&request.job))?;
        Ok(control::ListAccumulatorsResponse {
            job: id.0,
            accumulators: record.accumulators.summaries(request.all, request.batches as usize),
        })
    }
}
