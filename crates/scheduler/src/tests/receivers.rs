//! Receivers, and which of what they received belongs to which batch.

use tidemill_dstream::InputItem;
use tidemill_types::{BatchTime, BlockId, ExecutorId, JobId, ReceiverId, StageId, StreamId};

use super::cluster::Cluster;
use super::plans::*;
use crate::{Action, Event, JobEnd, JobSpec, JobState, Launch, Notice, StoredBlock};

const RECEIVER: ReceiverId = ReceiverId(0);

/// The blocks that a launch names.
fn blocks(launch: &Launch) -> Vec<BlockId> {
    let items = launch
        .tasks
        .iter()
        .flat_map(|task| &task.inputs)
        .flat_map(|input| &input.items);
    let block = |item: &InputItem| match item {
        InputItem::Block { id, .. } => Some(*id),
        _ => None,
    };
    items.filter_map(block).collect()
}

/// The blocks of each batch that was launched.
fn batches(cluster: &mut Cluster) -> Vec<(i64, Vec<BlockId>)> {
    let mut batches: Vec<(i64, Vec<BlockId>)> = Vec::new();
    for (_, launch) in cluster.take_launches() {
        let named = blocks(&launch);
        match batches.last_mut() {
            Some((index, all)) if *index == launch.index => all.extend(named),
            _ => batches.push((launch.index, named)),
        }
    }
    batches
}

fn border(job: JobId, session: u32, border: i64) -> Event {
    Event::BlocksReported {
        job,
        receiver: RECEIVER,
        session,
        blocks: Vec::new(),
        border: BatchTime(border),
    }
}

#[test]
fn allocation_waits_for_the_border_and_goes_on_when_it_is_reported() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(received(1, word_count(2)));
    cluster.settle();
    cluster.receive(job, RECEIVER, 5, 10_900);
    cluster.settle();
    cluster.clock(11_000_000);
    cluster.settle();
    assert_eq!(cluster.take_launches().len(), 0);
    // The greater of 2 ms and 5 % of the interval.
    assert_eq!(cluster.scheduler.next_deadline(), Some(11_050_000));
    let block = cluster.receive(job, RECEIVER, 7, 11_000);
    cluster.settle();
    assert_eq!(batches(&mut cluster)[0].1.len(), 2);
    assert!(block.is_some());
    assert_eq!(cluster.committed(job), [1]);
}

#[test]
fn allocation_goes_on_at_the_deadline_and_what_comes_later_goes_to_the_next_batch() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(received(1, word_count(2)));
    cluster.settle();
    let early = cluster.receive(job, RECEIVER, 5, 10_900).expect("a receiver");
    cluster.run_until(11_500);
    assert_eq!(cluster.committed(job), [1]);
    let late = cluster.receive(job, RECEIVER, 5, 11_000).expect("a receiver");
    let next = cluster.receive(job, RECEIVER, 5, 12_000).expect("a receiver");
    let ahead = cluster.receive(job, RECEIVER, 5, 13_000).expect("a receiver");
    cluster.run_until(12_500);
    assert_eq!(batches(&mut cluster), [(1, vec![early]), (2, vec![late, next])]);
    cluster.run_until(13_500);
    assert_eq!(batches(&mut cluster), [(3, vec![ahead])]);
}

#[test]
fn every_block_is_in_one_batch_and_every_row_is_counted() {
    let mut cluster = Cluster::new(3);
    let job = cluster.submit(received(1, word_count(3)));
    cluster.settle();
    for i in 0..200 {
        let time = 10_400 + i * 37;
        cluster.receive(job, RECEIVER, 1 + i as u64 % 5, (time / 1000 + 1) * 1000);
        cluster.run_until(time);
    }
    cluster.run_until(19_500);
    let view = cluster.scheduler.job(job).expect("a job");
    assert_eq!(view.input_rows, (0..200).map(|i| 1 + i % 5).sum::<u64>());
    // That a block is launched for one batch only is checked at each launch.
    let all: usize = batches(&mut cluster).iter().map(|(_, blocks)| blocks.len()).sum();
    assert_eq!(all, 200);
}

#[test]
fn a_map_runs_where_its_blocks_are() {
    let mut cluster = Cluster::new(3);
    let job = cluster.submit(received(1, word_count(4)));
    cluster.settle();
    for _ in 0..4 {
        cluster.receive(job, RECEIVER, 5, 11_000);
    }
    let (holder, _) = cluster.receiving(job, RECEIVER).expect("a receiver");
    cluster.run_until(11_500);
    for (executor, launch) in cluster.take_launches() {
        let maps = launch.tasks.iter().filter(|task| task.stage == MAP);
        assert_eq!(
            maps.count(),
            if executor == holder { 2 } else { 0 },
            "as many as it has slots"
        );
    }
}

