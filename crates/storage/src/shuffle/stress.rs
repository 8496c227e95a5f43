//! Two executors, joined by in-memory connections, shuffle far more than they may keep in memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidemill_types::Incarnation;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;
use crate::exchange::{Delivery, Exchange, ExchangeRouter};
use crate::frame::{FrameBuilder, decode, encode};
use crate::memory::MemoryLimits;
use crate::outbox::CreditWindow;
use crate::testing::{numbers, values};

const JOB: JobId = JobId(1);
const MAP: StageId = StageId(0);
const REDUCE: StageId = StageId(1);
const T1: BatchTime = BatchTime(1000);
const T2: BatchTime = BatchTime(2000);
const VERSION: RoutingVersion = RoutingVersion(1);
const EXECUTORS: usize = 2;
const MAPS: u32 = 8;
const PARTITIONS: u32 = 4;
const ATTEMPTS: u32 = 2;
const LIMIT: u64 = 512 * 1024;
const WINDOW: u64 = LIMIT / 4;
const FRAME_BYTES: u64 = 16 * 1024;
/// Rows of a map for a partition: each batch brings twice the limit to each executor.
const ROWS: i64 = (2 * LIMIT / 8 / MAPS as u64 / (PARTITIONS as u64 / EXECUTORS as u64)) as i64;
const DEADLINE: Duration = Duration::from_secs(120);

struct Executor {
    id: ExecutorId,
    store: ShuffleStore,
    router: ExchangeRouter,
    budget: Arc<MemoryBudget>,
    spill: Arc<SpillDir>,
    /// What this executor may send to each.
    windows: HashMap<ExecutorId, CreditWindow>,
    /// Bytes of frames that came on credit and were kept.
    on_credit: AtomicU64,
    /// Frames that went to files.
    spilled: AtomicU64,
}

struct Cluster {
    executors: Vec<Executor>,
    _parent: tempfile::TempDir,
}

type Events = mpsc::UnboundedReceiver<(ExecutorId, ShuffleEvent)>;

fn id(index: usize) -> ExecutorId {
    ExecutorId(index as u32)
}

fn owned(executor: ExecutorId) -> Vec<u32> {
    (0..PARTITIONS)
        .filter(|partition| *partition as usize % EXECUTORS == executor.0 as usize)
        .collect()
}

fn cluster() -> (Arc<Cluster>, Events) {
    let parent = tempfile::tempdir().unwrap();
    let (send, events) = mpsc::unbounded_channel();
    let executors = (0..EXECUTORS).map(|index| {
        let id = id(index);
        let spill = SpillDir::create(parent.path(), Incarnation(index as u64), u64::MAX).unwrap();
        let budget = MemoryBudget::new(MemoryLimits::without_floors(2 * LIMIT));
        let send = send.clone();
        let store = ShuffleStore::new(ShuffleOptions {
            budget: Arc::clone(&budget),
            spill: Some(Arc::clone(&spill)),
            window: WINDOW,
            // After a failed assertion nobody listens any more.
            events: Arc::new(move |event| {
                let _ = send.send((id, event));
            }),
        });
        let router = ExchangeRouter::new(&budget, Some(Arc::clone(&spill)));
        let readers = (0..PARTITIONS).map(|partition| vec![partition]).collect();
        router.install_job(JOB, HashMap::from([(MAP, Exchange { to: REDUCE, readers })]));
        let routing = (0..PARTITIONS)
            .map(|partition| self::id(partition as usize % EXECUTORS))
            .collect();
        router.change_routing(JOB, VERSION, HashMap::from([(REDUCE, routing)]));
        Executor {
            id,
            store,
            router,
            budget,
            spill,
            windows: (0..EXECUTORS)
                .map(|peer| (self::id(peer), CreditWindow::new()))
                .collect(),
            on_credit: AtomicU64::new(0),
            spilled: AtomicU64::new(0),
        }
    });
    let cluster = Cluster {
        executors: executors.collect(),
        _parent: parent,
    };
    for from in &cluster.executors {
        for (to, window) in &from.windows {
            window.connected(cluster.executor(*to).store.open_source(from.id), 0);
            window.set_oldest(JOB, T1);
        }
    }
    (Arc::new(cluster), events)
}

