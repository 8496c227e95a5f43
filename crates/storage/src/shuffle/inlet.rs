//! What has arrived of one exchange of one batch, and what is still to come.
//!
//! A map task may run more than once, and send more than once: a second attempt, a repeated connection, partitions
//! that move here from a lost executor. So what counts is kept for each (map, partition): the delivery that *wins* it
//! is the first to be complete, that is to have its last frame and all before it. Tasks are functions of their key, so
//! it does not matter whose rows win, only that those of a partition come from one delivery alone.
//!
//! ```text
//!   delivery 7 of map 3, targets [1, 4]:  frame 0 · frame 1 · frame 2 (last)  ─► complete ─► wins (3, 1) and (3, 4)
//!   delivery 9 of map 3, targets [2]:     frame 0 (last)                      ─► complete ─► wins (3, 2)
//! ```
//! A partition is *ready* when every expected map has a winner for it; that is said once.
//!
//! Pure bookkeeping: frames' contents are of any type `P`, and whatever is given up is returned to the caller, who
//! drops it where no lock is held.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tidemill_types::{Attempt, ExecutorId};

use crate::frame::FrameHead;

/// Names a delivery among all that an executor ever receives.
type DeliveryId = (ExecutorId, u64);

#[derive(Debug)]
pub(super) struct Inlet<P> {
    expected: BTreeSet<u32>,
    partitions: BTreeMap<u32, Wanted>,
    maps: BTreeMap<u32, MapInput<P>>,
    /// Frames of earlier attempts are of no use.
    first_attempt: Attempt,
}

/// A partition that this executor has to have.
#[derive(Debug)]
struct Wanted {
    /// Expected maps without a winner for it.
    outstanding: usize,
    reported: bool,
}

#[derive(Debug)]
struct MapInput<P> {
    deliveries: HashMap<DeliveryId, Received<P>>,
    winners: BTreeMap<u32, DeliveryId>,
}

#[derive(Debug)]
struct Received<P> {
    attempt: Attempt,
    targets: Vec<u32>,
    frames: BTreeMap<u32, P>,
    last: Option<u32>,
}

/// Whether a frame is of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Wanted,
    /// It is here already.
    Duplicate,
    /// Others won all of its targets, or its attempt does not count any more.
    Superseded,
    Malformed(&'static str),
}

/// What inserting a frame led to.
#[derive(Debug)]
pub(super) struct Inserted<P> {
    /// Frames that are of no use any more.
    pub(super) given_up: Vec<P>,
    /// Partitions that became ready, ascending.
    pub(super) ready: Vec<u32>,
}

impl<P> Default for Inlet<P> {
    fn default() -> Self {
        Self {
            expected: BTreeSet::new(),
            partitions: BTreeMap::new(),
            maps: BTreeMap::new(),
            first_attempt: Attempt(0),
        }
    }
}

impl<P> Inlet<P> {
    /// Names the maps that send and the partitions that are to be had; both add to what was named before. Returns
    /// the partitions that are ready by that.
    pub(super) fn expect(&mut self, maps: &[u32], partitions: &[u32]) -> Vec<u32> {
        self.expected.extend(maps);
        for partition in partitions {
            self.partitions.entry(*partition).or_insert(Wanted {
                outstanding: 0,
                reported: false,
            });
        }
        self.recount();
        self.report()
    }

    pub(super) fn is_expected(&self) -> bool {
        !self.partitions.is_empty()
    }

    pub(super) fn judge(&self, head: &FrameHead) -> Verdict {
        if head.targets.is_empty() {
            return Verdict::Malformed("a frame for no partition");
        }
        if head.attempt < self.first_attempt {
            return Verdict::Superseded;
        }
        let Some(map) = self.maps.get(&head.map_partition) else {
            return Verdict::Wanted;
        };
        let Some(delivery) = map.deliveries.get(&(head.source, head.delivery)) else {
            let won = head.targets.iter().all(|target| map.winners.contains_key(target));
            return if won { Verdict::Superseded } else { Verdict::Wanted };
        };
        if delivery.attempt != head.attempt || *delivery.targets != *head.targets {
            return Verdict::Malformed("two deliveries under one number");
        }
        if delivery.frames.contains_key(&head.index) {
            return Verdict::Duplicate;
        }
        let highest = delivery.frames.last_key_value().map(|(index, _)| *index);
        let ends_twice = head.last && delivery.last.is_some();
        let after_end = delivery.last.is_some_and(|last| head.index > last);
        let ends_early = head.last && highest.is_some_and(|highest| highest > head.index);
        if ends_twice || after_end || ends_early {
            return Verdict::Malformed("frames behind the last one");
        }
        Verdict::Wanted
    }

    /// Takes in a frame that was judged to be wanted.
    pub(super) fn insert(&mut self, head: &FrameHead, payload: P) -> Inserted<P> {
        let id = (head.source, head.delivery);
        let map = self.maps.entry(head.map_partition).or_default();
        let delivery = map.deliveries.entry(id).or_insert_with(|| Received {
            attempt: head.attempt,
            targets: head.targets.to_vec(),
            frames: BTreeMap::new(),
            last: None,
        });
        let mut given_up: Vec<P> = delivery.frames.insert(head.index, payload).into_iter().collect();
        if head.last {
            delivery.last = Some(head.index);
        }
        if !delivery.is_complete() {
            return Inserted {
                given_up,
                ready: Vec::new(),
            };
        }
        let expected = self.expected.contains(&head.map_partition);
        for target in delivery.targets.clone() {
            let won = !map.winners.contains_key(&target);
            if won {
                map.winners.insert(target, id);
            }
            if let Some(wanted) = self.partitions.get_mut(&target).filter(|_| won && expected) {
                wanted.outstanding -= 1;
            }
        }
        given_up.extend(map.give_up_losers());
        Inserted {
            given_up,
            ready: self.report(),
        }
    }

