//! A launch message in the executor's own terms.

use tidemill_dstream::InputItem;
use tidemill_rpc::convert;
use tidemill_rpc::driver as wire;
use tidemill_types::{
    Attempt, BatchTime, BlockId, BroadcastId, ExecutorId, JobId, PlanVersion, ReceiverId, RoutingVersion, SlotId,
    StageId,
};

#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) job: JobId,
    pub(crate) plan: PlanVersion,
    pub(crate) routing: RoutingVersion,
    pub(crate) batch: BatchTime,
    pub(crate) index: i64,
    pub(crate) tasks: Vec<TaskLaunch>,
    /// Partitions of each sending stage that run.
    pub(crate) expectations: Vec<(StageId, Vec<u32>)>,
    pub(crate) oldest: BatchTime,
    pub(crate) remember_from: BatchTime,
    pub(crate) restore: bool,
    pub(crate) tables: Vec<(String, u32)>,
    pub(crate) broadcasts: Vec<(BroadcastId, u32)>,
    pub(crate) absent: Vec<BatchTime>,
    pub(crate) forget_blocks: Vec<BlockId>,
}

#[derive(Debug)]
pub(crate) struct TaskLaunch {
    pub(crate) stage: StageId,
    pub(crate) partition: u32,
    pub(crate) attempt: Attempt,
    pub(crate) inputs: Vec<TaskInput>,
    pub(crate) only_targets: Vec<u32>,
    /// The state that it leaves is saved.
    pub(crate) save_state: bool,
    /// The batch of which its stage's state is saved.
    pub(crate) saved_state: Option<BatchTime>,
}

#[derive(Clone, Debug)]
pub(crate) struct TaskInput {
    pub(crate) slot: SlotId,
    pub(crate) partition: u32,
    pub(crate) items: Vec<InputItem>,
}

impl TryFrom<wire::LaunchBatch> for Launch {
    type Error = convert::Error;

    fn try_from(launch: wire::LaunchBatch) -> Result<Self, convert::Error> {
        let job = JobId(launch.job);
        let of_launch = |task: wire::TaskLaunch| {
            let base = launch.state_bases.iter().find(|base| base.stage == task.stage);
            Ok(TaskLaunch {
                save_state: launch.save_state,
                saved_state: base.map(|base| BatchTime(base.batch_time_ms)),
                ..task_launch(job, task)?
            })
        };
        let tasks = launch
            .tasks
            .into_iter()
            .map(of_launch)
            .collect::<Result<_, convert::Error>>()?;
        Ok(Self {
            job,
            plan: PlanVersion(launch.plan_version),
            routing: RoutingVersion(launch.routing_version),
            batch: BatchTime(launch.batch_time_ms),
            index: launch.index,
            tasks,
            expectations: launch
                .expectations
                .into_iter()
                .map(|expectation| (StageId(expectation.from_stage), expectation.map_partitions))
                .collect(),
            oldest: BatchTime(launch.oldest_batch_ms),
            remember_from: BatchTime(launch.remember_from_ms),
            restore: launch.restore,
            tables: launch
                .tables
                .into_iter()
                .map(|table| (table.name, table.version))
                .collect(),
            broadcasts: launch
                .broadcasts
                .into_iter()
                .map(|version| (BroadcastId(version.broadcast), version.version))
                .collect(),
            absent: launch.absent_batches_ms.into_iter().map(BatchTime).collect(),
            forget_blocks: launch
                .forget_blocks
                .into_iter()
                .map(|block| block_id(job, &block))
                .collect(),
        })
    }
}

fn task_launch(job: JobId, task: wire::TaskLaunch) -> Result<TaskLaunch, convert::Error> {
    let input = |input: wire::SourceInput| {
        let items = input
            .items
            .into_iter()
            .map(|item| convert::input_item(job, item))
            .collect::<Result<_, _>>()?;
        Ok(TaskInput {
            slot: SlotId(input.slot),
            partition: input.partition,
            items,
        })
    };
    Ok(TaskLaunch {
        stage: StageId(task.stage),
        partition: task.partition,
        attempt: Attempt(task.attempt),
        inputs: task.inputs.into_iter().map(input).collect::<Result<_, _>>()?,
        only_targets: task.only_targets,
        save_state: false,
        saved_state: None,
    })
}

fn block_id(job: JobId, block: &wire::BlockRef) -> BlockId {
    BlockId {
        job,
        receiver: ReceiverId(block.receiver),
        executor: ExecutorId(block.executor),
        session: block.session,
        sequence: block.sequence,
    }
}
