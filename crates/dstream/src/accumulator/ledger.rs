//! The totals of a job's accumulators, batch by batch.
//!
//! ```text
//!   deltas of the tasks of batch t ──merge──► batch t ─┐
//!                                                      ├──► total after t, once t is committed
//!                                  total after t - 1 ──┘
//! ```
//! A batch goes in as a whole or not at all: [`Ledger::with`] gives a new ledger, and who commits the batch puts it in
//! place of the old one.

use tidemill_types::AccumulatorId;

use super::{AccumulatorState, NativeMerge, Reading};
use crate::plan::AccumulatorPlan;

/// Why the deltas of a batch cannot go in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("accumulator `{accumulator}` cannot be merged: {reason}")]
pub struct MergeFault {
    pub accumulator: String,
    pub reason: String,
}

/// The state of each accumulator of a job, in the order of its plan.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Ledger {
    states: Vec<AccumulatorState>,
}

impl Ledger {
    /// Nothing added.
    #[must_use]
    pub fn zero(plans: &[AccumulatorPlan]) -> Self {
        let zero = |plan: &AccumulatorPlan| AccumulatorState::zero(&plan.kind, plan.value_type);
        Self {
            states: plans.iter().map(zero).collect(),
        }
    }

    /// A batch: its tasks' deltas, in the order given.
    ///
    /// # Errors
    /// A delta is of no accumulator or of another kind, or a registered kind cannot merge it.
    pub fn of_batch<'d>(
        plans: &[AccumulatorPlan],
        deltas: impl IntoIterator<Item = &'d (AccumulatorId, AccumulatorState)>,
        native: &dyn NativeMerge,
    ) -> Result<Self, MergeFault> {
        let mut batch = Self::zero(plans);
        for (id, delta) in deltas {
            let place = plans.iter().position(|plan| plan.id == *id);
            let Some((plan, state)) = place.map(|place| (&plans[place], &mut batch.states[place])) else {
                return Err(MergeFault {
                    accumulator: id.to_string(),
                    reason: "the job has none of that number".to_owned(),
                });
            };
            merge(plan, state, delta, native)?;
        }
        Ok(batch)
    }

    /// The totals with one batch more.
    ///
    /// # Errors
    /// A registered kind cannot merge them.
    pub fn with(&self, plans: &[AccumulatorPlan], batch: &Self, native: &dyn NativeMerge) -> Result<Self, MergeFault> {
        let mut totals = self.clone();
        for ((plan, total), state) in plans.iter().zip(&mut totals.states).zip(&batch.states) {
            if !state.is_zero() {
                merge(plan, total, state, native)?;
            }
        }
        Ok(totals)
    }

    /// The values, in the order of the plan.
    #[must_use]
    pub fn read(&self, plans: &[AccumulatorPlan], native: &dyn NativeMerge) -> Vec<Reading> {
        let states = plans.iter().zip(&self.states);
        states.map(|(plan, state)| state.read(&plan.kind, native)).collect()
    }

    /// A ledger of states that were kept, in the order of the plan.
    ///
    /// # Errors
    /// They are not those of the plan.
    pub fn of_states(
        plans: &[AccumulatorPlan],
        states: Vec<AccumulatorState>,
        native: &dyn NativeMerge,
    ) -> Result<Self, MergeFault> {
        if states.len() != plans.len() {
            return Err(MergeFault {
                accumulator: plans.last().map_or_else(String::new, |plan| plan.name.clone()),
                reason: format!("{} states were kept of {} accumulators", states.len(), plans.len()),
            });
        }
        // Merging finds a state of another kind.
        let kept = Self { states };
        Self::zero(plans).with(plans, &kept, native)
    }

    /// The states, in the order of the plan.
    #[must_use]
    pub fn states(&self) -> &[AccumulatorState] {
        &self.states
    }
}

fn merge(
    plan: &AccumulatorPlan,
    into: &mut AccumulatorState,
    state: &AccumulatorState,
    native: &dyn NativeMerge,
) -> Result<(), MergeFault> {
    into.merge(&plan.kind, state, native).map_err(|reason| MergeFault {
        accumulator: plan.name.clone(),
        reason,
    })
}
