//! Taking a compiled job into the loop.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tidemill_connectors::{cleanup_staging, planner};
use tidemill_dstream::accumulator::Ledger;
use tidemill_dstream::{OutputKind, Source};
use tidemill_rpc::driver as wire;
use tidemill_rpc::plan as plan_wire;
use tidemill_scheduler::{Event as SchedulerEvent, JobSpec, Pace};
use tidemill_types::{BatchTime, BroadcastId, JobId, ReceiverId, StreamId};
use tokio::sync::broadcast;
use tonic::Status;
use tracing::{info, warn};

use crate::accumulators::Accumulators;
use crate::allocator::{Allocator, PlannedStream};
use crate::broadcasts;
use crate::committer::Committer;
use crate::event::Submission;
use crate::event_loop::EventLoop;
use crate::job::{FOLLOW_CAPACITY, JobRecord, ReceiverRecord, Running};
use crate::tables;

impl EventLoop {
    pub(crate) fn submit(&mut self, submission: Submission) -> Result<JobId, Status> {
        let name = submission.graph.name.clone();
        if self.scheduler.live_job(&name).is_some() {
            return Err(name_taken(&name));
        }
        let id = self.next_job;
        let plan = &submission.compiled.plan;
        let no_wait = submission.options.no_wait;

        let mut planned = Vec::new();
        let mut receivers: Vec<(ReceiverId, StreamId, String)> = Vec::new();
        let start = if no_wait {
            BatchTime(0)
        } else {
            BatchTime(self.clock.now_ms())
        };
        for stream in &plan.streams {
            match planner(&stream.source, start) {
                Ok(Some(planner)) => planned.push(PlannedStream {
                    stream: stream.id,
                    partitions: stream.partitions,
                    planner,
                }),
                Ok(None) => receivers.push((ReceiverId(stream.id.0), stream.id, stream.name.clone())),
                Err(error) => return Err(Status::failed_precondition(format!("stream {}: {error}", stream.name))),
            }
        }
        let internal = |error: std::io::Error| Status::internal(format!("cannot start a thread for the job: {error}"));
        let allocator = if planned.is_empty() {
            None
        } else {
            let events = self.events.clone();
            Some(Allocator::start(id, planned, plan.batch_interval, no_wait, events).map_err(internal)?)
        };
        for output in &plan.outputs {
            if let OutputKind::Save(save) = &output.kind
                && let Err(error) = cleanup_staging(save, id, self.generation)
            {
                warn!(job = %id, %error, "old staged files could not be removed");
            }
        }
        let committer = Committer {
            job: id,
            name: name.clone(),
            generation: self.generation,
            outputs: plan.outputs.clone(),
            catalog: self.catalog.clone(),
            registry: self.options.registry.clone(),
            accumulators: plan.accumulators.clone(),
            ledger: Ledger::zero(&plan.accumulators),
            events: self.events.clone(),
        };
        let zero = committer.ledger.read(&plan.accumulators, &self.options.registry);
        let accumulators = Accumulators::new(plan.accumulators.clone(), zero);
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
            checkpoint_every: None,
            resume: None,
        };
        let install = wire::InstallJob {
            job: id.0,
            name: name.clone(),
            plan: Some(plan_wire::JobPlan::from(plan)),
            templates: submission.compiled.templates.clone(),
            weight: submission.graph.options.weight,
            generation: self.generation.0,
            checkpoint: String::new(),
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
        self.next_job = id.next();
        self.drop_old_jobs();
        self.jobs.insert(id, record);
        info!(job = %id, name, "job submitted");
        self.schedule(SchedulerEvent::JobSubmitted(Box::new(spec)));
        Ok(id)
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
