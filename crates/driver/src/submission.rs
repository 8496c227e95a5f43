//! Taking a compiled job into the loop.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tidemill_config::ByteSize;
use tidemill_connectors::{cleanup_staging, planner};
use tidemill_dstream::accumulator::Ledger;
use tidemill_dstream::{OutputKind, Source};
use tidemill_rpc::channel::MAX_SUBMISSION;
use tidemill_rpc::{driver as wire, journal as journal_wire, plan as plan_wire};
use tidemill_scheduler::{Event as SchedulerEvent, JobSpec, Pace};
use tidemill_types::{BatchTime, BroadcastId, Generation, JobId, ReceiverId, StreamId};
use tokio::sync::{broadcast, oneshot};
use tonic::Status;
use tracing::{info, warn};

use crate::accumulators::Accumulators;
use crate::allocator::{Allocator, PlannedStream};
use crate::broadcasts;
use crate::committer::Committer;
use crate::event::Submission;
use crate::event_loop::EventLoop;
use crate::job::{FOLLOW_CAPACITY, JobRecord, ReceiverRecord, Running};
use crate::journal;
use crate::tables;

impl EventLoop {
    /// Takes a job, and answers when that is durable, if it is to be.
    pub(crate) fn on_submit(&mut self, submission: Submission, reply: oneshot::Sender<Result<JobId, Status>>) {
        let result = self.submit(submission);
        let recorder = match &result {
            Ok(id) if self.jobs.get(id).is_some_and(JobRecord::has_checkpoint) => self.recorder.clone(),
            _ => None,
        };
        let Some(recorder) = recorder else {
            let _ = reply.send(result);
            return;
        };
        tokio::spawn(async move {
            // Who asked hears that the driver stops if it is never durable.
            if recorder.durable(recorder.last()).await.is_ok() {
                let _ = reply.send(result);
            }
        });
    }

