//! The loop that owns the driver's state: takes events, lets the scheduler decide, performs what it asks for.

use std::collections::BTreeMap;

use tidemill_engine::Catalog;
use tidemill_journal::JournalEvent;
use tidemill_rpc::control::{self, follow_job_response};
use tidemill_rpc::driver::attach_request::Event as Report;
use tidemill_rpc::driver::attach_response::Command;
use tidemill_rpc::driver::{self as wire, AttachRequest, AttachResponse, HeartbeatReply, Registered};
use tidemill_rpc::journal::Record;
use tidemill_scheduler::{Event as SchedulerEvent, Scheduler};
use tidemill_types::{BatchTime, ExecutorId, Generation, JobId, PlanVersion, ReceiverId, StageId};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;
use tonic::Status;
use tracing::{info, warn};

use crate::broadcasts::Shelf;
use crate::clock::Clock;
use crate::committer::PrintedBatch;
use crate::event::{Control, Event, Following};
use crate::job::JobRecord;
use crate::journal::Recorder;
use crate::liveness::{Liveness, Loss};
use crate::options::Options;
use crate::reads::Reads;
use crate::session::{Registration, Sessions};
use crate::summary;
use crate::tables::LoadedTable;
use crate::timer::Timer;
use crate::wire as convert;

/// All state of a driver. Only its loop touches it.
pub(crate) struct EventLoop {
    pub(crate) options: Options,
    pub(crate) clock: Clock,
    pub(crate) generation: Generation,
    pub(crate) scheduler: Scheduler,
    pub(crate) sessions: Sessions,
    pub(crate) liveness: Liveness,
    pub(crate) jobs: BTreeMap<JobId, JobRecord>,
    pub(crate) next_job: JobId,
    pub(crate) catalog: Catalog,
    pub(crate) events: UnboundedSender<Event>,
    /// Submissions that wait for executors, and since when.
    pub(crate) waiting_for_slots: Vec<(i64, oneshot::Sender<u32>)>,
    pub(crate) reads: Reads,
    pub(crate) shelf: Shelf,
    pub(crate) timer: Timer,
    /// None without a journal.
    pub(crate) recorder: Option<Recorder>,
    /// The journal cannot be written at present, and why.
    pub(crate) stalled: Option<String>,
    /// The generation that has taken over the journal.
    pub(crate) fenced: Option<Generation>,
}

impl EventLoop {
    /// Runs until every sender of events is gone or the receiver is closed, or until a newer driver has taken over, whose
    /// generation is given.
    pub(crate) async fn run(mut self, mut events: UnboundedReceiver<Event>) -> Option<Generation> {
        while let Some(event) = events.recv().await {
            self.on(event);
            // Take what has come meanwhile before the timer is looked at.
            while self.fenced.is_none()
                && let Ok(event) = events.try_recv()
            {
                self.on(event);
            }
            if self.fenced.is_some() {
                break;
            }
            let deadline = self.next_deadline();
            self.timer.set(deadline);
        }
        self.fenced
    }

    fn next_deadline(&self) -> Option<i64> {
        let timeout = i64::try_from(self.options.scheduler.min_executors_timeout.as_micros()).unwrap_or(i64::MAX);
        let waiting = self
            .waiting_for_slots
            .iter()
            .map(|(since, _)| since.saturating_add(timeout))
            .min();
        [
            self.scheduler.next_deadline(),
            self.liveness.next_deadline(),
            self.reads.next_deadline(),
            waiting,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Attach {
                register,
                commands,
                reply,
            } => self.on_attach(&register, commands, reply),
            Event::Message {
                executor,
                connection,
                message,
            } => self.on_message(executor, connection, *message),
            Event::Detached { executor, connection } => {
                if self.sessions.detach(executor, connection) {
                    info!(%executor, "executor detached");
                    self.liveness.detached(executor, self.clock.now());
                }
            }
            Event::Control(request) => self.on_control(request),
            Event::Allocated {
                job,
                batch,
                result,
                positions,
            } => {
                if let Some(record) = self.jobs.get_mut(&job).filter(|_| !positions.is_empty()) {
                    record.positions.insert(batch, positions);
                }
                self.schedule(SchedulerEvent::Allocated { job, batch, result });
            }
            Event::Journal(event) => self.on_journal(event),
            Event::Committed { job, batch, result } => {
                let result = result.map(|accumulated| {
                    if let Some(record) = self.jobs.get_mut(&job) {
                        record.positions.retain(|later, _| *later > batch);
                        record.accumulated(job, batch, accumulated);
                    }
                });
                self.schedule(SchedulerEvent::Committed { job, batch, result });
            }
            Event::Printed { job, printed } => self.on_printed(job, printed),
            Event::Output {
                job,
                batch,
                output,
                step,
            } => self.on_output_step(job, batch, output, step),
            Event::TableReloaded { job, table } => self.on_table_reloaded(job, table),
            Event::BroadcastRead { job, broadcast, loaded } => self.on_broadcast_read(job, broadcast, loaded),
            Event::Clock => {
                self.timer.fired();
                self.on_clock();
            }
        }
    }

