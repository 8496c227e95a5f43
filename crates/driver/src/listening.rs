//! What listeners of a job are told, in Spark's terms: batches, receivers and output operations as they come and go.

use tidemill_rpc::control::follow_job_response::Event as Told;
use tidemill_rpc::control::{self, follow_job_response};
use tidemill_rpc::driver as wire;
use tidemill_scheduler::{BatchStats, InputInfo};
use tidemill_types::{BatchTime, ExecutorId, JobId, ReceiverId};

use crate::event_loop::EventLoop;
use crate::job::JobRecord;

/// An output operation of a batch begins, or has ended.
#[derive(Clone, Debug)]
pub(crate) enum OutputStep {
    Started,
    /// With the reason if it failed.
    Ended(Option<String>),
}

/// Whether an event is only for those who listen, beside what every follower gets.
pub(crate) fn is_for_listeners(event: &follow_job_response::Event) -> bool {
    match event {
        Told::Printed(_) | Told::Batch(_) | Told::Ended(_) => false,
        Told::StreamingStarted(_)
        | Told::BatchSubmitted(_)
        | Told::BatchStarted(_)
        | Told::BatchCompleted(_)
        | Told::ReceiverStarted(_)
        | Told::ReceiverError(_)
        | Told::ReceiverStopped(_)
        | Told::OutputStarted(_)
        | Told::OutputCompleted(_)
        | Told::AccumulatorsUpdated(_) => true,
    }
}

impl JobRecord {
    fn inputs(&self, inputs: &[InputInfo]) -> Vec<control::InputInfo> {
        let info = |input: &InputInfo| control::InputInfo {
            stream: input.stream.0,
            name: self
                .compiled
                .plan
                .streams
                .iter()
                .find(|stream| stream.id == input.stream)
                .map(|stream| stream.name.clone())
                .unwrap_or_default(),
            rows: input.rows,
            description: input.description.clone(),
        };
        inputs.iter().map(info).collect()
    }
}

impl EventLoop {
    pub(crate) fn on_job_running(&mut self, job: JobId) {
        let started = control::StreamingStarted {
            time_micros: self.clock.now(),
        };
        if let Some(record) = self.jobs.get_mut(&job) {
            record.publish(Told::StreamingStarted(started));
        }
    }

    pub(crate) fn on_batch_submitted(&mut self, job: JobId, batch: BatchTime, due: i64, inputs: &[InputInfo]) {
        let Some(record) = self.jobs.get_mut(&job) else { return };
        let inputs = record.inputs(inputs);
        let info = control::BatchInfo {
            batch_time_ms: batch.0,
            input_rows: inputs.iter().filter_map(|input| input.rows).sum(),
            inputs,
            submitted_micros: due,
            ..control::BatchInfo::default()
        };
        record.publish(Told::BatchSubmitted(info.clone()));
        record.open_batches.insert(batch, info);
    }

    pub(crate) fn on_batch_started(&mut self, job: JobId, batch: BatchTime) {
        let now = self.clock.now();
        let Some(record) = self.jobs.get_mut(&job) else { return };
        if let Some(info) = record.open_batches.get_mut(&batch) {
            info.started_micros = Some(now);
            info.scheduling_delay_micros = delay(info.submitted_micros, now);
            let info = info.clone();
            record.publish(Told::BatchStarted(info));
        }
    }

    /// A batch was completed, with its figures, or failed, with the reason.
    pub(crate) fn on_batch_ended(&mut self, job: JobId, batch: BatchTime, outcome: Result<&BatchStats, &str>) {
        let now = self.clock.now();
        let Some(record) = self.jobs.get_mut(&job) else { return };
        let mut info = record.open_batches.remove(&batch).unwrap_or(control::BatchInfo {
            batch_time_ms: batch.0,
            submitted_micros: now,
            ..control::BatchInfo::default()
        });
        info.ended_micros = Some(now);
        info.processing_delay_micros = info.started_micros.and_then(|started| delay(started, now));
        info.total_delay_micros = delay(info.submitted_micros, now);
        match outcome {
            Ok(stats) => {
                info.inputs = record.inputs(&stats.inputs);
                info.input_rows = stats.input_rows;
            }
            Err(error) => error.clone_into(&mut info.error),
        }
        record.publish(Told::BatchCompleted(info));
    }

    pub(crate) fn on_output_step(&mut self, job: JobId, batch: BatchTime, output: usize, step: OutputStep) {
        let now = self.clock.now();
        let Some(record) = self.jobs.get_mut(&job) else { return };
        let Some(plan) = record.compiled.plan.outputs.get(output) else {
            return;
        };
        let open = record.open_batches.entry(batch).or_insert_with(|| control::BatchInfo {
            batch_time_ms: batch.0,
            submitted_micros: now,
            ..control::BatchInfo::default()
        });
        let told = match step {
            OutputStep::Started => {
                let info = control::OutputInfo {
                    batch_time_ms: batch.0,
                    output: plan.id.0,
                    name: plan.name.clone(),
                    description: format!("{} of {}", plan.kind.name(), plan.stream),
                    started_micros: now,
                    ended_micros: None,
                    error: String::new(),
                };
                open.outputs.push(info.clone());
                Told::OutputStarted(info)
            }
            OutputStep::Ended(error) => {
                let Some(info) = open.outputs.iter_mut().find(|info| info.output == plan.id.0) else {
                    return;
                };
                info.ended_micros = Some(now);
                info.error = error.unwrap_or_default();
                Told::OutputCompleted(info.clone())
            }
        };
        record.publish(told);
    }

    /// A receiver's state has changed to this one.
    pub(crate) fn on_receiver_change(&mut self, job: JobId, receiver: ReceiverId, executor: ExecutorId) {
        let now = self.clock.now();
        let host = self.sessions.get_mut(executor).map(|session| session.host.clone());
        let Some(record) = self.jobs.get_mut(&job) else { return };
        let Some(receiver_record) = record.receivers.get_mut(&receiver) else {
            return;
        };
        if !receiver_record.message.is_empty() && receiver_record.state == wire::ReceiverState::Restarting {
            receiver_record.last_error = Some((now, receiver_record.message.clone()));
        }
        let error = receiver_record.last_error.clone();
        let info = control::ReceiverInfo {
            receiver: receiver.0,
            stream: receiver_record.stream.clone(),
            active: receiver_record.state == wire::ReceiverState::Active,
            host: host.unwrap_or_default(),
            executor: executor.0,
            last_error_micros: error.as_ref().map(|(time, _)| *time),
            last_error: error.map(|(_, message)| message).unwrap_or_default(),
        };
        let told = match receiver_record.state {
            wire::ReceiverState::Active => Told::ReceiverStarted(info),
            wire::ReceiverState::Restarting => Told::ReceiverError(info),
            wire::ReceiverState::Stopped => Told::ReceiverStopped(info),
            wire::ReceiverState::Unspecified | wire::ReceiverState::Starting => return,
        };
        record.publish(told);
    }
}

fn delay(from: i64, until: i64) -> Option<u64> {
    Some(u64::try_from(until - from).unwrap_or(0))
}
