//! The receiver's loop, over any kind of stream.

use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::BufMut;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

use super::backoff::{self, Backoff};
use super::cutter::Cutter;
use super::outside::Outside;
use super::pace::Pace;
use super::{BlockSink, ReceiverEvent, ReceiverOptions};
use crate::Error;

pub(super) struct Receiver<'a, O, S> {
    outside: O,
    stop: watch::Receiver<bool>,
    cutter: Cutter<'a, S>,
    backoff: Backoff,
    pace: Pace,
}

/// How a wait for the source ended.
enum Step<T> {
    Done(T),
    Stop,
}

/// Why a connection ended.
enum End {
    Stop,
    Closed,
    Failed(io::Error),
}

impl<'a, O: Outside, S: BlockSink> Receiver<'a, O, S> {
    pub(super) fn new(
        outside: O,
        block_interval: Duration,
        options: ReceiverOptions,
        sink: &'a mut S,
        stop: watch::Receiver<bool>,
    ) -> Self {
        Self {
            outside,
            stop,
            backoff: Backoff::new(options.seed),
            pace: Pace::new(options.rate.clone(), options.clock.clone()),
            cutter: Cutter::new(block_interval, options, sink),
        }
    }

    pub(super) async fn run(mut self) -> Result<(), Error> {
        let target = self.outside.target();
        loop {
            let connecting = self.outside.connect();
            let reason = match attend(connecting, &self.outside, &mut self.cutter, &mut self.stop).await? {
                Step::Stop => break,
                Step::Done(Err(error)) => format!("cannot connect to {target}: {error}"),
                Step::Done(Ok((stream, peer))) => {
                    tracing::info!(source = %target, %peer, "receiver connected");
                    self.cutter.sink.status(ReceiverEvent::Active { peer });
                    match self.receive(stream).await? {
                        End::Stop => break,
                        End::Closed => {
                            self.cutter.buffer.end_of_input();
                            format!("{target} closed the connection")
                        }
                        End::Failed(error) => {
                            self.cutter.buffer.drop_unfinished();
                            format!("the connection to {target} failed: {error}")
                        }
                    }
                }
            };
            let retry_in = self.announce_pause(reason);
            let pause = self.outside.sleep(retry_in);
            if let Step::Stop = attend(pause, &self.outside, &mut self.cutter, &mut self.stop).await? {
                break;
            }
        }
        self.cutter.finish().await?;
        self.cutter.sink.status(ReceiverEvent::Stopped);
        tracing::info!(source = %target, "receiver stopped");
        Ok(())
    }

    /// How long to wait before the next attempt to connect.
    fn announce_pause(&mut self, reason: String) -> Duration {
        let retry_in = self.backoff.failed();
        let failures = self.backoff.failures();
        let retry_in_ms = retry_in.as_millis();
        if failures == 1 {
            tracing::warn!(reason, retry_in_ms, "receiver restarts");
        } else {
            tracing::debug!(reason, failures, retry_in_ms, "receiver restarts again");
        }
        self.cutter.sink.status(ReceiverEvent::Restarting {
            reason,
            retry_in,
            failures,
        });
        retry_in
    }

    /// Reads until the connection ends.
    async fn receive(&mut self, mut stream: O::Stream) -> Result<End, Error> {
        let connected = self.cutter.schedule.now();
        let end = loop {
            let room = self.cutter.buffer.room();
            if room == 0 {
                self.cutter.store_lines().await?;
                continue;
            }
            let wait = self.cutter.schedule.wait();
            let from = self.cutter.buffer.len();
            let (readable, pause) = match self.pace.allows(room) {
                Ok(bytes) => (bytes, None),
                Err(pause) => (0, Some(pause)),
            };
            let mut free = self.cutter.buffer.bytes_mut().limit(readable);
            // Neither is preferred: a receiver that can hardly keep up with its borders still reads.
            tokio::select! {
                () = stopped(&mut self.stop) => break End::Stop,
                () = self.outside.sleep(wait) => self.cutter.on_time().await?,
                () = self.pace.changed() => {}
                () = self.outside.sleep(pause.unwrap_or_default()), if pause.is_some_and(|pause| pause < wait) => {}
                read = stream.read_buf(&mut free), if pause.is_none() => match read {
                    Ok(0) => break End::Closed,
                    Ok(_) => {
                        self.pace.read(&self.cutter.buffer.bytes_mut()[from..]);
                        self.cutter.buffer.appended(from);
                        // A server that accepts and closes at once has not succeeded.
                        self.backoff.succeeded();
                    }
                    Err(error) => break End::Failed(error),
                },
            }
        };
        if self.cutter.schedule.now().saturating_sub(connected) > backoff::LONGEST {
            self.backoff.succeeded();
        }
        Ok(end)
    }
}

/// Waits for something of the source, and keeps the schedule of blocks and borders meanwhile.
async fn attend<T, O: Outside, S: BlockSink>(
    work: impl Future<Output = T>,
    outside: &O,
    cutter: &mut Cutter<'_, S>,
    stop: &mut watch::Receiver<bool>,
) -> Result<Step<T>, Error> {
    tokio::pin!(work);
    loop {
        let wait = cutter.schedule.wait();
        tokio::select! {
            () = stopped(stop) => return Ok(Step::Stop),
            () = outside.sleep(wait) => cutter.on_time().await?,
            done = &mut work => return Ok(Step::Done(done)),
        }
    }
}

/// Ends when the receiver is told to stop, or nobody is left who could tell it.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests;
