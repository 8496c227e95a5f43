//! The receivers of a job: where they run and what they have reported.

use std::collections::{BTreeMap, VecDeque};

use tidemill_dstream::Source;
use tidemill_types::{BatchTime, BlockId, ExecutorId, ReceiverId, StreamId};

use super::inputs::Losses;
use super::rate::{Completed, RateEstimator};
use super::{BatchState, Job, JobState, micros};
use crate::action::{Action, BatchStats, Notice};
use crate::event::{JobSpec, StoredBlock};
use crate::scheduler::Context;

#[derive(Debug)]
pub(crate) struct Receivers {
    by_id: BTreeMap<ReceiverId, Receiver>,
}

#[derive(Debug)]
pub(crate) struct Receiver {
    pub(crate) stream: StreamId,
    /// Counts its starts; messages of another session are late.
    pub(crate) session: u32,
    pub(crate) place: Place,
    /// All that was received up to this border is in a reported block.
    pub(crate) border: BatchTime,
    /// Reported and not allocated, in order of reception.
    pub(crate) unallocated: VecDeque<StoredBlock>,
    pub(crate) rows: u64,
    estimator: Option<RateEstimator>,
    /// Of its source, whatever the estimator says.
    max_rate: Option<u64>,
    /// What it was told.
    told_rate: Option<u64>,
}

impl Receiver {
    /// What it was told.
    pub(crate) fn told_rate(&self) -> Option<u64> {
        self.told_rate
    }

    /// Rows a second that it may read; `None` for as many as come. `overrun`: a batch takes longer than the interval.
    pub(crate) fn rate(&self, overrun: bool) -> Option<u64> {
        let estimated = self.estimator.as_ref().and_then(|estimator| estimator.rate(overrun));
        [estimated, self.max_rate].into_iter().flatten().min()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Has no executor.
    Unplaced,
    On(ExecutorId),
    /// Was told to stop and has not said that it has.
    Stopping(ExecutorId),
    Stopped,
}

impl Receivers {
    pub(crate) fn new(spec: &JobSpec) -> Self {
        let receiver = |stream: StreamId| {
            let source = spec.plan.streams.iter().find(|plan| plan.id == stream);
            let (max_rate, initial_rate) = match source.map(|plan| &plan.source) {
                Some(Source::SocketText(socket)) => (socket.max_rate, socket.initial_rate),
                _ => (None, None),
            };
            let estimator = |settings| RateEstimator::new(settings, spec.plan.batch_interval, initial_rate);
            Receiver {
                stream,
                session: 0,
                place: Place::Unplaced,
                border: BatchTime(i64::MIN),
                unallocated: VecDeque::new(),
                rows: 0,
                estimator: spec.back_pressure.map(estimator),
                max_rate,
                told_rate: None,
            }
        };
        let receivers = spec.receivers.iter().map(|(id, stream)| (*id, receiver(*stream)));
        Self {
            by_id: receivers.collect(),
        }
    }

