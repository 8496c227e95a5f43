//! Receivers: long-running tasks on the I/O runtime that store blocks and report them.
//!
//! A block is stored before it is reported. Storing waits while the block store is full, and the receiver does not read
//! meanwhile: the source feels it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tidemill_connectors::{
    BlockSink, ReadCounters, ReceivedBlock, ReceiverEvent, ReceiverOptions, SinkError, run_socket_text,
};
use tidemill_dstream::Source;
use tidemill_rpc::driver::{self as wire, ReceiverState};
use tidemill_types::{BatchTime, BlockId, JobId, ReceiverId};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tracing::{error, info};

use crate::event::Event;
use crate::node::Node;

/// A receiver that runs here.
#[derive(Debug)]
struct Running {
    session: u32,
    stop: watch::Sender<bool>,
    rate: watch::Sender<Option<u64>>,
    task: AbortHandle,
}

/// All receivers of this executor.
#[derive(Debug, Default)]
pub(crate) struct Receivers {
    running: HashMap<(JobId, ReceiverId), Running>,
}

/// What a receiver is started with.
pub(crate) struct Start {
    pub(crate) job: JobId,
    pub(crate) receiver: ReceiverId,
    pub(crate) session: u32,
    /// Rows a second that may be read.
    pub(crate) rate: Option<u64>,
    pub(crate) source: Source,
    pub(crate) interval: Duration,
    pub(crate) max_block_bytes: usize,
    pub(crate) max_line_bytes: usize,
}

impl Receivers {
    pub(crate) fn start(&mut self, start: Start, node: &Arc<Node>, events: &mpsc::UnboundedSender<Event>) {
        let Source::SocketText(source) = start.source else {
            error!(job = %start.job, receiver = %start.receiver, "the stream's source has no receiver");
            return;
        };
        let counters = Arc::new(ReadCounters::default());
        let mut options = ReceiverOptions::new(start.interval, BatchTime(0));
        options.max_block_bytes = start.max_block_bytes;
        options.max_line_bytes = start.max_line_bytes;
        options.counters = Arc::clone(&counters);
        options.seed = u64::from(start.job.0) << 32 | u64::from(start.session);
        let (rate, limit) = watch::channel(start.rate);
        options.rate = Some(limit);
        let interval = start.interval;
        let (stop, stopped) = watch::channel(false);
        let mut sink = Sink {
            job: start.job,
            receiver: start.receiver,
            session: start.session,
            sequence: 0,
            pending: Vec::new(),
            clock: Arc::clone(&options.clock),
            interval,
            node: Arc::clone(node),
            events: events.clone(),
            counters,
            status: (ReceiverState::Starting, String::new()),
            told_malformed: 0,
        };
        info!(job = %start.job, receiver = %start.receiver, session = start.session, host = source.host, port = source.port, "receiver starts");
        let task = tokio::spawn(async move {
            if let Err(error) = run_socket_text(&source, options, &mut sink, stopped).await {
                error!(job = %sink.job, receiver = %sink.receiver, %error, "receiver failed");
                sink.send_status(ReceiverState::Stopped, error.to_string());
            }
        });
        let running = Running {
            session: start.session,
            stop,
            rate,
            task: task.abort_handle(),
        };
        if let Some(old) = self.running.insert((start.job, start.receiver), running) {
            old.task.abort();
        }
    }

    /// Asks a receiver to store what it has and end.
    pub(crate) fn stop(&mut self, job: JobId, receiver: ReceiverId, session: u32) {
        if let Some(running) = self
            .running
            .get(&(job, receiver))
            .filter(|running| running.session == session)
        {
            let _ = running.stop.send(true);
        }
    }

    pub(crate) fn set_rate(&mut self, job: JobId, receiver: ReceiverId, session: u32, rate: Option<u64>) {
        let running = self.running.get(&(job, receiver));
        if let Some(running) = running.filter(|running| running.session == session) {
            running.rate.send_replace(rate);
        }
    }

    /// Ends all receivers of a job at once.
    pub(crate) fn abort(&mut self, which: impl Fn(JobId) -> bool) {
        self.running.retain(|(job, _), running| {
            let ends = which(*job);
            if ends {
                running.task.abort();
            }
            !ends
        });
    }
}

/// Stores blocks here and reports them through the event loop.
struct Sink {
    job: JobId,
    receiver: ReceiverId,
    session: u32,
    sequence: u64,
    pending: Vec<wire::StoredBlock>,
    clock: tidemill_connectors::Clock,
    interval: Duration,
    node: Arc<Node>,
    events: mpsc::UnboundedSender<Event>,
    counters: Arc<ReadCounters>,
    /// As the driver was told last, with the count of malformed lines.
    status: (ReceiverState, String),
    told_malformed: u64,
}

impl Sink {
    fn report(&mut self, border: BatchTime) {
        let report = wire::BlocksReport {
            job: self.job.0,
            receiver: self.receiver.0,
            session: self.session,
            blocks: std::mem::take(&mut self.pending),
            border_ms: border.0,
        };
        let _ = self
            .events
            .send(Event::Report(wire::attach_request::Event::BlocksReport(report)));
    }

    fn send_status(&mut self, state: ReceiverState, message: String) {
        self.status = (state, message.clone());
        self.told_malformed = self.counters.malformed();
        let status = wire::ReceiverStatus {
            job: self.job.0,
            receiver: self.receiver.0,
            session: self.session,
            state: state.into(),
            message,
            malformed_rows: self.told_malformed,
        };
        let _ = self
            .events
            .send(Event::Report(wire::attach_request::Event::ReceiverStatus(status)));
    }

    /// The first border that is not before now.
    fn next_border(&self) -> BatchTime {
        let now = BatchTime(i64::try_from((self.clock)().as_millis()).unwrap_or(i64::MAX));
        let floor = now.floor(self.interval);
        if floor == now { floor } else { floor + self.interval }
    }
}

impl BlockSink for Sink {
    async fn store(&mut self, block: ReceivedBlock) -> Result<(), SinkError> {
        self.node.blocks.wait_for_room(block.bytes).await;
        let id = BlockId {
            job: self.job,
            receiver: self.receiver,
            executor: self.node.executor,
            session: self.session,
            sequence: self.sequence,
        };
        self.sequence += 1;
        let border = self.next_border();
        let stored = if self.node.blocks.would_spill(block.bytes) {
            let node = Arc::clone(&self.node);
            let put = tokio::task::spawn_blocking(move || node.blocks.put_block(id, vec![block.batch]));
            put.await.map_err(|error| SinkError(error.to_string()))?
        } else {
            self.node.blocks.put_block(id, vec![block.batch])
        };
        self.pending.push(wire::StoredBlock {
            sequence: id.sequence,
            rows: stored.rows,
            bytes: stored.bytes,
            border_ms: border.0,
        });
        Ok(())
    }

    async fn border(&mut self, border: BatchTime) -> Result<(), SinkError> {
        // A block that was cut for this border may have been stored just after it.
        for block in &mut self.pending {
            block.border_ms = block.border_ms.min(border.0);
        }
        self.report(border);
        if self.counters.malformed() != self.told_malformed {
            let (state, message) = self.status.clone();
            self.send_status(state, message);
        }
        Ok(())
    }

    fn status(&mut self, event: ReceiverEvent) {
        match event {
            ReceiverEvent::Active { peer } => self.send_status(ReceiverState::Active, format!("connected to {peer}")),
            ReceiverEvent::Restarting { reason, .. } => self.send_status(ReceiverState::Restarting, reason),
            ReceiverEvent::Stopped => self.send_status(ReceiverState::Stopped, String::new()),
        }
    }
}