fn rows(batch: BatchTime, map: u32, partition: u32) -> impl Iterator<Item = i64> {
    let first = batch.0 * 1_000_000_000 + i64::from(map) * 10_000_000 + i64::from(partition) * 1_000_000;
    first..first + ROWS
}

impl Cluster {
    fn executor(&self, id: ExecutorId) -> &Executor {
        &self.executors[id.0 as usize]
    }

    /// Runs the maps of one attempt of a batch on their executors, and sends what they made.
    fn run_maps(self: &Arc<Self>, batch: BatchTime, attempt: Attempt, senders: &mut JoinSet<()>) {
        for map in 0..MAPS {
            let from = id(map as usize % EXECUTORS);
            let mut output = self.executor(from).router.write_output();
            for partition in 0..PARTITIONS {
                output.push(partition, numbers(rows(batch, map, partition))).unwrap();
            }
            let key = TaskKey {
                job: JOB,
                batch,
                stage: MAP,
                partition: map,
            };
            for delivery in self
                .executor(from)
                .router
                .finish_map(key, attempt, output, None)
                .unwrap()
            {
                senders.spawn(Arc::clone(self).send(from, delivery));
            }
        }
    }

    async fn send(self: Arc<Self>, from: ExecutorId, delivery: Delivery) {
        let window = &self.executor(from).windows[&delivery.to];
        let (sender, loaded) = (Arc::clone(&self), delivery.clone());
        let load = move || sender.executor(from).router.load(&loaded).unwrap();
        let parts = tokio::task::spawn_blocking(load).await.unwrap().unwrap_or_default();
        for mut frame in FrameBuilder::new(from, FRAME_BYTES).build(&delivery, &parts) {
            let encoded = (from != delivery.to).then(|| encode(&frame).unwrap());
            let bytes = encoded.as_ref().map_or(frame.bytes, crate::EncodedFrame::bytes);
            let permit = window.acquire(frame.head.job, frame.head.batch, bytes).await.unwrap();
            if let Some(mut encoded) = encoded {
                encoded.head.oldest = permit.oldest;
                frame = decode(&numbers([]).schema(), encoded).unwrap();
            }
            frame.head.oldest = permit.oldest;
            assert_eq!(frame.bytes, bytes);
            let receiver = Arc::clone(&self);
            let admit = move || receiver.executor(delivery.to).admit(frame);
            if receiver_would_block(&self, delivery.to) {
                tokio::task::spawn_blocking(admit).await.unwrap();
            } else {
                admit();
            }
        }
    }
}

/// Spilling is done elsewhere than on the threads of the runtime; here also what might have to be.
fn receiver_would_block(cluster: &Cluster, to: ExecutorId) -> bool {
    cluster.executor(to).budget.used(MemoryKind::Shuffle) > LIMIT / 2
}

impl Executor {
    fn admit(&self, frame: Frame) {
        let (oldest, bytes) = (frame.head.oldest, frame.bytes);
        let admission = self.store.admit(frame).unwrap();
        if admission == Admission::Spilled {
            self.spilled.fetch_add(1, Ordering::AcqRel);
        }
        if !oldest && !matches!(admission, Admission::Dropped(_)) {
            self.on_credit.fetch_add(bytes, Ordering::AcqRel);
        }
    }

    fn expect(&self, batch: BatchTime) {
        self.store
            .expect(JOB, batch, MAP, &(0..MAPS).collect::<Vec<_>>(), &owned(self.id));
    }
}

