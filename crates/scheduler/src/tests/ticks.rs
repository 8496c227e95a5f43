//! When batches become due, how many run at once, and when a job begins and ends.

use std::time::Duration;

use tidemill_types::{BatchTime, ExecutorId, JobId};

use super::cluster::{Cluster, launches, options, tasks};
use super::plans::*;
use crate::{Action, BatchState, Event, JobEnd, JobSpec, JobState, Notice, Pace};

#[test]
fn every_plan_gives_what_it_should_when_nothing_goes_wrong() {
    for number in 0..PLANS {
        let mut cluster = Cluster::new(3);
        let job = cluster.submit(spec(1, plan(number)));
        cluster.run_until(18_500);
        assert_eq!(cluster.committed(job), [1, 2, 3, 4, 5, 6, 7, 8], "plan {number}");
    }
}

#[test]
fn the_first_batch_is_at_the_next_multiple_of_the_interval() {
    let mut cluster = Cluster::new(1);
    let job = cluster.submit(spec(1, one_stage(2)));
    cluster.settle();
    assert_eq!(cluster.scheduler.next_deadline(), Some(11_000_000));
    cluster.run_until(11_500);
    let launches = cluster.take_launches();
    assert_eq!((launches[0].1.batch, launches[0].1.index), (BatchTime(11_000), 1));
    assert_eq!(cluster.committed(job), [1]);
}

#[test]
fn missed_ticks_are_not_skipped() {
    let mut cluster = Cluster::new(1);
    let job = cluster.submit(spec(1, one_stage(2)));
    cluster.settle();
    cluster.clock(14_100_000);
    cluster.run_until(14_500);
    assert_eq!(cluster.committed(job), [1, 2, 3, 4]);
}

#[test]
fn a_job_that_does_not_wait_for_the_clock_starts_one_interval_after_zero() {
    let mut cluster = Cluster::new(2);
    cluster.last_input = Some(3);
    let job = cluster.submit(JobSpec {
        pace: Pace::NoWait,
        ends_with_input: true,
        ..spec(1, word_count(2))
    });
    cluster.settle();
    assert_eq!(cluster.committed(job), [1, 2, 3]);
    assert_eq!(cluster.state(job), JobState::Ended(JobEnd::Finished));
    assert_eq!(launches(cluster.take_actions())[0].1.batch, BatchTime(1000));
}

#[test]
fn a_job_ends_with_its_input_and_makes_no_batch_more_however_many_may_run_at_once() {
    for pace in [Pace::NoWait, Pace::Clock] {
        for concurrent_batches in 1..4 {
            let mut cluster = Cluster::new(2);
            cluster.last_input = Some(2);
            let job = cluster.submit(JobSpec {
                pace,
                concurrent_batches,
                ends_with_input: true,
                ..spec(1, word_count(2))
            });
            cluster.settle();
            // The planner is slower than the clock.
            cluster.hold_planner = true;
            cluster.run_until(15_000);
            cluster.hold_planner = false;
            cluster.run_until(15_500);
            assert_eq!(cluster.committed(job), [1, 2]);
            assert_eq!(cluster.state(job), JobState::Ended(JobEnd::Finished));
            assert_eq!(cluster.scheduler.next_deadline(), None);
        }
    }
}

#[test]
fn a_counted_job_goes_on_with_empty_batches_after_its_input_until_the_count_is_reached() {
    for pace in [Pace::NoWait, Pace::Clock] {
        let mut cluster = Cluster::new(2);
        cluster.last_input = Some(1);
        let job = cluster.submit(JobSpec {
            pace,
            max_batches: Some(3),
            ends_with_input: true,
            concurrent_batches: 2,
            ..spec(1, word_count(2))
        });
        cluster.run_until(20_000);
        assert_eq!(cluster.committed(job), [1, 2, 3]);
        assert_eq!(cluster.state(job), JobState::Ended(JobEnd::Finished));
    }
}

#[test]
fn the_clock_is_left_alone_while_the_last_batches_are_worked_on() {
    let mut cluster = Cluster::new(1);
    let job = cluster.submit(JobSpec {
        max_batches: Some(1),
        ..spec(1, one_stage(2))
    });
    cluster.hold_committer = true;
    cluster.run_until(12_500);
    assert_eq!(cluster.scheduler.next_deadline(), None);
    cluster.clock(13_000_000);
    cluster.hold_committer = false;
    cluster.settle();
    assert_eq!(cluster.committed(job), [1]);
    assert_eq!(cluster.scheduler.next_deadline(), None);
}

#[test]
fn an_executor_gets_one_launch_for_all_its_tasks_of_a_batch() {
    let mut cluster = Cluster::new(2);
    cluster.submit(spec(1, windowed(4, 2, 1)));
    cluster.run_until(11_500);
    let launches = cluster.take_launches();
    assert_eq!(
        launches.iter().map(|(executor, _)| executor.0).collect::<Vec<_>>(),
        [1, 2]
    );
    let stages = |launch: &crate::Launch| launch.tasks.iter().map(|task| task.stage.0).collect::<Vec<_>>();
    assert!(
        launches
            .iter()
            .all(|(_, launch)| stages(launch).contains(&0) && stages(launch).contains(&2))
    );
}

