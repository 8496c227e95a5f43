//! Going on with the jobs of drivers before this one.

use std::sync::Arc;

use tidemill_dstream::accumulator::Ledger;
use tidemill_dstream::{Diagnostics, FailurePolicy, JobGraph};
use tidemill_engine::{CompileOptions, TableData, compile, decode_ipc};
use tidemill_rpc::convert::{self, broadcast_shape};
use tidemill_rpc::{control, journal as wire};
use tidemill_scheduler::Resume;
use tidemill_types::{BatchTime, BroadcastId, Generation, JobId, StreamId};
use tracing::{error, info, warn};

use super::recorder::Recorder;
use super::records;
use crate::broadcasts::{self, LoadedBroadcast};
use crate::event::Submission;
use crate::event_loop::EventLoop;
use crate::job::JobRecord;
use crate::tables::{self, LoadedTable};

/// What a job that goes on brings with it.
#[derive(Debug)]
pub(crate) struct Past {
    pub(crate) job: JobId,
    /// When its sources were begun with.
    pub(crate) start: BatchTime,
    /// The generation that ran it first.
    pub(crate) since: Generation,
    /// `None`: no batch had got its input.
    pub(crate) resume: Option<Box<Resume>>,
    pub(crate) positions: Vec<wire::SourcePosition>,
    /// The accumulators after the last batch that was committed; `None` before the first.
    pub(crate) totals: Option<Ledger>,
    /// Broadcast variables that have no value any more.
    pub(crate) destroyed: Vec<BroadcastId>,
}

impl Past {
    /// Where a planner stood.
    pub(crate) fn position(&self, stream: StreamId) -> Option<&[u8]> {
        let position = self.positions.iter().find(|position| position.stream == stream.0);
        position
            .map(|position| &position.position[..])
            .filter(|position| !position.is_empty())
    }
}

/// A job of the journal that is compiled again.
struct Rebuilt {
    submission: Submission,
    destroyed: Vec<BroadcastId>,
    start: BatchTime,
    since: Generation,
}

impl EventLoop {
    /// Takes in the jobs that had not ended when the driver before this one did.
    pub(crate) async fn resume(&mut self) {
        let Some(recorder) = self.recorder.clone() else { return };
        let registry = recorder.registry();
        self.next_job = registry.next_job();
        for job in registry.jobs() {
            let Some(submitted) = &job.submitted else { continue };
            let id = JobId(submitted.job);
            let Some(definition) = &submitted.definition else {
                self.list_ended(
                    submitted,
                    "the driver was restarted and the job has no checkpoint".to_owned(),
                );
                recorder.append(records::ended(id));
                continue;
            };
            if let Err(reason) = Box::pin(self.resume_job(&recorder, submitted, definition)).await {
                error!(job = %id, name = submitted.name, reason, "the job cannot go on");
                let name = &submitted.name;
                self.list_ended(
                    submitted,
                    format!(
                        "the job cannot go on from its checkpoint: {reason} (start the driver again when that is \
                         mended, or give the job up with `tidemill stop {name}`)"
                    ),
                );
            }
        }
    }

    async fn resume_job(
        &mut self,
        recorder: &Recorder,
        submitted: &wire::JobSubmitted,
        definition: &wire::JobDefinition,
    ) -> Result<(), String> {
        let id = JobId(submitted.job);
        let rebuilt = self.rebuild(definition).await?;
        self.finish_prepared(recorder, id, &rebuilt.submission).await?;
        // Read again, since a batch may have been committed just now.
        let job = recorder.job(id).ok_or("it has ended")?;
        let said = |error: convert::Error| error.to_string();
        let resume = records::resume(&job).map_err(said)?;
        let completed = resume.as_ref().map_or(0, |resume| resume.completed);
        let accumulators = &rebuilt.submission.compiled.plan.accumulators;
        let totals = match job.totals {
            none if none.is_empty() => None,
            states => {
                let states = records::states(states).map_err(said)?;
                let ledger = Ledger::of_states(accumulators, states, &self.options.registry);
                Some(ledger.map_err(|fault| fault.to_string())?)
            }
        };
        let past = Past {
            job: id,
            start: rebuilt.start,
            since: rebuilt.since,
            resume: resume.map(Box::new),
            positions: job.positions,
            totals,
            destroyed: rebuilt.destroyed,
        };
        let submission = Submission {
            past: Some(past),
            ..rebuilt.submission
        };
        self.submit(submission).map_err(|status| status.message().to_owned())?;
        info!(job = %id, name = submitted.name, completed, "the job goes on from its checkpoint");
        Ok(())
    }