    pub(crate) fn submit(&mut self, mut submission: Submission) -> Result<JobId, Status> {
        let name = submission.graph.name.clone();
        if self.scheduler.live_job(&name).is_some() {
            return Err(name_taken(&name));
        }
        let past = submission.past.take();
        if past.is_none() {
            self.refuse_before_journal(&submission)?;
        }
        let id = past.as_ref().map_or(self.next_job, |past| past.job);
        let checkpoint = submission.graph.options.checkpoint.clone();
        let plan = &submission.compiled.plan;
        let no_wait = submission.options.no_wait;

        let mut planned = Vec::new();
        let mut receivers: Vec<(ReceiverId, StreamId, String)> = Vec::new();
        let start = match &past {
            Some(past) => past.start,
            None if no_wait => BatchTime(0),
            None => BatchTime(self.clock.now_ms()),
        };
        for stream in &plan.streams {
            let unusable = |error: tidemill_connectors::Error| {
                Status::failed_precondition(format!("stream {}: {error}", stream.name))
            };
            match planner(&stream.source, start).map_err(unusable)? {
                Some(mut planner) => {
                    if let Some(position) = past.as_ref().and_then(|past| past.position(stream.id)) {
                        planner.restore(position).map_err(unusable)?;
                    }
                    planned.push(PlannedStream {
                        stream: stream.id,
                        partitions: stream.partitions,
                        planner,
                    });
                }
                None => receivers.push((ReceiverId(stream.id.0), stream.id, stream.name.clone())),
            }
        }
        let internal = |error: std::io::Error| Status::internal(format!("cannot start a thread for the job: {error}"));
        let allocator = if planned.is_empty() {
            None
        } else {
            let events = self.events.clone();
            let checkpointed = checkpoint.is_some();
            let allocator = Allocator::start(id, planned, plan.batch_interval, no_wait, checkpointed, events);
            Some(allocator.map_err(internal)?)
        };
        let since = past.as_ref().map_or(self.generation, |past| past.since);
        for output in &plan.outputs {
            let OutputKind::Save(save) = &output.kind else { continue };
            for generation in since.0..=self.generation.0 {
                if let Err(error) = cleanup_staging(save, id, Generation(generation)) {
                    warn!(job = %id, %error, "old staged files could not be removed");
                }
            }
        }
        let totals = past.as_ref().and_then(|past| past.totals.clone());
        let totals = totals.unwrap_or_else(|| Ledger::zero(&plan.accumulators));
        let committer = self.committer(id, &submission, totals);
        let totals = committer.ledger.read(&plan.accumulators, &self.options.registry);
        let accumulators = Accumulators::new(plan.accumulators.clone(), totals);
        let definition = checkpoint.is_some().then(|| definition(&submission, start, since));
        let defs = &submission.graph.broadcasts;
        let broadcasts = self.take_broadcasts(id, defs, submission.broadcasts)?;
        let first = (0..broadcasts.len() as u32)
            .map(|place| (BroadcastId(place), 1))
            .collect();
        let reloads_values = defs.iter().any(|def| def.reload.is_some());
        let broadcast_watch = reloads_values.then(|| {
            let watch = broadcasts::watch(id, submission.graph.clone(), self.events.clone());
            tokio::spawn(watch).abort_handle()
        });
        let reloads = submission.graph.tables.iter().any(|table| table.reload.is_some());
        let table_watch = reloads.then(|| {
            let data = submission.table_data;
            let watch = tables::watch(id, submission.graph.clone(), data, self.events.clone());
            tokio::spawn(watch).abort_handle()
        });
        let spec = JobSpec {
            id,
            name: name.clone(),
            plan: plan.clone(),
            weight: submission.graph.options.weight,
            max_attempts: submission.graph.options.max_attempts,
            concurrent_batches: submission.graph.options.concurrent_batches,
            on_batch_failure: submission.graph.options.on_batch_failure,
            back_pressure: submission.graph.options.back_pressure,
            max_queued_batches: submission.graph.options.max_queued_batches,
            pace: if no_wait { Pace::NoWait } else { Pace::Clock },
            max_batches: submission.options.batches,
            ends_with_input: no_wait || submission.graph.is_bounded(),
            receivers: receivers.iter().map(|(id, stream, _)| (*id, *stream)).collect(),
            tables: submission
                .tables
                .iter()
                .map(|table| (table.name.clone(), table.version))
                .collect(),
            broadcasts: first,
            checkpoint_every: submission.graph.options.checkpoint_every(plan.batch_interval),
            resume: past.as_ref().and_then(|past| past.resume.clone()),
        };
        let install = wire::InstallJob {
            job: id.0,
            name: name.clone(),
            plan: Some(plan_wire::JobPlan::from(plan)),
            templates: submission.compiled.templates.clone(),
            weight: submission.graph.options.weight,
            generation: self.generation.0,
            checkpoint: checkpoint.unwrap_or_default(),
        };
        let record = JobRecord {
            tables: submission
                .tables
                .into_iter()
                .map(|table| (table.name.clone(), table))
                .collect(),
            broadcasts,
            install,
            receivers: receivers
                .into_iter()
                .map(|(id, _, stream)| (id, ReceiverRecord::new(stream)))
                .collect(),
            batches: VecDeque::new(),
            printed: VecDeque::new(),
            told: VecDeque::new(),
            followers: broadcast::channel(FOLLOW_CAPACITY).0,
            positions: BTreeMap::new(),
            running: Some(Running {
                allocator,
                committer: committer.start(),
                table_watch,
                broadcast_watch,
                _attached: submission.attached,
            }),
            open_batches: BTreeMap::new(),
            accumulators,
            unpersisted: BTreeSet::new(),
            first_failure: None,
            ended: None,
            graph: submission.graph,
            compiled: submission.compiled,
        };
        self.next_job = self.next_job.max(id.next());
        self.drop_old_jobs();
        self.jobs.insert(id, record);
        if let (Some(recorder), None) = (&self.recorder, &past) {
            recorder.append(journal::submitted(journal_wire::JobSubmitted {
                job: id.0,
                name: name.clone(),
                submitted_ms: self.clock.now_ms(),
                definition,
            }));
        }
        info!(job = %id, name, "job submitted");
        self.schedule(SchedulerEvent::JobSubmitted(Box::new(spec)));
        for broadcast in past.into_iter().flat_map(|past| past.destroyed) {
            self.destroy_broadcast(id, broadcast);
        }
        Ok(id)
    }

