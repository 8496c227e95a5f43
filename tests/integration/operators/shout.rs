//! The registered function of the example of `map_partitions`.

use std::sync::Arc;

use anyhow::Result;
use futures::StreamExt;
use tidemill::{BatchContext, BatchStream, BoxError, Determinism, MapPartitions, Registry};
use tidemill_engine::arrow::array::{ArrayRef, AsArray, RecordBatch, StringViewArray};
use tidemill_engine::arrow::datatypes::SchemaRef;

/// Makes the text of the only column upper case.
struct Shout;

impl MapPartitions for Shout {
    fn schema(&self, input: &SchemaRef) -> Result<SchemaRef, BoxError> {
        Ok(Arc::clone(input))
    }

    fn map(&self, _: BatchContext, input: BatchStream) -> Result<BatchStream, BoxError> {
        let loud = |batch: RecordBatch| -> Result<RecordBatch, BoxError> {
            let texts = batch.column(0).as_string_view().iter();
            let texts: StringViewArray = texts.map(|text| text.map(str::to_uppercase)).collect();
            Ok(RecordBatch::try_new(batch.schema(), vec![Arc::new(texts) as ArrayRef])?)
        };
        Ok(Box::pin(input.map(move |batch| loud(batch?))))
    }
}

/// A build with the function.
pub(super) fn registry() -> Result<Registry> {
    let registry = Registry::builder().map_partitions("shout", Determinism::Deterministic, Shout);
    Ok(registry.build()?)
}