    /// Lets the scheduler take an event and performs its actions.
    pub(crate) fn schedule(&mut self, event: SchedulerEvent) {
        let actions = self.scheduler.on(self.clock.now(), event);
        for action in actions {
            self.perform(action);
        }
    }

    fn on_journal(&mut self, event: JournalEvent) {
        match event {
            JournalEvent::Durable { up_to } => {
                if self.stalled.take().is_some() {
                    info!("the journal is written again");
                }
                let scheduler = &self.scheduler;
                let first_needed = |job| Some(scheduler.resume_point(job)?.batches.first()?.index);
                if let Some(recorder) = &self.recorder {
                    recorder.on_durable(up_to, first_needed);
                }
            }
            JournalEvent::Stalled { error } => {
                warn!(error, "outputs of jobs with a checkpoint wait for the journal");
                self.stalled = Some(error);
            }
            JournalEvent::Fenced { by } => self.fenced = Some(by),
        }
    }

    /// Records something about a job, if it has a checkpoint.
    pub(crate) fn record_of(&mut self, job: JobId, record: impl FnOnce(&mut JobRecord) -> Record) {
        if let (Some(recorder), Some(of)) = (&self.recorder, self.jobs.get_mut(&job))
            && of.has_checkpoint()
        {
            recorder.append(record(of));
        }
    }

    fn on_clock(&mut self) {
        let now = self.clock.now();
        for (executor, loss) in self.liveness.take_lost(now) {
            let reason = match loss {
                Loss::Silent => "no heartbeat within the limit",
                Loss::Detached => "its connection ended and did not come back",
            };
            self.lose(executor, reason);
        }
        self.schedule(SchedulerEvent::Clock);
        self.give_up_reads(now);
        self.answer_waiting_for_slots();
    }

    // === executors ===

    fn on_attach(
        &mut self,
        register: &wire::Register,
        commands: UnboundedSender<Result<AttachResponse, Status>>,
        reply: oneshot::Sender<Option<(ExecutorId, u64)>>,
    ) {
        let now = self.clock.now();
        let registration = self.sessions.register(register, commands, now / 1000);
        let (executor, connection, resumed) = match registration {
            Registration::New { executor, connection } => (executor, connection, false),
            Registration::Resumed { executor, connection } => (executor, connection, true),
        };
        self.liveness.attached(executor, now);
        let registered = Registered {
            executor: executor.0,
            heartbeat_interval_ms: u64::try_from(self.options.heartbeat_interval.as_millis()).unwrap_or(1000),
            resumed,
        };
        self.sessions.send_once(executor, Command::Registered(registered));
        if reply.send(Some((executor, connection))).is_err() {
            self.sessions.detach(executor, connection);
            self.liveness.detached(executor, now);
        }
        if resumed {
            info!(%executor, "executor attached again");
            self.sessions.repeat(executor);
            return;
        }
        info!(%executor, address = register.data_address, slots = register.slots, "executor registered");
        for old in self.sessions.superseded_by(executor) {
            self.lose(old, "a newer process runs at its address");
        }
        self.send_peers();
        self.shelf.register(executor);
        let slots = register.slots.max(1);
        self.schedule(SchedulerEvent::ExecutorRegistered { executor, slots });
        self.answer_waiting_for_slots();
    }

