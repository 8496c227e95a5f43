//! Which frames come too late.
//!
//! A frame can arrive after its batch was forgotten: a second attempt that nobody waits for, a repeated connection.
//! Kept, it would hold memory and credit for ever. But a batch can also be opened again, to make its datasets anew
//! after an executor was lost, and then its frames may arrive before the launch message that says so. The routing
//! version tells them apart: losing an executor changes the routing, so a frame that went by a later version than the
//! one at which its batch was forgotten is of the second run.

use std::collections::BTreeMap;

use tidemill_types::{BatchTime, RoutingVersion};

/// Single batches are remembered up to this many. Restored ones alone are; there are as many as are remembered.
const MAX_SINGLES: usize = 4096;

/// The forgotten batches of one job.
#[derive(Debug, Default)]
pub(super) struct Forgotten {
    /// Batches before the time were forgotten at the version or before; both ascend.
    marks: Vec<(BatchTime, RoutingVersion)>,
    singles: BTreeMap<BatchTime, RoutingVersion>,
}

impl Forgotten {
    /// The routing version at which `batch` was forgotten last.
    pub(super) fn version(&self, batch: BatchTime) -> Option<RoutingVersion> {
        let mark = self
            .marks
            .iter()
            .find(|(before, _)| batch < *before)
            .map(|(_, version)| *version);
        self.singles.get(&batch).copied().max(mark)
    }

    /// Whether a frame of `batch` that went by `version` has nobody to read it.
    pub(super) fn is_late(&self, batch: BatchTime, version: RoutingVersion) -> bool {
        self.version(batch).is_some_and(|forgotten| version <= forgotten)
    }

    pub(super) fn all_before(&mut self, before: BatchTime, version: RoutingVersion) {
        match self.marks.last_mut() {
            Some((time, _)) if before <= *time => {}
            Some((time, marked)) if version <= *marked => *time = before,
            _ => self.marks.push((before, version)),
        }
        // A single batch that the mark covers at the same version says nothing more.
        let marks = &self.marks;
        self.singles.retain(|batch, version| {
            marks
                .iter()
                .find(|(before, _)| batch < before)
                .is_none_or(|(_, marked)| *version > *marked)
        });
    }

    pub(super) fn one(&mut self, batch: BatchTime, version: RoutingVersion) {
        let known = self.singles.entry(batch).or_insert(version);
        *known = (*known).max(version);
        if self.singles.len() > MAX_SINGLES {
            self.singles.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn time(t: i64) -> BatchTime {
        BatchTime(t)
    }

    #[test]
    fn frames_up_to_the_version_of_forgetting_are_late() {
        let mut forgotten = Forgotten::default();
        forgotten.all_before(time(10), RoutingVersion(1));
        forgotten.all_before(time(20), RoutingVersion(1));
        forgotten.all_before(time(30), RoutingVersion(2));
        forgotten.all_before(time(15), RoutingVersion(3));
        assert!(forgotten.is_late(time(5), RoutingVersion(1)));
        assert!(!forgotten.is_late(time(5), RoutingVersion(2)));
        assert!(forgotten.is_late(time(25), RoutingVersion(2)));
        assert!(!forgotten.is_late(time(30), RoutingVersion(0)));
        assert_eq!(forgotten.marks.len(), 2);
    }

    #[test]
    fn a_restored_batch_can_be_forgotten_again() {
        let mut forgotten = Forgotten::default();
        forgotten.all_before(time(10), RoutingVersion(1));
        forgotten.one(time(5), RoutingVersion(4));
        assert!(forgotten.is_late(time(5), RoutingVersion(4)));
        assert!(!forgotten.is_late(time(6), RoutingVersion(4)));
        assert!(!forgotten.is_late(time(5), RoutingVersion(5)));
        forgotten.all_before(time(20), RoutingVersion(4));
        assert!(
            forgotten.is_late(time(5), RoutingVersion(4)),
            "the later mark does not shorten it"
        );
    }
}
