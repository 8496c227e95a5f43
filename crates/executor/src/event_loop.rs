//! The loop that owns what is planned on this executor.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidemill_rpc::driver::attach_request::Event as Report;
use tidemill_rpc::driver::attach_response::Command;
use tidemill_rpc::driver::{self as wire, AttachRequest, AttachResponse, Registered};
use tidemill_rpc::session::{Inbox, Outbox};
use tidemill_storage::{DatasetKey, ShuffleReady};
use tidemill_types::{
    BatchTime, BlockId, DatasetId, ExecutorId, Generation, Incarnation, JobId, ReceiverId, RoutingVersion, StageId,
    TaskAttempt, TaskFailure,
};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};

use crate::batch::{BatchRun, Need, TaskRun, TaskState, is_remote, needs, remember_datasets_from, shuffle_partitions};
use crate::data_service::Served;
use crate::event::Event;
use crate::fetch;
use crate::job::InstalledJob;
use crate::launch::Launch;
use crate::node::Node;
use crate::options::Options;
use crate::push::push;
use crate::queue::ReadyQueue;
use crate::receiver::{Receivers, Start};
use crate::report::task_report;
use crate::task::{Finished, Task};

/// All planning state of an executor. Only its loop touches it.
pub(crate) struct EventLoop {
    pub(crate) options: Options,
    pub(crate) incarnation: Incarnation,
    pub(crate) events: mpsc::UnboundedSender<Event>,
    /// The task threads.
    pub(crate) cpu: Handle,
    pub(crate) served: Served,
    pub(crate) link: Link,
    pub(crate) epoch: u64,
    pub(crate) node: Option<Arc<Node>>,
    pub(crate) jobs: HashMap<JobId, JobEntry>,
    pub(crate) batches: BTreeMap<(JobId, BatchTime), BatchRun>,
    /// Who waits for what.
    pub(crate) waiting: HashMap<Need, Vec<TaskAttempt>>,
    /// Shuffle inputs that are complete; dropped with their batch.
    pub(crate) complete: HashSet<ShuffleReady>,
    pub(crate) queue: ReadyQueue,
    pub(crate) receivers: Receivers,
}

/// The control channel.
#[derive(Default)]
pub(crate) struct Link {
    connection: Option<(u64, mpsc::UnboundedSender<AttachRequest>)>,
    outbox: Outbox<AttachRequest>,
    inbox: Inbox,
    heartbeat: Option<tokio::task::AbortHandle>,
}

/// A job on this executor.
#[derive(Default)]
pub(crate) struct JobEntry {
    installed: Option<Arc<InstalledJob>>,
    /// Commands that came before the templates were decoded.
    early: Vec<Command>,
}