    /// What cannot be recorded, or would take the place of what is.
    fn refuse_before_journal(&self, submission: &Submission) -> Result<(), Status> {
        let Some(recorder) = &self.recorder else { return Ok(()) };
        let name = &submission.graph.name;
        if recorder.live_job(name).is_some() {
            return Err(Status::already_exists(format!(
                "a job named `{name}` is in the journal and could not go on: see `tidemill job {name}` (give it up with \
                 `tidemill stop {name}`, or choose another name)"
            )));
        }
        let tables = submission.tables.iter().map(|table| table.ipc.len());
        let values = submission.broadcasts.iter().map(|value| value.value.len());
        let bytes: usize = tables.chain(values).sum();
        if submission.graph.options.checkpoint.is_some() && bytes > MAX_SUBMISSION {
            return Err(Status::invalid_argument(format!(
                "the tables and broadcast values have {}, and of a job with a checkpoint the journal takes {} (read them \
                 as streams, or leave out the checkpoint)",
                ByteSize(bytes as u64),
                ByteSize(MAX_SUBMISSION as u64)
            )));
        }
        Ok(())
    }

    /// The committer of a job, which has what it wants from the submission.
    pub(crate) fn committer(&self, job: JobId, submission: &Submission, ledger: Ledger) -> Committer {
        let plan = &submission.compiled.plan;
        let has_checkpoint = submission.graph.options.checkpoint.is_some();
        Committer {
            job,
            name: submission.graph.name.clone(),
            generation: self.generation,
            outputs: plan.outputs.clone(),
            catalog: self.catalog.clone(),
            registry: self.options.registry.clone(),
            accumulators: plan.accumulators.clone(),
            ledger,
            recorder: self.recorder.clone().filter(|_| has_checkpoint),
            events: self.events.clone(),
        }
    }

    /// Lets a later driver not try again to go on with a job that this one could not go on with.
    pub(crate) fn give_up(&mut self, job: JobId) {
        let ended = self.jobs.get(&job).is_some_and(|record| record.ended.is_some());
        if let Some(recorder) = self.recorder.as_ref().filter(|recorder| ended && recorder.has(job)) {
            info!(%job, "a job that could not go on is given up");
            recorder.append(journal::ended(job));
        }
    }

    /// Forgets the oldest jobs that have ended, over the limit.
    fn drop_old_jobs(&mut self) {
        let ended: Vec<JobId> = self
            .jobs
            .iter()
            .filter(|(_, record)| record.ended.is_some())
            .map(|(id, _)| *id)
            .collect();
        let over = ended.len().saturating_sub(self.options.retained_jobs);
        for id in ended.into_iter().take(over) {
            self.jobs.remove(&id);
        }
    }
}

/// What a later driver needs to compile the job again.
fn definition(submission: &Submission, start: BatchTime, since: Generation) -> journal_wire::JobDefinition {
    journal_wire::JobDefinition {
        graph: Some((&submission.graph).into()),
        options: Some(submission.options),
        partitions: submission.partitions,
        start_ms: start.0,
        tables: submission.tables.iter().map(|table| table.ipc.clone()).collect(),
        broadcasts: submission.broadcasts.iter().map(journal::broadcast_value).collect(),
        generation: since.0,
    }
}

impl ReceiverRecord {
    fn new(stream: String) -> Self {
        Self {
            stream,
            state: wire::ReceiverState::Starting,
            message: String::new(),
            restarts: 0,
            malformed_rows: 0,
            last_error: None,
        }
    }
}

pub(crate) fn name_taken(name: &str) -> Status {
    Status::already_exists(format!(
        "a job named `{name}` is running (stop it with `tidemill stop {name}`, or choose another name)"
    ))
}

/// Whether a source ends or can be taken batch after batch.
pub(crate) fn is_live(source: &Source) -> bool {
    matches!(source, Source::SocketText(_))
}
