//! Getting blocks and remembered partitions from the executors that hold them.

use std::sync::Arc;

use tidemill_engine::{RecordBatch, decode_ipc};
use tidemill_rpc::channel;
use tidemill_rpc::shuffle::fetch_request::What;
use tidemill_rpc::shuffle::shuffle_service_client::ShuffleServiceClient;
use tidemill_rpc::shuffle::{Block, Dataset, FetchRequest};
use tidemill_storage::DatasetKey;
use tidemill_types::{BlockId, ExecutorId, FailureKind, JobId, Medium, TaskFailure};

use crate::node::Node;

/// Gets a block and stores it here under its own name.
pub(crate) async fn block(node: &Arc<Node>, id: BlockId) -> Result<(), TaskFailure> {
    let what = What::Block(Block {
        receiver: id.receiver.0,
        executor: id.executor.0,
        session: id.session,
        sequence: id.sequence,
    });
    let batches = fetch(node, id.executor, id.job, what)
        .await
        .map_err(|reason| lost(&id, id.executor, &reason))?;
    stored(node, move |node| {
        node.blocks.put_block(id, batches);
        Ok(())
    })
    .await
}

/// Gets a remembered partition and stores it here.
pub(crate) async fn dataset(
    node: &Arc<Node>,
    key: DatasetKey,
    holder: ExecutorId,
    medium: Medium,
) -> Result<(), TaskFailure> {
    let what = What::Dataset(Dataset {
        dataset: key.dataset.0,
        batch_time_ms: key.batch.0,
        partition: key.partition,
    });
    let name = format!(
        "partition {} of dataset {} of batch {}",
        key.partition, key.dataset, key.batch
    );
    let batches = fetch(node, holder, key.job, what)
        .await
        .map_err(|reason| lost(&name, holder, &reason))?;
    stored(node, move |node| {
        let mut writer = node.blocks.write_dataset(key, medium);
        for batch in batches {
            writer.push(batch)?;
        }
        writer.finish().map(drop)
    })
    .await
}

/// Stores something where files may be written.
async fn stored(
    node: &Arc<Node>,
    put: impl FnOnce(&Node) -> tidemill_storage::Result<()> + Send + 'static,
) -> Result<(), TaskFailure> {
    let node = Arc::clone(node);
    let put = tokio::task::spawn_blocking(move || put(&node)).await;
    let internal = |error: tokio::task::JoinError| TaskFailure::new(FailureKind::Internal, error.to_string());
    put.map_err(internal)?
        .map_err(|error| TaskFailure::new(error.kind(), error.to_string()))
}

fn lost(what: &dyn std::fmt::Display, holder: ExecutorId, reason: &str) -> TaskFailure {
    TaskFailure::new(
        FailureKind::InputLost,
        format!("{what} could not be read from executor {holder}: {reason}"),
    )
}

async fn fetch(node: &Node, holder: ExecutorId, job: JobId, what: What) -> Result<Vec<RecordBatch>, String> {
    let address = node.peers.address(holder).ok_or("it is gone")?;
    let channel = channel::connect(&address).await.map_err(|error| error.to_string())?;
    let mut client = ShuffleServiceClient::new(channel).max_decoding_message_size(channel::MAX_DATA_MESSAGE);
    let request = FetchRequest {
        generation: node.generation.0,
        job: job.0,
        what: Some(what),
    };
    let said = |status: tonic::Status| status.message().to_owned();
    let mut pieces = client.fetch(request).await.map_err(said)?.into_inner();
    let mut ipc = Vec::new();
    while let Some(piece) = pieces.message().await.map_err(said)? {
        ipc.extend_from_slice(&piece.ipc);
    }
    if ipc.is_empty() {
        return Ok(Vec::new());
    }
    decode_ipc(&ipc)
        .map(|(_, batches)| batches)
        .map_err(|error| error.to_string())
}
