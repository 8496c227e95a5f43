//! Performing the scheduler's actions.

use tidemill_connectors::cleanup_staging;
use tidemill_dstream::OutputKind;
use tidemill_rpc::control::follow_job_response;
use tidemill_rpc::driver as wire;
use tidemill_rpc::driver::attach_response::Command;
use tidemill_scheduler::{Action, JobEnd, Notice};
use tidemill_types::{ExecutorId, JobId};
use tracing::{debug, error, info, warn};

use crate::committer::CommitRequest;
use crate::event_loop::EventLoop;
use crate::journal;
use crate::summary;
use crate::wire as convert;

impl EventLoop {
    pub(crate) fn perform(&mut self, action: Action) {
        match action {
            Action::Install { executor, job } => self.install(executor, job),
            Action::Remove { executor, job } => {
                self.sessions
                    .send(executor, Command::RemoveJob(wire::RemoveJob { job: job.0 }));
            }
            Action::Routing {
                executor,
                job,
                version,
                stages,
            } => self.sessions.send(executor, convert::routing(job, version, stages)),
            Action::Launch { executor, launch } => self.sessions.send(executor, convert::launch(launch)),
            Action::Resend {
                executor,
                job,
                batch,
                from_stage,
                partitions,
                routing,
            } => {
                let resend = wire::Resend {
                    job: job.0,
                    batch_time_ms: batch.0,
                    from_stage: from_stage.0,
                    partitions,
                    routing_version: routing.0,
                };
                self.sessions.send(executor, Command::Resend(resend));
            }
            Action::FetchDatasets { executor, job, parts } => {
                self.sessions.send(executor, convert::fetch_datasets(job, parts));
            }
            Action::Unpersist {
                executor,
                job,
                dataset,
                remember,
                from,
            } => {
                let unpersist = wire::Unpersist {
                    job: job.0,
                    dataset: dataset.0,
                    remember,
                    from_ms: from.0,
                };
                self.sessions.send(executor, Command::Unpersist(unpersist));
            }
            Action::Cancel {
                executor,
                job,
                batch,
                reason,
            } => {
                let cancel = wire::CancelBatch {
                    job: job.0,
                    batch_time_ms: batch.0,
                    reason,
                };
                self.sessions.send(executor, Command::CancelBatch(cancel));
            }
            Action::StartReceiver {
                executor,
                job,
                receiver,
                stream,
                session,
                rate,
            } => {
                let run = wire::RunReceiver {
                    job: job.0,
                    receiver: receiver.0,
                    stream: stream.0,
                    session,
                    rate,
                };
                self.sessions.send(executor, Command::RunReceiver(run));
            }
            Action::SetRate {
                executor,
                job,
                receiver,
                session,
                rate,
            } => {
                let set = wire::SetReceiverRate {
                    job: job.0,
                    receiver: receiver.0,
                    session,
                    rate,
                };
                self.sessions.send(executor, Command::SetReceiverRate(set));
            }
            Action::StopReceiver {
                executor,
                job,
                receiver,
                session,
            } => {
                let stop = wire::StopReceiver {
                    job: job.0,
                    receiver: receiver.0,
                    session,
                };
                self.sessions.send(executor, Command::StopReceiver(stop));
            }
            Action::Allocate { job, batch, index } => {
                let running = self.jobs.get(&job).and_then(|record| record.running.as_ref());
                if let Some(allocator) = running.and_then(|running| running.allocator.as_ref()) {
                    allocator.allocate(batch, index);
                }
            }
            Action::Commit {
                job,
                batch,
                outputs,
                deltas,
            } => {
                if let Some(running) = self.jobs.get(&job).and_then(|record| record.running.as_ref()) {
                    // The committer ends only with its job.
                    let request = CommitRequest { batch, outputs, deltas };
                    let _ = running.committer.send(request);
                }
            }
            Action::RecordAllocated {
                job,
                batch,
                index,
                inputs,
            } => self.record_of(job, |record| {
                let positions = record.positions.remove(&batch).unwrap_or_default();
                journal::allocated(job, batch, index, &inputs, positions)
            }),
            Action::RecordSkipped { job, batch, index } => {
                self.record_of(job, |record| {
                    record.positions.remove(&batch);
                    journal::skipped(job, batch, index)
                });
            }
            Action::RecordState {
                job,
                stage,
                batch,
                index,
            } => self.record_of(job, |_| journal::state_saved(job, stage, batch, index)),
            Action::DropBroadcast {
                job,
                broadcast,
                version,
            } => self.drop_version(job, broadcast, version),
            Action::Publish(notice) => self.publish(notice),
        }
    }