#[test]
fn maps_without_input_are_not_launched_and_not_expected() {
    let mut cluster = Cluster::new(2);
    cluster.submit(spec(1, word_count(4)));
    cluster.run_until(11_500);
    let launches = cluster.take_launches();
    let with_input: Vec<u32> = (0..4)
        .filter(|partition| has_item(tidemill_types::StreamId(0), 1, *partition))
        .collect();
    assert!(with_input.len() < 4);
    let maps: Vec<u32> = tasks(&launches)
        .into_iter()
        .filter(|task| task.1 == MAP)
        .map(|task| task.2)
        .collect();
    assert_eq!(maps, with_input);
    for (_, launch) in launches {
        assert_eq!(launch.expectations.len(), 1);
        assert_eq!(launch.expectations[0].map_partitions, with_input);
    }
}

#[test]
fn a_stage_that_is_not_due_is_not_launched_and_its_output_not_committed() {
    let mut cluster = Cluster::new(1);
    cluster.submit(spec(1, windowed(2, 4, 2)));
    cluster.run_until(12_500);
    let mut outputs = Vec::new();
    let mut windows = Vec::new();
    for action in cluster.take_actions() {
        match action {
            Action::Commit { outputs: due, .. } => outputs.push(due.len()),
            Action::Launch { launch, .. } => windows.extend(
                launch
                    .tasks
                    .iter()
                    .filter(|task| task.stage == WINDOW)
                    .map(|_| launch.index),
            ),
            _ => {}
        }
    }
    assert_eq!(outputs, [0, 1]);
    assert_eq!(windows, [2, 2]);
}

#[test]
fn no_more_batches_run_at_once_than_the_job_allows() {
    for allowed in 1..4 {
        let mut cluster = Cluster::new(2);
        let job = cluster.submit(JobSpec {
            concurrent_batches: allowed,
            ..spec(1, word_count(2))
        });
        cluster.hold_committer = true;
        cluster.run_until(17_500);
        let states: Vec<BatchState> = cluster
            .scheduler
            .job(job)
            .expect("a job")
            .batches
            .iter()
            .map(|batch| batch.state)
            .collect();
        assert_eq!(states[0], BatchState::Committing);
        assert_eq!(
            states.iter().filter(|state| **state == BatchState::Running).count(),
            allowed as usize - 1
        );
        cluster.hold_committer = false;
        cluster.settle();
        assert_eq!(cluster.committed(job), [1, 2, 3, 4, 5, 6, 7]);
    }
}

#[test]
fn a_later_batch_that_is_done_first_is_committed_after_the_earlier_one() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(JobSpec {
        concurrent_batches: 2,
        ..spec(1, one_stage(2))
    });
    // Batch 1 waits for a task of the first executor, which sleeps.
    cluster.run_until(10_900);
    cluster.executors.get_mut(&ExecutorId(1)).expect("an executor").frozen = true;
    cluster.run_until(12_500);
    assert_eq!(cluster.committed(job), []);
    cluster.executors.get_mut(&ExecutorId(1)).expect("an executor").frozen = false;
    cluster.settle();
    assert_eq!(cluster.committed(job), [1, 2]);
}

#[test]
fn a_job_waits_for_as_many_executors_as_it_should() {
    let mut cluster = Cluster::with_options(options(2, Duration::from_secs(30)));
    cluster.join(2);
    let job = cluster.submit(spec(1, one_stage(2)));
    cluster.run_until(15_000);
    assert_eq!(cluster.state(job), JobState::Pending);
    assert_eq!(cluster.scheduler.next_deadline(), Some(40_400_000));
    cluster.join(2);
    cluster.settle();
    assert_eq!(cluster.state(job), JobState::Running);
    cluster.run_until(16_500);
    assert_eq!(cluster.committed(job), [1]);
}

#[test]
fn a_job_starts_with_fewer_executors_after_the_timeout() {
    let mut cluster = Cluster::with_options(options(2, Duration::from_secs(5)));
    let first = cluster.join(2);
    let job = cluster.submit(spec(1, one_stage(2)));
    cluster.executors.get_mut(&first).expect("an executor").frozen = true;
    cluster.run_until(20_000);
    // The time is over, but the plan is nowhere yet: nothing for the clock to do.
    assert_eq!(cluster.scheduler.next_deadline(), None);
    assert_eq!(cluster.state(job), JobState::Pending);
    cluster.executors.get_mut(&first).expect("an executor").frozen = false;
    cluster.run_until(21_500);
    assert_eq!(cluster.committed(job), [1]);
}

