//! Wakes the event loop at its next deadline.
//!
//! A thread of its own, because a batch interval may be a few milliseconds and the runtime's timers count whole ones.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use crate::clock::Clock;
use crate::event::Event;

/// Sets the deadline; ends the thread when dropped.
#[derive(Debug)]
pub(crate) struct Timer {
    deadlines: mpsc::Sender<Option<i64>>,
    current: Option<i64>,
}

impl Timer {
    pub(crate) fn start(clock: Clock, events: UnboundedSender<Event>) -> std::io::Result<Self> {
        let (deadlines, changes) = mpsc::channel();
        std::thread::Builder::new()
            .name("tidemill-timer".to_owned())
            .spawn(move || run(clock, &changes, &events))?;
        Ok(Self {
            deadlines,
            current: None,
        })
    }

    /// The loop is woken at `deadline`, once.
    pub(crate) fn set(&mut self, deadline: Option<i64>) {
        if self.current != deadline {
            self.current = deadline;
            // The thread is gone only when the loop ends.
            let _ = self.deadlines.send(deadline);
        }
    }

    /// The deadline has passed; the same one may be set again.
    pub(crate) fn fired(&mut self) {
        self.current = None;
    }
}

fn run(clock: Clock, changes: &mpsc::Receiver<Option<i64>>, events: &UnboundedSender<Event>) {
    let mut deadline: Option<i64> = None;
    loop {
        let changed = match deadline {
            None => changes.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => {
                let wait = Duration::from_micros(u64::try_from(at - clock.now()).unwrap_or(0));
                changes.recv_timeout(wait)
            }
        };
        match changed {
            Ok(new) => deadline = new,
            Err(RecvTimeoutError::Timeout) => {
                deadline = None;
                if events.send(Event::Clock).is_err() {
                    return;
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