#[test]
fn a_map_that_reads_what_is_sent_to_its_owner_runs_there_wherever_its_blocks_are() {
    let mut cluster = Cluster::new(3);
    let other = ReceiverId(1);
    let job = cluster.submit(JobSpec {
        receivers: vec![(RECEIVER, StreamId(0)), (other, StreamId(1))],
        ..spec(1, broadcast(1))
    });
    cluster.settle();
    cluster.receive(job, RECEIVER, 5, 11_000);
    let block = cluster.receive(job, other, 5, 11_000).expect("a receiver");
    // The other stream goes whole to the owner alone.
    assert_ne!(cluster.owners(job, StageId(1)), [block.executor]);
    cluster.run_until(11_500);
    assert_eq!(cluster.committed(job), [1]);
}

#[test]
fn receivers_of_jobs_stand_on_different_executors() {
    let mut cluster = Cluster::new(3);
    let jobs: Vec<JobId> = (1..4).map(|id| cluster.submit(received(id, word_count(2)))).collect();
    cluster.settle();
    let mut places: Vec<ExecutorId> = jobs
        .iter()
        .map(|job| cluster.receiving(*job, RECEIVER).expect("a receiver").0)
        .collect();
    places.sort_unstable();
    assert_eq!(places, [ExecutorId(1), ExecutorId(2), ExecutorId(3)]);
}

#[test]
fn a_receiver_of_a_lost_executor_starts_elsewhere_in_a_new_session() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(received(1, word_count(2)));
    cluster.settle();
    let (first, session) = cluster.receiving(job, RECEIVER).expect("a receiver");
    assert_eq!(session, 1);
    cluster.lose(first);
    cluster.settle();
    let (second, session) = cluster.receiving(job, RECEIVER).expect("a receiver");
    assert!(second != first && session == 2);
    // What the first session still had under way is late.
    let stale = StoredBlock {
        id: BlockId {
            job,
            receiver: RECEIVER,
            executor: first,
            session: 1,
            sequence: 9,
        },
        rows: 5,
        bytes: 400,
        border: BatchTime(11_000),
    };
    cluster.event(Event::BlocksReported {
        job,
        receiver: RECEIVER,
        session: 1,
        blocks: vec![stale],
        border: BatchTime(11_000),
    });
    cluster.event(Event::ReceiverStopped {
        job,
        receiver: RECEIVER,
        session: 1,
    });
    let block = cluster.receive(job, RECEIVER, 3, 11_000).expect("a receiver");
    cluster.run_until(11_500);
    assert_eq!(batches(&mut cluster), [(1, vec![block])]);
    assert_eq!(cluster.scheduler.job(job).expect("a job").receivers[0].rows, 3);
}

#[test]
fn a_new_session_has_no_border_until_it_reports_one() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(received(1, word_count(2)));
    cluster.settle();
    cluster.event(border(job, 1, 11_000));
    let (first, _) = cluster.receiving(job, RECEIVER).expect("a receiver");
    cluster.lose(first);
    cluster.settle();
    cluster.clock(11_000_000);
    assert_eq!(cluster.scheduler.next_deadline(), Some(11_050_000));
    cluster.event(border(job, 2, 11_000));
    cluster.settle();
    assert_eq!(cluster.committed(job), [1]);
}

#[test]
fn blocks_lost_before_their_batch_is_launched_are_counted_at_once() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(received(1, word_count(2)));
    cluster.settle();
    cluster.hold_committer = true;
    cluster.run_until(11_500);
    // Batch 1 is committing; batch 2 is allocated and waits; one block waits for batch 3.
    cluster.receive(job, RECEIVER, 5, 12_000);
    cluster.run_until(12_500);
    cluster.receive(job, RECEIVER, 7, 13_000);
    cluster.settle();
    cluster.take_actions();
    let (holder, _) = cluster.receiving(job, RECEIVER).expect("a receiver");
    cluster.lose(holder);
    let lost: Vec<Notice> = cluster.take_notices();
    assert!(lost.contains(&Notice::RowsLost {
        job,
        executor: holder,
        rows: 12,
        blocks: 2
    }));
    cluster.hold_committer = false;
    cluster.run_until(13_500);
    assert_eq!(cluster.committed(job), [1, 2, 3]);
    assert_eq!(cluster.scheduler.job(job).expect("a job").lost_rows, 12);
}

