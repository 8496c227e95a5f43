//! Tasks that fail, and batches that cannot succeed.

use tidemill_dstream::FailurePolicy;
use tidemill_types::{Attempt, BatchTime, ExecutorId, FailureKind, StageId};

use super::cluster::{Cluster, failure, launches, tasks};
use super::plans::*;
use crate::{Action, Event, JobEnd, JobSpec, JobState, Launch, Notice, TaskOutcome, TaskSuccess};

/// The attempts of one task, in the order in which they were launched.
fn attempts(launches: &[(ExecutorId, Launch)], key: (StageId, u32)) -> Vec<(ExecutorId, Attempt)> {
    let mut attempts = Vec::new();
    for (executor, launch) in launches {
        let of_task = launch.tasks.iter().filter(|task| (task.stage, task.partition) == key);
        attempts.extend(of_task.map(|task| (*executor, task.attempt)));
    }
    attempts
}

/// A batch whose map 0 has input.
const INDEX: i64 = 1;

#[test]
fn a_map_that_fails_is_tried_on_another_executor() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(spec(1, word_count(2)));
    cluster.failures.push((MAP, 0, FailureKind::User));
    cluster.run_until(11_500);
    let tried = attempts(&cluster.take_launches(), (MAP, 0));
    assert_eq!(tried.len(), 2);
    assert_ne!(tried[0].0, tried[1].0);
    assert_eq!(tried[1].1, Attempt(1));
    assert_eq!(cluster.committed(job), [INDEX]);
}

#[test]
fn a_reduce_that_fails_is_tried_again_where_its_input_is() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(spec(1, word_count(2)));
    cluster.failures.push((REDUCE, 1, FailureKind::Resource));
    cluster.run_until(11_500);
    let launches = cluster.take_launches();
    let tried = attempts(&launches, (REDUCE, 1));
    assert_eq!(tried.len(), 2);
    assert_eq!(tried[0].0, tried[1].0);
    let maps = tasks(&launches).into_iter().filter(|task| task.1 == MAP).count();
    assert_eq!(maps, 2, "no map runs again");
    assert_eq!(cluster.committed(job), [INDEX]);
}

#[test]
fn a_task_that_fails_too_often_ends_the_job() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(JobSpec {
        max_attempts: 3,
        ..spec(1, word_count(2))
    });
    cluster.failures = vec![(REDUCE, 0, FailureKind::User); 3];
    cluster.run_until(12_500);
    assert_eq!(attempts(&cluster.take_launches(), (REDUCE, 0)).len(), 3);
    assert_eq!(cluster.committed(job), []);
    let JobState::Ended(JobEnd::Failed(error)) = cluster.state(job) else {
        panic!("the job has failed");
    };
    assert_eq!(
        error,
        "batch 11000: stage 1 partition 0 failed 3 times, last: user error: made to fail"
    );
}

#[test]
fn one_failure_less_than_the_limit_is_no_harm() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(JobSpec {
        max_attempts: 3,
        ..spec(1, word_count(2))
    });
    cluster.failures = vec![
        (REDUCE, 0, FailureKind::User),
        (MAP, 0, FailureKind::User),
        (REDUCE, 0, FailureKind::Internal),
    ];
    cluster.run_until(11_500);
    assert_eq!(cluster.committed(job), [INDEX]);
}

#[test]
fn a_skipped_batch_is_cancelled_and_later_ones_go_on() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(JobSpec {
        max_attempts: 1,
        on_batch_failure: FailurePolicy::Skip,
        ..spec(1, word_count(2))
    });
    cluster.run_until(11_500);
    cluster.failures.push((REDUCE, 0, FailureKind::User));
    cluster.take_actions();
    cluster.run_until(13_500);
    assert_eq!(cluster.committed(job), [1, 3]);
    let actions = cluster.take_actions();
    let cancelled = actions.iter().filter(|action| {
        matches!(
            action,
            Action::Cancel {
                batch: BatchTime(12_000),
                ..
            }
        )
    });
    assert_eq!(cancelled.count(), 2);
    let failed = |action: &Action| {
        matches!(
            action,
            Action::Publish(Notice::BatchFailed {
                batch: BatchTime(12_000),
                ..
            })
        )
    };
    assert_eq!(actions.iter().filter(|action| failed(action)).count(), 1);
    assert_eq!(cluster.scheduler.job(job).expect("a job").failed_batches, 1);
}

