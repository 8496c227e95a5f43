//! Going on with a job that has run before: what a later driver has to know, and beginning with it.
//!
//! Nothing that executors had is taken for granted: states go on from what is saved, remembered partitions are made again,
//! batches that were not committed run with the inputs that they had. Received blocks are gone with their holders.

use tidemill_types::BatchTime;

use super::Job;
use super::batch::{Batch, BatchState, History};
use super::inputs::{Inputs, Losses};
use super::parts::Part;
use crate::event::{RecordedBatch, Resume};
use crate::scheduler::Context;

impl Job {
    pub(crate) fn resume_point(&self) -> Resume {
        let recorded = |index: i64, inputs: &Inputs, skipped| RecordedBatch {
            index,
            inputs: inputs.streams().cloned().collect(),
            skipped,
        };
        let history = self.history.iter();
        let history = history.map(|(index, history)| recorded(*index, &history.inputs, history.absent));
        let open = self.batches.range(..self.next_allocation);
        let open = open.map(|(index, batch)| recorded(*index, &batch.inputs, false));
        let mut batches: Vec<RecordedBatch> = history.chain(open).collect();
        batches.sort_by_key(|batch| batch.index);
        Resume {
            zero_time: self.zero_time,
            completed: self.oldest_unfinished() - 1,
            batches,
            state_bases: self.states.bases().collect(),
        }
    }

    /// Takes in what is known of the past. Nothing is launched before executors have come.
    pub(super) fn resume(&mut self, cx: &mut Context<'_>) {
        let Some(resume) = self.spec.resume.take() else {
            return;
        };
        self.zero_time = resume.zero_time;
        self.states = super::states::States::with_bases(resume.state_bases);
        self.next_index = resume.completed + 1;
        let mut losses = Losses::default();
        let mut last_inputs = None;
        for recorded in resume.batches {
            let mut inputs = Inputs::default();
            inputs.add(recorded.inputs);
            inputs.lose(|_| true, &mut losses);
            let index = recorded.index;
            self.next_index = self.next_index.max(index + 1);
            if recorded.skipped {
                self.history.insert(index, History::absent());
                continue;
            }
            last_inputs = Some(inputs.clone());
            if index <= resume.completed {
                let tables = self.tables.clone();
                let broadcasts = self.broadcasts.current();
                let history = History {
                    inputs,
                    tables,
                    broadcasts,
                    absent: false,
                };
                self.history.insert(index, history);
            } else {
                let time = self.time_of(index);
                let mut batch = Batch::due(index, time, self.due_of(time, cx.now));
                batch.state = BatchState::Ready;
                batch.inputs = inputs;
                self.batches.insert(index, batch);
            }
        }
        self.next_allocation = self.next_index;
        self.exhausted = last_inputs.is_some_and(|inputs| inputs.are_exhausted()) && self.spec.receivers.is_empty();
        self.lose_all(resume.completed);
        self.publish_losses(cx, &losses);
    }

    /// States and remembered partitions of all completed batches are to be made again.
    fn lose_all(&mut self, completed: i64) {
        self.state_began = completed > 0 && self.spec.plan.states().next().is_some();
        for (stage, _) in self.spec.plan.states() {
            let every = i64::from(stage.every.max(1));
            let mut last = completed.div_euclid(every) * every;
            while self.history.get(&last).is_some_and(|history| history.absent) {
                last -= every;
            }
            if last > 0 {
                self.state_of.insert(stage.id, last);
            }
        }
        if self.state_began {
            self.lose_states(None);
        }
        let from = self.remembered_from();
        for dataset in &self.spec.plan.datasets {
            let stage = self.spec.plan.stage(dataset.stage);
            let made = self.history.range(from..).filter(|(index, history)| {
                !history.absent && **index <= completed && stage.is_some_and(|stage| stage.is_due(**index))
            });
            for (index, _) in made {
                for partition in 0..dataset.partitions {
                    self.parts.miss(Part {
                        index: *index,
                        dataset: dataset.id,
                        partition,
                    });
                }
            }
        }
    }

    fn due_of(&self, time: BatchTime, now: i64) -> i64 {
        match self.spec.pace {
            crate::event::Pace::Clock => time.0 * 1000,
            crate::event::Pace::NoWait => now,
        }
    }
}
