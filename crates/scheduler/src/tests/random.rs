//! Random faults, in random order, by a seed: whatever happens, every batch is committed once, in order and with the
//! rows that it should have, and nothing waits for ever.

use proptest::prelude::*;
use tidemill_dstream::FailurePolicy;
use tidemill_types::{ExecutorId, FailureKind, JobId, ReceiverId, StageId, StorageLevel};

use super::cluster::{Cluster, Random};
use super::plans::*;
use crate::{Event, JobSpec, JobState};

const FAILURES: [FailureKind; 5] = [
    FailureKind::User,
    FailureKind::InputLost,
    FailureKind::ExecutorLost,
    FailureKind::Internal,
    FailureKind::Resource,
];

/// Faults of all kinds, as often as a cluster can bear.
struct Faults {
    cluster: Cluster,
    random: Random,
    /// Gone, and nobody has noticed.
    unnoticed: Vec<ExecutorId>,
    stages: u32,
}

impl Faults {
    fn some_executor(&mut self) -> Option<ExecutorId> {
        let alive: Vec<ExecutorId> = self.cluster.executors.keys().copied().collect();
        let chosen = self.random.below(alive.len());
        alive.get(chosen).copied()
    }

    fn one(&mut self) {
        match self.random.below(100) {
            0 => {
                if let Some(executor) = self.some_executor() {
                    self.cluster.kill(executor);
                    self.unnoticed.push(executor);
                }
            }
            1 => {
                if let Some(executor) = self.some_executor() {
                    self.cluster.lose(executor);
                }
            }
            2..=4 => self.notice_one(),
            5..=6 if self.cluster.executors.len() < 5 => {
                let slots = 1 + self.random.below(3) as u32;
                self.cluster.join(slots);
            }
            7 => {
                if let Some(executor) = self.some_executor() {
                    let executor = self.cluster.executors.get_mut(&executor).expect("an executor");
                    executor.frozen = !executor.frozen;
                }
            }
            8 => {
                let stage = StageId(self.random.below(self.stages as usize) as u32);
                let partition = self.random.below(4) as u32;
                let kind = FAILURES[self.random.below(FAILURES.len())];
                self.cluster.failures.push((stage, partition, kind));
            }
            9 => self.cluster.hold_committer = !self.cluster.hold_committer,
            10 => self.cluster.hold_planner = !self.cluster.hold_planner,
            11 => {
                let border = self.cluster.now / 1000 + self.random.below(2000) as i64;
                self.cluster
                    .receive(JobId(2), ReceiverId(0), 1 + self.random.below(9) as u64, border);
            }
            12 => {
                if let Some(executor) = self.some_executor() {
                    let random = &mut self.random;
                    let losing = self.cluster.executors.get_mut(&executor).expect("an executor");
                    losing.lose_data(executor, &mut |count| random.below(count));
                }
            }
            13..=14 => {
                let later = self.cluster.now + self.random.below(INTERVAL as usize) as i64;
                let next = self.cluster.scheduler.next_deadline();
                self.cluster.clock(next.map_or(later, |next| next.min(later)));
            }
            _ => {
                self.cluster.step();
            }
        }
    }

    fn notice_one(&mut self) {
        if !self.unnoticed.is_empty() {
            let executor = self.random.below(self.unnoticed.len());
            let executor = self.unnoticed.swap_remove(executor);
            self.cluster.lose(executor);
        }
    }

    fn end(&mut self) {
        while !self.unnoticed.is_empty() {
            self.notice_one();
        }
        self.cluster.failures.clear();
        self.cluster.hold_committer = false;
        self.cluster.hold_planner = false;
        self.cluster
            .executors
            .values_mut()
            .for_each(|executor| executor.frozen = false);
        if self.cluster.executors.is_empty() {
            self.cluster.join(2);
        }
    }
}

