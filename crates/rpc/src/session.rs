//! Sequence numbers and acknowledgements of one direction of a control channel.
//!
//! A message is kept by its sender until the receiver says that it has processed it. After a broken connection the
//! sender repeats what it still has and the receiver drops what it knows, so that each message takes effect once and in
//! order for as long as both ends live. Sequence 0 marks messages that are never repeated (handshake, heartbeats).
//!
//! Pure state; the owners of a connection do the sending.

use std::collections::VecDeque;

/// The sending side.
#[derive(Debug)]
pub struct Outbox<T> {
    last: u64,
    unacknowledged: VecDeque<(u64, T)>,
}

impl<T> Default for Outbox<T> {
    fn default() -> Self {
        Self {
            last: 0,
            unacknowledged: VecDeque::new(),
        }
    }
}

impl<T> Outbox<T> {
    /// Takes a message and gives its number. `build` makes it with the number in it.
    pub fn push(&mut self, build: impl FnOnce(u64) -> T) -> &T {
        self.last += 1;
        self.unacknowledged.push_back((self.last, build(self.last)));
        let (_, message) = &self.unacknowledged[self.unacknowledged.len() - 1];
        message
    }

    /// The other side has processed everything up to `sequence`.
    pub fn acknowledge(&mut self, sequence: u64) {
        while self.unacknowledged.front().is_some_and(|(first, _)| *first <= sequence) {
            self.unacknowledged.pop_front();
        }
    }

    /// What has to be sent again on a new connection, in order.
    pub fn unacknowledged(&self) -> impl Iterator<Item = &T> {
        self.unacknowledged.iter().map(|(_, message)| message)
    }
}

/// The receiving side.
#[derive(Debug, Default)]
pub struct Inbox {
    processed: u64,
}

impl Inbox {
    /// Whether a message is new. A gap cannot occur: a connection keeps order and a new one begins with what was not
    /// acknowledged.
    pub fn accept(&mut self, sequence: u64) -> bool {
        if sequence == 0 {
            return true;
        }
        if sequence <= self.processed {
            return false;
        }
        self.processed = sequence;
        true
    }

    /// What to acknowledge.
    #[must_use]
    pub fn processed(&self) -> u64 {
        self.processed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_connection_repeats_only_what_was_not_acknowledged() {
        let mut outbox = Outbox::default();
        for _ in 0..4 {
            outbox.push(|sequence| sequence);
        }
        outbox.acknowledge(2);
        assert_eq!(outbox.unacknowledged().copied().collect::<Vec<_>>(), [3, 4]);
        outbox.acknowledge(1);
        assert_eq!(outbox.unacknowledged().count(), 2);
    }

    #[test]
    fn a_repeated_message_takes_effect_once() {
        let mut inbox = Inbox::default();
        let taken: Vec<u64> = [1, 2, 2, 1, 3]
            .into_iter()
            .filter(|sequence| inbox.accept(*sequence))
            .collect();
        assert_eq!(taken, [1, 2, 3]);
        assert_eq!(inbox.processed(), 3);
    }

    #[test]
    fn unnumbered_messages_always_pass() {
        let mut inbox = Inbox::default();
        assert!(inbox.accept(0) && inbox.accept(0));
        assert_eq!(inbox.processed(), 0);
    }
}
