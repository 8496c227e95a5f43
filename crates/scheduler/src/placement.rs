//! Which executor owns which partition.
//!
//! All stages of a job share one list of owners, so that the same partition number of two stages is in one place and
//! narrow reads stay local. A new list differs from the old one only where it has to: partitions of executors that are
//! gone move, and partitions move to new executors until the loads are even by slots.

use tidemill_types::ExecutorId;

/// An executor that may own partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    pub executor: ExecutorId,
    pub slots: u32,
}

/// Owners of `partitions` partitions; empty if there is no executor.
///
/// `previous` is the list before (may be shorter or empty); `rotate` shifts where jobs begin, so that small jobs do not
/// all stand on the first executor.
#[must_use]
pub fn assign(previous: &[ExecutorId], executors: &[Capacity], partitions: u32, rotate: u32) -> Vec<ExecutorId> {
    if executors.is_empty() {
        return Vec::new();
    }
    let shares = shares(executors, partitions, rotate);
    let mut load = vec![0u32; executors.len()];
    let position = |id: ExecutorId| executors.iter().position(|capacity| capacity.executor == id);

    // Keep what may stay.
    let mut owners: Vec<Option<usize>> = (0..partitions as usize)
        .map(|partition| {
            let owner = previous.get(partition).and_then(|id| position(*id))?;
            if load[owner] < shares[owner] {
                load[owner] += 1;
                Some(owner)
            } else {
                None
            }
        })
        .collect();

    // Deal out the rest in turn, so that neighbouring partitions stand on different executors.
    let mut next = rotate as usize % executors.len();
    for owner in owners.iter_mut().filter(|owner| owner.is_none()) {
        while load[next] >= shares[next] {
            next = (next + 1) % executors.len();
        }
        load[next] += 1;
        *owner = Some(next);
        next = (next + 1) % executors.len();
    }
    owners
        .into_iter()
        .flatten()
        .map(|owner| executors[owner].executor)
        .collect()
}

/// Owners after executors are gone: only their partitions move, each to the executor that then has the least for its
/// slots. What the others own stays, so that work in progress there is not disturbed.
#[must_use]
pub fn replace(previous: &[ExecutorId], executors: &[Capacity]) -> Vec<ExecutorId> {
    let mut loads: Vec<(Capacity, u64)> = executors
        .iter()
        .map(|capacity| {
            let owned = previous.iter().filter(|owner| **owner == capacity.executor);
            (*capacity, owned.count() as u64)
        })
        .collect();
    previous
        .iter()
        .filter_map(|owner| {
            if loads.iter().any(|(capacity, _)| capacity.executor == *owner) {
                return Some(*owner);
            }
            let (capacity, load) = loads.iter_mut().min_by(|(a, a_load), (b, b_load)| {
                let (a_slots, b_slots) = (u64::from(a.slots.max(1)), u64::from(b.slots.max(1)));
                ((*a_load + 1) * b_slots).cmp(&((*b_load + 1) * a_slots))
            })?;
            *load += 1;
            Some(capacity.executor)
        })
        .collect()
}

/// How many partitions each executor gets: proportional to slots, the remainder to the largest fractions and then in
/// order from `rotate`. The sum is `partitions`.
fn shares(executors: &[Capacity], partitions: u32, rotate: u32) -> Vec<u32> {
    let slots: Vec<u64> = executors
        .iter()
        .map(|capacity| u64::from(capacity.slots.max(1)))
        .collect();
    let total: u64 = slots.iter().sum();
    let exact = |i: usize| u64::from(partitions) * slots[i];
    let mut shares: Vec<u32> = (0..slots.len()).map(|i| (exact(i) / total) as u32).collect();
    let mut rest = partitions - shares.iter().sum::<u32>();
    let mut order: Vec<usize> = (0..slots.len()).collect();
    let n = slots.len();
    order.sort_by_key(|&i| (std::cmp::Reverse(exact(i) % total), (i + n - rotate as usize % n) % n));
    for i in order {
        if rest == 0 {
            break;
        }
        shares[i] += 1;
        rest -= 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacities(slots: &[u32]) -> Vec<Capacity> {
        slots
            .iter()
            .enumerate()
            .map(|(i, &slots)| Capacity {
                executor: ExecutorId(i as u32 + 1),
                slots,
            })
            .collect()
    }

    fn ids(owners: &[ExecutorId]) -> Vec<u32> {
        owners.iter().map(|id| id.0).collect()
    }

    #[test]
    fn partitions_are_dealt_out_in_turn_and_by_slots() {
        assert_eq!(ids(&assign(&[], &capacities(&[2, 2]), 4, 0)), [1, 2, 1, 2]);
        assert_eq!(ids(&assign(&[], &capacities(&[1, 3]), 4, 0)), [1, 2, 2, 2]);
    }

    #[test]
    fn small_jobs_start_on_different_executors() {
        assert_eq!(ids(&assign(&[], &capacities(&[2, 2, 2]), 1, 0)), [1]);
        assert_eq!(ids(&assign(&[], &capacities(&[2, 2, 2]), 1, 1)), [2]);
        assert_eq!(ids(&assign(&[], &capacities(&[2, 2, 2]), 1, 2)), [3]);
    }

    #[test]
    fn a_lost_executor_moves_only_its_own_partitions() {
        let before = assign(&[], &capacities(&[2, 2, 2]), 6, 0);
        let survivors: Vec<Capacity> = capacities(&[2, 2, 2])
            .into_iter()
            .filter(|c| c.executor.0 != 2)
            .collect();
        let after = assign(&before, &survivors, 6, 0);
        for (old, new) in before.iter().zip(&after) {
            if old.0 != 2 {
                assert_eq!(old, new);
            }
        }
        assert_eq!(after.iter().filter(|id| id.0 == 1).count(), 3);
    }

    #[test]
    fn a_new_executor_takes_its_share_and_no_more_moves() {
        let before = assign(&[], &capacities(&[2, 2]), 6, 0);
        let after = assign(&before, &capacities(&[2, 2, 2]), 6, 0);
        assert_eq!(before.iter().zip(&after).filter(|(old, new)| old != new).count(), 2);
        assert_eq!(after.iter().filter(|id| id.0 == 3).count(), 2);
    }

    #[test]
    fn replacing_a_lost_executor_never_moves_what_others_own() {
        for rotate in 0..4 {
            for lost in 1..=4 {
                let before = assign(&[], &capacities(&[2, 2, 3, 1]), 5, rotate);
                let mut survivors = capacities(&[2, 2, 3, 1]);
                survivors.retain(|capacity| capacity.executor.0 != lost);
                let after = replace(&before, &survivors);
                assert_eq!(after.len(), before.len());
                for (old, new) in before.iter().zip(&after) {
                    assert!(if old.0 == lost { new.0 != lost } else { old == new });
                }
            }
        }
    }

    #[test]
    fn replaced_partitions_go_where_there_is_most_room_for_them() {
        let before: Vec<ExecutorId> = [1, 1, 2, 3].map(ExecutorId).to_vec();
        let survivors = capacities(&[0, 2, 4]).split_off(1);
        assert_eq!(ids(&replace(&before, &survivors)), [3, 3, 2, 3]);
    }

    #[test]
    fn no_executor_gives_no_owner() {
        assert!(assign(&[], &[], 4, 0).is_empty());
        assert!(replace(&[ExecutorId(1)], &[]).is_empty());
    }
}
