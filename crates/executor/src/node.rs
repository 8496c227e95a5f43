//! What an executor holds between a registration and the loss of it: its stores, its peers, its number.
//!
//! A new registration gets a new node, so that nothing of an earlier life can be taken for the present one's. Tasks and
//! connections of an earlier node go on with what they have and are not listened to.

use std::collections::HashMap;
use std::sync::Arc;

use dashmap::DashMap;
use tidemill_engine::TaskMemory;
use tidemill_storage::{
    BlockStore, BlockStoreOptions, ExchangeRouter, FrameBuilder, MemoryBudget, MemoryLimits, ShuffleEvent,
    ShuffleOptions, ShuffleStore, SpillDir,
};
use tidemill_types::{ExecutorId, Generation, Incarnation, JobId, StageId};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

use crate::broadcasts::Broadcasts;
use crate::event::Event;
use crate::job::InstalledJob;
use crate::options::Options;
use crate::push::Peers;

pub(crate) struct Node {
    pub(crate) executor: ExecutorId,
    pub(crate) generation: Generation,
    pub(crate) budget: Arc<MemoryBudget>,
    pub(crate) blocks: BlockStore,
    pub(crate) broadcasts: Broadcasts,
    pub(crate) shuffle: ShuffleStore,
    pub(crate) router: ExchangeRouter,
    pub(crate) frames: FrameBuilder,
    pub(crate) peers: Peers,
    pub(crate) spill: Arc<SpillDir>,
    /// What partitions of stages keep from batch to batch.
    memories: DashMap<(JobId, StageId, u32), Arc<TaskMemory>>,
    /// Jobs by number, for the data service: it decodes frames by the sending stage's schema.
    pub(crate) jobs: DashMap<JobId, Arc<InstalledJob>>,
    /// Woken when there is credit for a source.
    credit: DashMap<ExecutorId, Arc<Notify>>,
}

impl Node {
    pub(crate) fn new(
        epoch: u64,
        executor: ExecutorId,
        generation: Generation,
        incarnation: Incarnation,
        options: &Options,
        events: &UnboundedSender<Event>,
    ) -> Result<Arc<Self>, tidemill_storage::Error> {
        let limits = MemoryLimits {
            blocks: options.storage_memory,
            shuffle: options.shuffle_memory,
            map_outputs: options.kept_outputs,
        };
        let budget = MemoryBudget::new(limits);
        // One directory for each node: the incarnation names the process, the epoch the life within it.
        let name = Incarnation(incarnation.0.wrapping_add(epoch));
        let spill = SpillDir::create(&options.storage_directory, name, options.storage_disk)?;
        let events = events.clone();
        Ok(Arc::new_cyclic(|node: &std::sync::Weak<Node>| {
            let node = node.clone();
            let on_event = move |event| match event {
                ShuffleEvent::Ready(ready) => {
                    // The loop ends only with the process.
                    let _ = events.send(Event::ShuffleReady { epoch, ready });
                }
                ShuffleEvent::Credit { source } => {
                    if let Some(node) = node.upgrade() {
                        node.credit_notify(source).notify_one();
                    }
                }
            };
            Self {
                executor,
                generation,
                blocks: BlockStore::new(BlockStoreOptions {
                    budget: Arc::clone(&budget),
                    spill: Some(Arc::clone(&spill)),
                }),
                broadcasts: Broadcasts::new(&budget),
                shuffle: ShuffleStore::new(ShuffleOptions {
                    budget: Arc::clone(&budget),
                    spill: Some(Arc::clone(&spill)),
                    window: options.shuffle_window,
                    events: Arc::new(on_event),
                }),
                router: ExchangeRouter::new(&budget, Some(Arc::clone(&spill))),
                frames: FrameBuilder::new(executor, FrameBuilder::DEFAULT_BYTES),
                peers: Peers::new(executor, incarnation, generation),
                spill,
                memories: DashMap::new(),
                jobs: DashMap::new(),
                credit: DashMap::new(),
                budget,
            }
        }))
    }

    pub(crate) fn credit_notify(&self, source: ExecutorId) -> Arc<Notify> {
        Arc::clone(&self.credit.entry(source).or_default())
    }

    /// What a partition of a stage keeps.
    pub(crate) fn memory(&self, job: JobId, stage: StageId, partition: u32) -> Arc<TaskMemory> {
        Arc::clone(&self.memories.entry((job, stage, partition)).or_default())
    }

    /// The same if anything has been kept there.
    pub(crate) fn find_memory(&self, job: JobId, stage: StageId, partition: u32) -> Option<Arc<TaskMemory>> {
        let memory = self.memories.get(&(job, stage, partition))?;
        Some(Arc::clone(&memory))
    }

    /// Takes what a job's plan says of its exchanges.
    pub(crate) fn install(&self, job: &Arc<InstalledJob>) {
        use tidemill_dstream::plan::{SlotKind, StageOutput};
        let mut exchanges: HashMap<StageId, tidemill_storage::Exchange> = HashMap::new();
        for stage in &job.plan.stages {
            let StageOutput::Exchange { to, kind } = &stage.output else {
                continue;
            };
            let Some(reader) = job.stage(*to) else { continue };
            let mut readers = vec![Vec::new(); kind.partitions() as usize];
            for slot in &reader.slots {
                if slot.kind != (SlotKind::Shuffle { from: stage.id }) {
                    continue;
                }
                for (partition, reads) in reader.reads.iter().enumerate() {
                    for read in reads.iter().filter(|read| read.slot == slot.id) {
                        if let Some(readers) = readers.get_mut(read.partition as usize) {
                            readers.push(partition as u32);
                        }
                    }
                }
            }
            exchanges.insert(stage.id, tidemill_storage::Exchange { to: *to, readers });
        }
        self.router.install_job(job.id, exchanges);
        self.jobs.insert(job.id, Arc::clone(job));
    }

    pub(crate) fn forget_job(&self, job: JobId) {
        self.jobs.remove(&job);
        self.memories.retain(|(of, _, _), _| *of != job);
        self.router.forget_job(job);
        self.shuffle.forget_job(job);
        self.blocks.forget_job(job);
        self.broadcasts.forget_job(job);
        self.peers.forget_job(job);
    }
}
