//! An executor is lost at every stage of a batch's life: what it takes with it runs again, and nothing else.

use std::collections::BTreeSet;

use tidemill_types::{Attempt, ExecutorId, JobId, StageId};

use super::cluster::{Cluster, launches, tasks};
use super::executor::Executor;
use super::plans::*;
use crate::{Action, BatchState, Event, JobSpec, TaskOutcome, TaskSuccess};

/// Three executors, and a plan whose partition `p` is owned by executor `p + 1`. The first batch is launched and no
/// executor has begun with it.
fn launched(plan: tidemill_dstream::plan::JobPlan) -> (Cluster, JobId) {
    let mut cluster = Cluster::new(3);
    let job = cluster.submit(spec(1, plan));
    cluster.run_until(10_999);
    freeze(&mut cluster, true);
    cluster.clock(11_000_000);
    cluster.settle();
    assert_eq!(cluster.owners(job, REDUCE), [1, 2, 3].map(ExecutorId));
    assert_eq!(state(&cluster, job), [BatchState::Running]);
    (cluster, job)
}

fn freeze(cluster: &mut Cluster, frozen: bool) {
    for executor in cluster.executors.values_mut() {
        executor.frozen = frozen;
    }
}

fn state(cluster: &Cluster, job: JobId) -> Vec<BatchState> {
    cluster
        .scheduler
        .job(job)
        .expect("a job")
        .batches
        .iter()
        .map(|batch| batch.state)
        .collect()
}

/// Lets the executors take their commands and run the tasks of one stage, as far as they can.
fn run_stage(cluster: &mut Cluster, stage: StageId) {
    freeze(cluster, false);
    cluster.step_only(stage);
    freeze(cluster, true);
}

/// The tasks that are launched when an executor is lost, and which partitions are sent again by whom.
type Again = (
    Vec<(StageId, u32, ExecutorId)>,
    BTreeSet<(ExecutorId, StageId, Vec<u32>)>,
);

fn lose(cluster: &mut Cluster, executor: u32) -> Again {
    cluster.take_actions();
    cluster.lose(ExecutorId(executor));
    let actions = cluster.take_actions();
    let resent = actions.iter().filter_map(|action| match action {
        Action::Resend {
            executor,
            from_stage,
            partitions,
            ..
        } => Some((*executor, *from_stage, partitions.clone())),
        _ => None,
    });
    let resent = resent.collect();
    let again = tasks(&launches(actions))
        .into_iter()
        .map(|(_, stage, partition, executor)| (stage, partition, executor));
    (again.collect(), resent)
}

fn finish(mut cluster: Cluster, job: JobId) {
    freeze(&mut cluster, false);
    cluster.run_until(12_500);
    assert_eq!(cluster.committed(job), [1, 2]);
}

const ONE: ExecutorId = ExecutorId(1);
const TWO: ExecutorId = ExecutorId(2);
const THREE: ExecutorId = ExecutorId(3);

// In batch 1 the maps 0 and 1 have input.

#[test]
fn before_its_launch_a_batch_does_not_notice() {
    let mut cluster = Cluster::new(3);
    let job = cluster.submit(spec(1, word_count(3)));
    cluster.run_until(10_999);
    let (again, resent) = lose(&mut cluster, 3);
    assert!(again.is_empty() && resent.is_empty());
    assert_eq!(cluster.owners(job, REDUCE), [ONE, TWO, ONE]);
    finish(cluster, job);
}

#[test]
fn while_maps_run_the_lost_tasks_run_elsewhere() {
    let (mut cluster, job) = launched(word_count(3));
    let (again, resent) = lose(&mut cluster, 2);
    assert_eq!(again, [(MAP, 1, ONE), (REDUCE, 1, ONE)]);
    // The map that is left was launched when partition 1 was elsewhere.
    assert_eq!(resent, BTreeSet::from([(ONE, MAP, vec![1])]));
    finish(cluster, job);
}