    fn lose(&mut self, executor: ExecutorId, reason: &str) {
        self.liveness.forget(executor);
        if self.sessions.remove(executor).is_none() {
            return;
        }
        warn!(%executor, reason, "executor lost");
        self.fail_reads_of_lost(executor, reason);
        self.lose_holder(executor);
        self.send_peers();
        self.schedule(SchedulerEvent::ExecutorLost {
            executor,
            reason: reason.to_owned(),
        });
    }

    fn send_peers(&mut self) {
        let peers: Vec<wire::Peer> = self
            .sessions
            .iter()
            .map(|(id, session)| wire::Peer {
                executor: id.0,
                incarnation: session.incarnation.0,
                data_address: session.data_address.clone(),
            })
            .collect();
        let all: Vec<ExecutorId> = self.sessions.iter().map(|(id, _)| id).collect();
        for executor in all {
            self.sessions
                .send(executor, Command::Peers(wire::Peers { peers: peers.clone() }));
        }
    }

    fn on_message(&mut self, executor: ExecutorId, connection: u64, message: AttachRequest) {
        self.liveness.heard(executor, self.clock.now());
        if !self.sessions.accept(executor, connection, &message) {
            return;
        }
        let Some(report) = message.event else { return };
        match report {
            Report::Register(_) => warn!(%executor, "a second registration on one connection is ignored"),
            Report::Heartbeat(heartbeat) => {
                if let Some(session) = self.sessions.get_mut(executor) {
                    session.heartbeat = heartbeat;
                }
                self.sessions.send_once(executor, Command::Heartbeat(HeartbeatReply {}));
            }
            Report::JobInstalled(installed) => self.schedule(SchedulerEvent::JobInstalled {
                job: JobId(installed.job),
                executor,
                error: Some(installed.error).filter(|error| !error.is_empty()),
            }),
            Report::BatchReport(report) => self.schedule(SchedulerEvent::BatchReported {
                executor,
                job: JobId(report.job),
                batch: BatchTime(report.batch_time_ms),
                restore: report.restore,
                tasks: report.tasks.into_iter().map(convert::task_outcome).collect(),
            }),
            Report::BlocksReport(report) => {
                let (job, receiver) = (JobId(report.job), ReceiverId(report.receiver));
                let stored = |block| convert::stored_block(job, receiver, executor, report.session, block);
                self.schedule(SchedulerEvent::BlocksReported {
                    job,
                    receiver,
                    session: report.session,
                    blocks: report.blocks.into_iter().map(stored).collect(),
                    border: BatchTime(report.border_ms),
                });
            }
            Report::ReceiverStatus(status) => self.on_receiver_status(executor, status),
            Report::BroadcastHeld(held) => self.on_broadcast_held(executor, &held),
            Report::KeptRows(rows) => self.on_kept_rows(executor, rows),
            Report::DatasetsFetched(fetched) => self.schedule(SchedulerEvent::DatasetsFetched {
                executor,
                job: JobId(fetched.job),
                missing: fetched.missing.iter().map(convert::dataset_part).collect(),
            }),
            Report::StateSaved(saved) => self.schedule(SchedulerEvent::StateSaved {
                job: JobId(saved.job),
                batch: BatchTime(saved.batch_time_ms),
                stage: StageId(saved.stage),
                partition: saved.partition,
                error: Some(saved.error).filter(|error| !error.is_empty()),
            }),
            Report::DataLost(lost) => self.schedule(convert::data_lost(executor, lost)),
        }
    }

    fn on_receiver_status(&mut self, executor: ExecutorId, status: wire::ReceiverStatus) {
        let job = JobId(status.job);
        let receiver = ReceiverId(status.receiver);
        let state = status.state();
        let mut changed = false;
        if let Some(record) = self
            .jobs
            .get_mut(&job)
            .and_then(|record| record.receivers.get_mut(&receiver))
        {
            if state == wire::ReceiverState::Restarting && record.state != state {
                record.restarts += 1;
                warn!(%job, %executor, stream = record.stream, reason = status.message, "receiver restarts");
            }
            changed = record.state != state;
            record.state = state;
            record.message = status.message;
            record.malformed_rows = status.malformed_rows;
        }
        if changed {
            self.on_receiver_change(job, receiver, executor);
        }
        if state == wire::ReceiverState::Stopped {
            self.schedule(SchedulerEvent::ReceiverStopped {
                job,
                receiver,
                session: status.session,
            });
        }
    }

    // === jobs ===