    /// The frames with rows for `partition`, in ascending order of maps and then of frames; or the maps that are
    /// still missing for it.
    pub(super) fn read(&self, partition: u32) -> Result<Vec<Part<'_, P>>, Vec<u32>> {
        let mut frames = Vec::new();
        let mut missing = Vec::new();
        for map_partition in &self.expected {
            let input = self.maps.get(map_partition);
            let winner = input.and_then(|map| map.deliveries.get_key_value(map.winners.get(&partition)?));
            match winner {
                Some((id, delivery)) => frames.extend(delivery.frames.values().map(|payload| Part {
                    map_partition: *map_partition,
                    delivery: *id,
                    payload,
                })),
                None => missing.push(*map_partition),
            }
        }
        if missing.is_empty() { Ok(frames) } else { Err(missing) }
    }

    /// The expected maps that lack some partition, ascending.
    pub(super) fn missing(&self) -> Vec<u32> {
        self.expected
            .iter()
            .copied()
            .filter(|map| {
                let winners = self.maps.get(map).map(|map| &map.winners);
                self.partitions
                    .keys()
                    .any(|partition| winners.is_none_or(|winners| !winners.contains_key(partition)))
            })
            .collect()
    }

    /// Forgets a delivery whose frames cannot be read any more, so that another can take its place.
    pub(super) fn discard(&mut self, map_partition: u32, delivery: DeliveryId) -> Vec<P> {
        let Some(map) = self.maps.get_mut(&map_partition) else {
            return Vec::new();
        };
        let Some(lost) = map.deliveries.remove(&delivery) else {
            return Vec::new();
        };
        map.winners.retain(|_, winner| *winner != delivery);
        self.recount();
        lost.frames.into_values().collect()
    }

    /// Forgets what arrived, and refuses attempts before `first_attempt` from now on.
    pub(super) fn reset(&mut self, first_attempt: Attempt) -> Vec<P> {
        self.first_attempt = self.first_attempt.max(first_attempt);
        let maps = std::mem::take(&mut self.maps);
        self.recount();
        maps.into_values().flat_map(MapInput::into_payloads).collect()
    }

    /// Forgets the deliveries of `source` that are not complete: it will not end them.
    pub(super) fn abandon(&mut self, source: ExecutorId) -> Vec<P> {
        let mut given_up = Vec::new();
        for map in self.maps.values_mut() {
            let unfinished: Vec<DeliveryId> = map
                .deliveries
                .iter()
                .filter(|(id, delivery)| id.0 == source && !delivery.is_complete())
                .map(|(id, _)| *id)
                .collect();
            let lost = unfinished.iter().filter_map(|id| map.deliveries.remove(id));
            given_up.extend(lost.flat_map(|delivery| delivery.frames.into_values()));
        }
        given_up
    }

    fn recount(&mut self) {
        for (partition, wanted) in &mut self.partitions {
            let won = |map: &u32| {
                self.maps
                    .get(map)
                    .is_some_and(|map| map.winners.contains_key(partition))
            };
            wanted.outstanding = self.expected.iter().filter(|map| !won(map)).count();
            // What was complete and is no more becomes ready again.
            wanted.reported &= wanted.outstanding == 0;
        }
    }

    fn report(&mut self) -> Vec<u32> {
        let ready = self
            .partitions
            .iter_mut()
            .filter(|(_, wanted)| wanted.outstanding == 0 && !wanted.reported);
        ready
            .map(|(partition, wanted)| {
                wanted.reported = true;
                *partition
            })
            .collect()
    }
}

/// A frame of the delivery that won a partition.
#[derive(Debug)]
pub(super) struct Part<'a, P> {
    pub(super) map_partition: u32,
    pub(super) delivery: DeliveryId,
    pub(super) payload: &'a P,
}

impl<P> Default for MapInput<P> {
    fn default() -> Self {
        Self {
            deliveries: HashMap::new(),
            winners: BTreeMap::new(),
        }
    }
}

impl<P> MapInput<P> {
    /// Removes the deliveries that have won nothing and can win nothing.
    fn give_up_losers(&mut self) -> Vec<P> {
        let winners = &self.winners;
        let losers: Vec<DeliveryId> = self
            .deliveries
            .iter()
            .filter(|(id, delivery)| {
                delivery
                    .targets
                    .iter()
                    .all(|target| winners.get(target).is_some_and(|winner| winner != *id))
            })
            .map(|(id, _)| *id)
            .collect();
        losers
            .iter()
            .filter_map(|id| self.deliveries.remove(id))
            .flat_map(|lost| lost.frames.into_values())
            .collect()
    }

    fn into_payloads(self) -> impl Iterator<Item = P> {
        self.deliveries
            .into_values()
            .flat_map(|delivery| delivery.frames.into_values())
    }
}

impl<P> Received<P> {
    /// Frames are checked against the last one as they come, so their number tells.
    fn is_complete(&self) -> bool {
        self.last
            .is_some_and(|last| self.frames.len() as u64 == u64::from(last) + 1)
    }
}
