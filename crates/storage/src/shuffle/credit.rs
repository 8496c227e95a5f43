//! The receiving side of credit: how much each sender may still send.
//!
//! For each source, `lent + held <= window`: `lent` is credit that the source was given and has not used as far as is
//! known here, `held` are bytes of its frames that came on credit and are still kept. What is missing to the window is
//! given with [`CreditBook::take`]. Credit is not returned by amounts, so nothing is lost or counted twice when a
//! connection breaks: [`CreditBook::open`] says what the window leaves, whatever happened to earlier messages.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tidemill_types::ExecutorId;

pub(super) type Nudge = Arc<dyn Fn(ExecutorId) + Send + Sync>;

pub(super) struct CreditBook {
    state: Mutex<State>,
    /// Says that there is credit to take for a source.
    nudge: Nudge,
}

struct State {
    window: u64,
    sources: HashMap<ExecutorId, Source>,
}

#[derive(Default)]
struct Source {
    open: bool,
    lent: u64,
    held: u64,
    /// The nudge was given, and nothing was taken since.
    nudged: bool,
}

impl CreditBook {
    pub(super) fn new(window: u64, nudge: Nudge) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                window,
                sources: HashMap::new(),
            }),
            nudge,
        })
    }

    /// A connection of `source` begins: credit given before it is void. Returns what it may send now.
    pub(super) fn open(&self, source: ExecutorId) -> u64 {
        let mut state = self.state.lock();
        let window = state.window;
        let source = state.sources.entry(source).or_default();
        source.open = true;
        source.lent = 0;
        source.take(window)
    }

    /// The source is gone for good.
    pub(super) fn close(&self, source: ExecutorId) {
        let mut state = self.state.lock();
        if let Some(entry) = state.sources.get_mut(&source) {
            entry.open = false;
            if entry.held == 0 {
                state.sources.remove(&source);
            }
        }
    }

    /// The credit that `source` is to be given now.
    pub(super) fn take(&self, source: ExecutorId) -> u64 {
        let mut state = self.state.lock();
        let window = state.window;
        state
            .sources
            .get_mut(&source)
            .filter(|source| source.open)
            .map_or(0, |source| source.take(window))
    }

    /// Gives every source a window of `window` bytes. A smaller one takes effect as frames are forgotten.
    pub(super) fn set_window(&self, window: u64) {
        let nudged: Vec<ExecutorId> = {
            let mut state = self.state.lock();
            state.window = window;
            let sources = state.sources.iter_mut();
            sources
                .filter_map(|(id, source)| source.due_nudge(window).then_some(*id))
                .collect()
        };
        nudged.into_iter().for_each(|source| (self.nudge)(source));
    }

    /// A frame of `bytes` arrived on credit. Its memory counts until the hold is dropped.
    pub(super) fn arrived(self: &Arc<Self>, source: ExecutorId, bytes: u64) -> CreditHold {
        let mut state = self.state.lock();
        let entry = state.sources.entry(source).or_default();
        entry.lent = entry.lent.saturating_sub(bytes);
        entry.held += bytes;
        CreditHold {
            book: Arc::clone(self),
            source,
            bytes,
        }
    }

    fn release(&self, source: ExecutorId, bytes: u64) {
        let nudge = {
            let mut state = self.state.lock();
            let window = state.window;
            let Some(entry) = state.sources.get_mut(&source) else {
                return;
            };
            entry.held = entry.held.saturating_sub(bytes);
            let nudge = entry.due_nudge(window);
            if !entry.open && entry.held == 0 {
                state.sources.remove(&source);
            }
            nudge
        };
        if nudge {
            (self.nudge)(source);
        }
    }
}

impl Source {
    fn take(&mut self, window: u64) -> u64 {
        self.nudged = false;
        let due = window.saturating_sub(self.lent + self.held);
        self.lent += due;
        due
    }

    fn due_nudge(&mut self, window: u64) -> bool {
        let due = self.open && !self.nudged && window > self.lent + self.held;
        self.nudged |= due;
        due
    }
}

/// Credit that the frame it stands for uses up until it is dropped. Dropping it may call the nudge, so it is not
/// dropped under a lock.
pub(super) struct CreditHold {
    book: Arc<CreditBook>,
    source: ExecutorId,
    bytes: u64,
}

impl Drop for CreditHold {
    fn drop(&mut self) {
        self.book.release(self.source, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: ExecutorId = ExecutorId(1);

    fn book(window: u64) -> (Arc<CreditBook>, Arc<Mutex<Vec<ExecutorId>>>) {
        let nudges = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&nudges);
        (
            CreditBook::new(window, Arc::new(move |source| log.lock().push(source))),
            nudges,
        )
    }

    #[test]
    fn a_source_gets_its_window_and_then_what_it_frees() {
        let (book, nudges) = book(100);
        assert_eq!(book.open(SOURCE), 100);
        assert_eq!(book.take(SOURCE), 0);
        let first = book.arrived(SOURCE, 60);
        let second = book.arrived(SOURCE, 40);
        assert_eq!(book.take(SOURCE), 0);
        drop(first);
        drop(second);
        assert_eq!(*nudges.lock(), [SOURCE], "one nudge until credit is taken");
        assert_eq!(book.take(SOURCE), 100);
    }

    #[test]
    fn a_new_connection_gets_what_its_kept_frames_leave() {
        let (book, nudges) = book(100);
        book.open(SOURCE);
        let held = book.arrived(SOURCE, 30);
        drop(book.arrived(SOURCE, 20));
        assert_eq!(nudges.lock().len(), 1);
        // The credit of the second frame was never taken; the new connection has it in its window.
        assert_eq!(book.open(SOURCE), 70);
        assert_eq!(book.take(SOURCE), 0);
        drop(held);
        assert_eq!(book.take(SOURCE), 30);
    }

    #[test]
    fn a_frame_above_the_window_is_paid_back_before_more_is_given() {
        let (book, _) = book(100);
        book.open(SOURCE);
        let large = book.arrived(SOURCE, 250);
        assert_eq!(book.take(SOURCE), 0);
        drop(large);
        assert_eq!(book.take(SOURCE), 100);
    }

    #[test]
    fn windows_grow_at_once_and_shrink_as_frames_go() {
        let (book, nudges) = book(100);
        book.open(SOURCE);
        book.set_window(150);
        assert_eq!((nudges.lock().len(), book.take(SOURCE)), (1, 50));
        let held = book.arrived(SOURCE, 150);
        book.set_window(50);
        drop(held);
        assert_eq!(book.take(SOURCE), 50);
    }

    #[test]
    fn a_closed_source_leaves_nothing_behind() {
        let (book, nudges) = book(100);
        book.open(SOURCE);
        let held = book.arrived(SOURCE, 10);
        book.close(SOURCE);
        drop(held);
        assert!(book.state.lock().sources.is_empty());
        assert!(nudges.lock().is_empty());
    }
}