    fn on_printed(&mut self, job: JobId, printed: PrintedBatch) {
        let Some(record) = self.jobs.get_mut(&job) else { return };
        let table = arrow::util::pretty::pretty_format_batches_with_schema(printed.schema.clone(), &printed.rows);
        if let Ok(table) = table {
            info!(%job, batch = %printed.batch, stream = printed.stream, more = printed.more, "printed\n{table}");
        }
        let message = control::PrintedBatch {
            batch_time_ms: printed.batch.0,
            stream: printed.stream,
            ipc: printed.ipc,
            more: printed.more,
        };
        record.remember_print(message.clone(), self.options.retained_prints);
        record.publish(follow_job_response::Event::Printed(message));
    }

    fn on_table_reloaded(&mut self, job: JobId, table: LoadedTable) {
        let Some(record) = self.jobs.get_mut(&job) else { return };
        let (name, version) = (table.name.clone(), table.version);
        record.tables.insert(name.clone(), table.clone());
        let executors: Vec<ExecutorId> = self.sessions.iter().map(|(id, _)| id).collect();
        for executor in executors {
            self.send_table(executor, job, &table);
        }
        info!(%job, table = name, version, "table reloaded");
        // Commands are in order: whoever gets a batch that names the version has it.
        self.schedule(SchedulerEvent::TableInstalled { job, name, version });
    }

    pub(crate) fn send_table(&mut self, executor: ExecutorId, job: JobId, table: &LoadedTable) {
        let install = wire::InstallTable {
            job: job.0,
            name: table.name.clone(),
            version: table.version,
            ipc: table.ipc.clone(),
        };
        self.sessions.send(executor, Command::InstallTable(install));
    }

    // === control ===

    fn on_control(&mut self, request: Control) {
        match request {
            Control::Slots(reply) => {
                self.waiting_for_slots.push((self.clock.now(), reply));
                self.answer_waiting_for_slots();
            }
            Control::NameTaken { name, reply } => drop(reply.send(self.scheduler.live_job(&name).is_some())),
            Control::Submit { submission, reply } => self.on_submit(*submission, reply),
            Control::Jobs(reply) => {
                let jobs = self.jobs.keys().filter_map(|id| self.job_summary(*id)).collect();
                drop(reply.send(jobs));
            }
            Control::Job { job, reply } => {
                let found = self.find(&job).and_then(|id| {
                    let (summary, record) = (self.job_summary(id)?, self.jobs.get(&id)?);
                    let tables = self.catalog.tables(&record.graph.name);
                    Some(summary::job_detail(
                        summary,
                        self.scheduler.job(id).as_ref(),
                        record,
                        tables,
                        self.broadcast_summaries(id),
                    ))
                });
                drop(reply.send(found.ok_or_else(|| self.unknown_job(&job))));
            }
            Control::Stop { job, now, reply } => {
                let result = match self.find(&job) {
                    Some(id) => {
                        self.give_up(id);
                        self.schedule(SchedulerEvent::StopRequested { job: id, now });
                        self.job_summary(id).ok_or_else(|| self.unknown_job(&job))
                    }
                    None => Err(self.unknown_job(&job)),
                };
                drop(reply.send(result));
            }
            Control::Follow {
                job,
                history,
                listen,
                reply,
            } => {
                let result = match self.find(&job) {
                    Some(id) => self.follow(id, history, listen).ok_or_else(|| self.unknown_job(&job)),
                    None => Err(self.unknown_job(&job)),
                };
                drop(reply.send(result));
            }
            Control::BroadcastRoom(reply) => drop(reply.send(self.broadcast_room())),
            Control::Broadcasts { job, reply } => {
                let found = self.find(&job).map(|id| self.broadcast_summaries(id));
                drop(reply.send(found.ok_or_else(|| self.unknown_job(&job))));
            }
            Control::UpdateTarget {
                job,
                name,
                refresh,
                reply,
            } => drop(reply.send(self.update_target(&job, &name, refresh))),
            Control::OfferBroadcast {
                job,
                broadcast,
                loaded,
                reply,
            } => {
                let version = self.offer_version(job, broadcast, *loaded);
                drop(reply.send(version));
            }
            Control::GiveUpBroadcast {
                job,
                name,
                destroy,
                reply,
            } => {
                let done = self.give_up_broadcast(&job, &name, destroy);
                drop(reply.send(done));
            }
            Control::Kept(reply) => drop(reply.send(self.kept_relations())),
            Control::Read { job, target, reply } => self.read_kept(job, target, reply),
            Control::Slice {
                job,
                stream,
                from,
                to,
                reply,
            } => self.slice(&job, &stream, (from, to), reply),
            Control::Accumulators { request, reply } => drop(reply.send(self.list_accumulators(&request))),
            Control::Unpersist { job, stream, reply } => drop(reply.send(self.unpersist(&job, &stream))),
            Control::Executors(reply) => {
                let views: BTreeMap<ExecutorId, _> = self.scheduler.executors().collect();
                let receivers = |id: ExecutorId| {
                    let all = self.scheduler.jobs().flat_map(|job| job.receivers);
                    all.filter(|receiver| receiver.executor == Some(id)).count() as u32
                };
                let executors = self
                    .sessions
                    .iter()
                    .map(|(id, session)| summary::executor(id, session, views.get(&id).copied(), receivers(id)));
                drop(reply.send(executors.collect()));
            }
        }
    }

