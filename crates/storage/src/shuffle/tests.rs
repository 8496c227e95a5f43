use std::fs;

use tidemill_types::Incarnation;

use super::*;
use crate::memory::MemoryLimits;
use crate::testing::{numbers, values};

const JOB: JobId = JobId(1);
const T1: BatchTime = BatchTime(1000);
const T2: BatchTime = BatchTime(2000);
const STAGE: StageId = StageId(0);
const V1: RoutingVersion = RoutingVersion(1);
const V2: RoutingVersion = RoutingVersion(2);
const PEER: ExecutorId = ExecutorId(9);
const LIMIT: u64 = 10_000;

struct Fixture {
    store: ShuffleStore,
    budget: Arc<MemoryBudget>,
    events: Arc<Mutex<Vec<ShuffleEvent>>>,
    spill: Option<Arc<SpillDir>>,
    _parent: tempfile::TempDir,
}

fn fixture_with(spill: bool) -> Fixture {
    let parent = tempfile::tempdir().unwrap();
    let spill = spill.then(|| SpillDir::create(parent.path(), Incarnation(1), u64::MAX).unwrap());
    let budget = MemoryBudget::new(MemoryLimits::without_floors(LIMIT));
    let events = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&events);
    let store = ShuffleStore::new(ShuffleOptions {
        budget: Arc::clone(&budget),
        spill: spill.clone(),
        window: 5_000,
        events: Arc::new(move |event| log.lock().push(event)),
    });
    Fixture {
        store,
        budget,
        events,
        spill,
        _parent: parent,
    }
}

fn fixture() -> Fixture {
    fixture_with(true)
}

impl Fixture {
    fn ready(&self) -> Vec<(BatchTime, u32)> {
        let events = std::mem::take(&mut *self.events.lock());
        let ready = events.iter().filter_map(|event| match event {
            ShuffleEvent::Ready(ready) => Some((ready.batch, ready.partition)),
            ShuffleEvent::Credit { .. } => None,
        });
        ready.collect()
    }

    fn read(&self, batch: BatchTime, partition: u32) -> Vec<i64> {
        values(&self.store.read(JOB, batch, STAGE, partition).unwrap())
    }

    fn memory(&self) -> u64 {
        self.budget.used(MemoryKind::Shuffle)
    }

    fn lose_spilled_files(&self) {
        for file in fs::read_dir(self.spill.as_ref().unwrap().path()).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
    }
}

/// A delivery of one frame, oldest, with `rows` rows for each target, from `map * 1000` on.
fn frame(batch: BatchTime, map: u32, delivery: u64, targets: &[u32], rows: i64) -> Frame {
    let first = i64::from(map) * 1000;
    Frame {
        head: FrameHead {
            job: JOB,
            batch,
            from_stage: STAGE,
            map_partition: map,
            attempt: Attempt(0),
            routing_version: V1,
            source: PEER,
            delivery,
            targets: Arc::from(targets),
            index: 0,
            last: true,
            oldest: true,
        },
        runs: targets
            .iter()
            .filter(|_| rows > 0)
            .map(|partition| Run {
                partition: *partition,
                rows: numbers(first..first + rows),
            })
            .collect(),
        bytes: rows as u64 * 8 * targets.len() as u64,
    }
}

fn on_credit(mut frame: Frame) -> Frame {
    frame.head.oldest = false;
    frame
}

#[test]
fn reduces_read_maps_in_order_and_can_read_again() {
    let fixture = fixture();
    let store = &fixture.store;
    store.expect(JOB, T1, STAGE, &[0, 1, 2], &[4, 5]);
    for (map, rows) in [(2, 2), (0, 0), (1, 1)] {
        assert_eq!(
            store.admit(frame(T1, map, map.into(), &[4, 5], rows)).unwrap(),
            Admission::InMemory
        );
    }
    assert_eq!(fixture.ready(), [(T1, 4), (T1, 5)]);
    for _ in 0..2 {
        assert_eq!(fixture.read(T1, 4), [1000, 2000, 2001]);
    }
    let again = store.admit(frame(T1, 2, 2, &[4, 5], 2)).unwrap();
    assert_eq!(again, Admission::Dropped(DropReason::Duplicate));
    let other = store.admit(frame(T1, 2, 77, &[4], 2)).unwrap();
    assert_eq!(other, Admission::Dropped(DropReason::Superseded));
    assert!(fixture.ready().is_empty());
}

