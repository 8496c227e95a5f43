//! The loop that owns what is planned on this executor.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tidemill_rpc::driver::attach_request::Event as Report;
use tidemill_rpc::driver::attach_response::Command;
use tidemill_rpc::driver::{self as wire, AttachRequest, AttachResponse, Registered};
use tidemill_rpc::session::{Inbox, Outbox};
use tidemill_storage::{ShuffleReady, VersionKey};
use tidemill_types::{
    BatchTime, ExecutorId, Generation, Incarnation, JobId, ReceiverId, TaskAttempt, TaskFailure, TaskKey,
};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::{debug, error, info};

use crate::batch::{BatchRun, Need};
use crate::data_service::Served;
use crate::event::Event;
use crate::job::InstalledJob;
use crate::launch::Launch;
use crate::node::Node;
use crate::options::Options;
use crate::queue::ReadyQueue;
use crate::receiver::Receivers;

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
    /// Batches that are not launched here yet and of which rows were refused, and why.
    pub(crate) refused: BTreeMap<(JobId, BatchTime), TaskFailure>,
    pub(crate) queue: ReadyQueue,
    pub(crate) receivers: Receivers,
    /// Versions of broadcast variables that are on their way.
    pub(crate) collecting: HashMap<VersionKey, AbortHandle>,
    /// Saved states that are on their way, by the tasks that have left them.
    pub(crate) loading: HashSet<TaskKey>,
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
    pub(crate) installed: Option<Arc<InstalledJob>>,
    /// Commands that came before the templates were decoded.
    pub(crate) early: Vec<Command>,
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
            Event::Gone { epoch, what, why } => {
                if epoch == self.epoch {
                    self.on_gone(what, why);
                }
            }
            Event::OutputLost { epoch, map } => {
                if epoch == self.epoch {
                    self.report_lost(map.job, &[], &[map], &[]);
                }
            }
            Event::Refused {
                epoch,
                job,
                batch,
                failure,
            } => {
                if epoch == self.epoch {
                    self.on_refused(job, batch, &failure);
                }
            }
            Event::Kept { epoch, rows } => {
                if epoch == self.epoch {
                    self.report(Report::KeptRows(rows));
                }
            }
            Event::BroadcastCollected { epoch, key, result } => {
                if epoch == self.epoch {
                    self.on_broadcast_collected(key, result);
                }
            }
            Event::StateSaved { epoch, task, result } => {
                if epoch == self.epoch {
                    self.on_state_saved(task, result);
                }
            }
            Event::StateLoaded { epoch, task, result } => {
                if epoch == self.epoch {
                    self.on_state_loaded(task, result);
                }
            }
            Event::Heartbeat => self.send_heartbeat(),
        }
    }

    // === the control channel ===

    pub(crate) fn on_connected(
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
    pub(crate) fn start_over(&mut self, executor: ExecutorId, generation: Generation) {
        self.epoch += 1;
        self.link.outbox = Outbox::default();
        self.link.inbox = Inbox::default();
        self.jobs.clear();
        self.batches.clear();
        self.waiting.clear();
        self.complete.clear();
        self.refused.clear();
        self.loading.clear();
        self.queue = ReadyQueue::new(self.options.slots);
        self.receivers.abort(|_| true);
        self.collecting.drain().for_each(|(_, collector)| collector.abort());
        if let Some(node) = &self.node {
            node.broadcasts.clear();
        }
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

    pub(crate) fn start_heartbeat(&mut self, every: Duration) {
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

    pub(crate) fn send_heartbeat(&mut self) {
        // Local credit that was given back is used again.
        if let Some(node) = &self.node {
            node.peers.grant_local(node.shuffle.take_credit(node.executor));
        }
        let heartbeat = wire::Heartbeat {
            running_tasks: self.queue.running(),
            queued_tasks: self.queue.queued(),
            memory_bytes: self.node.as_ref().map_or(0, |node| node.budget.total()),
            spilled_bytes: self.node.as_ref().map_or(0, |node| node.spill.used()),
            pieces: self.node.as_ref().map(|node| node.broadcasts.counts()),
            storage: self.node.as_ref().map(|node| node.storage_report()),
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
    pub(crate) fn report(&mut self, event: Report) {
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

    pub(crate) fn on_message(&mut self, connection: u64, message: AttachResponse) {
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

    pub(crate) fn on_command(&mut self, command: Command) {
        match command {
            Command::Registered(_) | Command::Refused(_) | Command::Heartbeat(_) => {}
            Command::Peers(peers) => {
                if let Some(node) = &self.node {
                    let peers = peers
                        .peers
                        .into_iter()
                        .map(|peer| (ExecutorId(peer.executor), peer.data_address));
                    let peers: Vec<_> = peers.collect();
                    node.share_window(peers.len());
                    node.peers.update(node, peers);
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
            Command::OfferBroadcast(offer) => self.offer_broadcast(offer),
            Command::DropBroadcast(drop) => self.drop_broadcast(&drop),
            Command::Unpersist(unpersist) => self.unpersist(&unpersist),
            Command::ReadKept(read) => self.read_kept(read),
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
            Command::SetReceiverRate(set) => {
                let (job, receiver) = (JobId(set.job), ReceiverId(set.receiver));
                self.receivers.set_rate(job, receiver, set.session, set.rate);
            }
            Command::StopReceiver(stop) => {
                self.receivers
                    .stop(JobId(stop.job), ReceiverId(stop.receiver), stop.session);
            }
        }
    }
}