    fn install(&mut self, executor: ExecutorId, job: JobId) {
        let Some(record) = self.jobs.get(&job) else { return };
        let install = record.install.clone();
        let tables: Vec<_> = record.tables.values().cloned().collect();
        debug!(%job, %executor, version = %self.plan_version(job), "installing");
        self.sessions.send(executor, Command::InstallJob(install));
        for table in tables {
            self.send_table(executor, job, &table);
        }
        self.offer_broadcasts(executor, job);
    }

    fn publish(&mut self, notice: Notice) {
        match notice {
            Notice::JobRunning { job } => {
                info!(%job, "job running");
                self.on_job_running(job);
            }
            Notice::JobStopping { job } => info!(%job, "job stopping"),
            Notice::JobEnded { job, end } => self.on_job_ended(job, &end),
            Notice::BatchSubmitted {
                job,
                batch,
                due,
                inputs,
            } => {
                debug!(%job, %batch, "batch submitted");
                self.on_batch_submitted(job, batch, due, &inputs);
            }
            Notice::BatchStarted { job, batch } => {
                debug!(%job, %batch, "batch started");
                self.on_batch_started(job, batch);
            }
            Notice::BatchCompleted { job, batch, stats } => {
                self.ask_parked(job);
                self.on_accumulated(job, batch);
                self.on_batch_ended(job, batch, Ok(&stats));
                debug!(%job, %batch, rows = stats.input_rows, total_delay = ?stats.total_delay, "batch completed");
                let limit = self.options.retained_batches;
                if let Some(record) = self.jobs.get_mut(&job) {
                    let summary = summary::completed_batch(batch, &stats);
                    record.remember_batch(summary.clone(), limit);
                    record.publish(follow_job_response::Event::Batch(summary));
                }
            }
            Notice::BatchFailed { job, batch, error } => {
                error!(%job, %batch, error, "batch failed");
                self.on_batch_ended(job, batch, Err(&error));
                let limit = self.options.retained_batches;
                if let Some(record) = self.jobs.get_mut(&job) {
                    record.first_failure.get_or_insert_with(|| (batch, error.clone()));
                    let summary = summary::failed_batch(batch, &error);
                    record.remember_batch(summary.clone(), limit);
                    record.publish(follow_job_response::Event::Batch(summary));
                }
            }
            Notice::TaskFailed {
                job,
                batch,
                stage,
                partition,
                executor,
                error,
            } => warn!(%job, %batch, %stage, partition, %executor, error, "task failed"),
            Notice::RowsLost {
                job,
                executor,
                rows,
                blocks,
            } => error!(%job, %executor, rows, blocks, "received rows were only on the lost executor and are gone"),
            Notice::SourcesHeld { job, held: true } => {
                warn!(%job, "too many batches are queued: receivers stop reading until the job catches up");
            }
            Notice::SourcesHeld { job, held: false } => info!(%job, "the job has caught up: receivers read again"),
            Notice::StateNotSaved {
                job,
                batch,
                stage,
                partition,
                error,
            } => warn!(%job, %batch, %stage, partition, error, "state was not saved"),
            Notice::Restoring { job, batch, partitions } => {
                info!(%job, %batch, partitions, "making remembered partitions again");
            }
            Notice::ReceiverPlaced {
                job,
                receiver,
                executor,
                session,
            } => info!(%job, %receiver, %executor, session, "receiver placed"),
        }
    }

    fn on_job_ended(&mut self, job: JobId, end: &JobEnd) {
        match end {
            JobEnd::Finished => info!(%job, "job finished"),
            JobEnd::Stopped => info!(%job, "job stopped"),
            JobEnd::Failed(error) => error!(%job, error, "job failed"),
        }
        if let Some(recorder) = &self.recorder {
            recorder.append(journal::ended(job));
        }
        self.fail_reads_of_ended(job);
        self.forget_broadcasts(job);
        let summary = self.job_summary(job);
        let generation = self.generation;
        if let (Some(record), Some(summary)) = (self.jobs.get_mut(&job), summary) {
            record.ended = Some(summary.clone());
            // Drops the committer, the planning thread, the table watch and the job's files.
            record.running = None;
            record.publish(follow_job_response::Event::Ended(summary));
            for output in &record.compiled.plan.outputs {
                if let OutputKind::Save(save) = &output.kind
                    && let Err(error) = cleanup_staging(save, job, generation)
                {
                    warn!(%job, %error, "staged files could not be removed");
                }
            }
        }
        self.scheduler.drop_ended(job);
    }
}
