//! Jobs with state: it stays where it is; what is lost goes on from what is saved, or ends a job that saves nothing.

use tidemill_dstream::FailurePolicy;
use tidemill_types::{BatchTime, DatasetId, ExecutorId, FailureKind, JobId, StageId, StreamId};

use super::cluster::{Cluster, launches, tasks};
use super::plans::*;
use crate::{Action, DatasetPart, Event, JobEnd, JobSpec, JobState};

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

/// A job that saves its state in every fourth batch.
fn durable(plan: tidemill_dstream::plan::JobPlan) -> JobSpec {
    JobSpec {
        checkpoint_every: Some(4),
        ..spec(1, plan)
    }
}

/// The batches whose states are said to be saved.
fn saved(actions: &[Action]) -> Vec<i64> {
    let saved = actions.iter().filter_map(|action| match action {
        Action::RecordState { index, .. } => Some(*index),
        _ => None,
    });
    saved.collect()
}

fn restored(actions: Vec<Action>) -> Vec<(i64, StageId, u32)> {
    let mut launches = launches(actions);
    launches.retain(|(_, launch)| launch.restore);
    let tasks = tasks(&launches);
    tasks
        .into_iter()
        .map(|(index, stage, partition, _)| (index, stage, partition))
        .collect()
}

#[test]
fn state_is_saved_every_so_many_batches_and_inputs_before_are_forgotten() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(durable(running_count(2)));
    cluster.run_until(20_500);
    assert_eq!(saved(&cluster.take_actions()), [4, 8]);
    let resume = cluster.scheduler.resume_point(job).expect("a job");
    assert_eq!((resume.completed, &resume.state_bases[..]), (10, &[(REDUCE, 8)][..]));
    let indexes: Vec<i64> = resume.batches.iter().map(|batch| batch.index).collect();
    assert_eq!(indexes, [9, 10]);
}

#[test]
fn the_batches_behind_what_is_saved_run_again_for_the_lost_partitions_and_nothing_else_does() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(durable(running_count(2)));
    cluster.run_until(17_500);
    let lost = cluster.owners(job, REDUCE)[1];
    cluster.take_actions();
    cluster.lose(lost);
    cluster.run_until(18_500);
    let again = restored(cluster.take_actions());
    let expected = (5..=7).flat_map(|index| {
        let maps = (0..2).filter(move |map| has_item(StreamId(0), index, *map));
        maps.map(move |map| (index, MAP, map)).chain([(index, REDUCE, 1)])
    });
    assert_eq!(again, expected.collect::<Vec<_>>());
    cluster.run_until(24_500);
    assert_eq!(cluster.committed(job), (1..=14).collect::<Vec<_>>());
    assert!(
        restored(cluster.take_actions()).is_empty(),
        "what is there again is not made twice"
    );
}

#[test]
fn state_of_which_nothing_is_saved_begins_with_the_first_batch() {
    let mut cluster = Cluster::new(3);
    let job = cluster.submit(durable(running_count(3)));
    cluster.run_until(13_500);
    cluster.lose(cluster.owners(job, REDUCE)[0]);
    cluster.take_actions();
    cluster.run_until(14_500);
    let reduces = restored(cluster.take_actions());
    let reduces = reduces.into_iter().filter(|(_, stage, _)| *stage == REDUCE);
    assert_eq!(reduces.map(|(index, ..)| index).collect::<Vec<_>>(), [1, 2, 3]);
    cluster.run_until(16_500);
    assert_eq!(cluster.committed(job), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn what_a_batch_that_is_being_committed_leaves_is_made_again_when_it_is() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(durable(running_count(2)));
    cluster.run_until(12_500);
    cluster.hold_committer = true;
    cluster.run_until(13_500);
    cluster.lose(cluster.owners(job, REDUCE)[0]);
    cluster.run_until(14_500);
    cluster.hold_committer = false;
    cluster.run_until(16_500);
    assert_eq!(cluster.committed(job), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn all_executors_can_be_lost() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(durable(running_count(2)));
    cluster.run_until(16_500);
    for executor in [1, 2] {
        cluster.lose(ExecutorId(executor));
    }
    cluster.run_until(17_500);
    cluster.join(2);
    cluster.run_until(19_500);
    assert_eq!(cluster.committed(job), (1..=9).collect::<Vec<_>>());
}

#[test]
fn a_task_that_cannot_read_its_state_goes_on_with_what_is_saved() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(durable(running_count(2)));
    cluster.run_until(16_500);
    cluster.take_actions();
    cluster.failures.push((REDUCE, 1, FailureKind::InputLost));
    cluster.run_until(18_500);
    let reduces = restored(cluster.take_actions());
    let reduces = reduces.into_iter().filter(|(_, stage, _)| *stage == REDUCE);
    assert_eq!(reduces.collect::<Vec<_>>(), [(5, REDUCE, 1), (6, REDUCE, 1)]);
    cluster.run_until(20_500);
    assert_eq!(cluster.committed(job), (1..=10).collect::<Vec<_>>());
}

/// The first part of what the stream with state has left in a batch is lost where it is.
fn lose_part(cluster: &mut Cluster, job: JobId, batch: BatchTime) {
    let owner = cluster.owners(job, REDUCE)[0];
    let part = DatasetPart {
        dataset: DatasetId(0),
        batch,
        partition: 0,
    };
    cluster
        .executors
        .get_mut(&owner)
        .expect("an executor")
        .forget_part(job, part);
    cluster.event(Event::DataLost {
        executor: owner,
        job,
        datasets: vec![part],
        outputs: Vec::new(),
        blocks: Vec::new(),
    });
}

#[test]
fn a_lost_part_of_a_stream_with_state_takes_its_state_through_the_batches_again() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(durable(window_over_state(2)));
    cluster.run_until(21_500);
    cluster.take_actions();
    lose_part(&mut cluster, job, BatchTime(21_000));
    cluster.run_until(30_500);
    assert_eq!(cluster.committed(job), (1..=20).collect::<Vec<_>>());
    assert!(restored(cluster.take_actions()).contains(&(11, REDUCE, 0)));
}

#[test]
fn rows_of_a_stream_with_state_that_is_not_saved_end_the_job_when_they_are_lost() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(spec(1, window_over_state(2)));
    cluster.run_until(13_500);
    lose_part(&mut cluster, job, BatchTime(13_000));
    cluster.run_until(16_500);
    assert!(format!("{:?}", cluster.state(job)).contains("give the job a `checkpoint`"));
}

#[test]
fn another_driver_goes_on_after_any_step() {
    for plan in [
        running_count(2),
        window_over_state(2),
        state_over_window(2),
        windowed(3, 3, 2),
        two_levels(2),
    ] {
        for steps in (0..120).step_by(3) {
            let mut cluster = Cluster::new(2);
            let job = cluster.submit(JobSpec {
                concurrent_batches: 1 + steps % 3,
                ..durable(plan.clone())
            });
            cluster.run_until(10_500 + i64::from(steps % 7) * 1000);
            cluster.clock(13_000_000 + i64::from(steps % 5) * 1_000_000);
            for _ in 0..steps {
                cluster.step();
            }
            cluster.restart(job, 1 + steps % 3);
            cluster.run_until(24_500);
            assert_eq!(
                cluster.committed(job),
                (1..=14).collect::<Vec<_>>(),
                "after {steps} steps"
            );
        }
    }
}
