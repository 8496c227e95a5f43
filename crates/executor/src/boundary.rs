//! The boundary of a task: a panic behind it is a failure of the task, not of the executor.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use tidemill_types::{FailureKind, TaskFailure};

/// Runs a task's work. What it owned is dropped when it panics, so nothing half done is seen again.
pub(crate) async fn guarded<T>(work: impl Future<Output = Result<T, TaskFailure>>) -> Result<T, TaskFailure> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(result) => result,
        Err(panic) => {
            let message = format!("the task panicked: {}", message(&*panic));
            Err(TaskFailure::new(FailureKind::Internal, message))
        }
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, RecordBatch};
    use arrow::datatypes::{DataType, Field, Schema};
    use futures::{Stream, StreamExt};

    use super::*;

    /// Rows as a plan gives them; its function panics at the value 2.
    fn rows() -> impl Stream<Item = Result<RecordBatch, TaskFailure>> {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let batch = move |n: i64| {
            assert!(n != 2, "cannot take {n}");
            let column = Arc::new(Int64Array::from(vec![n]));
            RecordBatch::try_new(schema.clone(), vec![column])
                .map_err(|error| TaskFailure::new(FailureKind::User, error.to_string()))
        };
        futures::stream::iter([1, 2, 3]).map(batch)
    }

    #[tokio::test]
    async fn a_panic_in_a_function_fails_the_task_with_its_message_and_the_thread_goes_on() {
        let all = guarded(async {
            rows()
                .map(|rows| rows.map(|rows| rows.num_rows()))
                .collect::<Vec<_>>()
                .await
                .into_iter()
                .collect::<Result<Vec<_>, _>>()
        });
        let failure = all.await.unwrap_err();
        assert_eq!(failure.to_string(), "internal error: the task panicked: cannot take 2");
        assert!(failure.kind.retryable() && failure.kind.counts_toward_limit());
        let first = guarded(async { Ok(rows().next().await) }).await;
        assert!(first.is_ok());
    }
}
