//! Which executors are alive, by when they were last heard of. Pure: time comes with each call.

use std::collections::BTreeMap;
use std::time::Duration;

use tidemill_types::ExecutorId;

#[derive(Debug)]
pub(crate) struct Liveness {
    heartbeat_timeout: i64,
    reattach_grace: i64,
    executors: BTreeMap<ExecutorId, Contact>,
}

#[derive(Clone, Copy, Debug)]
struct Contact {
    heard: i64,
    /// Since when it has no connection.
    detached: Option<i64>,
}

/// Why an executor counts as lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    Silent,
    Detached,
}

impl Liveness {
    pub(crate) fn new(heartbeat_timeout: Duration, reattach_grace: Duration) -> Self {
        let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self {
            heartbeat_timeout: micros(heartbeat_timeout),
            reattach_grace: micros(reattach_grace),
            executors: BTreeMap::new(),
        }
    }

    /// The executor attached, or attached again.
    pub(crate) fn attached(&mut self, executor: ExecutorId, now: i64) {
        let contact = Contact {
            heard: now,
            detached: None,
        };
        self.executors.insert(executor, contact);
    }

    pub(crate) fn heard(&mut self, executor: ExecutorId, now: i64) {
        if let Some(contact) = self.executors.get_mut(&executor) {
            contact.heard = now;
        }
    }

    pub(crate) fn detached(&mut self, executor: ExecutorId, now: i64) {
        if let Some(contact) = self.executors.get_mut(&executor) {
            contact.detached = Some(now);
        }
    }

    /// Takes out the executors that are lost at `now`.
    pub(crate) fn take_lost(&mut self, now: i64) -> Vec<(ExecutorId, Loss)> {
        let lost: Vec<(ExecutorId, Loss)> = self
            .executors
            .iter()
            .filter(|(_, contact)| self.deadline(contact) <= now)
            .map(|(id, contact)| {
                (
                    *id,
                    if contact.detached.is_some() {
                        Loss::Detached
                    } else {
                        Loss::Silent
                    },
                )
            })
            .collect();
        for (id, _) in &lost {
            self.executors.remove(id);
        }
        lost
    }

    pub(crate) fn forget(&mut self, executor: ExecutorId) {
        self.executors.remove(&executor);
    }

    pub(crate) fn next_deadline(&self) -> Option<i64> {
        self.executors.values().map(|contact| self.deadline(contact)).min()
    }

    fn deadline(&self, contact: &Contact) -> i64 {
        let silent = contact.heard + self.heartbeat_timeout;
        contact
            .detached
            .map_or(silent, |since| silent.min(since + self.reattach_grace))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: ExecutorId = ExecutorId(1);
    const TWO: ExecutorId = ExecutorId(2);

    fn liveness() -> Liveness {
        Liveness::new(Duration::from_secs(3), Duration::from_millis(500))
    }

    #[test]
    fn an_executor_that_goes_silent_is_lost_at_the_limit_and_no_sooner() {
        let mut liveness = liveness();
        liveness.attached(ONE, 0);
        liveness.attached(TWO, 0);
        liveness.heard(TWO, 1_000_000);
        assert!(liveness.take_lost(2_999_999).is_empty());
        assert_eq!(liveness.take_lost(3_000_000), [(ONE, Loss::Silent)]);
        assert_eq!(liveness.next_deadline(), Some(4_000_000));
    }

    #[test]
    fn a_broken_connection_is_lost_after_the_grace_unless_it_comes_back() {
        let mut liveness = liveness();
        liveness.attached(ONE, 0);
        liveness.attached(TWO, 0);
        liveness.detached(ONE, 100);
        liveness.detached(TWO, 100);
        liveness.attached(TWO, 400_000);
        assert_eq!(liveness.take_lost(500_100), [(ONE, Loss::Detached)]);
        assert!(liveness.take_lost(2_000_000).is_empty());
    }

    #[test]
    fn a_lost_executor_is_reported_once() {
        let mut liveness = liveness();
        liveness.attached(ONE, 0);
        assert_eq!(liveness.take_lost(9_000_000).len(), 1);
        assert!(liveness.take_lost(9_000_000).is_empty());
        assert_eq!(liveness.next_deadline(), None);
    }
}
