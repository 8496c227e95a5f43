//! What jobs keep and others may ask for, under the names that SQL has for it: `<job>_state.<name>` and
//! `<job>_streams.<stream>`.

use std::sync::Arc;

use arrow::array::{RecordBatch, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use tidemill_engine::{KeptTable, decode_ipc};
use tidemill_scheduler::Event as SchedulerEvent;
use tidemill_types::{BatchTime, DatasetId, JobId, StorageLevel};
use tokio::sync::oneshot;
use tonic::Status;
use tracing::info;

use crate::event::Slicing;
use crate::event_loop::EventLoop;
use crate::reads::{KeptBatches, Target};

/// Says of each row which batch it is of, unless the rows have a column of that name.
const BATCH_TIME: &str = "batch_time";

/// Something that SQL can ask for, still without its rows.
#[derive(Clone, Debug)]
pub(crate) struct KeptRelation {
    pub(crate) job: JobId,
    pub(crate) target: Target,
    pub(crate) table: KeptTable,
}

impl EventLoop {
    /// Of all jobs that live.
    pub(crate) fn kept_relations(&self) -> Vec<KeptRelation> {
        let live = self.scheduler.jobs().filter(|job| !job.state.is_ended());
        live.flat_map(|job| self.kept_relations_of(job.id)).collect()
    }

    fn kept_relations_of(&self, job: JobId) -> Vec<KeptRelation> {
        let Some(record) = self.jobs.get(&job) else {
            return Vec::new();
        };
        let compiled = &record.compiled;
        let relation = |kind: &str, name: &str, columns: &SchemaRef, target: Target| KeptRelation {
            job,
            target,
            table: KeptTable {
                schema: format!("{}_{kind}", record.graph.name),
                name: name.to_owned(),
                columns: with_batch_time(columns),
                rows: Vec::new(),
            },
        };
        let states = compiled.plan.states().filter_map(|(stage, name)| {
            let (_, columns) = compiled.state_schemas.iter().find(|(id, _)| *id == stage.id)?;
            let target = Target::State {
                stage: stage.id,
                name: name.to_owned(),
            };
            Some(relation("state", name, columns, target))
        });
        let remembered = compiled.remembered.iter();
        let kept = remembered.filter(|(_, dataset)| !record.unpersisted.contains(dataset));
        let streams = kept.filter_map(|(stream, dataset)| {
            let (_, columns) = compiled.stream_schemas.iter().find(|(name, _)| name == stream)?;
            let target = Target::Stream {
                dataset: *dataset,
                name: stream.clone(),
                range: None,
            };
            Some(relation("streams", stream, columns, target))
        });
        states.chain(streams).collect()
    }

    /// Reads the batches of a stream from one time to another.
    pub(crate) fn slice(
        &mut self,
        job: &str,
        stream: &str,
        range: (BatchTime, BatchTime),
        reply: oneshot::Sender<Result<Slicing, Status>>,
    ) {
        let found = self.remembered_stream(job, stream, range);
        let slicing = found.map(|(job, target, columns)| {
            let (answer, batches) = oneshot::channel();
            self.read_kept(job, target, answer);
            Slicing { columns, batches }
        });
        drop(reply.send(slicing));
    }

    /// Has a stream's batches kept no longer than windows need them.
    pub(crate) fn unpersist(&mut self, job: &str, stream: &str) -> Result<(), Status> {
        let now = BatchTime(0);
        let (id, target, _) = self.remembered_stream(job, stream, (now, now))?;
        let Target::Stream { dataset, .. } = target else {
            return Ok(());
        };
        if let Some(record) = self.jobs.get_mut(&id) {
            record.unpersisted.insert(dataset);
            // Executors that come later get the plan as it is now.
            let plans = record.install.plan.iter_mut().flat_map(|plan| &mut plan.datasets);
            for plan in plans.filter(|plan| plan.id == dataset.0) {
                plan.remember = plan.needed;
                StorageLevel::default().name().clone_into(&mut plan.level);
            }
        }
        info!(job = %id, stream, "unpersisted");
        self.schedule(SchedulerEvent::Unpersisted { job: id, dataset });
        Ok(())
    }

    fn remembered_stream(
        &self,
        job: &str,
        stream: &str,
        (from, to): (BatchTime, BatchTime),
    ) -> Result<(JobId, Target, SchemaRef), Status> {
        let id = self.find(job).ok_or_else(|| self.unknown_job(job))?;
        let record = self.jobs.get(&id).ok_or_else(|| self.unknown_job(job))?;
        if record.ended.is_some() {
            let error = format!("job `{job}` has ended: its streams are remembered while it runs");
            return Err(Status::failed_precondition(error));
        }
        if from > to {
            return Err(Status::invalid_argument(format!(
                "a slice from {from} to {to}, which is before it"
            )));
        }
        let compiled = &record.compiled;
        let columns = compiled.stream_schemas.iter().find(|(name, _)| name == stream);
        let Some((_, columns)) = columns else {
            let known: Vec<&str> = compiled.stream_schemas.iter().map(|(name, _)| name.as_str()).collect();
            let hint = match tidemill_dstream::nearest(stream, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known: {}", known.join(", ")),
            };
            return Err(Status::not_found(format!(
                "job `{job}` has no stream `{stream}` ({hint})"
            )));
        };
        let is_kept = |(_, dataset): &&(String, DatasetId)| !record.unpersisted.contains(dataset);
        let remembered = compiled.remembered.iter().find(|(name, _)| name == stream);
        if remembered.is_some_and(|kept| !is_kept(&kept)) {
            let error = format!("stream `{stream}` of job `{job}` is not remembered any more: it was unpersisted");
            return Err(Status::failed_precondition(error));
        }
        let Some((_, dataset)) = remembered else {
            let why = match record.graph.options.remember {
                None => "persist it, or set the job's option `remember` to the time that streams are remembered for",
                Some(_) => "no output needs it",
            };
            return Err(Status::failed_precondition(format!(
                "stream `{stream}` of job `{job}` is not remembered ({why})"
            )));
        };
        let target = Target::Stream {
            dataset: *dataset,
            name: stream.to_owned(),
            range: Some((from, to)),
        };
        Ok((id, target, Arc::clone(columns)))
    }
}

fn has_batch_time(columns: &Schema) -> bool {
    columns
        .fields()
        .iter()
        .any(|field| field.name().eq_ignore_ascii_case(BATCH_TIME))
}

fn with_batch_time(columns: &SchemaRef) -> SchemaRef {
    if has_batch_time(columns) {
        return Arc::clone(columns);
    }
    let time = Field::new(
        BATCH_TIME,
        DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
        false,
    );
    let fields = columns.fields().iter().cloned().chain([Arc::new(time)]);
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The rows of a table of these columns, of which the last may be the batch time.
pub(crate) fn rows(columns: &SchemaRef, batches: &KeptBatches) -> Result<Vec<RecordBatch>, Status> {
    let mut rows = Vec::new();
    for (time, parts) in batches {
        for part in parts.iter().filter(|part| !part.is_empty()) {
            let (_, decoded) = decode_ipc(part).map_err(|error| Status::internal(error.to_string()))?;
            for batch in decoded {
                rows.push(of_table(columns, *time, &batch)?);
            }
        }
    }
    Ok(rows)
}

fn of_table(columns: &SchemaRef, time: BatchTime, batch: &RecordBatch) -> Result<RecordBatch, Status> {
    let mut arrays = batch.columns().to_vec();
    if arrays.len() < columns.fields().len() {
        let times = TimestampMillisecondArray::from_value(time.0, batch.num_rows()).with_timezone("UTC");
        arrays.push(Arc::new(times));
    }
    RecordBatch::try_new(Arc::clone(columns), arrays).map_err(|error| Status::internal(error.to_string()))
}
