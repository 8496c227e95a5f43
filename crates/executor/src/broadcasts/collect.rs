//! Getting a value piece by piece, from whom the driver says.
//!
//! One stream to the driver for each value: it names for each piece an executor that has it, or sends it. What cannot be
//! got, or comes damaged, is said to the driver, which names somebody else. A stream that breaks is opened again, with
//! what is here already.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tidemill_engine::BroadcastValue;
use tidemill_rpc::channel;
use tidemill_rpc::driver::collect_pieces_request::Message;
use tidemill_rpc::driver::collect_pieces_response::From as Source;
use tidemill_rpc::driver::driver_service_client::DriverServiceClient;
use tidemill_rpc::driver::{Collect, CollectPiecesRequest, CollectPiecesResponse, PieceMissed, PieceStored};
use tidemill_rpc::shuffle::fetch_request::What;
use tidemill_rpc::shuffle::shuffle_service_client::ShuffleServiceClient;
use tidemill_rpc::shuffle::{BroadcastPiece, FetchRequest};
use tidemill_storage::{Assembly, StoredPiece, VersionKey};
use tidemill_types::ExecutorId;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tracing::{debug, warn};

use super::Offer;
use crate::node::Node;

/// Pieces that are on their way at once.
const AT_ONCE: u32 = 4;
/// A peer that needs longer for a piece is asked no more for it.
const PIECE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the driver may take to end a stream that is done.
const FAREWELL: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);

pub(super) struct Collector {
    pub(super) node: Arc<Node>,
    pub(super) driver: String,
    pub(super) key: VersionKey,
    pub(super) offer: Offer,
}

/// Why a stream ended before the value was here.
enum Ended {
    /// The driver does not have it any more.
    Gone,
    Broken(String),
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::NotFound => Self::Gone,
            _ => Self::Broken(status.message().to_owned()),
        }
    }
}

