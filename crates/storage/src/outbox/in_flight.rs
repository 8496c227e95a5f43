//! Frames that were sent and are not yet known to be admitted.

use std::collections::VecDeque;

/// Numbers frames of one connection and keeps each until it is acknowledged. Plain data, owned by the connection's
/// task.
#[derive(Debug)]
pub struct InFlight<F> {
    /// The sequence of the first of `frames`.
    first: u64,
    frames: VecDeque<F>,
}

impl<F> Default for InFlight<F> {
    fn default() -> Self {
        Self::new()
    }
}

impl<F> InFlight<F> {
    #[must_use]
    pub fn new() -> Self {
        Self {
            first: 1,
            frames: VecDeque::new(),
        }
    }

    /// Keeps `frame` and returns its sequence, counted from 1.
    pub fn push(&mut self, frame: F) -> u64 {
        self.frames.push_back(frame);
        self.first + self.frames.len() as u64 - 1
    }

    /// All frames up to `upto` are admitted. Returns how many were not known to be; numbers never sent are ignored.
    pub fn acknowledge(&mut self, upto: u64) -> usize {
        let count = (upto.saturating_add(1)).saturating_sub(self.first);
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(self.frames.len());
        self.frames.drain(..count);
        self.first += count as u64;
        count
    }

    /// A new connection begins: what is unacknowledged is numbered from 1 again.
    pub fn restart(&mut self) {
        self.first = 1;
    }

    /// What has to be sent again on a new connection, in order, with its sequences.
    pub fn unacknowledged(&self) -> impl Iterator<Item = (u64, &F)> {
        (self.first..).zip(&self.frames)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_kept_until_they_are_acknowledged() {
        let mut in_flight = InFlight::new();
        assert_eq!(
            [in_flight.push('a'), in_flight.push('b'), in_flight.push('c')],
            [1, 2, 3]
        );
        assert_eq!(in_flight.acknowledge(2), 2);
        assert_eq!(in_flight.acknowledge(1), 0);
        assert_eq!(in_flight.unacknowledged().collect::<Vec<_>>(), [(3, &'c')]);
        assert_eq!(in_flight.push('d'), 4);
        assert_eq!(in_flight.acknowledge(u64::MAX), 2);
        assert!(in_flight.is_empty());
        assert_eq!(in_flight.push('e'), 5);
    }

    #[test]
    fn a_new_connection_counts_from_one() {
        let mut in_flight = InFlight::new();
        for frame in 0..5 {
            in_flight.push(frame);
        }
        in_flight.acknowledge(3);
        in_flight.restart();
        assert_eq!(in_flight.unacknowledged().collect::<Vec<_>>(), [(1, &3), (2, &4)]);
        assert_eq!(in_flight.push(5), 3);
        assert_eq!(in_flight.len(), 3);
    }
}