#[test]
fn after_the_maps_a_lost_reduce_gets_what_is_kept_and_lost_maps_run_again() {
    let (mut cluster, job) = launched(word_count(3));
    run_stage(&mut cluster, MAP);
    let (again, resent) = lose(&mut cluster, 2);
    // Map 1 has finished, but its rows for the moved partition are gone.
    assert_eq!(again, [(MAP, 1, ONE), (REDUCE, 1, ONE)]);
    assert_eq!(resent, BTreeSet::from([(ONE, MAP, vec![1])]));
    finish(cluster, job);
}

#[test]
fn an_executor_without_maps_takes_only_its_reduce_with_it() {
    let (mut cluster, job) = launched(word_count(3));
    run_stage(&mut cluster, MAP);
    let (again, resent) = lose(&mut cluster, 3);
    assert_eq!(again, [(REDUCE, 2, ONE)]);
    assert_eq!(resent, BTreeSet::from([(ONE, MAP, vec![2]), (TWO, MAP, vec![2])]));
    finish(cluster, job);
}

#[test]
fn finished_reduces_whose_rows_nobody_remembers_do_not_run_again() {
    let (mut cluster, job) = launched(word_count(3));
    run_stage(&mut cluster, MAP);
    // All but the third executor finish.
    cluster.executors.get_mut(&ONE).expect("an executor").frozen = false;
    cluster.executors.get_mut(&TWO).expect("an executor").frozen = false;
    cluster.settle();
    let (again, resent) = lose(&mut cluster, 2);
    // The third still reads what map 1 made, and may not have got it.
    assert_eq!(again, [(MAP, 1, ONE)]);
    assert!(resent.is_empty());
    finish(cluster, job);
}

#[test]
fn when_all_is_done_nothing_runs_again() {
    let mut cluster = Cluster::new(3);
    let job = cluster.submit(spec(1, word_count(3)));
    cluster.hold_committer = true;
    cluster.run_until(11_500);
    assert_eq!(state(&cluster, job), [BatchState::Committing]);
    let (again, resent) = lose(&mut cluster, 2);
    assert!(again.is_empty() && resent.is_empty());
    cluster.hold_committer = false;
    finish(cluster, job);
}

#[test]
fn a_finished_pane_is_made_again_from_what_its_batch_has_kept() {
    let (mut cluster, job) = launched(windowed(3, 2, 2));
    run_stage(&mut cluster, MAP);
    cluster.executors.get_mut(&TWO).expect("an executor").frozen = false;
    cluster.settle();
    // No window is due and nobody in the batch reads the pane, but the next batch does.
    let (again, resent) = lose(&mut cluster, 2);
    assert_eq!(again, [(MAP, 1, ONE), (REDUCE, 1, ONE)]);
    assert_eq!(resent, BTreeSet::from([(ONE, MAP, vec![1])]));
    finish(cluster, job);
}

#[test]
fn a_second_loss_makes_again_what_the_first_lost_executor_alone_had() {
    let mut cluster = Cluster::new(4);
    let job = cluster.submit(spec(1, windowed(3, 2, 1)));
    cluster.run_until(10_999);
    assert_eq!(cluster.owners(job, REDUCE), [ONE, TWO, THREE]);
    // Map 1 fails twice and ends on the fourth executor, which owns nothing.
    cluster.failures = vec![(MAP, 1, tidemill_types::FailureKind::User); 2];
    cluster.clock(11_000_000);
    cluster.step_only(MAP);
    cluster.step_only(REDUCE);
    cluster.report_all();
    freeze(&mut cluster, true);
    // Its rows are where they belong.
    assert!(lose(&mut cluster, 4).0.is_empty());
    let (again, resent) = lose(&mut cluster, 2);
    assert_eq!(again, [(MAP, 1, ONE), (REDUCE, 1, ONE), (WINDOW, 1, ONE)]);
    assert_eq!(resent, BTreeSet::from([(ONE, MAP, vec![1])]));
    finish(cluster, job);
}

