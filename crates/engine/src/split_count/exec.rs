//! The operator: reads its input whole, then gives the tokens and their counts. When there is no memory for more tokens,
//! it gives what it has and goes on: whoever reads it adds up the counts of a token.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::internal_err;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, ChildrenPropertiesMode, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties, ReplaceChildrenOptions,
};
use futures::{StreamExt, TryStreamExt, stream};

use super::tokens::{Splitting, TokenCounts};

#[derive(Debug, Clone)]
pub(crate) struct SplitCountExec {
    input: Arc<dyn ExecutionPlan>,
    parts: SplitCount,
    properties: Arc<PlanProperties>,
}

/// What the operator does, beside where its rows come from.
#[derive(Debug, Clone)]
pub(crate) struct SplitCount {
    /// A string for each row of the input.
    pub(crate) text: Arc<dyn PhysicalExpr>,
    pub(crate) separator: u8,
    pub(crate) lower: bool,
    /// Over a relation of the tokens alone, a function of the token.
    pub(crate) predicate: Option<Arc<dyn PhysicalExpr>>,
    pub(crate) token_schema: SchemaRef,
    /// The token, followed by any number of columns that are its count.
    pub(crate) schema: SchemaRef,
}

impl SplitCountExec {
    pub(crate) fn new(input: Arc<dyn ExecutionPlan>, parts: SplitCount) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(parts.schema.clone()),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self {
            input,
            parts,
            properties: Arc::new(properties),
        }
    }

    pub(crate) fn parts(&self) -> &SplitCount {
        &self.parts
    }
}

impl DisplayAs for SplitCountExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SplitCount {
            text,
            separator,
            lower,
            predicate,
            ..
        } = &self.parts;
        write!(
            f,
            "SplitCountExec: text={text}, separator={:?}, lower={lower}",
            char::from(*separator)
        )?;
        match predicate {
            Some(predicate) => write!(f, ", predicate={predicate}"),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for SplitCountExec {
    fn name(&self) -> &str {
        "SplitCountExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        datafusion::physical_plan::apply_expression_roots([Arc::clone(&self.parts.text)], f)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => Ok(Arc::new(Self::new(input, self.parts.clone()))),
            _ => internal_err!("SplitCountExec has one input"),
        }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let counting = Counting {
            rows: context.session_config().batch_size(),
            // It takes what is free and does not wait for its share: it can stop at any time.
            work: MemoryConsumer::new("counts of tokens").register(context.memory_pool()),
            input: self.input.execute(partition, context)?,
            parts: self.parts.clone(),
            done: false,
        };
        let counted = stream::try_unfold(counting, |mut counting| async move {
            let batches = counting.next().await?;
            Ok::<_, DataFusionError>(batches.map(|batches| (stream::iter(batches.into_iter().map(Ok)), counting)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.schema(),
            counted.try_flatten(),
        )))
    }
}

/// One partition.
struct Counting {
    parts: SplitCount,
    input: SendableRecordBatchStream,
    work: MemoryReservation,
    /// Rows of a batch.
    rows: usize,
    done: bool,
}

impl Counting {
    /// Counts until the input ends or there is no memory; `None` behind the end.
    async fn next(&mut self) -> Result<Option<Vec<RecordBatch>>> {
        if self.done {
            return Ok(None);
        }
        let mut counts = TokenCounts::new(self.parts.splitting());
        loop {
            let Some(batch) = self.input.next().await else {
                self.done = true;
                break;
            };
            let batch = batch?;
            let text = self.parts.text.evaluate(&batch)?.into_array(batch.num_rows())?;
            add(&mut counts, &text)?;
            // The result stands beside the table for a moment.
            if self.work.try_resize(2 * counts.size()).is_err() {
                break;
            }
        }
        let batches = self.parts.batches(counts, self.rows)?;
        self.work.free();
        Ok(Some(batches))
    }
}

fn add(counts: &mut TokenCounts, text: &ArrayRef) -> Result<()> {
    match text.data_type() {
        DataType::Utf8View => text.as_string_view().iter().flatten().for_each(|text| counts.add(text)),
        DataType::Utf8 => text
            .as_string::<i32>()
            .iter()
            .flatten()
            .for_each(|text| counts.add(text)),
        DataType::LargeUtf8 => text
            .as_string::<i64>()
            .iter()
            .flatten()
            .for_each(|text| counts.add(text)),
        other => return internal_err!("{other} is not text"),
    }
    Ok(())
}

impl SplitCount {
    fn splitting(&self) -> Splitting {
        Splitting {
            separator: self.separator,
            lower: self.lower,
            prefix: self
                .predicate
                .as_ref()
                .map(super::recognise::required_prefix)
                .unwrap_or_default(),
        }
    }

    /// The rows of the partition. The predicate is asked once for each distinct token.
    fn batches(&self, counts: TokenCounts, rows: usize) -> Result<Vec<RecordBatch>> {
        let mut batches = Vec::new();
        for (tokens, counts) in counts.finish(rows)? {
            let tokens: ArrayRef = match self.token_schema.field(0).data_type() {
                DataType::Utf8View => Arc::new(tokens),
                _ => Arc::new(tokens.iter().collect::<StringArray>()),
            };
            let counts: ArrayRef = Arc::new(Int64Array::from(counts));
            let columns = (0..self.schema.fields().len()).map(|i| if i == 0 { tokens.clone() } else { counts.clone() });
            let batch = RecordBatch::try_new(self.schema.clone(), columns.collect())?;
            let batch = match &self.predicate {
                None => batch,
                Some(predicate) => {
                    let only_tokens = RecordBatch::try_new(self.token_schema.clone(), vec![tokens])?;
                    let wanted = predicate.evaluate(&only_tokens)?.into_array(only_tokens.num_rows())?;
                    filter_record_batch(&batch, wanted.as_boolean())?
                }
            };
            if batch.num_rows() > 0 {
                batches.push(batch);
            }
        }
        Ok(batches)
    }
}
