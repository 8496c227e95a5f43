//! Back-pressure: rates that follow what batches cost, and a bound on queued batches.

use tidemill_dstream::{BackPressure, SocketTextSource, Source};
use tidemill_types::{JobId, ReceiverId};

use super::cluster::Cluster;
use super::plans::*;
use crate::{Action, Event, JobSpec, Notice};

const RECEIVER: ReceiverId = ReceiverId(0);

/// The rates that the receiver was given since the last look.
fn rates(cluster: &mut Cluster) -> Vec<Option<u64>> {
    let rate = |action| match action {
        Action::StartReceiver { rate, .. } | Action::SetRate { rate, .. } => Some(rate),
        _ => None,
    };
    cluster.take_actions().into_iter().filter_map(rate).collect()
}

fn limited(max_rate: Option<u64>, initial_rate: Option<u64>) -> JobSpec {
    let mut spec = received(1, word_count(2));
    spec.plan.streams[0].source = Source::SocketText(SocketTextSource {
        host: "h".to_owned(),
        port: 1,
        block_interval: None,
        max_rate,
        initial_rate,
    });
    spec
}

/// Has the batch at `second` get `rows` rows and take `millis` from its launch to its commit.
fn batch(cluster: &mut Cluster, job: JobId, second: i64, rows: u64, millis: i64) {
    cluster.receive(job, RECEIVER, rows, second * 1000).expect("a receiver");
    cluster.hold_committer = true;
    cluster.run_until(second * 1000 + 50);
    cluster.now += millis * 1000;
    cluster.hold_committer = false;
    cluster.settle();
}

#[test]
fn a_receiver_starts_at_its_initial_rate_and_then_follows_what_batches_cost() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(limited(Some(5000), Some(10)));
    cluster.settle();
    assert_eq!(rates(&mut cluster), [Some(10)]);
    batch(&mut cluster, job, 11, 1000, 500);
    let [Some(rate)] = rates(&mut cluster)[..] else {
        panic!("one rate")
    };
    assert!((1800..=2000).contains(&rate), "{rate}");
    batch(&mut cluster, job, 12, 10, 1);
    assert_eq!(
        rates(&mut cluster),
        [],
        "few rows were sent: that says nothing, and what has not changed is not told"
    );
    // Twice as many as before could have been processed; the source's own limit holds.
    batch(&mut cluster, job, 13, 2000, 50);
    assert_eq!(rates(&mut cluster), [Some(5000)]);
}

#[test]
fn without_back_pressure_the_source_s_limit_holds_alone() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(JobSpec {
        back_pressure: None,
        ..limited(Some(7), None)
    });
    cluster.settle();
    batch(&mut cluster, job, 11, 1000, 900);
    assert_eq!(rates(&mut cluster), [Some(7)]);
}

#[test]
fn a_receiver_that_moves_keeps_its_rate() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(JobSpec {
        back_pressure: Some(BackPressure {
            min_rate: 40_000.0,
            ..BackPressure::default()
        }),
        ..limited(None, None)
    });
    cluster.settle();
    batch(&mut cluster, job, 11, 1000, 900);
    let (holder, _) = cluster.receiving(job, RECEIVER).expect("a receiver");
    rates(&mut cluster);
    cluster.lose(holder);
    cluster.settle();
    assert_eq!(rates(&mut cluster), [Some(40_000)]);
}

#[test]
fn receivers_stop_at_the_bound_of_queued_batches_and_no_batch_is_left_out() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(JobSpec {
        max_queued_batches: 3,
        ..limited(None, None)
    });
    cluster.settle();
    cluster.hold_committer = true;
    cluster.run_until(13_500);
    let held = |job| Notice::SourcesHeld { job, held: true };
    assert!(cluster.take_notices().contains(&held(job)));
    assert_eq!(cluster.scheduler.job(job).expect("a job").queued_batches, 3);
    // Nothing more is made, and there is nothing to look at.
    assert_eq!(cluster.scheduler.next_deadline(), None);
    cluster.run_until(30_500);
    assert_eq!(cluster.scheduler.job(job).expect("a job").queued_batches, 3);
    cluster.event(Event::Clock);
    assert_eq!(rates(&mut cluster), []);
    cluster.hold_committer = false;
    cluster.settle();
    assert_eq!(cluster.committed(job), (1..=20).collect::<Vec<i64>>());
    assert!(!cluster.scheduler.job(job).expect("a job").held);
    assert_eq!(rates(&mut cluster).last(), Some(&None));
}
