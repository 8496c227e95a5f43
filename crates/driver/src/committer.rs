//! Makes the outputs of batches visible and takes in what they added to accumulators, in batch order, one committer for
//! each job.
//!
//! Every step is repeatable: a table is replaced, a directory is renamed once, and a foreach output is told the batch
//! time, by which it can tell. A failure goes back to the scheduler,
//! which applies the job's policy.
//!
//! Of a job with a checkpoint, nothing becomes visible before a record of it is durable; a later driver makes it visible
//! from the record, if this one did not come to.

use bytes::Bytes;
use tidemill_connectors::{CommitPlace, StagedFile, commit_save};
use tidemill_dstream::accumulator::{AccumulatorState, Ledger, MergeFault};
use tidemill_dstream::plan::{AccumulatorPlan, OutputPlan};
use tidemill_dstream::{ForeachUnit, OutputKind};
use tidemill_engine::{Catalog, ForeachBatch, RecordBatch, Registry, SchemaRef, decode_ipc, encode_ipc};
use tidemill_scheduler::{OutputCommit, OutputPart, OutputPayload};
use tidemill_types::{AccumulatorId, BatchTime, FailureKind, Generation, JobId, TaskFailure};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use crate::accumulators::Accumulated;
use crate::event::Event;
use crate::journal::{self, Gone, Recorder};
use crate::listening::OutputStep;

/// The first rows of a batch of a printed stream.
#[derive(Clone, Debug)]
pub(crate) struct PrintedBatch {
    pub(crate) batch: BatchTime,
    pub(crate) stream: String,
    pub(crate) schema: SchemaRef,
    pub(crate) rows: Vec<RecordBatch>,
    pub(crate) ipc: Bytes,
    pub(crate) more: bool,
}

#[derive(Debug)]
pub(crate) struct CommitRequest {
    pub(crate) batch: BatchTime,
    pub(crate) outputs: Vec<OutputCommit>,
    /// What each task added to accumulators.
    pub(crate) deltas: Vec<(AccumulatorId, AccumulatorState)>,
}

/// What a committer has to know of its job.
pub(crate) struct Committer {
    pub(crate) job: JobId,
    pub(crate) name: String,
    pub(crate) generation: Generation,
    pub(crate) outputs: Vec<OutputPlan>,
    pub(crate) catalog: Catalog,
    /// The functions of foreach outputs.
    pub(crate) registry: Registry,
    pub(crate) accumulators: Vec<AccumulatorPlan>,
    /// The accumulators after the last batch that was committed.
    pub(crate) ledger: Ledger,
    /// Of a job with a checkpoint.
    pub(crate) recorder: Option<Recorder>,
    pub(crate) events: UnboundedSender<Event>,
}

impl Committer {
    /// Starts the committer's task; it ends when the sender is dropped.
    pub(crate) fn start(self) -> UnboundedSender<CommitRequest> {
        let (requests, batches) = mpsc::unbounded_channel();
        tokio::spawn(self.run(batches));
        requests
    }

    async fn run(mut self, mut batches: UnboundedReceiver<CommitRequest>) {
        while let Some(request) = batches.recv().await {
            let batch = request.batch;
            let Ok(result) = self.commit(request).await else {
                return;
            };
            let job = self.job;
            if self.events.send(Event::Committed { job, batch, result }).is_err() {
                return;
            }
        }
    }

    /// The accumulators go in if all outputs are visible. What cannot be merged is found before any is.
    async fn commit(&mut self, request: CommitRequest) -> Result<Result<Accumulated, TaskFailure>, Gone> {
        let (of_batch, totals) = match self.merge(&request.deltas) {
            Ok(merged) => merged,
            Err(fault) => return Ok(Err(TaskFailure::new(FailureKind::User, fault.to_string()))),
        };
        let (job, batch) = (self.job, request.batch);
        if let Some(recorder) = &self.recorder {
            let record = journal::prepared(job, batch, &request.outputs, &totals, self.generation);
            let sequence = recorder.append(record);
            recorder.durable(sequence).await?;
        }
        if let Err(failure) = self.publish(batch, request.outputs, self.generation).await {
            return Ok(Err(failure));
        }
        if let Some(recorder) = &self.recorder {
            recorder.append(journal::committed(job, batch));
        }
        self.ledger = totals;
        let (plans, registry) = (&self.accumulators, &self.registry);
        Ok(Ok(Accumulated {
            batch: of_batch.read(plans, registry),
            totals: self.ledger.read(plans, registry),
        }))
    }

    /// Makes a batch visible that a driver before this one prepared.
    pub(crate) async fn finish(
        &self,
        batch: BatchTime,
        outputs: Vec<OutputCommit>,
        staged_by: Generation,
    ) -> Result<(), TaskFailure> {
        self.publish(batch, outputs, staged_by).await?;
        if let Some(recorder) = &self.recorder {
            recorder.append(journal::committed(self.job, batch));
        }
        Ok(())
    }

    /// The batch's own ledger, and the totals with it.
    fn merge(&self, deltas: &[(AccumulatorId, AccumulatorState)]) -> Result<(Ledger, Ledger), MergeFault> {
        let (plans, registry) = (&self.accumulators, &self.registry);
        let batch = Ledger::of_batch(plans, deltas, registry)?;
        let totals = self.ledger.with(plans, &batch, registry)?;
        Ok((batch, totals))
    }

