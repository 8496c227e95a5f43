//! Sending deliveries to peers: one connection for each, opened when it is needed.
//!
//! The deliveries of a batch to a peer go one after the other, and their rows are loaded when it is their turn: what waits
//! stays where it is, in memory or in a file. Batches do not wait for each other, so that one that waits for credit never
//! holds up the oldest. Frames that were sent are kept until the peer has admitted them; a broken connection is opened
//! again and repeats them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use parking_lot::Mutex;
use tidemill_rpc::channel;
use tidemill_rpc::shuffle::push_request::Message;
use tidemill_rpc::shuffle::shuffle_service_client::ShuffleServiceClient;
use tidemill_rpc::shuffle::{Hello, PushRequest, PushResponse};
use tidemill_storage::{CreditWindow, Delivery, Frame, InFlight, MemoryKind, encode};
use tidemill_types::{BatchTime, ExecutorId, Generation, Incarnation, JobId};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tracing::{debug, error, warn};

use crate::node::Node;
use crate::wire::encode_frame;

/// Frames between the deliveries and the connection.
const QUEUE: usize = 8;
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
    /// What is still to be sent, by peer and batch. There is a queue while a task works on it.
    queues: Mutex<HashMap<(ExecutorId, JobId, BatchTime), VecDeque<Delivery>>>,
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
            queues: Mutex::default(),
        }
    }

    /// Adds a delivery to its queue; true if somebody has to begin to work on it.
    fn enqueue(&self, delivery: Delivery) -> bool {
        let key = (delivery.to, delivery.map.job, delivery.map.batch);
        let mut queues = self.queues.lock();
        let begins = !queues.contains_key(&key);
        queues.entry(key).or_default().push_back(delivery);
        begins
    }

    /// The next delivery of a queue, which is gone after the last.
    fn dequeue(&self, key: (ExecutorId, JobId, BatchTime)) -> Option<Delivery> {
        let mut queues = self.queues.lock();
        let next = queues.get_mut(&key).and_then(VecDeque::pop_front);
        if next.is_none() {
            queues.remove(&key);
        }
        next
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

/// Sends a map's deliveries: to this executor without serialisation, to others over their connections. Must run on the
/// I/O runtime.
pub(crate) fn push(node: &Arc<Node>, deliveries: Vec<Delivery>) {
    for delivery in deliveries {
        if delivery.to == node.executor && push_now(node, &delivery) {
            continue;
        }
        let key = (delivery.to, delivery.map.job, delivery.map.batch);
        if node.peers.enqueue(delivery) {
            let node = Arc::clone(node);
            tokio::spawn(async move {
                while let Some(delivery) = node.peers.dequeue(key) {
                    send(&node, &delivery).await;
                }
            });
        }
    }
}

/// Gives this executor a delivery if that takes neither waiting nor files.
fn push_now(node: &Node, delivery: &Delivery) -> bool {
    // The oldest batch needs no credit; others wait in their queue if there is not enough for all frames.
    let free = delivery.bytes == 0 || node.budget.has_room(MemoryKind::Shuffle, 2 * delivery.bytes);
    if !free || !node.peers.local.is_oldest(delivery.map.job, delivery.map.batch) || node.router.is_spilled(delivery) {
        return false;
    }
    let Ok(Some(parts)) = node.router.load(delivery) else {
        return false;
    };
    for mut frame in node.frames.build(delivery, &parts) {
        frame.head.oldest = true;
        admit(node, frame);
    }
    true
}

/// Sends one delivery, frame by frame, as there is credit.
async fn send(node: &Arc<Node>, delivery: &Delivery) {
    let loaded = if node.router.is_spilled(delivery) {
        let (node, delivery) = (Arc::clone(node), delivery.clone());
        tokio::task::spawn_blocking(move || node.router.load(&delivery)).await
    } else {
        Ok(node.router.load(delivery))
    };
    let parts = match loaded {
        Ok(Ok(Some(parts))) => parts,
        // Its batch is over.
        Ok(Ok(None)) => return,
        Ok(Err(error)) => {
            warn!(map = %delivery.map, %error, "a map output that was kept is lost");
            node.output_lost(delivery.map);
            return;
        }
        Err(error) => return error!(map = %delivery.map, %error, "a delivery could not be loaded"),
    };
    let remote = (delivery.to != node.executor).then(|| node.peers.sender(node, delivery.to));
    let window = remote.as_ref().map_or(&node.peers.local, |(window, _)| window);
    for mut frame in node.frames.build(delivery, &parts) {
        if remote.is_some() {
            frame = match frame_for_wire(frame) {
                Ok(frame) => frame,
                Err(error) => return error!(map = %delivery.map, %error, "a frame could not be made"),
            };
        }
        let Ok(permit) = window.acquire(delivery.map.job, delivery.map.batch, frame.bytes).await else {
            return;
        };
        frame.head.oldest = permit.oldest;
        match &remote {
            Some((_, frames)) => {
                if frames.send(frame).await.is_err() {
                    return;
                }
            }
            None if node.shuffle.would_spill(&frame) => {
                let node = Arc::clone(node);
                let _ = tokio::task::spawn_blocking(move || admit(&node, frame)).await;
            }
            None => admit(node, frame),
        }
    }
}

/// Rows that leave the process take only the text that they use with them.
fn frame_for_wire(mut frame: Frame) -> Result<Frame, tidemill_storage::Error> {
    for run in &mut frame.runs {
        run.rows = tidemill_storage::compact(&run.rows)?;
    }
    Ok(frame)
}

fn admit(node: &Node, frame: Frame) {
    let map = frame.head.map();
    let batch = (frame.head.job, frame.head.batch);
    if let Err(error) = node.shuffle.admit(frame) {
        error!(%map, %error, "a local frame was not admitted");
        node.batch_refused(batch, &error);
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