    fn answer_waiting_for_slots(&mut self) {
        let (now, options) = (self.clock.now(), &self.options.scheduler);
        let executors = self.scheduler.executors().count();
        let slots: u32 = self.scheduler.executors().map(|(_, view)| view.slots).sum();
        let timeout = i64::try_from(options.min_executors_timeout.as_micros()).unwrap_or(i64::MAX);
        let enough = executors >= options.min_executors as usize;
        let waiting = std::mem::take(&mut self.waiting_for_slots);
        for (since, reply) in waiting {
            if enough || now >= since.saturating_add(timeout) {
                let _ = reply.send(slots);
            } else {
                self.waiting_for_slots.push((since, reply));
            }
        }
    }

    /// A job by number or name; of several with one name the newest.
    pub(crate) fn find(&self, job: &str) -> Option<JobId> {
        let by_number = job.parse().ok().map(JobId).filter(|id| self.jobs.contains_key(id));
        by_number.or_else(|| {
            self.jobs
                .iter()
                .rev()
                .find(|(_, record)| record.graph.name == job)
                .map(|(id, _)| *id)
        })
    }

    pub(crate) fn unknown_job(&self, job: &str) -> Status {
        let names: Vec<&str> = self.jobs.values().map(|record| record.graph.name.as_str()).collect();
        let hint = match tidemill_dstream::nearest(job, names.iter().copied()) {
            Some(name) => format!("did you mean `{name}`?"),
            None if names.is_empty() => "there are no jobs".to_owned(),
            None => "see `tidemill jobs`".to_owned(),
        };
        Status::not_found(format!("no job `{job}` ({hint})"))
    }

    pub(crate) fn job_summary(&self, id: JobId) -> Option<control::JobSummary> {
        let record = self.jobs.get(&id)?;
        if record.ended.is_some() {
            return record.ended.clone();
        }
        let mut summary = summary::job(&self.scheduler.job(id)?);
        if record.has_checkpoint() {
            summary.journal_error = self.stalled.clone().unwrap_or_default();
        }
        if let Some((batch, error)) = &record.first_failure {
            summary.first_failed_batch_ms = batch.0;
            summary.first_error.clone_from(error);
        }
        Some(summary)
    }

    fn follow(&self, id: JobId, history: bool, listen: bool) -> Option<Following> {
        let record = self.jobs.get(&id)?;
        let event = |event| control::FollowJobResponse { event: Some(event) };
        let mut past: Vec<control::FollowJobResponse> = Vec::new();
        if history {
            past.extend(
                record
                    .printed
                    .iter()
                    .cloned()
                    .map(|printed| event(follow_job_response::Event::Printed(printed))),
            );
        }
        if history && listen {
            past.extend(record.told.iter().cloned());
        }
        if let Some(summary) = &record.ended {
            past.push(event(follow_job_response::Event::Ended(summary.clone())));
        }
        Some(Following {
            history: past,
            events: record.ended.is_none().then(|| record.followers.subscribe()),
        })
    }

    pub(crate) fn plan_version(&self, id: JobId) -> PlanVersion {
        self.jobs
            .get(&id)
            .map_or(PlanVersion(0), |record| record.compiled.plan.version)
    }
}