/// Passes credit on and reads what is ready, until all partitions of `batch` were read.
async fn reduce(cluster: &Arc<Cluster>, events: &mut Events, batch: BatchTime, early: &mut Vec<ShuffleReady>) {
    let mut left = PARTITIONS;
    let ready: Vec<_> = early.extract_if(.., |ready| ready.batch == batch).collect();
    left -= ready.len() as u32;
    for ready in ready {
        check(cluster, ready).await;
    }
    while left > 0 {
        let (executor, event) = events.recv().await.unwrap();
        match event {
            ShuffleEvent::Credit { source } => {
                let credit = cluster.executor(executor).store.take_credit(source);
                cluster.executor(source).windows[&executor].grant(credit);
            }
            ShuffleEvent::Ready(ready) if ready.batch == batch => {
                check(cluster, ready).await;
                left -= 1;
            }
            ShuffleEvent::Ready(ready) => early.push(ready),
        }
    }
}

/// The partition has all rows of all maps, once and in order.
async fn check(cluster: &Arc<Cluster>, ready: ShuffleReady) {
    let owner = id(ready.partition as usize % EXECUTORS);
    let cluster = Arc::clone(cluster);
    let read = move || {
        cluster
            .executor(owner)
            .store
            .read(JOB, ready.batch, MAP, ready.partition)
            .unwrap()
    };
    let read = tokio::task::spawn_blocking(read).await.unwrap();
    let expected: Vec<i64> = (0..MAPS)
        .flat_map(|map| rows(ready.batch, map, ready.partition))
        .collect();
    assert!(
        values(&read) == expected,
        "rows of {ready:?} are missing, doubled or out of order"
    );
}

async fn finish(cluster: &Cluster, batch: BatchTime) {
    let next = BatchTime(batch.0 + 1000);
    for executor in &cluster.executors {
        executor.store.forget_before(JOB, next, VERSION);
        executor.router.forget_before(JOB, next);
        executor
            .windows
            .values()
            .for_each(|window| window.set_oldest(JOB, next));
    }
}

async fn run() {
    let (cluster, mut events) = cluster();
    let mut senders = JoinSet::new();
    let mut early = Vec::new();

    // The later batch first: it uses up all credit and waits.
    cluster.run_maps(T2, Attempt(0), &mut senders);
    let windows = || cluster.executors.iter().flat_map(|executor| executor.windows.values());
    while windows().any(|window| window.waiting() == 0) {
        tokio::task::yield_now().await;
    }
    for attempt in 0..ATTEMPTS {
        cluster.run_maps(T1, Attempt(attempt), &mut senders);
    }
    // Launch messages may come after the first frames.
    cluster.executors.iter().for_each(|executor| executor.expect(T2));
    cluster.executors.iter().for_each(|executor| executor.expect(T1));
    reduce(&cluster, &mut events, T1, &mut early).await;
    assert!(early.is_empty());
    for executor in &cluster.executors {
        let on_credit = executor.on_credit.load(Ordering::Acquire);
        assert!(
            on_credit > 0 && on_credit <= WINDOW * EXECUTORS as u64,
            "{on_credit} bytes came on credit"
        );
        assert!(
            executor.spill.written() > 0,
            "a batch of twice the limit goes to files in part"
        );
    }

    finish(&cluster, T1).await;
    let mut output = cluster.executors[0].router.write_output();
    output.push(0, numbers(rows(T1, 0, 0))).unwrap();
    let key = TaskKey {
        job: JOB,
        batch: T1,
        stage: MAP,
        partition: 0,
    };
    assert!(
        cluster.executors[0]
            .router
            .finish_map(key, Attempt(9), output, None)
            .unwrap()
            .is_empty()
    );
    reduce(&cluster, &mut events, T2, &mut early).await;
    while let Some(sender) = senders.join_next().await {
        sender.unwrap();
    }
    finish(&cluster, T2).await;

    for executor in &cluster.executors {
        let peak = executor.budget.peak(MemoryKind::Shuffle);
        assert!(
            peak > LIMIT && peak <= 2 * LIMIT,
            "the peak was {peak} of {} bytes",
            2 * LIMIT
        );
        assert_eq!(
            (executor.budget.total(), executor.spill.used()),
            (0, 0),
            "nothing stays"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_batches_of_four_times_the_limit_pass_within_it() {
    timeout(DEADLINE, run()).await.expect("the shuffle stands still");
}
