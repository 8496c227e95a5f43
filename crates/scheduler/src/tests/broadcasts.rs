//! Versions of broadcast variables: a batch has one of each, held wherever it runs, for as long as it can be asked for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;
use tidemill_types::{BatchTime, BroadcastId, ExecutorId, JobId};

use super::plans::{INTERVAL, spec, windowed, word_count};
use crate::{Action, Event, Launch, OutputPart, OutputPayload, Scheduler, StreamInput, TaskOutcome, TaskSuccess};

const JOB: JobId = JobId(1);
const VALUES: [BroadcastId; 2] = [BroadcastId(0), BroadcastId(1)];

type Version = (BroadcastId, u32);

/// A driver that answers at once, but for what the test holds back, and looks at every action.
struct World {
    scheduler: Scheduler,
    now: i64,
    /// What the executors were offered and have not said that they hold.
    offers: BTreeMap<ExecutorId, VecDeque<Version>>,
    held: BTreeMap<ExecutorId, BTreeSet<Version>>,
    /// All that the driver keeps.
    kept: BTreeSet<Version>,
    newest: BTreeMap<BroadcastId, u32>,
    destroyed: BTreeSet<BroadcastId>,
    /// Launches that were not reported.
    running: VecDeque<(ExecutorId, Launch)>,
    /// By batch.
    named: BTreeMap<BatchTime, Vec<Version>>,
    launched: u32,
}

impl World {
    fn new(window: bool) -> Self {
        let plan = if window { windowed(2, 3, 1) } else { word_count(2) };
        let mut spec = spec(JOB.0, plan);
        spec.concurrent_batches = 2;
        spec.broadcasts = VALUES.map(|id| (id, 1)).to_vec();
        let mut world = Self {
            scheduler: Scheduler::new(crate::Options::default()),
            now: 0,
            offers: BTreeMap::new(),
            held: BTreeMap::new(),
            kept: VALUES.map(|id| (id, 1)).into(),
            newest: VALUES.map(|id| (id, 1)).into(),
            destroyed: BTreeSet::new(),
            running: VecDeque::new(),
            named: BTreeMap::new(),
            launched: 0,
        };
        world.take(Event::JobSubmitted(Box::new(spec)));
        world
    }

