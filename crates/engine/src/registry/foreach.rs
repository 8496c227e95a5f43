//! Foreach outputs: what a build does with the rows of a batch or of a partition.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use tidemill_types::{BatchTime, FailureKind, TaskFailure};
use tokio::runtime::Handle;

use super::{BoxError, Function, Registry};

/// The rows that a foreach output is called with.
#[derive(Clone, Debug)]
pub struct ForeachBatch {
    /// The name of the job.
    pub job: String,
    /// With the partition a key under which a write can be made once, however often it is tried.
    pub batch_time: BatchTime,
    /// `None`: the whole batch.
    pub partition: Option<u32>,
    pub schema: SchemaRef,
    pub rows: Vec<RecordBatch>,
}

/// Does something with rows that others can see. It is called at least once for the same rows: a task or a batch may run
/// again.
#[async_trait]
pub trait Foreach: Send + Sync + 'static {
    /// # Errors
    /// The rows were not taken. For a partition the task runs again, up to the job's attempts, and then its batch fails;
    /// a whole batch fails at once.
    async fn call(&self, batch: ForeachBatch) -> Result<(), BoxError>;
}

type Blocking = dyn Fn(ForeachBatch) -> Result<(), BoxError> + Send + Sync;

#[derive(Clone)]
pub(crate) enum ForeachFunction {
    Async(Arc<dyn Foreach>),
    Blocking(Arc<Blocking>),
}

impl Registry {
    /// Calls a foreach output on a runtime: an asynchronous function there, one that blocks on its threads for that.
    ///
    /// # Errors
    /// The function fails or panics, which is the user's failure; or it is not registered here.
    pub async fn foreach(&self, name: &str, batch: ForeachBatch, runtime: &Handle) -> Result<(), TaskFailure> {
        let Some(Function::Foreach(function)) = self.get(name) else {
            let message = format!("foreach `{name}` is not registered here: driver and executors must be of one build");
            return Err(TaskFailure::new(FailureKind::Internal, message));
        };
        let called = match function.clone() {
            ForeachFunction::Async(function) => runtime.spawn(async move { function.call(batch).await }),
            ForeachFunction::Blocking(function) => runtime.spawn_blocking(move || function(batch)),
        };
        let failed = |what: String| TaskFailure::new(FailureKind::User, format!("foreach `{name}` {what}"));
        match called.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(failed(format!("failed: {error}"))),
            Err(error) if error.is_panic() => Err(failed("panicked".to_owned())),
            Err(error) => Err(TaskFailure::new(FailureKind::Internal, error.to_string())),
        }
    }
}