#[test]
fn blocks_that_their_maps_have_sent_on_are_not_lost() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(received(1, word_count(2)));
    cluster.settle();
    cluster.receive(job, RECEIVER, 5, 11_000);
    cluster.hold_committer = true;
    cluster.run_until(11_500);
    let (holder, _) = cluster.receiving(job, RECEIVER).expect("a receiver");
    cluster.lose(holder);
    cluster.hold_committer = false;
    cluster.run_until(12_500);
    let view = cluster.scheduler.job(job).expect("a job");
    assert_eq!((view.input_rows, view.lost_rows), (5, 0));
}

#[test]
fn blocks_that_a_window_has_to_read_again_are_counted_as_lost_once() {
    let mut cluster = Cluster::new(3);
    let job = cluster.submit(received(1, windowed(3, 4, 1)));
    cluster.settle();
    cluster.receive(job, RECEIVER, 5, 11_000);
    cluster.run_until(11_500);
    let (holder, _) = cluster.receiving(job, RECEIVER).expect("a receiver");
    cluster.take_actions();
    // Its panes are made again without the rows that it alone had.
    cluster.lose(holder);
    cluster.run_until(12_500);
    assert_eq!(cluster.lost_rows, 5);
    let other = *cluster.executors.keys().next().expect("an executor");
    cluster.lose(other);
    cluster.run_until(13_500);
    assert_eq!(cluster.lost_rows, 5);
    assert_eq!(cluster.committed(job), [1, 2, 3]);
}

#[test]
fn a_holder_is_told_which_blocks_nobody_will_ask_for_any_more() {
    for (plan, until) in [(word_count(2), 2), (windowed(2, 3, 1), 4)] {
        let mut cluster = Cluster::new(2);
        let job = cluster.submit(received(1, plan));
        cluster.settle();
        let block = cluster.receive(job, RECEIVER, 5, 11_000).expect("a receiver");
        cluster.run_until(16_500);
        let launches = cluster.take_launches();
        let told: Vec<_> = launches
            .iter()
            .filter(|(_, launch)| !launch.forget_blocks.is_empty())
            .collect();
        assert_eq!(told.len(), 1);
        let (executor, launch) = told[0];
        assert_eq!((*executor, launch.index), (block.executor, until));
        assert_eq!(launch.forget_blocks, [block]);
        assert!(cluster.executors[executor].jobs[&job].blocks.is_empty());
    }
}

#[test]
fn a_graceful_stop_processes_all_that_was_received_and_then_ends() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(received(1, word_count(2)));
    cluster.run_until(11_500);
    cluster.receive(job, RECEIVER, 5, 12_000);
    cluster.receive(job, RECEIVER, 7, 15_000);
    cluster.settle();
    cluster.stop(job, false);
    cluster.run_until(11_900);
    assert_eq!(cluster.state(job), JobState::Stopping);
    assert_eq!(cluster.receiving(job, RECEIVER), None);
    cluster.run_until(12_500);
    assert_eq!(cluster.committed(job), [1, 2]);
    assert_eq!(cluster.state(job), JobState::Ended(JobEnd::Stopped));
    assert_eq!(cluster.scheduler.job(job).expect("a job").input_rows, 12);
}

#[test]
fn a_stopping_job_whose_receiver_is_lost_ends() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(received(1, word_count(2)));
    cluster.run_until(11_500);
    let (holder, _) = cluster.receiving(job, RECEIVER).expect("a receiver");
    cluster.executors.get_mut(&holder).expect("an executor").frozen = true;
    cluster.stop(job, false);
    cluster.settle();
    assert_eq!(cluster.state(job), JobState::Stopping);
    cluster.lose(holder);
    assert_eq!(cluster.state(job), JobState::Ended(JobEnd::Stopped));
    let restarted = |action: &Action| matches!(action, Action::StartReceiver { session: 2, .. });
    assert!(!cluster.take_actions().iter().any(restarted));
}

#[test]
fn a_stop_at_once_stops_the_receivers() {
    let mut cluster = Cluster::new(2);
    let job = cluster.submit(received(1, word_count(2)));
    cluster.run_until(11_500);
    cluster.take_actions();
    cluster.stop(job, true);
    let stopped = |action: &Action| matches!(action, Action::StopReceiver { .. });
    assert_eq!(
        cluster.take_actions().iter().filter(|action| stopped(action)).count(),
        1
    );
    cluster.event(border(job, 1, 12_000));
    assert_eq!(cluster.state(job), JobState::Ended(JobEnd::Stopped));
}