    fn take(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.scheduler.on(self.now, event) {
                self.perform(action, &mut events);
            }
            self.scheduler.check();
        }
    }

    fn perform(&mut self, action: Action, events: &mut VecDeque<Event>) {
        match action {
            Action::Install { executor, job } => {
                self.offers.insert(executor, self.kept.iter().copied().collect());
                self.held.insert(executor, BTreeSet::new());
                events.push_back(Event::JobInstalled {
                    job,
                    executor,
                    error: None,
                });
            }
            Action::Allocate { job, batch, .. } => {
                let streams = &super::plans::word_count(2).streams;
                let input = |stream: &tidemill_dstream::plan::StreamPlan| StreamInput {
                    stream: stream.id,
                    partitions: vec![Vec::new(); 2],
                    rows: Some(0),
                    exhausted: false,
                };
                events.push_back(Event::Allocated {
                    job,
                    batch,
                    result: Ok(streams.iter().map(input).collect()),
                });
            }
            Action::Launch { executor, launch } => self.on_launch(executor, launch),
            Action::Commit { job, batch, .. } => events.push_back(Event::Committed {
                job,
                batch,
                result: Ok(()),
            }),
            Action::FetchDatasets { executor, job, .. } => events.push_back(Event::DatasetsFetched {
                executor,
                job,
                missing: Vec::new(),
            }),
            Action::DropBroadcast { broadcast, version, .. } => {
                assert!(self.kept.remove(&(broadcast, version)), "dropped twice");
                for held in self.held.values_mut() {
                    held.remove(&(broadcast, version));
                }
            }
            _ => {}
        }
    }

    fn on_launch(&mut self, executor: ExecutorId, launch: Launch) {
        if launch.tasks.is_empty() {
            return;
        }
        let held = &self.held[&executor];
        for version in &launch.broadcasts {
            assert!(
                held.contains(version),
                "{executor} does not hold {version:?} of {}",
                launch.batch
            );
        }
        let named = self
            .named
            .entry(launch.batch)
            .or_insert_with(|| launch.broadcasts.clone());
        // Nobody was left when it was launched first: it is another run, from its beginning.
        if self.running.iter().all(|(_, other)| other.batch != launch.batch) && !launch.restore {
            named.clone_from(&launch.broadcasts);
        }
        assert_eq!(*named, launch.broadcasts, "batch {}", launch.batch);
        self.launched += 1;
        self.running.push_back((executor, launch));
    }

    fn hold(&mut self, executor: ExecutorId) {
        let Some((broadcast, version)) = self.offers.get_mut(&executor).and_then(VecDeque::pop_front) else {
            return;
        };
        if self.kept.contains(&(broadcast, version)) {
            self.held.entry(executor).or_default().insert((broadcast, version));
        }
        self.take(Event::BroadcastHeld {
            job: JOB,
            executor,
            broadcast,
            version,
        });
    }

    fn offer(&mut self, broadcast: BroadcastId) {
        if self.destroyed.contains(&broadcast) {
            return;
        }
        let version = self.newest[&broadcast] + 1;
        self.newest.insert(broadcast, version);
        self.kept.insert((broadcast, version));
        for offers in self.offers.values_mut() {
            offers.push_back((broadcast, version));
        }
        self.take(Event::BroadcastOffered {
            job: JOB,
            broadcast,
            version,
        });
    }

    fn report(&mut self) {
        let Some((executor, launch)) = self.running.pop_front() else {
            return;
        };
        let tasks = launch.tasks.iter().map(|task| TaskOutcome {
            stage: task.stage,
            partition: task.partition,
            attempt: task.attempt,
            result: Ok(TaskSuccess {
                outputs: vec![OutputPart {
                    output: tidemill_types::OutputId(0),
                    partition: task.partition,
                    rows: 0,
                    payload: OutputPayload::Empty,
                }],
                ..TaskSuccess::default()
            }),
        });
        self.take(Event::BatchReported {
            executor,
            job: JOB,
            batch: launch.batch,
            restore: launch.restore,
            tasks: tasks.collect(),
        });
    }

    fn lose(&mut self, executor: ExecutorId) {
        self.offers.remove(&executor);
        self.held.remove(&executor);
        self.running.retain(|(on, _)| *on != executor);
        self.take(Event::ExecutorLost {
            executor,
            reason: "killed".to_owned(),
        });
    }

    fn tick(&mut self) {
        self.now += INTERVAL;
        self.take(Event::Clock);
    }

    fn current(&self) -> Vec<Version> {
        self.scheduler.job(JOB).map(|job| job.broadcasts).unwrap_or_default()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Register,
    Lose(usize),
    Hold(usize),
    Offer(usize),
    Destroy(usize),
    Report,
    Tick,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => Just(Step::Register),
        1 => (0..4_usize).prop_map(Step::Lose),
        6 => (0..4_usize).prop_map(Step::Hold),
        2 => (0..2_usize).prop_map(Step::Offer),
        1 => (0..12_usize).prop_map(Step::Destroy),
        6 => Just(Step::Report),
        3 => Just(Step::Tick),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_batch_names_what_is_held_and_nothing_is_dropped_that_can_be_named(
        window in any::<bool>(),
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new(window);
        let mut next = 1;
        for step in steps {
            let executors: Vec<ExecutorId> = world.offers.keys().copied().collect();
            let of = |place: usize| executors.get(place % executors.len().max(1)).copied();
            match step {
                Step::Register => {
                    world.take(Event::ExecutorRegistered { executor: ExecutorId(next), slots: 2 });
                    next += 1;
                }
                Step::Lose(place) => if let Some(executor) = of(place) { world.lose(executor) },
                Step::Hold(place) => if let Some(executor) = of(place) { world.hold(executor) },
                Step::Offer(place) => world.offer(VALUES[place]),
                Step::Destroy(place) => if let Some(broadcast) = VALUES.get(place) {
                    world.destroyed.insert(*broadcast);
                    world.take(Event::BroadcastDestroyed { job: JOB, broadcast: *broadcast });
                }
                Step::Report => world.report(),
                Step::Tick => world.tick(),
            }
        }
        // Then everything goes well: the newest is used, and nothing else is kept.
        world.take(Event::ExecutorRegistered { executor: ExecutorId(next), slots: 2 });
        for _ in 0..40 {
            world.tick();
            for executor in world.offers.keys().copied().collect::<Vec<_>>() {
                while !world.offers[&executor].is_empty() {
                    world.hold(executor);
                }
            }
            while !world.running.is_empty() {
                world.report();
            }
        }
        let newest: Vec<Version> = world.newest.iter().map(|(id, version)| (*id, *version)).collect();
        let newest: Vec<Version> = newest.into_iter().filter(|(id, _)| !world.destroyed.contains(id)).collect();
        prop_assert_eq!(world.current(), newest.clone());
        let kept: Vec<Version> = world.kept.iter().copied().collect();
        prop_assert_eq!(kept, newest);
        prop_assert!(world.launched > 0);
    }
}

