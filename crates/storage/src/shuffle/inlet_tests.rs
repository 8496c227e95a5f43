use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use tidemill_types::{BatchTime, JobId, RoutingVersion, StageId};

use super::inlet::{Inlet, Verdict};
use super::*;

/// A frame of delivery `delivery` (of attempt `delivery`) of a map.
fn head(map: u32, delivery: u64, targets: &[u32], index: u32, last: bool) -> FrameHead {
    FrameHead {
        job: JobId(1),
        batch: BatchTime(1000),
        from_stage: StageId(0),
        map_partition: map,
        attempt: Attempt(delivery as u32),
        routing_version: RoutingVersion(1),
        source: ExecutorId(map),
        delivery,
        targets: Arc::from(targets),
        index,
        last,
        oldest: true,
    }
}

fn put(inlet: &mut Inlet<&'static str>, head: &FrameHead, payload: &'static str) -> Vec<u32> {
    assert_eq!(inlet.judge(head), Verdict::Wanted);
    inlet.insert(head, payload).ready
}

fn read(inlet: &Inlet<&'static str>, partition: u32) -> Vec<&'static str> {
    inlet
        .read(partition)
        .unwrap()
        .into_iter()
        .map(|part| *part.payload)
        .collect()
}

#[test]
fn partitions_are_ready_once_when_all_maps_are_complete() {
    let mut inlet = Inlet::default();
    assert!(inlet.expect(&[0, 1], &[4, 5]).is_empty());
    assert!(put(&mut inlet, &head(1, 0, &[4, 5], 1, true), "b1").is_empty());
    assert!(put(&mut inlet, &head(0, 0, &[4, 5], 0, true), "a0").is_empty());
    assert_eq!(inlet.missing(), [1]);
    assert_eq!(inlet.read(4).unwrap_err(), [1]);
    assert_eq!(put(&mut inlet, &head(1, 0, &[4, 5], 0, false), "b0"), [4, 5]);
    assert_eq!(read(&inlet, 4), ["a0", "b0", "b1"]);
    assert!(inlet.missing().is_empty());
    assert!(inlet.expect(&[0, 1], &[4, 5]).is_empty(), "said once");
}

#[test]
fn frames_may_come_before_they_are_expected() {
    let mut inlet = Inlet::default();
    assert!(put(&mut inlet, &head(0, 0, &[1], 0, true), "a").is_empty());
    assert!(inlet.expect(&[0, 1], &[1]).is_empty());
    assert_eq!(put(&mut inlet, &head(1, 0, &[1], 0, true), "b"), [1]);
    // A shuffle that nobody sends to is ready at once.
    assert_eq!(Inlet::<()>::default().expect(&[], &[0, 2]), [0, 2]);
}

#[test]
fn the_first_complete_delivery_wins_and_others_are_given_up() {
    let mut inlet = Inlet::default();
    inlet.expect(&[0], &[1, 2]);
    put(&mut inlet, &head(0, 0, &[1, 2], 0, false), "slow 0");
    put(&mut inlet, &head(0, 1, &[1, 2], 0, false), "fast 0");
    assert_eq!(inlet.judge(&head(0, 0, &[1, 2], 0, false)), Verdict::Duplicate);
    let inserted = inlet.insert(&head(0, 1, &[1, 2], 1, true), "fast 1");
    assert_eq!((inserted.ready, inserted.given_up), (vec![1, 2], vec!["slow 0"]));
    assert_eq!(inlet.judge(&head(0, 0, &[1, 2], 1, true)), Verdict::Superseded);
    assert_eq!(inlet.judge(&head(0, 7, &[2], 0, true)), Verdict::Superseded);
    assert_eq!(inlet.judge(&head(0, 1, &[1, 2], 1, true)), Verdict::Duplicate);
    assert_eq!(read(&inlet, 2), ["fast 0", "fast 1"]);
}

#[test]
fn partitions_that_move_here_later_are_ready_with_what_is_sent_for_them() {
    let mut inlet = Inlet::default();
    inlet.expect(&[0, 1], &[1]);
    put(&mut inlet, &head(0, 0, &[1], 0, true), "a");
    assert_eq!(put(&mut inlet, &head(1, 0, &[1], 0, true), "b"), [1]);

    assert!(inlet.expect(&[0, 1], &[1, 2]).is_empty());
    assert_eq!(inlet.missing(), [0, 1]);
    put(&mut inlet, &head(0, 5, &[2], 0, true), "a for 2");
    // Another executor's whole attempt covers both partitions, of which one is won already.
    assert_eq!(put(&mut inlet, &head(1, 6, &[1, 2], 0, true), "b again"), [2]);
    assert_eq!(read(&inlet, 2), ["a for 2", "b again"]);
    assert_eq!(read(&inlet, 1), ["a", "b"]);
}

#[test]
fn a_lost_delivery_can_be_replaced() {
    let mut inlet = Inlet::default();
    inlet.expect(&[0, 1], &[1]);
    put(&mut inlet, &head(0, 0, &[1], 0, true), "a");
    assert_eq!(put(&mut inlet, &head(1, 0, &[1], 0, true), "b"), [1]);
    assert_eq!(inlet.discard(1, (ExecutorId(1), 0)), ["b"]);
    assert_eq!(inlet.missing(), [1]);
    assert_eq!(put(&mut inlet, &head(1, 3, &[1], 0, true), "b again"), [1]);
    assert_eq!(read(&inlet, 1), ["a", "b again"]);
}

#[test]
fn a_reset_drops_all_and_refuses_attempts_before_it() {
    let mut inlet = Inlet::default();
    inlet.expect(&[0], &[1]);
    assert_eq!(put(&mut inlet, &head(0, 0, &[1], 0, true), "a"), [1]);
    assert_eq!(inlet.reset(Attempt(2)), ["a"]);
    assert_eq!(inlet.judge(&head(0, 1, &[1], 0, true)), Verdict::Superseded);
    assert_eq!(put(&mut inlet, &head(0, 2, &[1], 0, true), "other a"), [1]);
}

#[test]
fn unfinished_deliveries_of_a_lost_source_are_given_up() {
    let mut inlet = Inlet::default();
    put(&mut inlet, &head(0, 0, &[1], 0, false), "a0");
    put(&mut inlet, &head(0, 1, &[2], 0, true), "complete");
    assert_eq!(inlet.abandon(ExecutorId(0)), ["a0"]);
    inlet.expect(&[0], &[2]);
    assert_eq!(read(&inlet, 2), ["complete"]);
}

#[test]
fn frames_that_no_sender_makes_are_malformed() {
    let mut inlet = Inlet::default();
    assert!(matches!(inlet.judge(&head(0, 0, &[], 0, true)), Verdict::Malformed(_)));
    put(&mut inlet, &head(0, 0, &[1], 2, false), "");
    assert!(matches!(inlet.judge(&head(0, 0, &[1], 1, true)), Verdict::Malformed(_)));
    assert!(matches!(
        inlet.judge(&head(0, 0, &[1, 2], 1, false)),
        Verdict::Malformed(_)
    ));
    put(&mut inlet, &head(0, 0, &[1], 3, true), "");
    assert!(matches!(
        inlet.judge(&head(0, 0, &[1], 4, false)),
        Verdict::Malformed(_)
    ));
    assert!(matches!(inlet.judge(&head(0, 0, &[1], 4, true)), Verdict::Malformed(_)));
}

const MAPS: u32 = 3;
const PARTITIONS: u32 = 4;

#[derive(Clone, Debug)]
enum Step {
    Frame { map: u32, delivery: u64, index: u32 },
    Expect { partitions: Vec<u32> },
}

/// A delivery's targets and number of frames follow from its number, as a sender's would.
fn shape(map: u32, delivery: u64) -> (Vec<u32>, u32) {
    let bits = [0b1111, 0b0011, 0b1100, 0b0110, 0b1000][delivery as usize % 5];
    let targets = (0..PARTITIONS)
        .filter(|partition| bits & (1 << partition) != 0)
        .collect();
    (targets, 1 + (map + delivery as u32) % 3)
}

/// What should be, told from the whole history in the simplest way.
#[derive(Default)]
struct Model {
    arrived: BTreeMap<(u32, u64), BTreeSet<u32>>,
    winners: BTreeMap<(u32, u32), u64>,
    expected: BTreeSet<u32>,
    ready: BTreeSet<u32>,
}

impl Model {
    fn step(&mut self, step: &Step) {
        match step {
            Step::Frame { map, delivery, index } => {
                let (targets, frames) = shape(*map, *delivery);
                let arrived = self.arrived.entry((*map, *delivery)).or_default();
                arrived.insert(*index);
                if arrived.len() == frames as usize {
                    for target in targets {
                        self.winners.entry((*map, target)).or_insert(*delivery);
                    }
                }
            }
            Step::Expect { partitions } => self.expected.extend(partitions),
        }
    }

    fn is_complete(&self, partition: u32) -> bool {
        self.expected.contains(&partition) && (0..MAPS).all(|map| self.winners.contains_key(&(map, partition)))
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let frame = (0..MAPS, 0_u64..8, any::<prop::sample::Index>()).prop_map(|(map, delivery, index)| Step::Frame {
        map,
        delivery,
        index: index.index(shape(map, delivery).1 as usize) as u32,
    });
    let expect = prop::collection::vec(0..PARTITIONS, 0..3).prop_map(|partitions| Step::Expect { partitions });
    prop::collection::vec(prop_oneof![12 => frame, 1 => expect], 0..150)
}

proptest! {
    #[test]
    fn the_first_complete_delivery_wins_like_in_the_model(steps in steps()) {
        let mut inlet = Inlet::default();
        let mut model = Model::default();
        let mut kept = 0_i64;
        for step in &steps {
            let ready = match step {
                Step::Frame { map, delivery, index } => {
                    let (targets, frames) = shape(*map, *delivery);
                    let head = head(*map, *delivery, &targets, *index, index + 1 == frames);
                    match inlet.judge(&head) {
                        Verdict::Wanted => {
                            let inserted = inlet.insert(&head, (*map, *delivery, *index));
                            kept += 1 - inserted.given_up.len() as i64;
                            inserted.ready
                        }
                        Verdict::Duplicate | Verdict::Superseded => Vec::new(),
                        Verdict::Malformed(reason) => return Err(TestCaseError::fail(reason)),
                    }
                }
                Step::Expect { partitions } => inlet.expect(&(0..MAPS).collect::<Vec<_>>(), partitions),
            };
            model.step(step);
            for partition in ready {
                prop_assert!(model.is_complete(partition));
                prop_assert!(model.ready.insert(partition), "partition {} is ready twice", partition);
            }
            for partition in 0..PARTITIONS {
                prop_assert_eq!(model.is_complete(partition), model.ready.contains(&partition));
                if model.is_complete(partition) {
                    let expected: Vec<_> = (0..MAPS).flat_map(|map| {
                        let delivery = model.winners[&(map, partition)];
                        (0..shape(map, delivery).1).map(move |index| (map, delivery, index))
                    }).collect();
                    let read: Vec<_> = inlet.read(partition).unwrap().into_iter().map(|part| *part.payload).collect();
                    prop_assert_eq!(read, expected);
                }
            }
        }
        let left = inlet.reset(Attempt(0)).len() as i64;
        prop_assert_eq!(left, kept, "every frame is kept or given up, never both");
    }
}
