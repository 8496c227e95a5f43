//! Jobs with state: it stays where it is, and a job that has lost some ends.

use tidemill_dstream::FailurePolicy;
use tidemill_types::{BatchTime, ExecutorId, FailureKind};

use super::cluster::Cluster;
use super::plans::*;
use crate::{JobEnd, JobSpec, JobState};

#[test]
fn a_job_that_loses_an_executor_with_state_ends_and_says_what_is_lost() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(spec(1, running_count(2)));
    cluster.run_until(12_500);
    let lost = cluster.owners(job, REDUCE)[1];
    cluster.kill(lost);
    cluster.lose(lost);
    cluster.run_until(14_500);
    assert_eq!(
        cluster.state(job),
        JobState::Ended(JobEnd::Failed(format!(
            "executor {lost} is lost, and with it its part of the state of counts"
        )))
    );
    assert_eq!(cluster.committed(job), [1, 2]);
}

#[test]
fn an_executor_that_holds_no_state_can_go() {
    let mut cluster = Cluster::new(3);
    let job = cluster.submit(spec(1, running_count(2)));
    cluster.run_until(12_500);
    let owners = cluster.owners(job, REDUCE);
    let free = (1..=3).map(ExecutorId).find(|id| !owners.contains(id));
    let free = free.expect("two partitions are not on three executors");
    cluster.kill(free);
    cluster.lose(free);
    cluster.run_until(14_500);
    assert_eq!(cluster.committed(job), [1, 2, 3, 4]);
}

#[test]
fn state_stays_where_it_is_when_executors_come() {
    let mut cluster = Cluster::new(1);
    let job = cluster.submit(spec(1, running_count(4)));
    cluster.run_until(12_500);
    let owners = cluster.owners(job, REDUCE);
    cluster.join(2);
    cluster.run_until(14_500);
    assert_eq!(cluster.owners(job, REDUCE), owners);
    assert_eq!(cluster.committed(job), [1, 2, 3, 4]);
}

#[test]
fn skipped_batches_are_named_until_the_state_has_gone_past_them() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(JobSpec {
        max_attempts: 1,
        on_batch_failure: FailurePolicy::Skip,
        concurrent_batches: 3,
        ..spec(1, running_count(2))
    });
    cluster.run_until(11_500);
    cluster.failures = vec![(REDUCE, 0, FailureKind::User); 3];
    cluster.take_actions();
    cluster.run_until(17_500);
    assert_eq!(cluster.committed(job), [1, 5, 6, 7]);
    let mut absent: Vec<(i64, Vec<i64>)> = cluster
        .take_launches()
        .into_iter()
        .filter(|(_, launch)| !launch.tasks.is_empty())
        .map(|(_, launch)| {
            let absent = launch.absent.iter().map(|BatchTime(ms)| ms / 1000 - 10);
            (launch.index, absent.collect())
        })
        .collect();
    absent.sort();
    absent.dedup();
    assert_eq!(
        absent,
        [
            (2, vec![]),
            (3, vec![2]),
            (4, vec![2, 3]),
            (5, vec![2, 3, 4]),
            (6, vec![]),
            (7, vec![]),
        ]
    );
}
