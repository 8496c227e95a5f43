//! Data of other executors: what is sent to them again, and what is fetched from them.

use std::sync::Arc;

use tidemill_rpc::driver as wire;
use tidemill_rpc::driver::attach_request::Event as Report;
use tidemill_storage::{DatasetKey, Gone, Stowed};
use tidemill_types::{
    BatchTime, BlockId, DatasetId, ExecutorId, JobId, RoutingVersion, StageId, TaskAttempt, TaskFailure, TaskKey,
};
use tokio::runtime::Handle;
use tracing::warn;

use crate::batch::{Need, TaskState};
use crate::event::Event;
use crate::event_loop::EventLoop;
use crate::fetch;
use crate::node::Node;
use crate::push::push;

impl EventLoop {
    pub(crate) fn resend(&mut self, resend: wire::Resend) {
        let Some(node) = self.node.clone() else { return };
        let (job, batch) = (JobId(resend.job), BatchTime(resend.batch_time_ms));
        let io = Handle::current();
        self.cpu.spawn(async move {
            let from = StageId(resend.from_stage);
            let version = RoutingVersion(resend.routing_version);
            match node
                .router
                .collect_resend(job, batch, from, &resend.partitions, version)
            {
                Ok(deliveries) => {
                    let _io = io.enter();
                    push(&node, deliveries);
                }
                Err(error) => warn!(%job, %batch, %error, "kept map outputs cannot be sent again"),
            }
        });
    }

    pub(crate) fn fetch_block(&self, node: &Arc<Node>, block: BlockId) {
        let (node, events, epoch) = (Arc::clone(node), self.events.clone(), self.epoch);
        tokio::spawn(async move {
            let result = fetch::block(&node, block).await;
            let _ = events.send(Event::BlockFetched { epoch, block, result });
        });
    }

    pub(crate) fn on_block_fetched(&mut self, block: BlockId, result: Result<(), TaskFailure>) {
        match result {
            Ok(()) => self.satisfy(Need::Block(block)),
            Err(failure) => {
                for task in self.waiting.remove(&Need::Block(block)).unwrap_or_default() {
                    self.on_task_finished(task, Err(failure.clone()));
                }
            }
        }
    }

    pub(crate) fn fetch_datasets(&mut self, fetch: wire::FetchDatasets) {
        let Some(node) = self.node.clone() else { return };
        let job = JobId(fetch.job);
        let Some(installed) = self.installed(job) else { return };
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
                let medium = installed.medium(key.dataset);
                match fetch::dataset(&node, key, ExecutorId(location.executor), medium).await {
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

    /// Tells the driver what is not here any more, after what it has to know of the tasks that left it: it runs again only
    /// those that have ended.
    pub(crate) fn report_lost(&mut self, job: JobId, datasets: &[DatasetKey], outputs: &[TaskKey], blocks: &[BlockId]) {
        let batches = datasets.iter().map(|key| key.batch);
        for batch in batches.chain(outputs.iter().map(|map| map.batch)) {
            self.report_promptly(job, batch);
        }
        let lost = wire::DataLost {
            job: job.0,
            datasets: datasets.iter().map(location).collect(),
            outputs: outputs
                .iter()
                .map(|map| wire::LostOutput {
                    batch_time_ms: map.batch.0,
                    stage: map.stage.0,
                    partition: map.partition,
                })
                .collect(),
            blocks: blocks
                .iter()
                .map(|block| wire::BlockRef {
                    receiver: block.receiver.0,
                    executor: block.executor.0,
                    session: block.session,
                    sequence: block.sequence,
                    rows: 0,
                })
                .collect(),
        };
        self.report(Report::DataLost(lost));
    }

    /// Something went before its time.
    pub(crate) fn on_gone(&mut self, what: Stowed, why: Gone) {
        match (what, why) {
            (Stowed::Block(block), _) => {
                warn!(%block, "a received block that was on disk is lost");
                // A copy of another executor's block is fetched again.
                if self.node.as_ref().is_some_and(|node| node.executor == block.executor) {
                    self.report_lost(block.job, &[], &[], &[block]);
                }
            }
            (Stowed::Dataset(key), why) => {
                if why == Gone::FileLost {
                    let DatasetKey {
                        job,
                        dataset,
                        batch,
                        partition,
                    } = key;
                    warn!(%job, %dataset, %batch, partition, "a remembered partition that was on disk is lost");
                }
                self.report_lost(key.job, &[key], &[], &[]);
            }
        }
    }

    /// Rows for a batch were refused: the tasks that wait for shuffled rows will not get them.
    pub(crate) fn on_refused(&mut self, job: JobId, batch: BatchTime, failure: &TaskFailure) {
        let Some(run) = self.batches.get(&(job, batch)) else {
            self.refused.insert((job, batch), failure.clone());
            return;
        };
        let waiting: Vec<TaskAttempt> = run
            .tasks
            .iter()
            .filter(|(_, task)| task.missing.iter().any(|need| matches!(need, Need::Shuffle(_))))
            .filter(|(_, task)| task.state == TaskState::Waiting)
            .map(|((stage, partition), task)| TaskAttempt {
                key: TaskKey {
                    job,
                    batch,
                    stage: *stage,
                    partition: *partition,
                },
                attempt: task.launch.attempt,
            })
            .collect();
        for task in waiting {
            self.on_task_finished(task, Err(failure.clone()));
        }
    }

    /// A stream is not to be kept any longer than windows need it.
    pub(crate) fn unpersist(&self, unpersist: &wire::Unpersist) {
        let (job, dataset) = (JobId(unpersist.job), DatasetId(unpersist.dataset));
        let (Some(node), Some(installed)) = (self.node.clone(), self.installed(job)) else {
            return;
        };
        installed.unpersist(dataset);
        let from = BatchTime(unpersist.from_ms);
        // Files may go with it.
        tokio::task::spawn_blocking(move || node.blocks.forget_dataset(job, dataset, from));
    }

    pub(crate) fn on_datasets_fetched(&mut self, job: JobId, stored: &[DatasetKey], missing: &[DatasetKey]) {
        for key in stored {
            self.satisfy(Need::Dataset(*key));
        }
        self.report(Report::DatasetsFetched(wire::DatasetsFetched {
            job: job.0,
            missing: missing.iter().map(location).collect(),
        }));
    }
}

fn location(key: &DatasetKey) -> wire::DatasetLocation {
    wire::DatasetLocation {
        dataset: key.dataset.0,
        batch_time_ms: key.batch.0,
        partition: key.partition,
        executor: 0,
    }
}
