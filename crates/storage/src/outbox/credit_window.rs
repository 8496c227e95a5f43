//! The sending side of credit: waits until a frame may go to one peer.
//!
//! A frame may go when its batch is the oldest unfinished one of its job, which needs no credit and is what keeps
//! stages from waiting for each other in a circle; or when there is credit for it. Credit is given in the order of
//! asking, so that a large frame is not overtaken for ever. A frame that is larger than the peer's whole window goes
//! when none of the window is in use.
//!
//! Without a connection nothing goes. Frames to the executor itself use such a window too, open from the start.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;
use thiserror::Error;
use tidemill_types::{BatchTime, JobId};
use tokio::sync::oneshot;

#[cfg(test)]
mod tests;

/// The right to send one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    /// The frame goes without credit and has to say so.
    pub oldest: bool,
}

/// The peer or the job is gone; the frame has nowhere to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the peer or the job is gone")]
pub struct Closed;

/// The credit that one peer gave to this executor.
#[derive(Debug, Default)]
pub struct CreditWindow {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connected: bool,
    closed: bool,
    /// Below zero after a frame that was larger than the window.
    available: i128,
    /// Credit used since the connection began, less what was given since.
    used: i128,
    oldest: HashMap<JobId, BatchTime>,
    waiters: VecDeque<Waiter>,
    next: u64,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    request: Request,
    reply: oneshot::Sender<Result<Permit, Closed>>,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    job: JobId,
    batch: BatchTime,
    bytes: u64,
}

impl CreditWindow {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A connection begins with `credit` from the peer, of which frames that are sent again use `repeated`.
    pub fn connected(&self, credit: u64, repeated: u64) {
        let mut state = self.state.lock();
        state.connected = true;
        state.available = i128::from(credit) - i128::from(repeated);
        state.used = repeated.into();
        state.serve();
    }

    /// The connection broke. Frames wait for the next one.
    pub fn disconnected(&self) {
        self.state.lock().connected = false;
    }

    /// The peer is lost: all that wait and will wait get [`Closed`].
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.answer(|_| true, Err(Closed));
    }

    /// The peer has given back `bytes` of credit, or a permit was not used.
    pub fn grant(&self, bytes: u64) {
        let mut state = self.state.lock();
        state.available += i128::from(bytes);
        state.used -= i128::from(bytes);
        state.serve();
    }

    /// Batches of `job` up to `batch` need no credit.
    pub fn set_oldest(&self, job: JobId, batch: BatchTime) {
        let mut state = self.state.lock();
        let oldest = state.oldest.entry(job).or_insert(batch);
        *oldest = (*oldest).max(batch);
        state.serve();
    }

    /// The job is gone: its frames that wait get [`Closed`].
    pub fn forget_job(&self, job: JobId) {
        let mut state = self.state.lock();
        state.oldest.remove(&job);
        state.answer(|request| request.job == job, Err(Closed));
        state.serve();
    }

    /// Waits until a frame of `bytes` may be sent. A dropped wait uses no credit.
    pub async fn acquire(&self, job: JobId, batch: BatchTime, bytes: u64) -> Result<Permit, Closed> {
        let request = Request { job, batch, bytes };
        let mut waiting = {
            let mut state = self.state.lock();
            if state.closed {
                return Err(Closed);
            }
            if state.is_oldest(&request) {
                return Ok(Permit { oldest: true });
            }
            if state.waiters.is_empty() && state.has_credit(bytes) {
                state.use_credit(bytes);
                return Ok(Permit { oldest: false });
            }
            let (reply, answer) = oneshot::channel();
            let number = state.next;
            state.next += 1;
            state.waiters.push_back(Waiter { number, request, reply });
            Waiting {
                window: self,
                number,
                bytes,
                answer,
                answered: false,
            }
        };
        let answer = (&mut waiting.answer).await;
        waiting.answered = true;
        answer.unwrap_or(Err(Closed))
    }

    /// Whether frames of a batch go without credit now.
    #[must_use]
    pub fn is_oldest(&self, job: JobId, batch: BatchTime) -> bool {
        self.state.lock().is_oldest(&Request { job, batch, bytes: 0 })
    }

    /// Frames that wait, for metrics.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.state.lock().waiters.len()
    }
}

impl State {
    fn is_oldest(&self, request: &Request) -> bool {
        self.connected
            && self
                .oldest
                .get(&request.job)
                .is_some_and(|oldest| request.batch <= *oldest)
    }

    fn has_credit(&self, bytes: u64) -> bool {
        self.connected && (self.available >= i128::from(bytes) || self.used <= 0)
    }

    fn use_credit(&mut self, bytes: u64) {
        self.available -= i128::from(bytes);
        self.used += i128::from(bytes);
    }

    /// Lets go whom it may concern after a change.
    fn serve(&mut self) {
        let waiters = std::mem::take(&mut self.waiters);
        for waiter in waiters {
            if self.is_oldest(&waiter.request) {
                // Who does not wait any more needs no answer.
                let _ = waiter.reply.send(Ok(Permit { oldest: true }));
            } else if self.waiters.is_empty() && self.has_credit(waiter.request.bytes) {
                if waiter.reply.send(Ok(Permit { oldest: false })).is_ok() {
                    self.use_credit(waiter.request.bytes);
                }
            } else {
                self.waiters.push_back(waiter);
            }
        }
    }

    fn answer(&mut self, whom: impl Fn(&Request) -> bool, with: Result<Permit, Closed>) {
        let waiters = std::mem::take(&mut self.waiters);
        for waiter in waiters {
            if whom(&waiter.request) {
                let _ = waiter.reply.send(with);
            } else {
                self.waiters.push_back(waiter);
            }
        }
    }
}

/// A wait that may be dropped: before its answer, which then is not given, or with an answer that nobody saw.
struct Waiting<'a> {
    window: &'a CreditWindow,
    number: u64,
    bytes: u64,
    answer: oneshot::Receiver<Result<Permit, Closed>>,
    answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let unseen = {
            let mut state = self.window.state.lock();
            state.waiters.retain(|waiter| waiter.number != self.number);
            // The one behind it may fit.
            state.serve();
            self.answer.try_recv()
        };
        if let Ok(Ok(Permit { oldest: false })) = unseen {
            self.window.grant(self.bytes);
        }
    }
}