fn executors(world: &mut World, ids: impl IntoIterator<Item = u32>) {
    for id in ids {
        let executor = ExecutorId(id);
        world.take(Event::ExecutorRegistered { executor, slots: 2 });
    }
}

fn hold_all(world: &mut World, executor: u32) {
    while !world.offers[&ExecutorId(executor)].is_empty() {
        world.hold(ExecutorId(executor));
    }
}

#[test]
fn a_new_version_is_used_from_the_first_batch_after_all_hold_it() {
    let mut world = World::new(false);
    executors(&mut world, [1, 2]);
    hold_all(&mut world, 1);
    assert_eq!(world.launched, 0);
    hold_all(&mut world, 2);
    world.tick();
    let first = world.launched;
    assert!(first > 0);
    world.offer(VALUES[0]);
    world.hold(ExecutorId(1));
    while !world.running.is_empty() {
        world.report();
    }
    world.tick();
    assert_eq!(world.current(), [(VALUES[0], 1), (VALUES[1], 1)]);
    assert!(world.launched > first, "the old version goes on meanwhile");
    world.hold(ExecutorId(2));
    assert_eq!(world.current(), [(VALUES[0], 2), (VALUES[1], 1)]);
    assert!(world.kept.contains(&(VALUES[0], 1)), "a batch runs with it");
    while !world.running.is_empty() {
        world.report();
    }
    for _ in 0..2 {
        world.tick();
        while !world.running.is_empty() {
            world.report();
        }
    }
    assert!(!world.kept.contains(&(VALUES[0], 1)), "nobody can ask for it any more");
}

#[test]
fn an_executor_that_comes_late_is_given_nothing_before_it_holds_the_values() {
    let mut world = World::new(false);
    executors(&mut world, [1]);
    hold_all(&mut world, 1);
    world.tick();
    executors(&mut world, [2]);
    for _ in 0..3 {
        while !world.running.is_empty() {
            world.report();
        }
        world.tick();
    }
    // `on_launch` looks at it; here that it waited at all.
    assert!(world.running.iter().all(|(executor, _)| *executor == ExecutorId(1)));
    hold_all(&mut world, 2);
    for _ in 0..3 {
        while !world.running.is_empty() {
            world.report();
        }
        world.tick();
    }
    assert!(world.running.iter().any(|(executor, _)| *executor == ExecutorId(2)));
}
