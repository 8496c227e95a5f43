//! Giving out the pieces of broadcast values.
//!
//! One stream for each executor and value. Whenever something has changed the tracker is asked what the executor takes
//! next, and from whom; what the driver gives itself goes over the same stream.

use std::sync::Arc;

use tidemill_rpc::driver::collect_pieces_request::Message;
use tidemill_rpc::driver::collect_pieces_response::From;
use tidemill_rpc::driver::{CollectPiecesRequest, CollectPiecesResponse};
use tidemill_scheduler::pieces::PieceSource;
use tidemill_storage::VersionKey;
use tidemill_types::{BroadcastId, ExecutorId, Generation, JobId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::broadcasts::{Shelf, Shelved};

/// Pieces are sent in parts of this size.
const PART: usize = 256 << 10;
/// Parts that wait for the connection.
const PARTS: usize = 8;

pub(super) type Answers = ReceiverStream<Result<CollectPiecesResponse, Status>>;

/// Begins to serve one executor.
pub(super) async fn collect(
    shelf: &Shelf,
    generation: Generation,
    mut requests: Streaming<CollectPiecesRequest>,
) -> Result<Answers, Status> {
    let Some(Message::Collect(collect)) = requests.message().await?.and_then(|request| request.message) else {
        return Err(Status::invalid_argument("the first message says what is collected"));
    };
    if collect.generation != generation.0 {
        return Err(Status::failed_precondition(
            "the executor belongs to another generation of the driver",
        ));
    }
    let key = VersionKey {
        job: JobId(collect.job),
        broadcast: BroadcastId(collect.broadcast),
        version: collect.version,
    };
    let shelved = shelf
        .get(key)
        .ok_or_else(|| Status::not_found("the driver does not have it any more"))?;
    let executor = ExecutorId(collect.executor);
    if !shelf.join(&shelved, executor, &collect.held, collect.at_once) {
        return Err(Status::failed_precondition("the executor is not registered any more"));
    }
    let (answers, stream) = mpsc::channel(PARTS);
    tokio::spawn(async move {
        // Either way the executor's stream ends.
        if let Err(status) = serve(&shelved, executor, requests, &answers).await {
            let _ = answers.send(Err(status)).await;
        }
        shelved.tracker.lock().leave(executor);
        shelved.changed.notify_waiters();
    });
    Ok(ReceiverStream::new(stream))
}

async fn serve(
    shelved: &Arc<Shelved>,
    executor: ExecutorId,
    mut requests: Streaming<CollectPiecesRequest>,
    answers: &mpsc::Sender<Result<CollectPiecesResponse, Status>>,
) -> Result<(), Status> {
    loop {
        // Before the tracker is asked: what changes meanwhile is not missed.
        let changed = shelved.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        loop {
            let next = {
                let mut tracker = shelved.tracker.lock();
                if !tracker.knows(executor) {
                    return Err(Status::aborted("what the executor has is not known any more"));
                }
                tracker.next(executor)
            };
            let Some((piece, source)) = next else { break };
            if !give(shelved, piece, source, answers).await {
                return Ok(());
            }
        }
        tokio::select! {
            request = requests.message() => {
                let Some(request) = request? else { return Ok(()) };
                let mut tracker = shelved.tracker.lock();
                match request.message {
                    Some(Message::Stored(stored)) => tracker.stored(executor, stored.piece),
                    Some(Message::Missed(missed)) => tracker.missed(executor, missed.piece, missed.corrupt),
                    Some(Message::Collect(_)) | None => {
                        return Err(Status::invalid_argument("a message that has no place here"));
                    }
                }
                drop(tracker);
                shelved.changed.notify_waiters();
            }
            () = changed => {}
        }
    }
}

/// Names who has a piece, or sends it; false if nobody listens any more.
async fn give(
    shelved: &Shelved,
    piece: u32,
    source: PieceSource,
    answers: &mpsc::Sender<Result<CollectPiecesResponse, Status>>,
) -> bool {
    let answer = |from, last| CollectPiecesResponse {
        piece,
        from: Some(from),
        last,
    };
    match source {
        PieceSource::Executor(holder) => answers.send(Ok(answer(From::Executor(holder.0), true))).await.is_ok(),
        PieceSource::Driver => {
            let range = shelved.loaded.manifest.range(piece);
            let value = shelved.loaded.value.slice(range);
            for at in (0..value.len()).step_by(PART) {
                let until = (at + PART).min(value.len());
                let part = answer(From::Bytes(value.slice(at..until)), until == value.len());
                if answers.send(Ok(part)).await.is_err() {
                    return false;
                }
            }
            true
        }
    }
}
