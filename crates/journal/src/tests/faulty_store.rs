//! An object store that fails as real ones do: before an operation, or after it was done.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// What happens to one put of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Works,
    /// Nothing is done.
    Fails,
    /// It is done, and its answer is lost.
    Lies,
}

#[derive(Clone, Debug)]
pub(super) struct FaultyStore {
    pub(super) inner: Arc<InMemory>,
    /// For the next puts to the log, in order; behind them all works.
    pub(super) faults: Arc<Mutex<VecDeque<Fault>>>,
    /// Puts to the log wait for this, if it is there.
    pub(super) gate: Option<Arc<Notify>>,
}

impl FaultyStore {
    pub(super) fn new() -> Self {
        Self {
            inner: Arc::new(InMemory::new()),
            faults: Arc::default(),
            gate: None,
        }
    }

    fn lost() -> object_store::Error {
        object_store::Error::Generic {
            store: "faulty",
            source: "timed out".into(),
        }
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty store")
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let of_log = location.as_ref().contains("/log/");
        if let (Some(gate), true) = (&self.gate, of_log) {
            gate.notified().await;
        }
        let fault = if of_log { self.faults.lock().pop_front() } else { None };
        match fault.unwrap_or(Fault::Works) {
            Fault::Works => self.inner.put_opts(location, payload, options).await,
            Fault::Fails => Err(Self::lost()),
            Fault::Lies => {
                // What it came to is what is not told.
                let _ = self.inner.put_opts(location, payload, options).await;
                Err(Self::lost())
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[std::ops::Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