impl EventLoop {
    pub(crate) async fn run(mut self, mut events: mpsc::UnboundedReceiver<Event>) {
        while let Some(event) = events.recv().await {
            self.on(event);
            while let Ok(event) = events.try_recv() {
                self.on(event);
            }
            self.start_tasks();
        }
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Connected {
                connection,
                registered,
                generation,
                reports,
            } => self.on_connected(connection, &registered, generation, reports),
            Event::Disconnected { connection } => {
                if self
                    .link
                    .connection
                    .as_ref()
                    .is_some_and(|(present, _)| *present == connection)
                {
                    self.link.connection = None;
                }
            }
            Event::Command { connection, message } => self.on_message(connection, *message),
            Event::Report(report) => self.report(report),
            Event::Installed { epoch, job, result } => {
                if epoch == self.epoch {
                    self.on_installed(job, result);
                }
            }
            Event::ShuffleReady { epoch, ready } => {
                if epoch == self.epoch {
                    self.complete.insert(ready);
                    self.satisfy(Need::Shuffle(ready));
                }
            }
            Event::TaskFinished { epoch, task, result } => {
                self.queue.finished(task.key.job);
                if epoch == self.epoch {
                    self.on_task_finished(task, result);
                }
            }
            Event::BlockFetched { epoch, block, result } => {
                if epoch == self.epoch {
                    self.on_block_fetched(block, result);
                }
            }
            Event::DatasetsFetched {
                epoch,
                job,
                stored,
                missing,
            } => {
                if epoch == self.epoch {
                    self.on_datasets_fetched(job, &stored, &missing);
                }
            }
            Event::Heartbeat => self.send_heartbeat(),
        }
    }

    // === the control channel ===

    fn on_connected(
        &mut self,
        connection: u64,
        registered: &Registered,
        generation: Generation,
        reports: mpsc::UnboundedSender<AttachRequest>,
    ) {
        let executor = ExecutorId(registered.executor);
        if registered.resumed {
            info!(%executor, "attached again");
            for message in self.link.outbox.unacknowledged() {
                let _ = reports.send(message.clone());
            }
        } else {
            self.start_over(executor, generation);
        }
        self.link.connection = Some((connection, reports));
        self.start_heartbeat(Duration::from_millis(registered.heartbeat_interval_ms.max(1)));
    }

    /// The driver does not know what this executor has done before: nothing of it counts.
    fn start_over(&mut self, executor: ExecutorId, generation: Generation) {
        self.epoch += 1;
        self.link.outbox = Outbox::default();
        self.link.inbox = Inbox::default();
        self.jobs.clear();
        self.batches.clear();
        self.waiting.clear();
        self.complete.clear();
        self.queue = ReadyQueue::new(self.options.slots);
        self.receivers.abort(|_| true);
        self.node = None;
        let node = Node::new(
            self.epoch,
            executor,
            generation,
            self.incarnation,
            &self.options,
            &self.events,
        );
        match node {
            Ok(node) => {
                node.peers.open_local(node.shuffle.open_source(executor));
                *self.served.write() = Some(Arc::clone(&node));
                self.node = Some(node);
                info!(%executor, %generation, slots = self.options.slots, "registered");
            }
            Err(error) => error!(%error, "no place for spilled data, this executor cannot work"),
        }
    }

    fn start_heartbeat(&mut self, every: Duration) {
        if let Some(old) = self.link.heartbeat.take() {
            old.abort();
        }
        let events = self.events.clone();
        let task = tokio::spawn(async move {
            let mut timer = tokio::time::interval(every);
            timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                timer.tick().await;
                if events.send(Event::Heartbeat).is_err() {
                    return;
                }
            }
        });
        self.link.heartbeat = Some(task.abort_handle());
    }

    fn send_heartbeat(&mut self) {
        // Local credit that was given back is used again.
        if let Some(node) = &self.node {
            node.peers.grant_local(node.shuffle.take_credit(node.executor));
        }
        let heartbeat = wire::Heartbeat {
            running_tasks: self.queue.running(),
            queued_tasks: self.queue.queued(),
            memory_bytes: self.node.as_ref().map_or(0, |node| node.budget.total()),
            spilled_bytes: self.node.as_ref().map_or(0, |node| node.spill.used()),
        };
        if let Some((_, reports)) = &self.link.connection {
            let _ = reports.send(AttachRequest {
                sequence: 0,
                acknowledged: self.link.inbox.processed(),
                event: Some(Report::Heartbeat(heartbeat)),
            });
        }
    }

    /// Tells the driver, now or when it is there again.
    fn report(&mut self, event: Report) {
        let acknowledged = self.link.inbox.processed();
        let message = self.link.outbox.push(|sequence| AttachRequest {
            sequence,
            acknowledged,
            event: Some(event),
        });
        if let Some((_, reports)) = &self.link.connection {
            let _ = reports.send(message.clone());
        }
    }

    fn on_message(&mut self, connection: u64, message: AttachResponse) {
        if self
            .link
            .connection
            .as_ref()
            .is_none_or(|(present, _)| *present != connection)
        {
            return;
        }
        self.link.outbox.acknowledge(message.acknowledged);
        if !self.link.inbox.accept(message.sequence) {
            return;
        }
        if self
            .node
            .as_ref()
            .is_none_or(|node| message.generation < node.generation.0)
        {
            return;
        }
        if let Some(command) = message.command {
            self.on_command(command);
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Registered(_) | Command::Refused(_) | Command::Heartbeat(_) => {}
            Command::Peers(peers) => {
                if let Some(node) = &self.node {
                    let peers = peers
                        .peers
                        .into_iter()
                        .map(|peer| (ExecutorId(peer.executor), peer.data_address));
                    node.peers.update(node, peers.collect());
                }
            }
            Command::InstallJob(install) => self.install(install),
            Command::RemoveJob(remove) => self.remove(JobId(remove.job)),
            Command::InstallTable(_) | Command::Routing(_) if !self.is_installed(&command) => self.defer(command),
            Command::InstallTable(table) => self.install_table(&table),
            Command::Routing(routing) => self.change_routing(routing),
            Command::LaunchBatch(launch) => match Launch::try_from(launch) {
                Ok(launch) => self.launch(launch),
                Err(error) => error!(%error, "a launch message could not be read"),
            },
            Command::Resend(resend) => self.resend(resend),
            Command::FetchDatasets(fetch) => self.fetch_datasets(fetch),
            Command::CancelBatch(cancel) => {
                let (job, batch) = (JobId(cancel.job), BatchTime(cancel.batch_time_ms));
                debug!(%job, %batch, reason = cancel.reason, "batch cancelled");
                self.drop_batches(|at| at == (job, batch));
            }
            Command::Forget(forget) => {
                self.forget(
                    JobId(forget.job),
                    BatchTime(forget.oldest_batch_ms),
                    BatchTime(forget.remember_from_ms),
                );
            }
            Command::RunReceiver(run) => self.run_receiver(run),
            Command::StopReceiver(stop) => {
                self.receivers
                    .stop(JobId(stop.job), ReceiverId(stop.receiver), stop.session);
            }
        }
    }

    // === jobs ===

    fn install(&mut self, install: wire::InstallJob) {
        let job = JobId(install.job);
        self.jobs.insert(job, JobEntry::default());
        let (events, epoch) = (self.events.clone(), self.epoch);
        // Decoding takes milliseconds for each stage.
        self.cpu.spawn(async move {
            let result = InstalledJob::decode(install).map(Arc::new);
            let _ = events.send(Event::Installed { epoch, job, result });
        });
    }

    fn is_installed(&self, command: &Command) -> bool {
        let job = match command {
            Command::InstallTable(table) => table.job,
            Command::Routing(routing) => routing.job,
            _ => return true,
        };
        self.jobs.get(&JobId(job)).is_none_or(|entry| entry.installed.is_some())
    }

    fn defer(&mut self, command: Command) {
        let job = match &command {
            Command::InstallTable(table) => table.job,
            Command::Routing(routing) => routing.job,
            _ => return,
        };
        if let Some(entry) = self.jobs.get_mut(&JobId(job)) {
            entry.early.push(command);
        }
    }

    fn on_installed(&mut self, job: JobId, result: Result<Arc<InstalledJob>, String>) {
        let Some(entry) = self.jobs.get_mut(&job) else { return };
        let (plan_version, error) = match result {
            Ok(installed) => {
                self.queue.set_weight(job, installed.weight);
                if let Some(node) = &self.node {
                    node.install(&installed);
                }
                let version = installed.plan.version.0;
                entry.installed = Some(installed);
                (version, String::new())
            }
            Err(error) => {
                error!(%job, error, "the job cannot be installed");
                (0, error)
            }
        };
        let early = std::mem::take(&mut entry.early);
        for command in early {
            self.on_command(command);
        }
        let installed = wire::JobInstalled {
            job: job.0,
            plan_version,
            error,
        };
        self.report(Report::JobInstalled(installed));
    }

    fn installed(&self, job: JobId) -> Option<Arc<InstalledJob>> {
        self.jobs.get(&job).and_then(|entry| entry.installed.clone())
    }

    fn install_table(&mut self, table: &wire::InstallTable) {
        let Some(job) = self.installed(JobId(table.job)) else {
            return;
        };
        if let Err(error) = job.install_table(&table.name, table.version, &table.ipc) {
            error!(job = %job.id, error, "a table cannot be installed");
        }
    }

    fn change_routing(&mut self, routing: wire::Routing) {
        let Some(node) = &self.node else { return };
        let table = routing
            .stages
            .into_iter()
            .map(|stage| {
                (
                    StageId(stage.stage),
                    stage.executors.into_iter().map(ExecutorId).collect(),
                )
            })
            .collect();
        node.router
            .change_routing(JobId(routing.job), RoutingVersion(routing.version), table);
    }

    fn remove(&mut self, job: JobId) {
        self.jobs.remove(&job);
        self.receivers.abort(|of| of == job);
        self.drop_batches(|(of, _)| of == job);
        if let Some(node) = &self.node {
            node.forget_job(job);
        }
    }

    fn run_receiver(&mut self, run: wire::RunReceiver) {
        let (Some(node), Some(job)) = (&self.node, self.installed(JobId(run.job))) else {
            return;
        };
        let Some(source) = job.source(tidemill_types::StreamId(run.stream)) else {
            return;
        };
        let start = Start {
            job: job.id,
            receiver: ReceiverId(run.receiver),
            session: run.session,
            source: source.clone(),
            interval: job.plan.batch_interval,
            max_block_bytes: self.options.max_block_bytes,
            max_line_bytes: self.options.max_line_bytes,
        };
        self.receivers.start(start, node, &self.events);
    }

    // === batches ===

    fn launch(&mut self, launch: Launch) {
        let (Some(node), Some(job)) = (self.node.clone(), self.installed(launch.job)) else {
            error!(job = %launch.job, batch = %launch.batch, "a batch of a job that is not installed here");
            return;
        };
        if launch.plan != job.plan.version {
            error!(job = %job.id, plan = %launch.plan, "a batch of another version of the plan");
            return;
        }
        if !launch.restore {
            self.forget(job.id, launch.oldest, launch.remember_from);
        }
        node.blocks.forget_blocks(&launch.forget_blocks);
        node.router.launch(job.id, launch.batch, launch.routing);
        let at = (job.id, launch.batch);
        let known = self
            .batches
            .get(&at)
            .is_some_and(|run| run.info.restore == launch.restore);
        if !known {
            self.drop_batches(|run| run == at);
            self.batches.insert(at, BatchRun::new(&job, &launch));
        }
        let Some(run) = self.batches.get(&at) else { return };
        let info = Arc::clone(&run.info);
        let partitions = shuffle_partitions(&info, &launch.tasks);
        for task in launch.tasks {
            self.plan_task(&node, &info, task);
        }
        // What is complete already is told at once, to tasks that wait by now.
        for (from_stage, maps) in &launch.expectations {
            if let Some(partitions) = partitions.get(from_stage) {
                node.shuffle.expect(job.id, info.batch, *from_stage, maps, partitions);
            }
        }
    }

    fn plan_task(&mut self, node: &Arc<Node>, info: &Arc<crate::task::BatchInfo>, launch: crate::launch::TaskLaunch) {
        let task = TaskAttempt {
            key: tidemill_types::TaskKey {
                job: info.job.id,
                batch: info.batch,
                stage: launch.stage,
                partition: launch.partition,
            },
            attempt: launch.attempt,
        };
        let mut missing = needs(info, &launch);
        missing.retain(|need| match need {
            Need::Shuffle(ready) => !self.complete.contains(ready),
            Need::Dataset(key) => !node.blocks.has_dataset(*key),
            Need::Block(id) => is_remote(id, node.executor) && !node.blocks.has_block(*id),
        });
        for need in &missing {
            let first = !self.waiting.contains_key(need);
            self.waiting.entry(*need).or_default().push(task);
            if let (Need::Block(id), true) = (need, first) {
                self.fetch_block(node, *id);
            }
        }
        let run = TaskRun {
            launch: Arc::new(launch),
            missing,
            state: TaskState::Waiting,
            ready: None,
        };
        if let Some(batch) = self.batches.get_mut(&(info.job.id, info.batch)) {
            batch.tasks.insert((task.key.stage, task.key.partition), run);
        }
        self.queue_if_ready(task);
    }

    fn queue_if_ready(&mut self, task: TaskAttempt) {
        let Some(run) = self.batches.get_mut(&(task.key.job, task.key.batch)) else {
            return;
        };
        let Some(current) = run.current(task.key.stage, task.key.partition, task.attempt) else {
            return;
        };
        if current.state == TaskState::Waiting && current.missing.is_empty() {
            current.state = TaskState::Queued;
            current.ready = Some(Instant::now());
            self.queue.push(task);
        }
    }

    /// Something that tasks waited for is here.
    fn satisfy(&mut self, need: Need) {
        for task in self.waiting.remove(&need).unwrap_or_default() {
            let run = self.batches.get_mut(&(task.key.job, task.key.batch));
            let current = run.and_then(|run| run.current(task.key.stage, task.key.partition, task.attempt));
            if let Some(current) = current {
                current.missing.remove(&need);
            }
            self.queue_if_ready(task);
        }
    }

    fn start_tasks(&mut self) {
        let Some(node) = self.node.clone() else { return };
        while let Some(attempt) = self.queue.start_next() {
            let run = self.batches.get_mut(&(attempt.key.job, attempt.key.batch));
            let info = run.as_ref().map(|run| Arc::clone(&run.info));
            let current = run.and_then(|run| run.current(attempt.key.stage, attempt.key.partition, attempt.attempt));
            let (Some(current), Some(info)) = (current, info) else {
                // Cancelled while it was queued.
                self.queue.finished(attempt.key.job);
                continue;
            };
            current.state = TaskState::Running;
            let task = Task {
                node: Arc::clone(&node),
                info,
                launch: Arc::clone(&current.launch),
                io: Handle::current(),
                max_line_bytes: self.options.max_line_bytes,
            };
            let (events, epoch) = (self.events.clone(), self.epoch);
            self.cpu.spawn(async move {
                let task_attempt = task.attempt();
                let result = task.run().await;
                let _ = events.send(Event::TaskFinished {
                    epoch,
                    task: task_attempt,
                    result,
                });
            });
        }
    }

    fn on_task_finished(&mut self, task: TaskAttempt, result: Result<Box<Finished>, TaskFailure>) {
        let at = (task.key.job, task.key.batch);
        let Some(run) = self.batches.get_mut(&at) else { return };
        let Some(current) = run.current(task.key.stage, task.key.partition, task.attempt) else {
            return;
        };
        current.state = TaskState::Done;
        let wait = current.ready.map_or(Duration::ZERO, |ready| ready.elapsed());
        let dataset = result.as_ref().ok().and_then(|finished| finished.dataset);
        let wait = wait.saturating_sub(result.as_ref().map_or(Duration::ZERO, |finished| finished.run));
        let failed = result.as_ref().err().cloned();
        if let Some(failure) = &failed {
            warn!(%task, %failure, "task failed");
        }
        run.reports.push(task_report(task, wait, result));
        let tell = failed.is_some() || run.all_done();
        let report = tell.then(|| wire::BatchReport {
            job: task.key.job.0,
            batch_time_ms: task.key.batch.0,
            restore: run.info.restore,
            tasks: std::mem::take(&mut run.reports),
        });
        // Readers of the dataset first: they may be the rest of this batch.
        if let Some(dataset) = dataset {
            self.satisfy(Need::Dataset(dataset));
        }
        if failed.is_some_and(|failure| failure.kind == tidemill_types::FailureKind::InputLost) {
            // Frames that were spilled and are lost come again; completeness is told anew.
            let (batch, job) = (task.key.batch, task.key.job);
            self.complete.retain(|ready| {
                ready.job != job
                    || ready.batch != batch
                    || self
                        .node
                        .as_ref()
                        .is_some_and(|node| node.shuffle.missing(job, batch, ready.from_stage).is_empty())
            });
        }
        if let Some(report) = report {
            self.report(Report::BatchReport(report));
        }
    }

    fn forget(&mut self, job: JobId, oldest: BatchTime, _remember_from: BatchTime) {
        let (Some(node), Some(installed)) = (self.node.clone(), self.installed(job)) else {
            return;
        };
        node.peers.set_oldest(job, oldest);
        self.drop_batches(|(of, batch)| of == job && batch < oldest);
        node.shuffle
            .forget_before(job, oldest, node.router.routing_version(job));
        node.router.forget_before(job, oldest);
        node.blocks
            .forget_datasets_before(job, remember_datasets_from(&installed, oldest));
        // Local credit that came back.
        node.peers.grant_local(node.shuffle.take_credit(node.executor));
    }

    /// Drops batches that have no part in the future. A restore that still runs stays.
    fn drop_batches(&mut self, which: impl Fn((JobId, BatchTime)) -> bool) {
        let gone: Vec<(JobId, BatchTime)> = self
            .batches
            .iter()
            .filter(|(at, run)| which(**at) && !(run.info.restore && !run.all_done() && self.jobs.contains_key(&at.0)))
            .map(|(at, _)| *at)
            .collect();
        for at in &gone {
            self.batches.remove(at);
        }
        if gone.is_empty() {
            return;
        }
        let gone: HashSet<(JobId, BatchTime)> = gone.into_iter().collect();
        self.queue.remove(|task| gone.contains(&(task.key.job, task.key.batch)));
        self.complete.retain(|ready| !gone.contains(&(ready.job, ready.batch)));
        self.waiting.retain(|_, tasks| {
            tasks.retain(|task| !gone.contains(&(task.key.job, task.key.batch)));
            !tasks.is_empty()
        });
    }

    // === data of other executors ===

    fn resend(&mut self, resend: wire::Resend) {
        let Some(node) = self.node.clone() else { return };
        let (job, batch) = (JobId(resend.job), BatchTime(resend.batch_time_ms));
        let oldest = self.batches.get(&(job, batch)).map_or(batch, |run| run.info.oldest);
        let io = Handle::current();
        self.cpu.spawn(async move {
            let from = StageId(resend.from_stage);
            let version = RoutingVersion(resend.routing_version);
            match node
                .router
                .collect_resend(job, batch, from, &resend.partitions, version)
            {
                Ok(resent) => {
                    let _io = io.enter();
                    push(&node, resent.deliveries, oldest);
                }
                Err(error) => warn!(%job, %batch, %error, "kept map outputs cannot be sent again"),
            }
        });
    }

    fn fetch_block(&self, node: &Arc<Node>, block: BlockId) {
        let (node, events, epoch) = (Arc::clone(node), self.events.clone(), self.epoch);
        tokio::spawn(async move {
            let result = fetch::block(&node, block).await;
            let _ = events.send(Event::BlockFetched { epoch, block, result });
        });
    }

    fn on_block_fetched(&mut self, block: BlockId, result: Result<(), TaskFailure>) {
        match result {
            Ok(()) => self.satisfy(Need::Block(block)),
            Err(failure) => {
                for task in self.waiting.remove(&Need::Block(block)).unwrap_or_default() {
                    self.on_task_finished(task, Err(failure.clone()));
                }
            }
        }
    }

    fn fetch_datasets(&mut self, fetch: wire::FetchDatasets) {
        let Some(node) = self.node.clone() else { return };
        let job = JobId(fetch.job);
        let (events, epoch) = (self.events.clone(), self.epoch);
        tokio::spawn(async move {
            let (mut stored, mut missing) = (Vec::new(), Vec::new());
            for location in fetch.datasets {
                let key = DatasetKey {
                    job,
                    dataset: DatasetId(location.dataset),
                    batch: BatchTime(location.batch_time_ms),
                    partition: location.partition,
                };
                match fetch::dataset(&node, key, ExecutorId(location.executor)).await {
                    Ok(()) => stored.push(key),
                    Err(failure) => {
                        warn!(%job, %failure, "a remembered partition could not be taken over");
                        missing.push(key);
                    }
                }
            }
            let _ = events.send(Event::DatasetsFetched {
                epoch,
                job,
                stored,
                missing,
            });
        });
    }

    fn on_datasets_fetched(&mut self, job: JobId, stored: &[DatasetKey], missing: &[DatasetKey]) {
        for key in stored {
            self.satisfy(Need::Dataset(*key));
        }
        let location = |key: &DatasetKey| wire::DatasetLocation {
            dataset: key.dataset.0,
            batch_time_ms: key.batch.0,
            partition: key.partition,
            executor: 0,
        };
        self.report(Report::DatasetsFetched(wire::DatasetsFetched {
            job: job.0,
            missing: missing.iter().map(location).collect(),
        }));
    }
}