fn run(seed: u64, spec: JobSpec) -> Cluster {
    let stages = spec.plan.stages.len() as u32;
    let skips = spec.on_batch_failure == FailurePolicy::Skip;
    let mut cluster = Cluster::new(3).in_random_order(seed);
    let planned = cluster.submit(spec);
    let receiving = cluster.submit(JobSpec {
        max_attempts: 1000,
        ..received(2, word_count(3))
    });
    let mut faults = Faults {
        cluster,
        random: Random::new(!seed),
        unnoticed: Vec::new(),
        stages,
    };
    for _ in 0..1500 {
        faults.one();
    }
    faults.end();
    let mut cluster = faults.cluster;
    // Past the border of the last batch.
    let now = cluster.now / INTERVAL * 1000;
    cluster.run_until(now + 6500);
    for job in [planned, receiving] {
        let state = cluster.state(job);
        if skips && job == planned && state.is_ended() {
            // Windows that lack what they remember would be wrong: no policy makes up for that.
            assert!(format!("{state:?}").contains("cannot be made again"), "{state:?}");
            continue;
        }
        check_ended(&cluster, job, skips);
    }
    // All that was received is committed or counted as lost.
    cluster.event(Event::StopRequested {
        job: receiving,
        now: false,
    });
    let rows: u64 = cluster
        .scheduler
        .job(receiving)
        .expect("a job")
        .receivers
        .iter()
        .map(|receiver| receiver.rows)
        .sum();
    cluster.run_until(now + 12_000);
    let view = cluster.scheduler.job(receiving).expect("a job");
    assert!(view.state.is_ended());
    assert_eq!(view.input_rows + view.lost_rows, rows);
    assert_eq!(view.lost_rows, cluster.lost_rows);
    cluster
}

/// With drivers that go and come.
fn run_durable(seed: u64, spec: JobSpec) {
    let stages = spec.plan.stages.len() as u32;
    let skips = spec.on_batch_failure == FailurePolicy::Skip;
    let mut cluster = Cluster::new(3).in_random_order(seed);
    let job = cluster.submit(spec);
    let mut faults = Faults {
        cluster,
        random: Random::new(!seed),
        unnoticed: Vec::new(),
        stages,
    };
    for _ in 0..1500 {
        if faults.random.below(300) == 0 && faults.cluster.is_live(job) {
            let executors = faults.random.below(4) as u32;
            faults.cluster.restart(job, executors);
            faults.unnoticed.clear();
        }
        faults.one();
    }
    faults.end();
    let mut cluster = faults.cluster;
    let now = cluster.now / INTERVAL * 1000;
    cluster.run_until(now + 12_500);
    let state = cluster.state(job);
    if skips && state.is_ended() {
        assert!(format!("{state:?}").contains("cannot be made again"), "{state:?}");
        return;
    }
    check_ended(&cluster, job, skips);
}

/// A job that has had the time for all its batches has ended each once.
fn check_ended(cluster: &Cluster, job: JobId, skips: bool) {
    assert_eq!(cluster.state(job), JobState::Running);
    let view = cluster.scheduler.job(job).expect("a job");
    assert!(
        view.batches.is_empty(),
        "job {job} is stuck: {}",
        cluster.scheduler.waiting(job)
    );
    let committed = cluster.committed(job);
    let skipped = cluster
        .references
        .get(&job)
        .map_or(0, |reference| reference.skipped.len());
    assert!(skips || skipped == 0);
    let last = committed.last().copied().unwrap_or(0);
    assert_eq!(committed.len() + skipped, last as usize, "every batch ends once");
}

fn config() -> ProptestConfig {
    let mut config = ProptestConfig {
        // A seed has no smaller seed.
        max_shrink_iters: 0,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 64;
    }
    config
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_batch_is_right_whatever_fails(seed: u64, number in 0..PLANS, concurrent_batches in 1u32..4) {
        run(seed, JobSpec { max_attempts: 1000, concurrent_batches, ..spec(1, plan(number)) });
    }

    #[test]
    fn copies_and_parts_in_memory_alone_leave_every_batch_right(seed: u64, number in 2..5u32, level in 0..6_usize) {
        let mut plan = plan(number);
        for dataset in &mut plan.datasets {
            dataset.level = StorageLevel::ALL[level];
        }
        run(seed, JobSpec { max_attempts: 1000, ..spec(1, plan) });
    }

    #[test]
    fn jobs_with_a_checkpoint_bear_the_loss_of_state_and_of_drivers(
        seed: u64,
        number in 0..PLANS + 3,
        concurrent_batches in 1u32..4,
        every in 1u32..6,
        skip: bool,
    ) {
        let plan = match number - PLANS.min(number) {
            _ if number < PLANS => plan(number),
            0 => running_count(3),
            1 => window_over_state(2),
            _ => state_over_window(3),
        };
        let on_batch_failure = if skip { FailurePolicy::Skip } else { FailurePolicy::Stop };
        run_durable(seed, JobSpec {
            max_attempts: if skip { 2 } else { 1000 },
            checkpoint_every: Some(every),
            concurrent_batches,
            on_batch_failure,
            ..spec(1, plan)
        });
    }

    #[test]
    fn batches_that_are_skipped_leave_the_others_right(seed: u64, number in 0..PLANS, concurrent_batches in 1u32..3) {
        let on_batch_failure = FailurePolicy::Skip;
        run(seed, JobSpec { max_attempts: 2, on_batch_failure, concurrent_batches, ..spec(1, plan(number)) });
    }
}
