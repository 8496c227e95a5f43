//! What a job's listener hears: Spark's `StreamingListener` as a stream of events.

use std::pin::Pin;
use std::time::{Duration, SystemTime};

use tidemill_dstream::accumulator::Reading;
use tidemill_rpc::control;
use tidemill_rpc::control::follow_job_response::Event;
use tidemill_types::{BatchTime, ExecutorId, OutputId, ReceiverId, StreamId};
use tokio_stream::Stream;

use crate::error::Result;
use crate::summary::{JobSummary, reading, some};

/// The events of a job. It ends after [`ListenerEvent::Ended`], or after an error. A listener that is too slow
/// misses events; the job does not wait for it.
pub type ListenerEvents = Pin<Box<dyn Stream<Item = Result<ListenerEvent>> + Send>>;

/// Something that happened to a job.
#[derive(Clone, Debug, PartialEq)]
pub enum ListenerEvent {
    /// The job has its executors; batches come from now on.
    StreamingStarted {
        time: SystemTime,
    },
    /// A batch has its input.
    BatchSubmitted(BatchInfo),
    /// Its tasks are launched.
    BatchStarted(BatchInfo),
    /// It is committed, or it has failed.
    BatchCompleted(BatchInfo),
    ReceiverStarted(ReceiverInfo),
    /// A receiver has failed and starts over.
    ReceiverError(ReceiverInfo),
    ReceiverStopped(ReceiverInfo),
    /// An output's rows are made visible. The outputs of a batch come one after the other, in definition order, and batches
    /// in the order of their times.
    OutputOperationStarted(OutputOperationInfo),
    /// It is done with them, or has failed. The tables of a batch are there together, after its other outputs.
    OutputOperationCompleted(OutputOperationInfo),
    /// What a batch has added to the job's accumulators counts from now on: the batch is about to be completed. Only of jobs
    /// that have some.
    AccumulatorsUpdated(AccumulatorsUpdated),
    /// The job is over: the last event.
    Ended(JobSummary),
}

/// The accumulators of a job after a batch, in definition order.
#[derive(Clone, Debug, PartialEq)]
pub struct AccumulatorsUpdated {
    pub time: BatchTime,
    pub accumulators: Vec<AccumulatorUpdate>,
}

/// An accumulator after a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct AccumulatorUpdate {
    pub name: String,
    /// Whether lists show it without being asked for all.
    pub listed: bool,
    /// What the batch has added.
    pub batch: Reading,
    /// Over all batches that are committed.
    pub total: Reading,
}

/// A batch, as far as it has come.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchInfo {
    pub time: BatchTime,
    /// By input stream.
    pub inputs: Vec<StreamInputInfo>,
    /// Records of all streams, as far as they are known.
    pub records: u64,
    /// When it was due.
    pub submission_time: SystemTime,
    pub processing_start_time: Option<SystemTime>,
    pub processing_end_time: Option<SystemTime>,
    /// From submission to start.
    pub scheduling_delay: Option<Duration>,
    /// From start to end.
    pub processing_delay: Option<Duration>,
    /// From submission to end.
    pub total_delay: Option<Duration>,
    /// Those that have been started.
    pub outputs: Vec<OutputOperationInfo>,
    pub failure: Option<String>,
}

/// What a batch has of an input stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInputInfo {
    pub id: StreamId,
    pub name: String,
    /// `None` while it is not known, and where tasks read several files' streams at once.
    pub records: Option<u64>,
    /// Its blocks or files, in words.
    pub description: String,
}

/// An output operation of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputOperationInfo {
    pub time: BatchTime,
    /// Its position among the job's outputs.
    pub id: OutputId,
    pub name: String,
    pub description: String,
    pub start_time: SystemTime,
    pub end_time: Option<SystemTime>,
    pub failure: Option<String>,
}