#[test]
fn reading_too_early_names_the_missing_maps() {
    let fixture = fixture();
    fixture.store.expect(JOB, T1, STAGE, &[0, 1, 2], &[4]);
    fixture.store.admit(frame(T1, 1, 0, &[4], 1)).unwrap();
    let error = fixture.store.read(JOB, T1, STAGE, 4).unwrap_err();
    assert!(
        matches!(&error, Error::Incomplete { missing, .. } if *missing == [0, 2]),
        "{error}"
    );
    assert_eq!(fixture.store.missing(JOB, T1, STAGE), [0, 2]);
    assert!(fixture.store.read(JOB, T2, STAGE, 4).is_err());
}

#[test]
fn frames_of_the_oldest_batch_beyond_the_limit_go_to_files() {
    let fixture = fixture();
    fixture.store.expect(JOB, T1, STAGE, &[0, 1, 2, 3], &[1, 2]);
    let mut spilled = 0;
    for map in 0..4 {
        let frame = frame(T1, map, map.into(), &[1, 2], 300);
        let would_spill = fixture.store.would_spill(&frame);
        let admission = fixture.store.admit(frame).unwrap();
        assert_eq!(would_spill, admission == Admission::Spilled);
        spilled += usize::from(would_spill);
    }
    assert_eq!(spilled, 2);
    assert!(fixture.budget.peak(MemoryKind::Shuffle) <= LIMIT);
    assert_eq!(fixture.ready().len(), 2);
    let expected: Vec<i64> = (0..4).flat_map(|map| map * 1000..map * 1000 + 300).collect();
    assert_eq!(fixture.read(T1, 2), expected);
    fixture.store.forget_before(JOB, T2, V1);
    assert_eq!((fixture.memory(), fixture.spill.as_ref().unwrap().used()), (0, 0));
}

#[test]
fn without_files_a_frame_that_does_not_fit_is_an_error_and_costs_nothing() {
    let fixture = fixture_with(false);
    assert_eq!(fixture.store.open_source(PEER), 5_000);
    let error = fixture.store.admit(on_credit(frame(T1, 0, 0, &[1], 2000))).unwrap_err();
    assert!(matches!(error, Error::Full { .. }));
    assert_eq!(fixture.memory(), 0);
    assert_eq!(fixture.store.take_credit(PEER), 5_000);
}

#[test]
fn credit_returns_when_a_batch_is_forgotten_and_at_once_for_dropped_frames() {
    let fixture = fixture();
    let store = &fixture.store;
    assert_eq!(store.open_source(PEER), 5_000);
    store.admit(on_credit(frame(T2, 0, 0, &[1], 100))).unwrap();
    store.admit(frame(T1, 0, 1, &[1], 100)).unwrap();
    assert_eq!(store.take_credit(PEER), 0);
    store.admit(on_credit(frame(T2, 0, 0, &[1], 100))).unwrap();
    assert_eq!(*fixture.events.lock(), [ShuffleEvent::Credit { source: PEER }]);
    assert_eq!(store.take_credit(PEER), 800, "of the duplicate");
    store.forget_before(JOB, T2, V1);
    assert_eq!(store.take_credit(PEER), 0, "the oldest batch came without credit");
    store.forget_job(JOB);
    assert_eq!(store.take_credit(PEER), 800);
    assert_eq!(fixture.memory(), 0);
}

#[test]
fn frames_of_forgotten_batches_and_removed_jobs_are_dropped() {
    let fixture = fixture();
    let store = &fixture.store;
    store.admit(frame(T1, 0, 0, &[1], 10)).unwrap();
    store.forget_before(JOB, T2, V1);
    let late = Admission::Dropped(DropReason::Late);
    assert_eq!(store.admit(frame(T1, 1, 1, &[1], 10)).unwrap(), late);
    assert_eq!(store.admit(frame(T2, 1, 1, &[1], 10)).unwrap(), Admission::InMemory);
    store.forget_job(JOB);
    assert_eq!(store.admit(frame(T2, 2, 2, &[1], 10)).unwrap(), late);
    store.expect(JOB, T2, STAGE, &[], &[1]);
    assert!(fixture.ready().is_empty());
    assert_eq!(fixture.memory(), 0);
}

