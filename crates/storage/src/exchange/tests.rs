use std::fs;

use tidemill_types::Incarnation;

use super::*;
use crate::memory::MemoryLimits;
use crate::testing::{numbers, values};

const JOB: JobId = JobId(1);
const T1: BatchTime = BatchTime(1000);
const T2: BatchTime = BatchTime(2000);
const MAP: StageId = StageId(0);
const REDUCE: StageId = StageId(1);
const BROADCAST: StageId = StageId(2);
const A: ExecutorId = ExecutorId(1);
const B: ExecutorId = ExecutorId(2);
const C: ExecutorId = ExecutorId(3);
const V1: RoutingVersion = RoutingVersion(1);
const V2: RoutingVersion = RoutingVersion(2);

fn router_with(limit: u64, spill: Option<Arc<SpillDir>>) -> ExchangeRouter {
    let budget = MemoryBudget::new(MemoryLimits::without_floors(limit));
    let router = ExchangeRouter::new(&budget, spill);
    let hash = Exchange {
        to: REDUCE,
        readers: (0..4).map(|partition| vec![partition]).collect(),
    };
    let broadcast = Exchange {
        to: REDUCE,
        readers: vec![vec![0, 1, 2, 3]],
    };
    router.install_job(JOB, HashMap::from([(MAP, hash), (BROADCAST, broadcast)]));
    router.change_routing(JOB, V1, table([A, B, A, C]));
    router.launch(JOB, T1, V1);
    router
}

fn router() -> ExchangeRouter {
    router_with(u64::MAX, None)
}

fn table(executors: [ExecutorId; 4]) -> RoutingTable {
    HashMap::from([(REDUCE, executors.to_vec())])
}

fn map(batch: BatchTime, stage: StageId, partition: u32) -> TaskKey {
    TaskKey {
        job: JOB,
        batch,
        stage,
        partition,
    }
}

/// The output of a map: rows for the partitions 0, 2 and 3.
fn parts(router: &ExchangeRouter) -> OutputWriter {
    let rows = [
        (2, numbers(20..23)),
        (0, numbers(0..3)),
        (1, numbers([])),
        (2, numbers(23..25)),
        (3, numbers(30..31)),
    ];
    output(router, rows)
}

fn output(router: &ExchangeRouter, rows: impl IntoIterator<Item = (u32, RecordBatch)>) -> OutputWriter {
    let mut output = router.write_output();
    for (partition, rows) in rows {
        output.push(partition, rows).unwrap();
    }
    output
}

/// Destination, targets and values of each delivery.
fn told(router: &ExchangeRouter, deliveries: &[Delivery]) -> Vec<(ExecutorId, Vec<u32>, Vec<i64>)> {
    let rows = |delivery: &Delivery| -> Vec<i64> {
        let parts = router.load(delivery).unwrap().unwrap();
        let rows: Vec<_> = parts.into_iter().map(|(_, rows)| rows).collect();
        assert_eq!(
            delivery.bytes,
            8 * rows.iter().map(|rows| rows.num_rows() as u64).sum::<u64>()
        );
        values(&rows)
    };
    deliveries
        .iter()
        .map(|delivery| (delivery.to, delivery.targets.clone(), rows(delivery)))
        .collect()
}

#[test]
fn every_reader_gets_a_delivery_with_its_partitions() {
    let router = router();
    let deliveries = router
        .finish_map(map(T1, MAP, 7), Attempt(1), parts(&router), None)
        .unwrap();
    assert_eq!(
        told(&router, &deliveries),
        [
            (A, vec![0, 2], vec![0, 1, 2, 20, 21, 22, 23, 24]),
            (B, vec![1], vec![]),
            (C, vec![3], vec![30]),
        ]
    );
    assert!(
        deliveries
            .iter()
            .all(|d| d.routing_version == V1 && d.attempt == Attempt(1) && d.map.partition == 7)
    );
    assert_ne!(deliveries[0].number, deliveries[1].number);
}

#[test]
fn a_broadcast_goes_once_to_each_executor() {
    let router = router();
    let deliveries = router
        .finish_map(
            map(T1, BROADCAST, 0),
            Attempt(0),
            output(&router, [(0, numbers(0..2))]),
            None,
        )
        .unwrap();
    assert_eq!(
        told(&router, &deliveries),
        [
            (A, vec![0], vec![0, 1]),
            (B, vec![0], vec![0, 1]),
            (C, vec![0], vec![0, 1])
        ]
    );
}