    /// Compiles a job as it was compiled when it was submitted. Files that are read again now and then are read now.
    async fn rebuild(&self, definition: &wire::JobDefinition) -> Result<Rebuilt, String> {
        let graph = definition.graph.clone().ok_or("its graph is missing")?;
        let graph = JobGraph::try_from(graph).map_err(|error| error.to_string())?;
        let (mut tables, mut data) = (Vec::new(), Vec::new());
        for (table, ipc) in graph.tables.iter().zip(&definition.tables) {
            let (schema, batches) = decode_ipc(ipc).map_err(|error| error.to_string())?;
            let kept = TableData {
                name: table.name.clone(),
                schema,
                batches,
            };
            let newer = match table.reload {
                Some(_) => tables::load_again(table, &kept.schema).await,
                None => None,
            };
            let (newest, ipc) = newer.unwrap_or_else(|| (kept, ipc.clone()));
            data.push(newest);
            tables.push(LoadedTable {
                name: table.name.clone(),
                version: 1,
                ipc,
            });
        }
        let (mut values, mut destroyed) = (Vec::new(), Vec::new());
        let mut all = data.clone();
        for (place, (def, kept)) in (0..).zip(graph.broadcasts.iter().zip(&definition.broadcasts)) {
            let shape = broadcast_shape(kept.shape()).unwrap_or_else(|| def.known_shape());
            let mut value = LoadedBroadcast::of_value(shape, kept.value.clone())?;
            if kept.destroyed {
                destroyed.push(BroadcastId(place));
            } else if def.reload.is_some()
                && let Ok(newer) = broadcasts::load(def, &data, self.broadcast_room()).await
                && newer.schema == value.schema
            {
                value = newer;
            }
            all.push(value.table(&def.name)?);
            values.push(value);
        }
        let options = CompileOptions {
            partitions: definition.partitions,
            registry: self.options.registry.clone(),
        };
        let compiled = compile(&graph, &all, &options).await;
        let compiled = compiled.map_err(|diagnostics: Diagnostics| diagnostics.to_string())?;
        let submission = Submission {
            graph,
            compiled: Arc::new(compiled),
            partitions: definition.partitions,
            tables,
            table_data: data,
            broadcasts: values,
            options: definition.options.unwrap_or_default(),
            attached: None,
            past: None,
        };
        Ok(Rebuilt {
            submission,
            destroyed,
            start: BatchTime(definition.start_ms),
            since: Generation(definition.generation),
        })
    }

    /// Makes the outputs of a batch visible that was prepared, and of which it is not known that they are.
    async fn finish_prepared(&self, recorder: &Recorder, id: JobId, submission: &Submission) -> Result<(), String> {
        let Some(prepared) = recorder.job(id).and_then(|job| job.prepared) else {
            return Ok(());
        };
        let batch = BatchTime(prepared.batch_time_ms);
        let staged_by = Generation(prepared.generation);
        let outputs = records::outputs(prepared.outputs);
        let committer = self.committer(id, submission, Ledger::default());
        match committer.finish(batch, outputs, staged_by).await {
            Ok(()) => {
                info!(job = %id, %batch, "a prepared batch is committed");
                Ok(())
            }
            Err(failure) if submission.graph.options.on_batch_failure == FailurePolicy::Skip => {
                warn!(job = %id, %batch, error = %failure, "a prepared batch is left out");
                let job = recorder.job(id).unwrap_or_default();
                let of_time = |batch: &&wire::BatchAllocated| batch.batch_time_ms == prepared.batch_time_ms;
                let mut allocated = job.batches.iter().filter_map(|batch| batch.allocated.as_ref());
                if let Some(allocated) = allocated.find(of_time) {
                    recorder.append(records::skipped(id, batch, allocated.index));
                }
                Ok(())
            }
            Err(failure) => Err(format!("batch {batch}: {failure}")),
        }
    }

    /// Lists a job that does not run.
    fn list_ended(&mut self, submitted: &wire::JobSubmitted, error: String) {
        let id = JobId(submitted.job);
        let definition = submitted.definition.as_ref();
        let graph = definition.and_then(|definition| definition.graph.clone());
        let graph = graph.and_then(|graph| JobGraph::try_from(graph).ok());
        let graph = graph.unwrap_or_else(|| JobGraph {
            name: submitted.name.clone(),
            ..JobGraph::default()
        });
        let interval = u64::try_from(graph.batch_interval.as_millis()).unwrap_or(u64::MAX);
        let summary = control::JobSummary {
            id: id.0,
            name: submitted.name.clone(),
            state: control::JobState::Failed.into(),
            batch_interval_ms: interval,
            submitted_ms: submitted.submitted_ms,
            error,
            ..control::JobSummary::default()
        };
        self.jobs.insert(id, JobRecord::of_ended(graph, summary));
    }
}