    pub(crate) fn clear(&mut self) {
        for receiver in self.by_id.values_mut() {
            receiver.unallocated.clear();
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ReceiverId, &Receiver)> {
        self.by_id.iter().map(|(id, receiver)| (*id, receiver))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (ReceiverId, &mut Receiver)> {
        self.by_id.iter_mut().map(|(id, receiver)| (*id, receiver))
    }

    fn current(&mut self, id: ReceiverId, session: u32) -> Option<&mut Receiver> {
        self.by_id.get_mut(&id).filter(|receiver| receiver.session == session)
    }

    pub(crate) fn has_unallocated(&self) -> bool {
        self.by_id.values().any(|receiver| !receiver.unallocated.is_empty())
    }

    fn any_unplaced(&self) -> bool {
        self.by_id.values().any(|receiver| receiver.place == Place::Unplaced)
    }

    pub(crate) fn all_stopped(&self) -> bool {
        self.by_id
            .values()
            .all(|receiver| matches!(receiver.place, Place::Stopped | Place::Unplaced))
    }

    /// Whether every running receiver has reported the border.
    pub(crate) fn have_reached(&self, border: BatchTime) -> bool {
        self.by_id.values().all(|receiver| match receiver.place {
            Place::On(_) | Place::Stopping(_) => receiver.border >= border,
            Place::Unplaced | Place::Stopped => true,
        })
    }

    /// Takes out one block; true if it was there.
    pub(crate) fn lose_block(&mut self, lost: BlockId, losses: &mut Losses) -> bool {
        let mut found = false;
        for receiver in self.by_id.values_mut() {
            receiver.unallocated.retain(|block| {
                if block.id == lost {
                    losses.add(lost.executor, block.rows);
                    found = true;
                }
                block.id != lost
            });
        }
        found
    }

    /// Forgets the executor: its receivers have no place, and blocks that only it held are gone.
    pub(crate) fn lose(&mut self, executor: ExecutorId, losses: &mut Losses) {
        for receiver in self.by_id.values_mut() {
            receiver.unallocated.retain(|block| {
                let lost = block.id.executor == executor;
                if lost {
                    losses.add(executor, block.rows);
                }
                !lost
            });
            match receiver.place {
                Place::On(on) if on == executor => receiver.place = Place::Unplaced,
                Place::Stopping(on) if on == executor => receiver.place = Place::Stopped,
                _ => {}
            }
        }
    }
}

impl Job {
    /// Puts receivers that have no executor on the one with the fewest receivers of this job.
    pub(super) fn place_receivers(&mut self, cx: &mut Context<'_>) {
        if self.state != JobState::Running || !self.receivers.any_unplaced() {
            return;
        }
        let mut loads: BTreeMap<ExecutorId, u32> = self.executors().map(|id| (id, 0)).collect();
        for (_, receiver) in self.receivers.iter() {
            if let Place::On(executor) = receiver.place {
                *loads.entry(executor).or_default() += 1;
            }
        }
        let (job, overrun) = (self.spec.id, self.is_overrun(cx.now));
        // Jobs begin at different executors, so that their receivers do not all stand on the first.
        let executors = loads.len();
        let rank = |id: &ExecutorId| (id.0 as usize + executors - job.0 as usize % executors) % executors;
        for (id, receiver) in self.receivers.iter_mut() {
            if receiver.place != Place::Unplaced {
                continue;
            }
            let fewest = loads.iter().min_by_key(|(executor, load)| (**load, rank(executor)));
            let Some(executor) = fewest.map(|(executor, _)| *executor) else {
                return;
            };
            *loads.entry(executor).or_default() += 1;
            receiver.place = Place::On(executor);
            receiver.session += 1;
            receiver.border = BatchTime(i64::MIN);
            receiver.told_rate = if self.held { Some(0) } else { receiver.rate(overrun) };
            cx.act(Action::StartReceiver {
                executor,
                job,
                receiver: id,
                stream: receiver.stream,
                session: receiver.session,
                rate: receiver.told_rate,
            });
            cx.act(Action::Publish(Notice::ReceiverPlaced {
                job,
                receiver: id,
                executor,
                session: receiver.session,
            }));
        }
    }

    /// Tells receivers how fast they may read, where that has changed.
    pub(super) fn set_rates(&mut self, cx: &mut Context<'_>) {
        let job = self.spec.id;
        let overrun = self.is_overrun(cx.now);
        let held = self.state == JobState::Running && self.is_queue_full();
        if held != self.held && !self.spec.receivers.is_empty() {
            cx.act(Action::Publish(Notice::SourcesHeld { job, held }));
        }
        self.held = held;
        for (id, receiver) in self.receivers.iter_mut() {
            let Place::On(executor) = receiver.place else { continue };
            let rate = if held { Some(0) } else { receiver.rate(overrun) };
            if rate != receiver.told_rate {
                receiver.told_rate = rate;
                cx.act(Action::SetRate {
                    executor,
                    job,
                    receiver: id,
                    session: receiver.session,
                    rate,
                });
            }
        }
    }

    /// The batch that runs has taken longer than the interval, or waited for so long.
    fn is_overrun(&self, now: i64) -> bool {
        let oldest = self.batches.values().next();
        oldest.is_some_and(|batch| batch.state != BatchState::Due && now - batch.due > micros(self.interval()))
    }

    /// A batch is completed: what it says of how fast its streams can be processed. The time is shared by all streams, as
    /// if each had taken all of it.
    pub(super) fn estimate_rates(&mut self, now: i64, stats: &BatchStats) {
        for (_, receiver) in self.receivers.iter_mut() {
            let rows = stats.inputs.iter().find(|input| input.stream == receiver.stream);
            if let (Some(estimator), Some(rows)) = (&mut receiver.estimator, rows.and_then(|input| input.rows)) {
                estimator.on_completed(Completed {
                    at: now,
                    rows,
                    processing: stats.processing_time,
                    scheduling: stats.scheduling_delay,
                });
            }
        }
    }

    pub(super) fn stop_receivers(&mut self, cx: &mut Context<'_>) {
        let job = self.spec.id;
        for (id, receiver) in self.receivers.iter_mut() {
            match receiver.place {
                Place::On(executor) => {
                    receiver.place = Place::Stopping(executor);
                    cx.act(Action::StopReceiver {
                        executor,
                        job,
                        receiver: id,
                        session: receiver.session,
                    });
                }
                Place::Unplaced => receiver.place = Place::Stopped,
                Place::Stopping(_) | Place::Stopped => {}
            }
        }
    }

    pub(crate) fn on_blocks_reported(
        &mut self,
        receiver: ReceiverId,
        session: u32,
        blocks: Vec<StoredBlock>,
        border: BatchTime,
    ) {
        if self.state.is_ended() {
            return;
        }
        if let Some(receiver) = self.receivers.current(receiver, session) {
            receiver.rows += blocks.iter().map(|block| block.rows).sum::<u64>();
            receiver.unallocated.extend(blocks);
            receiver.border = receiver.border.max(border);
        }
    }

    pub(crate) fn on_receiver_stopped(&mut self, receiver: ReceiverId, session: u32) {
        if let Some(receiver) = self.receivers.current(receiver, session) {
            receiver.place = Place::Stopped;
        }
    }
}
