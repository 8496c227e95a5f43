//! Jobs as they come, change and go: plans, tables, routing, receivers.

use std::sync::Arc;

use tidemill_rpc::driver as wire;
use tidemill_rpc::driver::attach_request::Event as Report;
use tidemill_rpc::driver::attach_response::Command;
use tidemill_types::{ExecutorId, JobId, ReceiverId, RoutingVersion, StageId, StreamId};
use tracing::error;

use crate::event::Event;
use crate::event_loop::{EventLoop, JobEntry};
use crate::job::InstalledJob;
use crate::receiver::Start;

impl EventLoop {
    pub(crate) fn install(&mut self, install: wire::InstallJob) {
        let job = JobId(install.job);
        self.jobs.insert(job, JobEntry::default());
        let (events, epoch) = (self.events.clone(), self.epoch);
        let registry = self.options.registry.clone();
        // Decoding takes milliseconds for each stage.
        self.cpu.spawn(async move {
            let result = InstalledJob::decode(install, registry).map(Arc::new);
            let _ = events.send(Event::Installed { epoch, job, result });
        });
    }

    pub(crate) fn is_installed(&self, command: &Command) -> bool {
        let job = match command {
            Command::InstallTable(table) => table.job,
            Command::Routing(routing) => routing.job,
            _ => return true,
        };
        self.jobs.get(&JobId(job)).is_none_or(|entry| entry.installed.is_some())
    }

    pub(crate) fn defer(&mut self, command: Command) {
        let job = match &command {
            Command::InstallTable(table) => table.job,
            Command::Routing(routing) => routing.job,
            _ => return,
        };
        if let Some(entry) = self.jobs.get_mut(&JobId(job)) {
            entry.early.push(command);
        }
    }

    pub(crate) fn on_installed(&mut self, job: JobId, result: Result<Arc<InstalledJob>, String>) {
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

    pub(crate) fn installed(&self, job: JobId) -> Option<Arc<InstalledJob>> {
        self.jobs.get(&job).and_then(|entry| entry.installed.clone())
    }

    pub(crate) fn install_table(&mut self, table: &wire::InstallTable) {
        let Some(job) = self.installed(JobId(table.job)) else {
            return;
        };
        if let Err(error) = job.install_table(&table.name, table.version, &table.ipc) {
            error!(job = %job.id, error, "a table cannot be installed");
        }
    }

    pub(crate) fn change_routing(&mut self, routing: wire::Routing) {
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

    pub(crate) fn remove(&mut self, job: JobId) {
        self.jobs.remove(&job);
        self.receivers.abort(|of| of == job);
        self.drop_batches(|(of, _)| of == job);
        if let Some(node) = &self.node {
            node.forget_job(job);
        }
    }

    pub(crate) fn run_receiver(&mut self, run: wire::RunReceiver) {
        let (Some(node), Some(job)) = (&self.node, self.installed(JobId(run.job))) else {
            return;
        };
        let Some(source) = job.source(StreamId(run.stream)) else {
            return;
        };
        let start = Start {
            job: job.id,
            receiver: ReceiverId(run.receiver),
            session: run.session,
            rate: run.rate,
            source: source.clone(),
            interval: job.plan.batch_interval,
            max_block_bytes: self.options.max_block_bytes,
            max_line_bytes: self.options.max_line_bytes,
        };
        self.receivers.start(start, node, &self.events);
    }
}
