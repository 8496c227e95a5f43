//! Sending deliveries to peers: one connection for each, opened when it is needed.
//!
//! Deliveries wait for credit independently, so that one that waits never holds up the oldest batch. Frames that were
//! sent are kept until the peer has admitted them; a broken connection is opened again and repeats them.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use tidemill_rpc::channel;
use tidemill_rpc::shuffle::push_request::Message;
use tidemill_rpc::shuffle::shuffle_service_client::ShuffleServiceClient;
use tidemill_rpc::shuffle::{Hello, PushRequest, PushResponse};
use tidemill_storage::{CreditWindow, Delivery, Frame, InFlight, encode};
use tidemill_types::{BatchTime, ExecutorId, Generation, Incarnation, JobId};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tracing::{debug, error, warn};

use crate::node::Node;
use crate::wire::encode_frame;

/// Frames between the deliveries and the connection.
const QUEUE: usize = 32;
const RECONNECT: Duration = Duration::from_millis(50);
const RECONNECT_MAX: Duration = Duration::from_secs(1);

/// The connections to other executors, and the window to this one.
pub(crate) struct Peers {
    me: ExecutorId,
    incarnation: Incarnation,
    generation: Generation,
    addresses: DashMap<ExecutorId, String>,
    senders: DashMap<ExecutorId, Sender>,
    /// The batch of each job up to which none needs credit, for connections that are yet to be opened.
    oldest: DashMap<JobId, BatchTime>,
    local: Arc<CreditWindow>,
}

struct Sender {
    window: Arc<CreditWindow>,
    frames: mpsc::Sender<Frame>,
    task: AbortHandle,
}

impl Peers {
    pub(crate) fn new(me: ExecutorId, incarnation: Incarnation, generation: Generation) -> Self {
        Self {
            me,
            incarnation,
            generation,
            addresses: DashMap::new(),
            senders: DashMap::new(),
            oldest: DashMap::new(),
            local: Arc::new(CreditWindow::new()),
        }
    }

    /// The executors that there are. Connections to others end.
    pub(crate) fn update(&self, node: &Node, peers: Vec<(ExecutorId, String)>) {
        let gone: Vec<ExecutorId> = self
            .addresses
            .iter()
            .map(|entry| *entry.key())
            .filter(|id| !peers.iter().any(|(peer, _)| peer == id))
            .collect();
        for id in gone {
            self.addresses.remove(&id);
            if let Some((_, sender)) = self.senders.remove(&id) {
                sender.window.close();
                sender.task.abort();
            }
            node.shuffle.close_source(id);
        }
        for (id, address) in peers {
            self.addresses.insert(id, address);
        }
    }

    pub(crate) fn address(&self, executor: ExecutorId) -> Option<String> {
        self.addresses.get(&executor).map(|address| address.clone())
    }

    pub(crate) fn open_local(&self, credit: u64) {
        self.local.connected(credit, 0);
    }

    pub(crate) fn grant_local(&self, credit: u64) {
        self.local.grant(credit);
    }

    /// Batches of a job up to `batch` need no credit.
    pub(crate) fn set_oldest(&self, job: JobId, batch: BatchTime) {
        // Before the windows that there are: one that is made meanwhile either sees it or is gone over.
        self.oldest
            .entry(job)
            .and_modify(|oldest| *oldest = batch.max(*oldest))
            .or_insert(batch);
        self.local.set_oldest(job, batch);
        for sender in &self.senders {
            sender.window.set_oldest(job, batch);
        }
    }

    pub(crate) fn forget_job(&self, job: JobId) {
        self.oldest.remove(&job);
        self.local.forget_job(job);
        for sender in &self.senders {
            sender.window.forget_job(job);
        }
    }

    fn sender(&self, node: &Arc<Node>, to: ExecutorId) -> (Arc<CreditWindow>, mpsc::Sender<Frame>) {
        let sender = self.senders.entry(to).or_insert_with(|| {
            let window = Arc::new(CreditWindow::new());
            for oldest in &self.oldest {
                window.set_oldest(*oldest.key(), *oldest.value());
            }
            let (frames, queue) = mpsc::channel(QUEUE);
            let hello = Hello {
                executor: self.me.0,
                incarnation: self.incarnation.0,
                generation: self.generation.0,
            };
            let connection = Connection {
                node: Arc::downgrade(node),
                to,
                hello,
                window: Arc::clone(&window),
                in_flight: InFlight::new(),
            };
            Sender {
                window,
                frames,
                task: tokio::spawn(connection.run(queue)).abort_handle(),
            }
        });
        (Arc::clone(&sender.window), sender.frames.clone())
    }
}