#[test]
fn a_retry_whose_executor_is_lost_meanwhile_runs_elsewhere() {
    let mut cluster = Cluster::new(3);
    let job = cluster.submit(spec(1, word_count(3)));
    cluster.run_until(10_999);
    cluster
        .failures
        .push((REDUCE, 1, tidemill_types::FailureKind::InputLost));
    cluster.run_until(11_000);
    cluster.clock(11_000_000);
    cluster.settle();
    let (again, _) = lose(&mut cluster, 2);
    assert!(again.contains(&(REDUCE, 1, ONE)));
    finish(cluster, job);
}

#[test]
fn survivors_keep_what_they_own_while_a_batch_runs_even_if_others_have_come() {
    for partitions in 1..8 {
        for lost in 1..4 {
            let mut cluster = Cluster::new(3);
            let job = cluster.submit(spec(1, word_count(partitions)));
            cluster.run_until(10_999);
            let before = cluster.owners(job, REDUCE);
            freeze(&mut cluster, true);
            cluster.clock(11_000_000);
            cluster.settle();
            for _ in 0..2 {
                cluster.join(3);
            }
            cluster.settle();
            cluster.lose(ExecutorId(lost));
            for (old, new) in before.iter().zip(cluster.owners(job, REDUCE)) {
                assert!(*old == new || old.0 == lost);
            }
            finish(cluster, job);
        }
    }
}

#[test]
fn a_batch_starts_over_when_all_executors_are_lost_and_one_comes_back() {
    let (mut cluster, job) = launched(windowed(3, 3, 1));
    run_stage(&mut cluster, MAP);
    for executor in [ONE, TWO, THREE] {
        cluster.lose(executor);
    }
    assert_eq!(state(&cluster, job), [BatchState::Ready]);
    assert_eq!(cluster.scheduler.next_deadline(), None);
    cluster.take_actions();
    cluster.join(2);
    cluster.step_until("the launch", |cluster| state(cluster, job) == [BatchState::Running]);
    let again = cluster.take_launches();
    assert_eq!(again.len(), 1);
    // Reports of the first attempts are late even if the number of the executor is known again.
    assert!(again[0].1.tasks.iter().all(|task| task.attempt > Attempt(0)));
    finish(cluster, job);
}

#[test]
fn reports_of_a_lost_executor_are_late() {
    let (mut cluster, job) = launched(word_count(3));
    cluster.executors.insert(ExecutorId(9), Executor::default());
    lose(&mut cluster, 2);
    let outcome = |attempt| TaskOutcome {
        stage: REDUCE,
        partition: 1,
        attempt: Attempt(attempt),
        result: Ok(TaskSuccess::default()),
    };
    cluster.event(Event::BatchReported {
        executor: TWO,
        job,
        batch: tidemill_types::BatchTime(11_000),
        restore: false,
        tasks: vec![outcome(0), outcome(1)],
    });
    cluster.executors.remove(&ExecutorId(9));
    finish(cluster, job);
}

#[test]
fn an_executor_lost_twice_or_unknown_changes_nothing() {
    let (mut cluster, job) = launched(word_count(3));
    lose(&mut cluster, 2);
    assert_eq!(lose(&mut cluster, 2).0.len(), 0);
    assert_eq!(lose(&mut cluster, 77).0.len(), 0);
    finish(cluster, job);
}

#[test]
fn every_plan_bears_the_loss_of_any_executor_after_any_step() {
    for number in 0..PLANS {
        for lost in 1..4 {
            for steps in (0..200).step_by(7) {
                let mut cluster = Cluster::new(3);
                let job = cluster.submit(JobSpec {
                    concurrent_batches: 1 + steps % 2,
                    ..spec(1, plan(number))
                });
                cluster.run_until(12_500);
                cluster.clock(13_000_000);
                for _ in 0..steps {
                    cluster.step();
                }
                cluster.lose(ExecutorId(lost));
                cluster.run_until(16_500);
                assert_eq!(
                    cluster.committed(job),
                    [1, 2, 3, 4, 5, 6],
                    "plan {number} without {lost} after {steps}"
                );
            }
        }
    }
}
