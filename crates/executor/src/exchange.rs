//! Data of other executors: what is sent to them again, and what is fetched from them.

use std::sync::Arc;

use tidemill_rpc::driver as wire;
use tidemill_rpc::driver::attach_request::Event as Report;
use tidemill_storage::DatasetKey;
use tidemill_types::{BatchTime, BlockId, DatasetId, ExecutorId, JobId, RoutingVersion, StageId, TaskFailure};
use tokio::runtime::Handle;
use tracing::warn;

use crate::batch::Need;
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
                Ok(resent) => {
                    let _io = io.enter();
                    push(&node, resent.deliveries);
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

    pub(crate) fn on_datasets_fetched(&mut self, job: JobId, stored: &[DatasetKey], missing: &[DatasetKey]) {
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