    async fn publish(
        &self,
        batch: BatchTime,
        outputs: Vec<OutputCommit>,
        staged_by: Generation,
    ) -> Result<(), TaskFailure> {
        let mut tables = Vec::new();
        // Tables are there when all of them are.
        let mut begun_tables = Vec::new();
        for commit in outputs {
            let Some(position) = self.outputs.iter().position(|output| output.id == commit.output) else {
                continue;
            };
            self.tell(batch, position, OutputStep::Started);
            let output = &self.outputs[position];
            let done = self.output(batch, output, commit, staged_by, &mut tables).await;
            match (&done, &output.kind) {
                (Ok(()), OutputKind::Table { .. }) => begun_tables.push(position),
                (Ok(()), _) => self.tell(batch, position, OutputStep::Ended(None)),
                (Err(failure), _) => {
                    self.tell(batch, position, OutputStep::Ended(Some(failure.to_string())));
                    return done;
                }
            }
        }
        if !tables.is_empty() {
            self.catalog.publish(&self.name, tables);
        }
        for position in begun_tables {
            self.tell(batch, position, OutputStep::Ended(None));
        }
        Ok(())
    }

    /// Makes one output visible; of a table the rows are put aside.
    async fn output(
        &self,
        batch: BatchTime,
        output: &OutputPlan,
        commit: OutputCommit,
        staged_by: Generation,
        tables: &mut Vec<(String, SchemaRef, Vec<RecordBatch>)>,
    ) -> Result<(), TaskFailure> {
        match &output.kind {
            OutputKind::Print { rows } => self.print(batch, output, *rows, &commit.parts)?,
            OutputKind::Table { name, .. } => {
                if let Some((schema, rows)) = decode(&commit.parts)? {
                    tables.push((name.clone(), schema, rows));
                }
            }
            OutputKind::Save(save) => {
                let save = save.clone();
                let files = staged(&commit.parts);
                let place = CommitPlace {
                    job: self.job,
                    output: output.id,
                    batch,
                    generation: staged_by,
                };
                let commit = tokio::task::spawn_blocking(move || commit_save(&save, &place, &files));
                let done = commit
                    .await
                    .map_err(|error| TaskFailure::new(FailureKind::Internal, error.to_string()))?;
                done.map_err(|error| TaskFailure::new(error.kind(), format!("output save: {error}")))?;
            }
            OutputKind::Foreach {
                function,
                per: ForeachUnit::Batch,
            } => {
                if let Some((schema, rows)) = decode(&commit.parts)? {
                    let rows = ForeachBatch {
                        job: self.name.clone(),
                        batch_time: batch,
                        partition: None,
                        schema,
                        rows,
                    };
                    let runtime = Handle::current();
                    self.registry.foreach(&function.name, rows, &runtime).await?;
                }
            }
            // The tasks have called it.
            OutputKind::Foreach {
                per: ForeachUnit::Partition,
                ..
            } => {}
        }
        Ok(())
    }

    /// Tells listeners.
    fn tell(&self, batch: BatchTime, output: usize, step: OutputStep) {
        let job = self.job;
        let _ = self.events.send(Event::Output {
            job,
            batch,
            output,
            step,
        });
    }

    fn print(&self, batch: BatchTime, output: &OutputPlan, rows: u32, parts: &[OutputPart]) -> Result<(), TaskFailure> {
        let Some((schema, batches)) = decode(parts)? else {
            return Ok(());
        };
        let total: u64 = parts.iter().map(|part| part.rows).sum();
        let mut left = rows as usize;
        let mut shown = Vec::new();
        for batch in batches {
            let take = batch.num_rows().min(left);
            if take > 0 {
                shown.push(batch.slice(0, take));
            }
            left -= take;
        }
        let ipc = encode_ipc(&schema, &shown).map_err(TaskFailure::from)?;
        let printed = PrintedBatch {
            batch,
            stream: output.stream.clone(),
            schema,
            rows: shown,
            ipc,
            more: total > u64::from(rows),
        };
        let _ = self.events.send(Event::Printed { job: self.job, printed });
        Ok(())
    }
}

/// The rows of all parts, in order; `None` if no task reported any.
fn decode(parts: &[OutputPart]) -> Result<Option<(SchemaRef, Vec<RecordBatch>)>, TaskFailure> {
    let mut decoded: Option<(SchemaRef, Vec<RecordBatch>)> = None;
    for part in parts {
        let OutputPayload::Ipc(ipc) = &part.payload else {
            continue;
        };
        let (schema, batches) = decode_ipc(ipc).map_err(TaskFailure::from)?;
        decoded.get_or_insert_with(|| (schema, Vec::new())).1.extend(batches);
    }
    Ok(decoded)
}

fn staged(parts: &[OutputPart]) -> Vec<StagedFile> {
    let files = parts.iter().filter_map(|part| match &part.payload {
        OutputPayload::File { staged, name, bytes } => Some(StagedFile {
            staged: staged.into(),
            name: name.clone(),
            bytes: *bytes,
            rows: part.rows,
        }),
        OutputPayload::Empty | OutputPayload::Ipc(_) => None,
    });
    files.collect()
}