/// Sends a map's deliveries: to this executor without serialisation, to others over their connections. Returns bytes
/// sent to others and bytes kept here. Must run on the I/O runtime.
pub(crate) fn push(node: &Arc<Node>, deliveries: Vec<Delivery>) {
    for delivery in deliveries {
        let node = Arc::clone(node);
        let job = delivery.map.job;
        if delivery.to == node.executor {
            push_local(&node, &delivery);
            continue;
        }
        let (window, frames) = node.peers.sender(&node, delivery.to);
        tokio::spawn(async move {
            for frame in node.frames.build(&delivery) {
                let mut frame = match frame_for_wire(frame) {
                    Ok(frame) => frame,
                    Err(error) => {
                        error!(map = %delivery.map, %error, "a frame could not be made");
                        return;
                    }
                };
                let (batch, bytes) = (frame.head.batch, frame.bytes);
                let Ok(permit) = window.acquire(job, batch, bytes).await else {
                    return;
                };
                frame.head.oldest = permit.oldest;
                if frames.send(frame).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Rows that leave the process take only the text that they use with them.
fn frame_for_wire(mut frame: Frame) -> Result<Frame, tidemill_storage::Error> {
    for run in &mut frame.runs {
        run.rows = tidemill_storage::compact(&run.rows)?;
    }
    Ok(frame)
}

fn push_local(node: &Arc<Node>, delivery: &Delivery) {
    for mut frame in node.frames.build(delivery) {
        let window = Arc::clone(&node.peers.local);
        let ready = futures::FutureExt::now_or_never(window.acquire(frame.head.job, frame.head.batch, frame.bytes));
        match ready {
            Some(Ok(permit)) if !node.shuffle.would_spill(&frame) => {
                frame.head.oldest = permit.oldest;
                admit(node, frame);
            }
            Some(Ok(permit)) => {
                frame.head.oldest = permit.oldest;
                let node = Arc::clone(node);
                tokio::task::spawn_blocking(move || admit(&node, frame));
            }
            Some(Err(_)) => return,
            None => {
                let node = Arc::clone(node);
                tokio::spawn(async move {
                    let Ok(permit) = window.acquire(frame.head.job, frame.head.batch, frame.bytes).await else {
                        return;
                    };
                    frame.head.oldest = permit.oldest;
                    let _ = tokio::task::spawn_blocking(move || admit(&node, frame)).await;
                });
            }
        }
    }
}

fn admit(node: &Node, frame: Frame) {
    let map = frame.head.map();
    if let Err(error) = node.shuffle.admit(frame) {
        error!(%map, %error, "a local frame was not admitted");
    }
}

/// One connection to a peer, for as long as the peer is known.
struct Connection {
    node: std::sync::Weak<Node>,
    to: ExecutorId,
    hello: Hello,
    window: Arc<CreditWindow>,
    in_flight: InFlight<Frame>,
}

impl Connection {
    fn generation(&self) -> Generation {
        Generation(self.hello.generation)
    }

    async fn run(mut self, mut queue: mpsc::Receiver<Frame>) {
        let mut wait = RECONNECT;
        loop {
            match self.connect().await {
                Ok((requests, responses)) => {
                    wait = RECONNECT;
                    if self.serve(&mut queue, requests, responses).await {
                        return;
                    }
                    self.window.disconnected();
                    debug!(peer = %self.to, "shuffle connection ended");
                }
                Err(reason) => debug!(peer = %self.to, reason, "no shuffle connection"),
            }
            // The driver says when the peer is lost; until then it may come back.
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RECONNECT_MAX);
        }
    }

    async fn connect(&mut self) -> Result<(mpsc::Sender<PushRequest>, Streaming<PushResponse>), String> {
        let address = self
            .node
            .upgrade()
            .and_then(|node| node.peers.address(self.to))
            .ok_or("its address is not known")?;
        let channel = channel::connect(&address).await.map_err(|error| error.to_string())?;
        let mut client = ShuffleServiceClient::new(channel)
            .max_decoding_message_size(channel::MAX_DATA_MESSAGE)
            .max_encoding_message_size(channel::MAX_DATA_MESSAGE);
        let (requests, outgoing) = mpsc::channel(QUEUE);
        let hello = PushRequest {
            message: Some(Message::Hello(self.hello)),
        };
        requests.send(hello).await.map_err(|error| error.to_string())?;
        let response = client
            .push(ReceiverStream::new(outgoing))
            .await
            .map_err(|status| status.message().to_owned())?;
        let mut responses = response.into_inner();
        let first = responses
            .message()
            .await
            .map_err(|status| status.message().to_owned())?;
        let first = first.ok_or("it closed the connection")?;
        self.in_flight.restart();
        let repeated: u64 = self
            .in_flight
            .unacknowledged()
            .filter(|(_, frame)| !frame.head.oldest)
            .map(|(_, frame)| frame.bytes)
            .sum();
        self.window.connected(first.credit_bytes, repeated);
        for (sequence, frame) in self.in_flight.unacknowledged() {
            requests
                .send(request(sequence, self.generation(), frame)?)
                .await
                .map_err(|error| error.to_string())?;
        }
        Ok((requests, responses))
    }

    /// Sends what comes until the connection breaks (false) or nobody sends any more (true).
    async fn serve(
        &mut self,
        queue: &mut mpsc::Receiver<Frame>,
        requests: mpsc::Sender<PushRequest>,
        mut responses: Streaming<PushResponse>,
    ) -> bool {
        loop {
            tokio::select! {
                response = responses.message() => match response {
                    Ok(Some(response)) => {
                        self.in_flight.acknowledge(response.acknowledged);
                        if response.credit_bytes > 0 {
                            self.window.grant(response.credit_bytes);
                        }
                    }
                    Ok(None) => return false,
                    Err(status) => {
                        warn!(peer = %self.to, reason = status.message(), "shuffle connection broke");
                        return false;
                    }
                },
                frame = queue.recv() => {
                    let Some(frame) = frame else { return true };
                    let sequence = self.in_flight.push(frame.clone());
                    match request(sequence, self.generation(), &frame) {
                        Ok(request) => {
                            if requests.send(request).await.is_err() {
                                return false;
                            }
                        }
                        Err(reason) => error!(peer = %self.to, reason, "a frame could not be encoded"),
                    }
                }
            }
        }
    }
}

fn request(sequence: u64, generation: Generation, frame: &Frame) -> Result<PushRequest, String> {
    let encoded = encode(frame).map_err(|error| error.to_string())?;
    Ok(PushRequest {
        message: Some(Message::Frame(encode_frame(sequence, generation, encoded))),
    })
}
