//! Broadcast variables of jobs that run.

use bytes::Bytes;
use tidemill_dstream::{BroadcastFormat, BroadcastSource};
use tidemill_rpc::control::broadcast_update::Value;
use tidemill_rpc::control::update_broadcast_request::Message;
use tidemill_rpc::control::{self, UpdateBroadcastRequest};

use crate::builder::Broadcast;
use crate::client::Client;
use crate::error::Result;
use crate::handle::JobHandle;
use crate::summary::BroadcastSummary;

/// Content is sent in parts of this size.
const PART: usize = 1 << 20;

/// A new value of a broadcast variable.
#[derive(Clone, Debug, PartialEq)]
pub enum BroadcastUpdate {
    /// From where the first one came: the file is read again, or the query asked again.
    Refresh,
    /// The content of a file, of any size.
    Content { format: BroadcastFormat, content: Bytes },
    /// A value that the job could have had itself.
    Value(Broadcast),
}

impl From<Broadcast> for BroadcastUpdate {
    fn from(value: Broadcast) -> Self {
        Self::Value(value)
    }
}

impl Client {
    /// The broadcast variables of a job, by its number or name.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound).
    pub async fn broadcasts(&self, job: &str) -> Result<Vec<BroadcastSummary>> {
        let request = control::ListBroadcastsRequest { job: job.to_owned() };
        let response = self.answer(self.service.clone().list_broadcasts(request).await)?;
        Ok(response.broadcasts.into_iter().map(BroadcastSummary::from).collect())
    }

    /// Gives a variable a new value and says its version. It has to have the shape and the columns of the first one. It
    /// takes effect at a batch border, when all executors hold it; until then [`BroadcastSummary::version`] is the old one.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound) for an unknown job or variable; [`Error::Remote`](crate::Error::Remote)
    /// if it is not updatable, is of another shape or too large.
    pub async fn update_broadcast(&self, job: &str, name: &str, value: impl Into<BroadcastUpdate>) -> Result<u32> {
        let (value, content) = match value.into() {
            BroadcastUpdate::Refresh => (Value::Refresh(control::Refresh {}), Bytes::new()),
            BroadcastUpdate::Content { format, content } => {
                let source = BroadcastSource::File {
                    path: String::new(),
                    format: Some(format),
                };
                (Value::Source((&source).into()), content)
            }
            BroadcastUpdate::Value(value) => (Value::Source((&value.source).into()), Bytes::new()),
        };
        let first = Message::Update(control::BroadcastUpdate {
            job: job.to_owned(),
            name: name.to_owned(),
            value: Some(value),
        });
        let parts = (0..content.len()).step_by(PART).map(move |at| {
            let part = content.slice(at..(at + PART).min(content.len()));
            Message::Content(part)
        });
        let messages = std::iter::once(first).chain(parts);
        let requests = tokio_stream::iter(messages.map(|message| UpdateBroadcastRequest { message: Some(message) }));
        Ok(self
            .answer(self.service.clone().update_broadcast(requests).await)?
            .version)
    }

    /// Drops a value from the executors' memory. A batch that uses it collects it again.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound).
    pub async fn unpersist_broadcast(&self, job: &str, name: &str) -> Result<()> {
        self.drop_broadcast(job, name, false).await
    }

    /// Drops a value everywhere and for ever. Batches that were launched before use it to their end; later ones fail where
    /// they use it.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound).
    pub async fn destroy_broadcast(&self, job: &str, name: &str) -> Result<()> {
        self.drop_broadcast(job, name, true).await
    }

    async fn drop_broadcast(&self, job: &str, name: &str, destroy: bool) -> Result<()> {
        let request = control::DropBroadcastRequest {
            job: job.to_owned(),
            name: name.to_owned(),
            destroy,
        };
        self.answer(self.service.clone().drop_broadcast(request).await)?;
        Ok(())
    }
}

impl JobHandle {
    /// The job's broadcast variables.
    ///
    /// # Errors
    /// As [`Client::broadcasts`].
    pub async fn broadcasts(&self) -> Result<Vec<BroadcastSummary>> {
        self.client().broadcasts(&self.id().to_string()).await
    }

    /// Gives a variable a new value.
    ///
    /// # Errors
    /// As [`Client::update_broadcast`].
    pub async fn update_broadcast(&self, name: &str, value: impl Into<BroadcastUpdate>) -> Result<u32> {
        self.client()
            .update_broadcast(&self.id().to_string(), name, value)
            .await
    }
}
