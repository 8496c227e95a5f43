//! Remembered data: lost and made again, and moved when the owners change.

use std::collections::BTreeSet;

use tidemill_types::{BatchTime, DatasetId, ExecutorId, FailureKind, JobId, StageId};

use super::cluster::{Cluster, failure, tasks};
use super::plans::*;
use crate::{Action, Event, JobSpec, Launch, Notice, TaskOutcome};

const ONE: ExecutorId = ExecutorId(1);
const TWO: ExecutorId = ExecutorId(2);
const THREE: ExecutorId = ExecutorId(3);

fn running(plan: tidemill_dstream::plan::JobPlan, until: i64) -> (Cluster, JobId) {
    let mut cluster = Cluster::new(3);
    let job = cluster.submit(spec(1, plan));
    cluster.run_until(until);
    cluster.take_actions();
    (cluster, job)
}

fn restores(launches: &[(ExecutorId, Launch)]) -> Vec<(ExecutorId, Launch)> {
    launches.iter().filter(|(_, launch)| launch.restore).cloned().collect()
}

/// The launch messages of the restores that begin with the batch of a time in milliseconds.
fn restores_at(cluster: &mut Cluster, millis: i64) -> Vec<(ExecutorId, Launch)> {
    cluster.clock(millis * 1000);
    loop {
        let launched = restores(&cluster.take_launches());
        if !launched.is_empty() {
            return launched;
        }
        assert!(cluster.step(), "nothing is restored");
    }
}

#[test]
fn lost_panes_are_made_again_from_the_inputs_of_their_batches_and_nothing_else_is() {
    let (mut cluster, job) = running(windowed(3, 3, 1), 15_500);
    cluster.lose(TWO);
    let launches = restores_at(&mut cluster, 16_000);
    // The window of batch 6 reads the batches 4 to 6: of the first two the pane of the lost partition is missing.
    let with_input = |index: i64| (0..3).filter(move |map| has_item(tidemill_types::StreamId(0), index, *map));
    let mut expected: Vec<(i64, StageId, u32)> = Vec::new();
    for index in [4, 5] {
        expected.extend(with_input(index).map(|map| (index, MAP, map)));
        expected.push((index, REDUCE, 1));
    }
    let made: Vec<_> = tasks(&launches)
        .into_iter()
        .map(|(index, stage, partition, _)| (index, stage, partition))
        .collect();
    assert_eq!(made, expected);
    for (_, launch) in &launches {
        assert!(launch.restore);
        for map in launch.tasks.iter().filter(|task| task.stage == MAP) {
            assert_eq!(map.only_targets, [1]);
        }
    }
    cluster.run_until(18_500);
    assert_eq!(cluster.committed(job), [1, 2, 3, 4, 5, 6, 7, 8]);
    let again = restores(&cluster.take_launches());
    assert!(again.is_empty(), "what is there again is not made twice");
}

#[test]
fn a_window_waits_for_panes_that_are_made_again() {
    let (mut cluster, job) = running(windowed(3, 3, 1), 12_500);
    cluster.lose(THREE);
    // The survivors do not even begin when the next batch is due.
    for executor in [ONE, TWO] {
        cluster.executors.get_mut(&executor).expect("an executor").frozen = true;
    }
    cluster.run_until(13_500);
    let restoring = cluster.take_notices();
    let batches: Vec<&Notice> = restoring
        .iter()
        .filter(|notice| matches!(notice, Notice::Restoring { .. }))
        .collect();
    assert_eq!(batches.len(), 2);
    assert_eq!(cluster.committed(job), [1, 2]);
    for executor in [ONE, TWO] {
        cluster.executors.get_mut(&executor).expect("an executor").frozen = false;
    }
    cluster.settle();
    assert_eq!(cluster.committed(job), [1, 2, 3]);
}