impl OutputOperationInfo {
    /// How long it took; `None` before its end.
    #[must_use]
    pub fn duration(&self) -> Option<Duration> {
        Some(self.end_time?.duration_since(self.start_time).unwrap_or_default())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiverInfo {
    pub id: ReceiverId,
    /// The name of its stream.
    pub stream: String,
    pub active: bool,
    /// The host of its executor.
    pub location: String,
    pub executor: ExecutorId,
    pub last_error: Option<String>,
    pub last_error_time: Option<SystemTime>,
}

/// What a message says to a listener; nothing if it is for other followers.
pub(crate) fn listener_event(message: control::FollowJobResponse) -> Option<Result<ListenerEvent>> {
    Some(Ok(match message.event? {
        Event::Printed(_) | Event::Batch(_) => return None,
        Event::Ended(ended) => return Some(JobSummary::try_from(ended).map(ListenerEvent::Ended)),
        Event::StreamingStarted(started) => ListenerEvent::StreamingStarted {
            time: time(started.time_micros),
        },
        Event::BatchSubmitted(batch) => ListenerEvent::BatchSubmitted(batch.into()),
        Event::BatchStarted(batch) => ListenerEvent::BatchStarted(batch.into()),
        Event::BatchCompleted(batch) => ListenerEvent::BatchCompleted(batch.into()),
        Event::ReceiverStarted(receiver) => ListenerEvent::ReceiverStarted(receiver.into()),
        Event::ReceiverError(receiver) => ListenerEvent::ReceiverError(receiver.into()),
        Event::ReceiverStopped(receiver) => ListenerEvent::ReceiverStopped(receiver.into()),
        Event::OutputStarted(output) => ListenerEvent::OutputOperationStarted(output.into()),
        Event::OutputCompleted(output) => ListenerEvent::OutputOperationCompleted(output.into()),
        Event::AccumulatorsUpdated(updated) => {
            return Some(updated.try_into().map(ListenerEvent::AccumulatorsUpdated));
        }
    }))
}

fn time(micros: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

impl TryFrom<control::AccumulatorsUpdated> for AccumulatorsUpdated {
    type Error = crate::Error;

    fn try_from(updated: control::AccumulatorsUpdated) -> Result<Self> {
        let update = |update: control::AccumulatorUpdate| {
            Ok(AccumulatorUpdate {
                name: update.name,
                listed: update.listed,
                batch: reading(update.batch)?,
                total: reading(update.total)?,
            })
        };
        Ok(Self {
            time: BatchTime(updated.batch_time_ms),
            accumulators: updated.accumulators.into_iter().map(update).collect::<Result<_>>()?,
        })
    }
}

impl From<control::BatchInfo> for BatchInfo {
    fn from(batch: control::BatchInfo) -> Self {
        Self {
            time: BatchTime(batch.batch_time_ms),
            inputs: batch.inputs.into_iter().map(StreamInputInfo::from).collect(),
            records: batch.input_rows,
            submission_time: time(batch.submitted_micros),
            processing_start_time: batch.started_micros.map(time),
            processing_end_time: batch.ended_micros.map(time),
            scheduling_delay: batch.scheduling_delay_micros.map(Duration::from_micros),
            processing_delay: batch.processing_delay_micros.map(Duration::from_micros),
            total_delay: batch.total_delay_micros.map(Duration::from_micros),
            outputs: batch.outputs.into_iter().map(OutputOperationInfo::from).collect(),
            failure: some(batch.error),
        }
    }
}

impl From<control::InputInfo> for StreamInputInfo {
    fn from(input: control::InputInfo) -> Self {
        Self {
            id: StreamId(input.stream),
            name: input.name,
            records: input.rows,
            description: input.description,
        }
    }
}

impl From<control::OutputInfo> for OutputOperationInfo {
    fn from(output: control::OutputInfo) -> Self {
        Self {
            time: BatchTime(output.batch_time_ms),
            id: OutputId(output.output),
            name: output.name,
            description: output.description,
            start_time: time(output.started_micros),
            end_time: output.ended_micros.map(time),
            failure: some(output.error),
        }
    }
}

impl From<control::ReceiverInfo> for ReceiverInfo {
    fn from(receiver: control::ReceiverInfo) -> Self {
        Self {
            id: ReceiverId(receiver.receiver),
            stream: receiver.stream,
            active: receiver.active,
            location: receiver.host,
            executor: ExecutorId(receiver.executor),
            last_error: some(receiver.last_error),
            last_error_time: receiver.last_error_micros.map(time),
        }
    }
}
