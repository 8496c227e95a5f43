//! What an executor holds between a registration and the loss of it: its stores, its peers, its number.
//!
//! A new registration gets a new node, so that nothing of an earlier life can be taken for the present one's. Tasks and
//! connections of an earlier node go on with what they have and are not listened to.

use std::collections::HashMap;
use std::sync::Arc;

use dashmap::DashMap;
use tidemill_engine::{TaskMemories, Workspace};
use tidemill_rpc::driver as wire;
use tidemill_storage::{
    BlockStore, BlockStoreOptions, ExchangeRouter, FrameBuilder, MemoryBudget, MemoryKind, MemoryLimits, ShuffleEvent,
    ShuffleOptions, ShuffleStore, SpillDir,
};
use tidemill_types::{BatchTime, ExecutorId, Generation, Incarnation, JobId, StageId, TaskFailure, TaskKey};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

use crate::broadcasts::Broadcasts;
use crate::error::Error;
use crate::event::Event;
use crate::job::InstalledJob;
use crate::options::Options;
use crate::push::Peers;
use crate::saved::Turns;

/// A frame is at most this part of the memory, so that those on their way are a small part of it too.
const FRAMES_IN_MEMORY: u64 = 512;
const MIN_FRAME: u64 = 64 << 10;
/// A peer can always send something ahead of time.
const MIN_WINDOW: u64 = 256 << 10;

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
    pub(crate) memories: Arc<TaskMemories>,
    /// Who saves and loads states.
    pub(crate) turns: Turns,
    /// What tasks work with.
    pub(crate) workspace: Workspace,
    /// Bytes that each peer may have here on credit, were it alone.
    window: u64,
    /// Jobs by number, for the data service: it decodes frames by the sending stage's schema.
    pub(crate) jobs: DashMap<JobId, Arc<InstalledJob>>,
    events: UnboundedSender<Event>,
    epoch: u64,
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
    ) -> Result<Arc<Self>, Error> {
        let budget = MemoryBudget::new(MemoryLimits::of(options.memory));
        // One directory for each node: the incarnation names the process, the epoch the life within it.
        let name = Incarnation(incarnation.0.wrapping_add(epoch));
        let storage = |source: tidemill_storage::Error| Error::Storage {
            directory: options.storage_directory.display().to_string(),
            source,
        };
        let spill = SpillDir::create(&options.storage_directory, name, options.storage_disk).map_err(storage)?;
        let workspace = Workspace::new(&budget, &spill).map_err(|error| Error::Workspace(error.to_string()))?;
        // What one peer may send ahead of time leaves room for the oldest batch.
        let window = options
            .shuffle_window
            .min(budget.limits().floor(MemoryKind::Shuffle) / 2)
            .max(MIN_WINDOW);
        let frame_bytes = (options.memory / FRAMES_IN_MEMORY).clamp(MIN_FRAME, FrameBuilder::DEFAULT_BYTES);
        let lost = {
            let events = events.clone();
            move |what, why| {
                // The loop ends only with the process.
                let _ = events.send(Event::Gone { epoch, what, why });
            }
        };
        let (events, to_loop) = (events.clone(), events.clone());
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
                    lost: Arc::new(lost),
                }),
                broadcasts: Broadcasts::new(&budget),
                shuffle: ShuffleStore::new(ShuffleOptions {
                    budget: Arc::clone(&budget),
                    spill: Some(Arc::clone(&spill)),
                    window,
                    events: Arc::new(on_event),
                }),
                router: ExchangeRouter::new(&budget, Some(Arc::clone(&spill))),
                frames: FrameBuilder::new(executor, frame_bytes),
                peers: Peers::new(executor, incarnation, generation),
                memories: TaskMemories::new(&budget, &spill),
                turns: Turns::default(),
                workspace,
                window,
                spill,
                jobs: DashMap::new(),
                events: to_loop,
                epoch,
                credit: DashMap::new(),
                budget,
            }
        }))
    }

    pub(crate) fn credit_notify(&self, source: ExecutorId) -> Arc<Notify> {
        Arc::clone(&self.credit.entry(source).or_default())
    }

    /// A map output that was kept here is lost.
    pub(crate) fn output_lost(&self, map: TaskKey) {
        let _ = self.events.send(Event::OutputLost { epoch: self.epoch, map });
    }

    /// Rows for a batch have no room here, neither in memory nor on disk: what waits for them fails.
    pub(crate) fn batch_refused(&self, (job, batch): (JobId, BatchTime), error: &tidemill_storage::Error) {
        let failure = TaskFailure::new(error.kind(), error.to_string());
        let _ = self.events.send(Event::Refused {
            epoch: self.epoch,
            job,
            batch,
            failure,
        });
    }

    /// Who holds how much, for the driver.
    pub(crate) fn storage_report(&self) -> wire::StorageReport {
        let kinds = MemoryKind::ALL.into_iter().map(|kind| {
            let used = self.budget.usage(kind);
            let state = match kind {
                MemoryKind::State => self.memories.evicted(),
                _ => 0,
            };
            wire::KindReport {
                kind: kind.name().to_owned(),
                memory_bytes: used.used,
                peak_bytes: used.peak,
                disk_bytes: self.spill.used_by(kind),
                evicted: used.evicted + state,
                dropped: used.dropped,
            }
        });
        wire::StorageReport {
            memory_limit: self.budget.limits().total,
            peak_bytes: self.budget.peak_total(),
            disk_limit: self.spill.limit(),
            spilled_files: self.spill.files(),
            written_bytes: self.spill.written(),
            lost_files: self.spill.lost(),
            kinds: kinds.collect(),
        }
    }

    /// There are so many peers: their windows together are about what one of them would have alone.
    pub(crate) fn share_window(&self, peers: usize) {
        let share = self.window / (peers as u64).max(1);
        self.shuffle.set_window(share.max(MIN_WINDOW));
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
        self.memories.forget_job(job);
        self.router.forget_job(job);
        self.shuffle.forget_job(job);
        self.blocks.forget_job(job);
        self.broadcasts.forget_job(job);
        self.peers.forget_job(job);
    }
}