#[test]
fn windows_leave_a_skipped_batch_out_as_long_as_they_reach_back_to_it() {
    for concurrent_batches in 1..3 {
        let mut cluster = Cluster::new(2);
        let job = cluster.submit(JobSpec {
            max_attempts: 1,
            on_batch_failure: FailurePolicy::Skip,
            concurrent_batches,
            ..spec(1, windowed(2, 3, 1))
        });
        cluster.run_until(11_500);
        cluster.failures.push((WINDOW, 0, FailureKind::User));
        cluster.take_actions();
        cluster.run_until(16_500);
        // The rows of each window are compared with the reference.
        assert_eq!(cluster.committed(job), [1, 3, 4, 5, 6]);
        let mut absent: Vec<(i64, Vec<BatchTime>)> = cluster
            .take_launches()
            .into_iter()
            .map(|(_, launch)| (launch.index, launch.absent))
            .collect();
        absent.dedup();
        let skipped = vec![BatchTime(12_000)];
        assert_eq!(
            absent,
            [
                (2, vec![]),
                (3, skipped.clone()),
                (4, skipped),
                (5, vec![]),
                (6, vec![])
            ]
        );
    }
}

#[test]
fn a_batch_that_may_be_skipped_is_waited_for_by_the_windows_that_read_it() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(JobSpec {
        max_attempts: 1,
        on_batch_failure: FailurePolicy::Skip,
        concurrent_batches: 3,
        ..spec(1, windowed(2, 3, 1))
    });
    cluster.run_until(11_500);
    cluster
        .executors
        .values_mut()
        .for_each(|executor| executor.frozen = true);
    cluster.run_until(14_500);
    cluster
        .executors
        .values_mut()
        .for_each(|executor| executor.frozen = false);
    cluster.failures.push((REDUCE, 0, FailureKind::User));
    cluster.settle();
    assert_eq!(cluster.committed(job), [1, 3, 4]);
}

#[test]
fn a_job_that_ends_with_its_input_goes_on_after_a_batch_that_could_not_be_planned() {
    let mut cluster = Cluster::new(1);
    cluster.last_input = Some(3);
    cluster.hold_planner = true;
    let job = cluster.submit(JobSpec {
        on_batch_failure: FailurePolicy::Skip,
        pace: crate::Pace::NoWait,
        ends_with_input: true,
        ..spec(1, word_count(2))
    });
    cluster.settle();
    cluster.event(Event::Allocated {
        job,
        batch: BatchTime(1000),
        result: Err(failure(FailureKind::External)),
    });
    cluster.hold_planner = false;
    cluster.settle();
    assert_eq!(cluster.committed(job), [2, 3]);
    assert_eq!(cluster.state(job), JobState::Ended(JobEnd::Finished));
}

#[test]
fn an_input_that_cannot_be_planned_fails_its_batch() {
    let mut cluster = Cluster::new(1);
    let job = cluster.submit(JobSpec {
        on_batch_failure: FailurePolicy::Skip,
        ..spec(1, word_count(2))
    });
    cluster.hold_planner = true;
    cluster.run_until(11_500);
    let refusal = Event::Allocated {
        job,
        batch: BatchTime(11_000),
        result: Err(failure(FailureKind::External)),
    };
    cluster.event(refusal.clone());
    // The answer comes again, and the real one late.
    cluster.event(refusal);
    cluster.hold_planner = false;
    cluster.run_until(12_500);
    assert_eq!(cluster.committed(job), [2]);
}

#[test]
fn a_commit_that_fails_fails_its_batch() {
    let mut cluster = Cluster::new(1);
    let job = cluster.submit(spec(1, word_count(2)));
    cluster.hold_committer = true;
    cluster.run_until(11_500);
    cluster.event(Event::Committed {
        job,
        batch: BatchTime(11_000),
        result: Err(failure(FailureKind::External)),
    });
    assert!(matches!(cluster.state(job), JobState::Ended(JobEnd::Failed(error)) if error.contains("external failure")));
}

#[test]
fn a_lost_input_is_waited_for_and_does_not_count() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(JobSpec {
        max_attempts: 1,
        ..spec(1, word_count(2))
    });
    cluster.run_until(10_900);
    cluster.failures = vec![(MAP, 0, FailureKind::InputLost); 20];
    cluster.run_until(11_000);
    assert_eq!(cluster.scheduler.next_deadline(), Some(11_200_000));
    cluster.run_until(15_500);
    assert_eq!(cluster.committed(job), [1, 2, 3, 4, 5]);
}

