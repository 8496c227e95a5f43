//! Functions that a cluster's build has to have registered for the jobs of the reference.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use futures::{StreamExt, stream};
use tidemill_engine::{BatchContext, BatchStream, BoxError, Determinism, MapPartitions, Registry, Transform};

pub(super) const TWICE: &str = "every_record_twice";
pub(super) const NUMBER: &str = "number_of_records";

/// A build with the functions that jobs of the reference name.
///
/// # Errors
/// Never in a released build: the names are valid.
pub fn registry() -> anyhow::Result<Registry> {
    let registry = Registry::builder()
        .map_partitions(TWICE, Determinism::Deterministic, Twice)
        .transform(NUMBER, Determinism::Deterministic, Number);
    Ok(registry.build()?)
}

struct Twice;

impl MapPartitions for Twice {
    fn schema(&self, input: &SchemaRef) -> Result<SchemaRef, BoxError> {
        Ok(Arc::clone(input))
    }

    fn map(&self, _: BatchContext, input: BatchStream) -> Result<BatchStream, BoxError> {
        let twice = |batch: Result<RecordBatch, BoxError>| match batch {
            Ok(batch) => stream::iter(vec![Ok(batch.clone()), Ok(batch)]),
            Err(error) => stream::iter(vec![Err(error)]),
        };
        Ok(Box::pin(input.flat_map(twice)))
    }
}

struct Number;

impl Transform for Number {
    fn schema(&self, _: &SchemaRef) -> Result<SchemaRef, BoxError> {
        let records = Field::new("records", DataType::Int64, false);
        Ok(Arc::new(Schema::new(vec![records])))
    }

    fn transform(&self, _: BatchContext, input: Vec<RecordBatch>) -> Result<Vec<RecordBatch>, BoxError> {
        let records: usize = input.iter().map(RecordBatch::num_rows).sum();
        let records = Arc::new(Int64Array::from(vec![records as i64])) as ArrayRef;
        let schema = Arc::new(Schema::new(vec![Field::new("records", DataType::Int64, false)]));
        Ok(vec![RecordBatch::try_new(schema, vec![records])?])
    }
}