#[test]
fn a_restored_batch_takes_frames_of_the_new_routing_even_before_it_is_expected() {
    let fixture = fixture();
    let store = &fixture.store;
    store.forget_before(JOB, T2, V1);
    let mut early = frame(T1, 0, 0, &[1], 10);
    early.head.routing_version = V2;
    assert_eq!(store.admit(early).unwrap(), Admission::InMemory);
    store.expect(JOB, T1, STAGE, &[0], &[1]);
    assert_eq!(fixture.ready(), [(T1, 1)]);

    // The job goes on meanwhile; only its own forgetting ends the restored batch.
    store.forget_before(JOB, BatchTime(9000), V2);
    assert_eq!(fixture.read(T1, 1).len(), 10);
    store.forget_batch(JOB, T1, V2);
    let mut late = frame(T1, 0, 1, &[1], 10);
    late.head.routing_version = V2;
    assert_eq!(store.admit(late).unwrap(), Admission::Dropped(DropReason::Late));
    assert_eq!(fixture.memory(), 0);
}

#[test]
fn frames_of_a_restored_batch_that_nobody_expects_do_not_stay_for_ever() {
    let fixture = fixture();
    fixture.store.forget_before(JOB, T2, V1);
    let mut stray = frame(T1, 0, 0, &[1], 10);
    stray.head.routing_version = V2;
    fixture.store.admit(stray).unwrap();
    fixture.store.forget_before(JOB, BatchTime(3000), V2);
    assert!(fixture.memory() > 0, "it may be expected yet");
    fixture.store.forget_before(JOB, BatchTime(4000), RoutingVersion(3));
    assert_eq!(fixture.memory(), 0);
}

#[test]
fn a_lost_file_makes_its_map_missing_until_it_is_sent_again() {
    let fixture = fixture();
    fixture.store.expect(JOB, T1, STAGE, &[0, 1], &[1]);
    fixture.store.admit(frame(T1, 0, 0, &[1], 1000)).unwrap();
    assert_eq!(
        fixture.store.admit(frame(T1, 1, 1, &[1], 1000)).unwrap(),
        Admission::Spilled
    );
    assert_eq!(fixture.ready(), [(T1, 1)]);
    fixture.lose_spilled_files();
    let error = fixture.store.read(JOB, T1, STAGE, 1).unwrap_err();
    assert!(
        matches!(&error, Error::MapInputLost { map, .. } if map.partition == 1),
        "{error}"
    );
    assert_eq!(error.kind(), tidemill_types::FailureKind::InputLost);
    assert_eq!(fixture.store.missing(JOB, T1, STAGE), [1]);
    fixture.store.admit(frame(T1, 1, 2, &[1], 5)).unwrap();
    assert_eq!(fixture.ready(), [(T1, 1)]);
    assert_eq!(fixture.read(T1, 1).len(), 1005);
}

#[test]
fn a_reset_drops_what_arrived_and_reports_again() {
    let fixture = fixture();
    fixture.store.expect(JOB, T1, STAGE, &[0], &[1]);
    fixture.store.admit(frame(T1, 0, 0, &[1], 10)).unwrap();
    assert_eq!(fixture.ready(), [(T1, 1)]);
    fixture.store.reset(JOB, T1, STAGE, Attempt(1));
    assert_eq!(fixture.memory(), 0);
    let old = fixture.store.admit(frame(T1, 0, 1, &[1], 10)).unwrap();
    assert_eq!(old, Admission::Dropped(DropReason::Superseded));
    let mut new = frame(T1, 0, 2, &[1], 10);
    new.head.attempt = Attempt(1);
    fixture.store.admit(new).unwrap();
    assert_eq!(fixture.ready(), [(T1, 1)]);
}

#[test]
fn a_lost_source_takes_its_unfinished_deliveries_with_it() {
    let fixture = fixture();
    let _ = fixture.store.open_source(PEER);
    let mut unfinished = on_credit(frame(T1, 0, 0, &[1], 10));
    unfinished.head.last = false;
    fixture.store.admit(unfinished).unwrap();
    fixture.store.admit(on_credit(frame(T1, 1, 1, &[1], 20))).unwrap();
    fixture.store.close_source(PEER);
    assert_eq!(fixture.memory(), 160);
    assert_eq!(fixture.store.take_credit(PEER), 0);
}

#[test]
fn rows_for_partitions_that_a_frame_is_not_for_are_refused() {
    let fixture = fixture();
    let mut wrong = frame(T1, 0, 0, &[1], 10);
    wrong.runs[0].partition = 2;
    assert!(matches!(fixture.store.admit(wrong), Err(Error::Malformed { .. })));
}