#[test]
fn what_is_said_of_an_attempt_that_waits_for_its_retry_is_late() {
    let mut cluster = Cluster::new(1);
    let job = cluster.submit(JobSpec {
        max_attempts: 1,
        ..spec(1, word_count(1))
    });
    cluster.run_until(10_900);
    cluster.failures.push((REDUCE, 0, FailureKind::InputLost));
    cluster.run_until(11_000);
    cluster.event(Event::BatchReported {
        executor: ExecutorId(1),
        job,
        batch: BatchTime(11_000),
        restore: false,
        tasks: vec![TaskOutcome {
            stage: REDUCE,
            partition: 0,
            attempt: Attempt(0),
            result: Err(failure(FailureKind::User)),
        }],
    });
    cluster.run_until(12_500);
    assert_eq!(cluster.committed(job), [1, 2]);
}

#[test]
fn an_input_that_stays_lost_fails_the_batch_in_the_end() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(spec(1, word_count(2)));
    cluster.failures = vec![(MAP, 0, FailureKind::InputLost); 1000];
    cluster.run_until(60_000);
    assert!(matches!(cluster.state(job), JobState::Ended(JobEnd::Failed(error)) if error.contains("input lost")));
}

#[test]
fn a_reader_that_has_lost_what_was_sent_to_it_gets_it_again() {
    let mut cluster = Cluster::new(2);
    cluster.submit(spec(1, word_count(2)));
    cluster.failures.push((REDUCE, 0, FailureKind::InputLost));
    cluster.run_until(11_500);
    let resent: Vec<Vec<u32>> = cluster
        .take_actions()
        .into_iter()
        .filter_map(|action| match action {
            Action::Resend { partitions, .. } => Some(partitions),
            _ => None,
        })
        .collect();
    assert_eq!(resent, [vec![0], vec![0]], "from both executors that ran maps");
}

#[test]
fn late_repeated_and_unknown_reports_change_nothing() {
    let mut cluster = Cluster::new(3);
    let job = cluster.submit(JobSpec {
        max_attempts: 2,
        ..spec(1, word_count(3))
    });
    cluster.run_until(10_999);
    cluster.clock(11_000_000);
    cluster.step_until("the launch", |cluster| {
        let view = cluster.scheduler.job(job).expect("a job");
        view.batches
            .iter()
            .any(|batch| batch.state == crate::BatchState::Running)
    });
    let launched = launches(cluster.take_actions());
    let (executor, launch) = launched
        .iter()
        .find(|(_, launch)| launch.tasks.iter().any(|task| task.stage == MAP))
        .expect("a map");
    let task = launch.tasks.iter().find(|task| task.stage == MAP).expect("a map");
    let report = |executor, batch, attempt, restore, ok| Event::BatchReported {
        executor,
        job,
        batch: BatchTime(batch),
        restore,
        tasks: vec![TaskOutcome {
            stage: task.stage,
            partition: task.partition,
            attempt: Attempt(attempt),
            result: if ok {
                Ok(TaskSuccess::default())
            } else {
                Err(failure(FailureKind::User))
            },
        }],
    };
    let other = cluster
        .executors
        .keys()
        .copied()
        .find(|id| id != executor)
        .expect("another executor");
    // It fails once; what is said of the first attempt after that is late.
    cluster.event(report(*executor, 11_000, 0, false, false));
    for event in [
        report(*executor, 11_000, 0, false, false),
        report(*executor, 11_000, 0, false, true),
        report(other, 11_000, 7, false, false),
        report(*executor, 11_000, 1, true, false),
        report(*executor, 11_001, 1, false, false),
        report(*executor, 12_000, 1, false, false),
        report(*executor, -5, 1, false, false),
        report(ExecutorId(99), 11_000, 1, false, false),
    ] {
        cluster.event(event);
    }
    for batch in [11_000, 12_000] {
        cluster.event(Event::Committed {
            job,
            batch: BatchTime(batch),
            result: Ok(()),
        });
        cluster.event(Event::Allocated {
            job,
            batch: BatchTime(batch),
            result: Ok(Vec::new()),
        });
    }
    let retried = launches(cluster.take_actions());
    assert_eq!(retried.len(), 1);
    cluster.run_until(12_500);
    assert_eq!(cluster.committed(job), [1, 2]);
}