#[test]
fn a_restoring_task_pushes_only_what_is_asked_for() {
    let router = router();
    let deliveries = router
        .finish_map(map(T1, MAP, 0), Attempt(0), parts(&router), Some(&[1, 2]))
        .unwrap();
    assert_eq!(
        told(&router, &deliveries),
        [(A, vec![2], (20..25).collect()), (B, vec![1], vec![])]
    );
}

#[test]
fn a_batch_goes_by_the_routing_of_its_launch() {
    let router = router();
    router.change_routing(JOB, V2, table([C, C, C, C]));
    router.launch(JOB, T2, V2);
    assert_eq!(router.routing_version(JOB), V2);
    let old = router
        .finish_map(map(T1, MAP, 0), Attempt(0), parts(&router), None)
        .unwrap();
    assert_eq!(old.iter().map(|delivery| delivery.to).collect::<Vec<_>>(), [A, B, C]);
    let new = router
        .finish_map(map(T2, MAP, 0), Attempt(0), parts(&router), None)
        .unwrap();
    assert_eq!(
        told(&router, &new),
        [(C, vec![0, 1, 2, 3], vec![0, 1, 2, 20, 21, 22, 23, 24, 30])]
    );
    assert_eq!(new[0].routing_version, V2);
    router.launch(JOB, T1, V2);
    let again = router
        .finish_map(map(T1, MAP, 1), Attempt(0), parts(&router), None)
        .unwrap();
    assert_eq!(again.len(), 1);
}

#[test]
fn a_resend_returns_what_has_ended_and_redirects_what_has_not() {
    let router = router();
    router
        .finish_map(map(T1, MAP, 0), Attempt(0), parts(&router), None)
        .unwrap();
    router
        .finish_map(map(T1, MAP, 2), Attempt(3), parts(&router), None)
        .unwrap();
    router
        .finish_map(map(T2, MAP, 1), Attempt(0), parts(&router), None)
        .unwrap();
    // B is lost: its partition 1 and one of A's move to C.
    router.change_routing(JOB, V2, table([A, C, C, C]));
    let resent = router.collect_resend(JOB, T1, MAP, &[1, 2], V2).unwrap();
    let expected = (C, vec![1, 2], (20..25).collect::<Vec<_>>());
    assert_eq!(told(&router, &resent), [expected.clone(), expected]);
    assert_eq!(
        resent
            .iter()
            .map(|d| (d.map.partition, d.attempt.0))
            .collect::<Vec<_>>(),
        [(0, 0), (2, 3)]
    );
    assert!(resent.iter().all(|delivery| delivery.routing_version == V2));

    let later = router
        .finish_map(map(T1, MAP, 5), Attempt(0), parts(&router), None)
        .unwrap();
    assert_eq!(
        later
            .iter()
            .map(|delivery| (delivery.to, delivery.targets.clone()))
            .collect::<Vec<_>>(),
        [(A, vec![0]), (C, vec![1, 2, 3])]
    );
    assert_eq!(router.kept_maps(JOB, T1, MAP), [0, 2, 5]);
}

#[test]
fn between_the_end_of_a_map_and_a_resend_there_is_no_gap() {
    for _ in 0..50 {
        let router = router();
        router.change_routing(JOB, V2, table([A, C, A, C]));
        let (pushed, resent) = std::thread::scope(|scope| {
            let ends = scope.spawn(|| {
                let ended = (0..20).map(|i| {
                    router
                        .finish_map(map(T1, MAP, i), Attempt(0), parts(&router), None)
                        .unwrap()
                });
                ended.flatten().collect::<Vec<_>>()
            });
            let resends = scope.spawn(|| router.collect_resend(JOB, T1, MAP, &[1], V2).unwrap());
            (ends.join().unwrap(), resends.join().unwrap())
        });
        let mut reached: Vec<u32> = pushed
            .iter()
            .chain(&resent)
            .filter(|delivery| delivery.to == C && delivery.targets.contains(&1))
            .map(|delivery| delivery.map.partition)
            .collect();
        reached.sort_unstable();
        assert_eq!(
            reached,
            (0..20).collect::<Vec<_>>(),
            "each map's partition 1 reaches its new place once"
        );
    }
}