#[test]
fn a_job_that_cannot_be_installed_fails_before_it_runs_and_not_after() {
    let refusal = |job, executor| Event::JobInstalled {
        job,
        executor,
        error: Some("no such function".to_owned()),
    };
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(spec(1, one_stage(2)));
    cluster.event(refusal(job, ExecutorId(2)));
    assert!(matches!(cluster.state(job), JobState::Ended(JobEnd::Failed(error)) if error.contains("no such function")));

    let mut cluster = Cluster::new(2);
    let job = cluster.submit(spec(1, one_stage(2)));
    cluster.run_until(11_500);
    let third = cluster.join(2);
    cluster.event(refusal(job, third));
    cluster.run_until(13_500);
    assert_eq!(cluster.committed(job), [1, 2, 3]);
    assert!(!cluster.owners(job, MAP).contains(&third));
}

#[test]
fn nothing_is_due_while_no_executor_is_there() {
    let mut cluster = Cluster::new(1);
    let job = cluster.submit(spec(1, windowed(2, 3, 1)));
    cluster.run_until(11_500);
    cluster.lose(ExecutorId(1));
    assert_eq!(cluster.scheduler.next_deadline(), None);
    cluster.clock(15_200_000);
    assert_eq!(cluster.scheduler.next_deadline(), None);
    cluster.join(2);
    cluster.run_until(15_500);
    assert_eq!(cluster.committed(job), [1, 2, 3, 4, 5]);
}

#[test]
fn a_graceful_stop_finishes_what_is_due_and_takes_no_new_input() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(spec(1, word_count(2)));
    cluster.hold_committer = true;
    cluster.run_until(13_500);
    cluster.stop(job, false);
    assert_eq!(cluster.state(job), JobState::Stopping);
    cluster.run_until(16_500);
    cluster.hold_committer = false;
    cluster.settle();
    assert_eq!(cluster.committed(job), [1, 2, 3]);
    assert_eq!(cluster.state(job), JobState::Ended(JobEnd::Stopped));
}

#[test]
fn a_batch_that_was_due_before_a_stop_has_its_input() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(spec(1, word_count(2)));
    cluster.hold_planner = true;
    cluster.run_until(12_500);
    cluster.stop(job, false);
    cluster.hold_planner = false;
    cluster.settle();
    // Compared with the reference at its commit.
    assert_eq!(cluster.committed(job), [1, 2]);
    assert_eq!(cluster.state(job), JobState::Ended(JobEnd::Stopped));
}

#[test]
fn a_stop_at_once_finishes_nothing() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(spec(1, word_count(2)));
    cluster.hold_committer = true;
    cluster.run_until(13_500);
    cluster.take_actions();
    cluster.stop(job, true);
    assert_eq!(cluster.state(job), JobState::Ended(JobEnd::Stopped));
    let actions = cluster.take_actions();
    let removed = actions
        .iter()
        .filter(|action| matches!(action, Action::Remove { .. }))
        .count();
    assert_eq!(removed, 2);
    assert!(matches!(actions.last(), Some(Action::Publish(Notice::JobEnded { .. }))));
    cluster.hold_committer = false;
    cluster.settle();
    assert_eq!(cluster.committed(job), []);
}

#[test]
fn an_executor_that_comes_back_with_a_known_number_is_a_new_one() {
    let mut cluster = Cluster::new(1);
    let job = cluster.submit(spec(1, windowed(2, 3, 1)));
    cluster.run_until(12_500);
    cluster.kill(ExecutorId(1));
    cluster
        .executors
        .insert(ExecutorId(1), super::executor::Executor::default());
    cluster.event(Event::ExecutorRegistered {
        executor: ExecutorId(1),
        slots: 2,
    });
    cluster.run_until(14_500);
    assert_eq!(cluster.committed(job), [1, 2, 3, 4]);
}

#[test]
fn two_jobs_do_not_touch_each_other() {
    let mut cluster = Cluster::new(2);
    let failing = cluster.submit(JobSpec {
        max_attempts: 1,
        ..spec(1, one_stage(2))
    });
    let other = cluster.submit(spec(2, windowed(2, 3, 1)));
    cluster.run_until(12_500);
    cluster.failures.push((MAP, 0, tidemill_types::FailureKind::User));
    cluster.settle();
    cluster.clock(13_000_000);
    // The first task of that name is of the first job.
    cluster.run_until(13_500);
    assert!(matches!(cluster.state(failing), JobState::Ended(JobEnd::Failed(_))));
    assert_eq!(cluster.state(other), JobState::Running);
    cluster.lose(ExecutorId(1));
    cluster.run_until(15_500);
    assert_eq!(cluster.committed(failing), [1, 2]);
    assert_eq!(cluster.committed(other), [1, 2, 3, 4, 5]);
    cluster.scheduler.drop_ended(failing);
    cluster.scheduler.drop_ended(other);
    let left: Vec<JobId> = cluster.scheduler.jobs().map(|job| job.id).collect();
    assert_eq!(left, [other]);
    assert_eq!(cluster.scheduler.live_job("job2"), Some(other));
}
