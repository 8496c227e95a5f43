//! The data service: takes frames from peers, gives blocks and remembered partitions to them.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use parking_lot::RwLock;
use tidemill_engine::encode_ipc;
use tidemill_rpc::shuffle::fetch_request::What;
use tidemill_rpc::shuffle::push_request::Message;
use tidemill_rpc::shuffle::shuffle_service_server::ShuffleService;
use tidemill_rpc::shuffle::{FetchRequest, FetchResponse, PushRequest, PushResponse};
use tidemill_storage::{DatasetKey, VersionKey, decode};
use tidemill_types::{BatchTime, BlockId, BroadcastId, DatasetId, ExecutorId, FailureKind, JobId, ReceiverId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::warn;

use crate::node::Node;
use crate::wire::decode_frame;

/// The node that is served, if this executor is registered.
pub(crate) type Served = Arc<RwLock<Option<Arc<Node>>>>;

pub(crate) struct DataService {
    pub(crate) node: Served,
}

type Items<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Admitted frames are acknowledged together: after so many frames or bytes, or after so long.
const ACKNOWLEDGE_FRAMES: u64 = 64;
const ACKNOWLEDGE_BYTES: u64 = 4 << 20;
const ACKNOWLEDGE_AFTER: Duration = Duration::from_millis(100);
const RESPONSES: usize = 16;
/// Fetched data is sent in pieces of about this size.
const PIECE: usize = 2 << 20;
/// Pieces of broadcast values are sent in parts that stay in a processor's cache on the way.
const PIECE_PART: usize = 256 << 10;

impl DataService {
    fn node(&self) -> Result<Arc<Node>, Status> {
        self.node
            .read()
            .clone()
            .ok_or_else(|| Status::unavailable("this executor is not registered"))
    }
}

#[tonic::async_trait]
impl ShuffleService for DataService {
    type PushStream = Items<PushResponse>;

    async fn push(&self, request: Request<Streaming<PushRequest>>) -> Result<Response<Self::PushStream>, Status> {
        let node = self.node()?;
        let mut requests = request.into_inner();
        let Some(Message::Hello(hello)) = requests.message().await?.and_then(|request| request.message) else {
            return Err(Status::invalid_argument("the first message of a push names its sender"));
        };
        if hello.generation != node.generation.0 {
            return Err(Status::failed_precondition(
                "the sender belongs to another generation of the driver",
            ));
        }
        let source = ExecutorId(hello.executor);
        let (responses, stream) = mpsc::channel(RESPONSES);
        let first = PushResponse {
            acknowledged: 0,
            credit_bytes: node.shuffle.open_source(source),
        };
        // The receiving half is in this function.
        let _ = responses.try_send(Ok(first));
        tokio::spawn(async move {
            if let Err(status) = receive(&node, source, requests, &responses).await {
                warn!(peer = %source, reason = status.message(), "shuffle input ended");
                let _ = responses.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    type FetchStream = Items<FetchResponse>;

    async fn fetch(&self, request: Request<FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let node = self.node()?;
        let request = request.into_inner();
        if request.generation != node.generation.0 {
            return Err(Status::failed_precondition(
                "the reader belongs to another generation of the driver",
            ));
        }
        let job = JobId(request.job);
        if let Some(What::Piece(piece)) = &request.what {
            let key = VersionKey {
                job,
                broadcast: BroadcastId(piece.broadcast),
                version: piece.version,
            };
            let piece = node.broadcasts.pieces.give(key, piece.piece);
            let piece = piece.ok_or_else(|| Status::not_found("this executor does not hold it"))?;
            let parts = piece.parts(PIECE_PART).map(|ipc| Ok(FetchResponse { ipc }));
            return Ok(Response::new(Box::pin(futures::stream::iter(parts))));
        }
        let read = tokio::task::spawn_blocking(move || -> Result<bytes::Bytes, Status> {
            let failed = |error: &dyn std::fmt::Display| Status::internal(error.to_string());
            let batches = match request.what {
                Some(What::Block(block)) => node.blocks.block(BlockId {
                    job,
                    receiver: ReceiverId(block.receiver),
                    executor: ExecutorId(block.executor),
                    session: block.session,
                    sequence: block.sequence,
                }),
                Some(What::Dataset(dataset)) => node.blocks.dataset(DatasetKey {
                    job,
                    dataset: DatasetId(dataset.dataset),
                    batch: BatchTime(dataset.batch_time_ms),
                    partition: dataset.partition,
                }),
                Some(What::Piece(_)) | None => return Err(Status::invalid_argument("nothing is asked for")),
            };
            let batches = batches.map_err(|error| failed(&error))?;
            let batches = batches.ok_or_else(|| Status::not_found("this executor does not hold it"))?;
            let Some(first) = batches.first() else {
                return Ok(bytes::Bytes::new());
            };
            encode_ipc(&first.schema(), &batches).map_err(|error| failed(&error))
        });
        let ipc = read.await.map_err(|error| Status::internal(error.to_string()))??;
        // Nothing at all means a partition without rows.
        let pieces = (0..ipc.len()).step_by(PIECE).map(move |at| {
            let piece = ipc.slice(at..(at + PIECE).min(ipc.len()));
            Ok(FetchResponse { ipc: piece })
        });
        Ok(Response::new(Box::pin(futures::stream::iter(pieces))))
    }
}

/// Admits frames until the sender ends.
async fn receive(
    node: &Arc<Node>,
    source: ExecutorId,
    mut requests: Streaming<PushRequest>,
    responses: &mpsc::Sender<Result<PushResponse, Status>>,
) -> Result<(), Status> {
    let credit = node.credit_notify(source);
    let mut acknowledged = 0;
    let (mut frames, mut bytes) = (0, 0);
    let mut timer = tokio::time::interval(ACKNOWLEDGE_AFTER);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let respond = tokio::select! {
            request = requests.message() => {
                let Some(Message::Frame(frame)) = request?.and_then(|request| request.message) else { return Ok(()) };
                acknowledged = frame.sequence;
                frames += 1;
                bytes += frame.body.len() as u64;
                admit(node, source, frame).await?;
                frames >= ACKNOWLEDGE_FRAMES || bytes >= ACKNOWLEDGE_BYTES
            }
            () = credit.notified() => true,
            _ = timer.tick(), if frames > 0 => true,
        };
        if respond {
            (frames, bytes) = (0, 0);
            let response = PushResponse {
                acknowledged,
                credit_bytes: node.shuffle.take_credit(source),
            };
            if responses.send(Ok(response)).await.is_err() {
                return Ok(());
            }
        }
    }
}

async fn admit(node: &Arc<Node>, source: ExecutorId, frame: tidemill_rpc::shuffle::Frame) -> Result<(), Status> {
    if frame.generation != node.generation.0 {
        return Err(Status::failed_precondition(
            "a frame of another generation of the driver",
        ));
    }
    let frame = decode_frame(source, frame);
    let Some(job) = node.jobs.get(&frame.head.job).map(|job| Arc::clone(&job)) else {
        // The job has ended here.
        return Ok(());
    };
    let template = job.template(frame.head.from_stage);
    let template = template.ok_or_else(|| Status::invalid_argument("a frame of an unknown stage"))?;
    let frame = decode(&template.schema(), frame).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let batch = (frame.head.job, frame.head.batch);
    let admitted = if node.shuffle.would_spill(&frame) {
        let node = Arc::clone(node);
        let admitted = tokio::task::spawn_blocking(move || node.shuffle.admit(frame));
        admitted.await.map_err(|error| Status::internal(error.to_string()))?
    } else {
        node.shuffle.admit(frame)
    };
    match admitted {
        Ok(_) => Ok(()),
        // The frame counts as taken, so that those of other batches go on; its own batch fails, or has it sent again.
        Err(error) if error.kind() == FailureKind::Resource => {
            warn!(peer = %source, job = %batch.0, batch = %batch.1, %error, "shuffled rows have no room");
            node.batch_refused(batch, &error);
            Ok(())
        }
        Err(error) => Err(Status::invalid_argument(error.to_string())),
    }
}