#[test]
fn outputs_over_the_limit_are_spilled_and_resent_from_files() {
    let parent = tempfile::tempdir().unwrap();
    let spill = SpillDir::create(parent.path(), Incarnation(1), u64::MAX).unwrap();
    let router = router_with(300, Some(Arc::clone(&spill)));
    for i in 0..8 {
        router
            .finish_map(map(T1, MAP, i), Attempt(0), parts(&router), None)
            .unwrap();
    }
    assert!(spill.used() > 0);
    let resent = router.collect_resend(JOB, T1, MAP, &[2], V1).unwrap();
    assert_eq!(
        told(&router, &resent),
        vec![(A, vec![2], (20..25).collect::<Vec<_>>()); 8]
    );

    for file in fs::read_dir(spill.path()).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    let resent = router.collect_resend(JOB, T1, MAP, &[2], V1).unwrap();
    let lost: Vec<u32> = resent
        .iter()
        .filter(|delivery| matches!(router.load(delivery), Err(Error::SpillLost { .. })))
        .map(|delivery| delivery.map.partition)
        .collect();
    assert_eq!(lost, [0, 1, 2, 3]);
    assert_eq!(router.kept_maps(JOB, T1, MAP), [4, 5, 6, 7]);
    assert!(router.load(&resent[0]).unwrap().is_none(), "it is forgotten");
    // Its task runs again.
    let again = router
        .finish_map(map(T1, MAP, 0), Attempt(1), parts(&router), None)
        .unwrap();
    assert_eq!(told(&router, &again)[0].2, [0, 1, 2, 20, 21, 22, 23, 24]);
    router.forget_before(JOB, T2);
    assert_eq!(spill.used(), 0);
}

#[test]
fn nothing_is_kept_or_pushed_for_forgotten_batches() {
    let router = router();
    router
        .finish_map(map(T1, MAP, 0), Attempt(0), parts(&router), None)
        .unwrap();
    router
        .finish_map(map(T2, MAP, 0), Attempt(0), parts(&router), None)
        .unwrap();
    router.forget_before(JOB, T2);
    assert!(router.kept_maps(JOB, T1, MAP).is_empty());
    assert_eq!(router.kept_maps(JOB, T2, MAP), [0]);
    assert!(
        router
            .finish_map(map(T1, MAP, 1), Attempt(0), parts(&router), None)
            .unwrap()
            .is_empty()
    );

    assert!(router.collect_resend(JOB, T1, MAP, &[1], V1).unwrap().is_empty());
    assert!(
        router
            .finish_map(map(T1, MAP, 1), Attempt(0), parts(&router), None)
            .unwrap()
            .is_empty(),
        "a late resend"
    );

    // Restored: open until it is forgotten by itself.
    router.launch(JOB, T1, V1);
    assert_eq!(
        router
            .finish_map(map(T1, MAP, 1), Attempt(0), parts(&router), None)
            .unwrap()
            .len(),
        3
    );
    router.forget_before(JOB, T2);
    assert_eq!(router.kept_maps(JOB, T1, MAP), [1]);
    router.forget_batch(JOB, T1);
    assert!(router.kept_maps(JOB, T1, MAP).is_empty());
    assert!(
        router
            .finish_map(map(T1, MAP, 1), Attempt(0), parts(&router), None)
            .unwrap()
            .is_empty()
    );

    router.forget_job(JOB);
    let error = router
        .finish_map(map(T2, MAP, 1), Attempt(0), parts(&router), None)
        .unwrap_err();
    assert!(matches!(error, Error::NoRoute { .. }));
}

#[test]
fn a_cancelled_batch_is_forgotten_alone() {
    let router = router();
    router
        .finish_map(map(T1, MAP, 0), Attempt(0), parts(&router), None)
        .unwrap();
    router.forget_batch(JOB, T1);
    assert!(
        router
            .finish_map(map(T1, MAP, 1), Attempt(0), parts(&router), None)
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        router
            .finish_map(map(T2, MAP, 1), Attempt(0), parts(&router), None)
            .unwrap()
            .len(),
        3
    );
}

#[test]
fn an_exchange_without_routing_is_an_error() {
    let router = router();
    assert!(
        router
            .finish_map(map(T1, REDUCE, 0), Attempt(0), parts(&router), None)
            .is_err()
    );
    assert!(router.collect_resend(JOB, T1, REDUCE, &[0], V1).is_err());
    assert!(router.collect_resend(JobId(9), T1, MAP, &[0], V1).is_err());
}

#[test]
fn old_routing_tables_go_with_the_batches_that_went_by_them() {
    let router = router();
    for version in 2..100 {
        router.change_routing(JOB, RoutingVersion(version), table([C, C, C, C]));
    }
    let old = router
        .finish_map(map(T1, MAP, 0), Attempt(0), parts(&router), None)
        .unwrap();
    assert_eq!(old.len(), 3, "the table of its launch is still there");
    router.launch(JOB, T2, RoutingVersion(99));
    router.forget_before(JOB, T2);
    let new = router
        .finish_map(map(T2, MAP, 0), Attempt(0), parts(&router), None)
        .unwrap();
    assert_eq!(new.len(), 1);
}