impl Collector {
    /// Until the value is here and decoded; `None` if nobody wants it any more.
    pub(super) async fn run(self) -> Option<Result<(), String>> {
        let broadcasts = &self.node.broadcasts;
        let assembly = broadcasts.pieces.begin(self.key, &self.offer.manifest);
        let mut wait = RETRY;
        while assembly.whole().is_none() {
            if !broadcasts.is_offered(self.key) {
                return None;
            }
            match Box::pin(self.collect(&assembly)).await {
                Ok(()) => break,
                Err(Ended::Gone) => return None,
                Err(Ended::Broken(reason)) => {
                    debug!(job = %self.key.job, broadcast = %self.key.broadcast, reason, "collecting again");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY_MAX);
                }
            }
        }
        let whole = assembly.whole()?;
        drop(assembly);
        let shape = self.offer.shape;
        let decoded = tokio::task::spawn_blocking(move || BroadcastValue::decode(shape, whole)).await;
        match decoded {
            Ok(Ok(value)) => broadcasts.put(self.key, value).then_some(Ok(())),
            Ok(Err(error)) => Some(Err(error.to_string())),
            Err(panic) => Some(Err(panic.to_string())),
        }
    }

    async fn collect(&self, assembly: &Assembly) -> Result<(), Ended> {
        let broken = |error: tonic::transport::Error| Ended::Broken(error.to_string());
        let channel = channel::connect(&self.driver).await.map_err(broken)?;
        let mut client = DriverServiceClient::new(channel);
        let (requests, outgoing) = mpsc::unbounded_channel();
        let say = |message: Message| {
            // A stream that has ended shows in its answers.
            let _ = requests.send(CollectPiecesRequest { message: Some(message) });
        };
        say(Message::Collect(Collect {
            generation: self.node.generation.0,
            executor: self.node.executor.0,
            job: self.key.job.0,
            broadcast: self.key.broadcast.0,
            version: self.key.version,
            held: assembly.have(),
            at_once: AT_ONCE,
        }));
        let answers = client.collect_pieces(UnboundedReceiverStream::new(outgoing)).await?;
        let mut answers = answers.into_inner();
        let mut peers: HashMap<ExecutorId, Channel> = HashMap::new();
        let mut parts: HashMap<u32, Vec<Bytes>> = HashMap::new();
        let mut fetches = FuturesUnordered::new();
        loop {
            let (piece, holder, got) = tokio::select! {
                answer = answers.message() => {
                    let Some(CollectPiecesResponse { piece, from, last }) = answer? else {
                        return Err(Ended::Broken("the driver ended the stream".to_owned()));
                    };
                    match from {
                        Some(Source::Executor(holder)) => {
                            let holder = ExecutorId(holder);
                            let channel = self.peer(&mut peers, holder);
                            fetches.push(self.fetch(channel, holder, piece));
                            continue;
                        }
                        Some(Source::Bytes(bytes)) => parts.entry(piece).or_default().push(bytes),
                        None => {}
                    }
                    if !last {
                        continue;
                    }
                    (piece, None, Ok(parts.remove(&piece).unwrap_or_default()))
                }
                Some((piece, holder, got)) = fetches.next() => (piece, Some(holder), got),
            };
            match self.store(assembly, piece, holder, got) {
                Ok(stored) => {
                    say(Message::Stored(PieceStored { piece }));
                    if stored == StoredPiece::Whole {
                        break;
                    }
                }
                Err(corrupt) => say(Message::Missed(PieceMissed {
                    piece,
                    executor: holder.map(|holder| holder.0),
                    corrupt,
                })),
            }
        }
        drop(fetches);
        drop(requests);
        // The driver ends the stream when it has read all that was said.
        let rest = async { while let Ok(Some(_)) = answers.message().await {} };
        let _ = tokio::time::timeout(FAREWELL, rest).await;
        Ok(())
    }

    /// What came of a piece; an error if it has to be got again, and whether it was damaged.
    fn store(
        &self,
        assembly: &Assembly,
        piece: u32,
        holder: Option<ExecutorId>,
        got: Result<Vec<Bytes>, String>,
    ) -> Result<StoredPiece, bool> {
        let VersionKey { job, broadcast, .. } = self.key;
        let from = holder.map_or_else(|| "the driver".to_owned(), |holder| format!("executor {holder}"));
        let parts = got.map_err(|reason| {
            debug!(%job, %broadcast, piece, from, reason, "a piece was not given");
            false
        })?;
        let pieces = &self.node.broadcasts.pieces;
        match assembly.store(piece, &parts) {
            StoredPiece::Corrupt => {
                warn!(%job, %broadcast, piece, from, "a piece came damaged and is taken from somebody else");
                pieces.count_corrupt();
                Err(true)
            }
            stored => {
                pieces.count_piece(holder.is_none());
                Ok(stored)
            }
        }
    }

    fn peer(&self, peers: &mut HashMap<ExecutorId, Channel>, holder: ExecutorId) -> Option<Channel> {
        if let Some(channel) = peers.get(&holder) {
            return Some(channel.clone());
        }
        let address = self.node.peers.address(holder)?;
        let channel = channel::endpoint(&address).ok()?.connect_lazy();
        peers.insert(holder, channel.clone());
        Some(channel)
    }

    async fn fetch(
        &self,
        channel: Option<Channel>,
        holder: ExecutorId,
        piece: u32,
    ) -> (u32, ExecutorId, Result<Vec<Bytes>, String>) {
        let request = FetchRequest {
            generation: self.node.generation.0,
            job: self.key.job.0,
            what: Some(What::Piece(BroadcastPiece {
                broadcast: self.key.broadcast.0,
                version: self.key.version,
                piece,
            })),
        };
        let fetched = async {
            let channel = channel.ok_or("it is gone")?;
            let said = |status: Status| status.message().to_owned();
            let mut answers = ShuffleServiceClient::new(channel)
                .fetch(request)
                .await
                .map_err(said)?
                .into_inner();
            let mut parts = Vec::new();
            while let Some(part) = answers.message().await.map_err(said)? {
                parts.push(part.ipc);
            }
            Ok(parts)
        };
        let got = tokio::time::timeout(PIECE_TIMEOUT, fetched).await;
        let late = || Err(format!("not within {PIECE_TIMEOUT:?}"));
        (piece, holder, got.unwrap_or_else(|_| late()))
    }
}