#[test]
fn panes_of_a_batch_that_is_committing_are_made_again_once_it_is_committed() {
    let (mut cluster, job) = running(windowed(3, 3, 1), 11_500);
    cluster.hold_committer = true;
    cluster.run_until(12_500);
    cluster.take_actions();
    cluster.lose(TWO);
    let before: BTreeSet<i64> = restores(&cluster.take_launches())
        .iter()
        .map(|(_, launch)| launch.index)
        .collect();
    assert_eq!(before, BTreeSet::from([1]));
    cluster.settle();
    cluster.hold_committer = false;
    cluster.run_until(13_500);
    let after: BTreeSet<i64> = restores(&cluster.take_launches())
        .iter()
        .map(|(_, launch)| launch.index)
        .collect();
    assert_eq!(after, BTreeSet::from([2]));
    cluster.run_until(14_500);
    assert_eq!(cluster.committed(job), [1, 2, 3, 4]);
}

#[test]
fn a_restore_that_loses_an_executor_begins_anew_with_what_is_missing_then() {
    let (mut cluster, job) = running(windowed(4, 4, 1), 14_500);
    cluster.lose(TWO);
    let first = restores_at(&mut cluster, 15_000);
    for _ in 0..7 {
        cluster.step();
    }
    cluster.lose(THREE);
    let second = restores(&cluster.take_launches());
    assert!(
        second
            .iter()
            .all(|(executor, launch)| *executor == ONE && launch.routing > first[0].1.routing)
    );
    cluster.run_until(18_500);
    assert_eq!(cluster.committed(job), [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn all_panes_are_made_again_when_all_executors_were_lost() {
    let (mut cluster, job) = running(windowed(3, 4, 1), 15_500);
    for executor in [ONE, TWO, THREE] {
        cluster.lose(executor);
    }
    let new = cluster.join(2);
    cluster.run_until(16_500);
    let again: BTreeSet<i64> = restores(&cluster.take_launches())
        .iter()
        .map(|(_, launch)| launch.index)
        .collect();
    assert_eq!(again, BTreeSet::from([3, 4, 5]));
    assert_eq!(cluster.owners(job, WINDOW), [new; 3]);
    assert_eq!(cluster.committed(job), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_window_over_windows_is_made_again_with_all_that_it_came_from() {
    let (mut cluster, job) = running(two_levels(3), 16_500);
    cluster.lose(TWO);
    let launches = restores_at(&mut cluster, 17_000);
    let again: BTreeSet<i64> = restores(&launches).iter().map(|(_, launch)| launch.index).collect();
    // The outer window needs batch 6 of the inner one, and that the panes from 4 on.
    assert_eq!(again, BTreeSet::from([4, 5, 6]));
    let needed = restores(&launches)
        .iter()
        .all(|(_, launch)| launch.remember_from <= BatchTime(14_000));
    assert!(needed, "executors keep what the restores read");
    cluster.run_until(20_500);
    assert_eq!(cluster.committed(job), (1..=10).collect::<Vec<i64>>());
}

#[test]
fn skipped_batches_are_not_made_again() {
    let mut cluster = Cluster::new(3);
    let job = cluster.submit(JobSpec {
        max_attempts: 1,
        on_batch_failure: tidemill_dstream::FailurePolicy::Skip,
        ..spec(1, two_levels(3))
    });
    cluster.run_until(13_500);
    cluster.failures.push((REDUCE, 0, FailureKind::User));
    cluster.run_until(15_500);
    cluster.take_actions();
    cluster.lose(TWO);
    let again: BTreeSet<i64> = restores_at(&mut cluster, 16_000)
        .iter()
        .map(|(_, launch)| launch.index)
        .collect();
    assert_eq!(again, BTreeSet::from([3, 5]));
    cluster.run_until(18_500);
    assert_eq!(cluster.committed(job), [1, 2, 3, 5, 6, 7, 8]);
}

#[test]
fn a_restore_whose_reader_has_lost_what_was_sent_to_it_begins_anew() {
    let (mut cluster, job) = running(windowed(3, 3, 1), 13_500);
    cluster.lose(TWO);
    let first = restores_at(&mut cluster, 14_000);
    // Of the batch itself, and of both that are restored.
    cluster.failures = vec![(REDUCE, 1, FailureKind::InputLost); 3];
    cluster.run_until(14_900);
    let second = restores(&cluster.take_launches());
    assert!(!second.is_empty());
    assert!(second.iter().all(|(_, launch)| launch.routing > first[0].1.routing));
    assert!(cluster.failures.is_empty());
    assert_eq!(cluster.committed(job), [1, 2, 3, 4]);
}

#[test]
fn data_that_is_lost_again_and_again_ends_the_job() {
    let (mut cluster, job) = running(windowed(3, 3, 1), 13_500);
    cluster.lose(TWO);
    restores_at(&mut cluster, 14_000);
    cluster.failures = vec![(REDUCE, 1, FailureKind::InputLost); 1000];
    cluster.run_until(60_000);
    assert!(format!("{:?}", cluster.state(job)).contains("remembered data of batch"));
}

#[test]
fn data_that_cannot_be_made_again_ends_the_job() {
    let mut cluster = Cluster::new(3);
    let job = cluster.submit(JobSpec {
        max_attempts: 2,
        ..spec(1, windowed(3, 3, 1))
    });
    cluster.run_until(13_500);
    cluster.lose(TWO);
    let mut launched = restores_at(&mut cluster, 14_000);
    for _ in 0..2 {
        launched.retain(|(_, launch)| launch.tasks.iter().any(|task| task.stage == REDUCE));
        let (executor, launch) = launched.pop().expect("a pane");
        let task = launch.tasks.last().expect("the pane");
        cluster.event(Event::BatchReported {
            executor,
            job,
            batch: launch.batch,
            restore: true,
            tasks: vec![TaskOutcome {
                stage: REDUCE,
                partition: task.partition,
                attempt: task.attempt,
                result: Err(failure(FailureKind::User)),
            }],
        });
        launched = restores(&cluster.take_launches());
    }
    assert!(format!("{:?}", cluster.state(job)).contains("remembered data of batch"));
}

#[test]
fn an_executor_that_joins_takes_its_share_at_the_next_border_with_the_data_that_belongs_to_it() {
    let (mut cluster, job) = running(windowed(4, 3, 1), 13_500);
    cluster.hold_committer = true;
    cluster.run_until(14_500);
    let before = cluster.owners(job, WINDOW);
    let fourth = cluster.join(2);
    cluster.run_until(15_500);
    assert_eq!(cluster.owners(job, WINDOW), before, "a batch depends on the owners");
    cluster.take_actions();
    cluster.hold_committer = false;
    cluster.settle();
    let after = cluster.owners(job, WINDOW);
    let moved: Vec<u32> = (0..4)
        .filter(|partition| after[*partition as usize] == fourth)
        .collect();
    assert_eq!(moved.len(), 1);
    let actions = cluster.take_actions();
    let fetched: Vec<_> = actions
        .iter()
        .filter_map(|action| match action {
            Action::FetchDatasets { executor, parts, .. } => Some((*executor, parts.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(fetched.len(), 1);
    assert_eq!(fetched[0].0, fourth);
    let parts: Vec<_> = fetched[0]
        .1
        .iter()
        .map(|(part, holder)| (part.dataset, part.batch, part.partition, *holder))
        .collect();
    let holder = before[moved[0] as usize];
    // The window of batch 5 reads the batches 3 to 5.
    let expected = [13_000, 14_000].map(|batch| (DatasetId(0), BatchTime(batch), moved[0], holder));
    assert_eq!(parts, expected);
    // The routing is there before anything else of it.
    let position = |wanted: &dyn Fn(&Action) -> bool| actions.iter().position(wanted).expect("the action");
    let routing = position(&|action| matches!(action, Action::Routing { executor, .. } if *executor == fourth));
    let fetch = position(&|action| matches!(action, Action::FetchDatasets { .. }));
    let launch = position(&|action| matches!(action, Action::Launch { .. }));
    assert!(routing < fetch && fetch < launch);
    assert!(
        !actions
            .iter()
            .any(|action| matches!(action, Action::Launch { launch, .. } if launch.restore))
    );
    cluster.run_until(17_500);
    assert_eq!(cluster.committed(job), [1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn an_executor_that_joins_is_not_kept_waiting_by_batches_that_overlap() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(JobSpec {
        concurrent_batches: 3,
        ..spec(1, windowed(3, 3, 1))
    });
    cluster.hold_committer = true;
    cluster.run_until(14_500);
    let third = cluster.join(2);
    cluster.run_until(16_500);
    cluster.hold_committer = false;
    // More batches are ready than can overlap, and yet there is a border between them.
    cluster.step_until("the third commit", |cluster| cluster.committed(job).len() == 3);
    assert!(cluster.owners(job, WINDOW).contains(&third));
    cluster.run_until(17_500);
    assert_eq!(cluster.committed(job), [1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn data_that_could_not_be_taken_over_is_made_again() {
    let (mut cluster, job) = running(windowed(3, 3, 1), 13_500);
    // Whoever holds the data is gone, and nobody knows yet.
    let holders = cluster.owners(job, WINDOW);
    let fourth = cluster.join(6);
    cluster.step_until("the move", |cluster| cluster.owners(job, WINDOW).contains(&fourth));
    let after = cluster.owners(job, WINDOW);
    let moved = (0..3)
        .find(|partition| after[*partition] == fourth)
        .expect("a partition");
    cluster.kill(holders[moved]);
    cluster.settle();
    assert!(!restores_at(&mut cluster, 14_000).is_empty());
    cluster.lose(holders[moved]);
    cluster.run_until(16_500);
    assert_eq!(cluster.committed(job), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_restore_does_not_wait_for_data_that_could_not_be_taken_over() {
    let (mut cluster, job) = running(two_levels(3), 16_500);
    let fourth = cluster.join(6);
    cluster.step_until("the move", |cluster| cluster.owners(job, MAP).contains(&fourth));
    let taken = |action: Action| match action {
        Action::FetchDatasets { parts, .. } => Some(parts),
        _ => None,
    };
    let missing: Vec<_> = cluster
        .take_actions()
        .into_iter()
        .filter_map(taken)
        .flatten()
        .map(|(part, _)| part)
        .collect();
    assert!(!missing.is_empty());
    let inbox = &mut cluster.executors.get_mut(&fourth).expect("an executor").inbox;
    inbox.retain(|action| !matches!(action, Action::FetchDatasets { .. }));
    // The restore reads on the new owner what that is still to fetch.
    let lost = cluster
        .owners(job, MAP)
        .into_iter()
        .find(|owner| *owner != fourth)
        .expect("another owner");
    cluster.lose(lost);
    restores_at(&mut cluster, 17_000);
    cluster.settle();
    cluster.event(Event::DatasetsFetched {
        executor: fourth,
        job,
        missing,
    });
    cluster.run_until(18_500);
    assert_eq!(cluster.committed(job), [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn a_new_owner_that_is_lost_while_it_fetches_is_replaced() {
    let (mut cluster, job) = running(windowed(3, 3, 1), 13_500);
    let fourth = cluster.join(6);
    cluster.step_until("the move", |cluster| cluster.owners(job, WINDOW).contains(&fourth));
    cluster.lose(fourth);
    cluster.run_until(16_500);
    assert_eq!(cluster.committed(job), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn an_answer_about_parts_that_have_moved_on_changes_nothing() {
    let (mut cluster, job) = running(windowed(3, 3, 1), 13_500);
    let part = crate::DatasetPart {
        dataset: DatasetId(0),
        batch: BatchTime(13_000),
        partition: 0,
    };
    let holder = cluster.owners(job, WINDOW)[0];
    let other = if holder == ONE { TWO } else { ONE };
    cluster.event(Event::DatasetsFetched {
        executor: other,
        job,
        missing: vec![part],
    });
    cluster.event(Event::DatasetsFetched {
        executor: holder,
        job,
        missing: vec![crate::DatasetPart {
            batch: BatchTime(1000),
            ..part
        }],
    });
    assert!(cluster.take_launches().is_empty());
}

#[test]
fn nothing_grows_over_a_thousand_batches_with_losses() {
    let mut cluster = Cluster::new(3);
    let job = cluster.submit(JobSpec {
        concurrent_batches: 2,
        ..spec(1, two_levels(2))
    });
    for index in 1..=1000 {
        cluster.run_until(10_500 + index * 1000);
        if index % 50 == 0 {
            let first = *cluster.executors.keys().next().expect("an executor");
            cluster.lose(first);
            cluster.join(2);
        }
        // Bounds of what is kept are checked after every event.
        cluster.take_actions();
    }
    assert_eq!(cluster.committed(job).len(), 1000);
}
