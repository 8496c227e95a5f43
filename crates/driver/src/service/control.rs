//! What people and programs ask of the driver.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tidemill_connectors::{check_save, check_save_schema};
use tidemill_dstream::{Diagnostic, Diagnostics, JobGraph, OutputKind};
use tidemill_engine::{
    Catalog, CompileOptions, CompiledJob, KeptTable, QueryError, Registry, compile, encode_ipc, explain,
};
use tidemill_rpc::control::control_service_server::ControlService;
use tidemill_rpc::control::{self, follow_job_response};
use tidemill_rpc::plan;
use tidemill_types::{BatchTime, Generation};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status, Streaming};

use crate::attached::{self, AttachedFiles};
use crate::broadcasts;
use crate::event::{Control, Event, Following, Submission};
use crate::kept;
use crate::listening::is_for_listeners;
use crate::submission::{is_live, name_taken};
use crate::tables;
use crate::wire::refused;

/// Rows of a query are sent in pieces of about this size.
const SQL_PIECE: usize = 1 << 20;

pub(crate) struct ControlHandler {
    pub(crate) events: mpsc::UnboundedSender<Event>,
    pub(crate) catalog: Catalog,
    pub(crate) generation: Generation,
    pub(crate) registry: Registry,
    pub(crate) submissions: AtomicU64,
    pub(crate) has_journal: bool,
}

type Items<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl ControlHandler {
    pub(super) async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Control) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        self.events
            .send(Event::Control(request(reply)))
            .map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }

    /// What jobs keep that a query can name, with the rows of what it does name.
    async fn kept_of(&self, query: &str) -> Result<Vec<KeptTable>, Status> {
        let relations = self.ask(Control::Kept).await?;
        let mut tables: Vec<KeptTable> = relations.iter().map(|relation| relation.table.clone()).collect();
        for named in self.catalog.named(query, &tables).map_err(query_status)? {
            let (job, target) = (relations[named].job, relations[named].target.clone());
            let batches = self.ask(|reply| Control::Read { job, target, reply }).await??;
            let columns = Arc::clone(&tables[named].columns);
            let rows = tokio::task::spawn_blocking(move || kept::rows(&columns, &batches)).await;
            tables[named].rows = rows.map_err(|error| Status::internal(error.to_string()))??;
        }
        Ok(tables)
    }

    /// Decodes, validates and compiles a graph; attached files are written beside each other first.
    async fn prepare(
        &self,
        graph: Option<plan::JobGraph>,
        files: Vec<control::AttachedFile>,
        overwrite: bool,
    ) -> Result<Prepared, Status> {
        let wire = graph.ok_or_else(|| Status::invalid_argument("the submission has no job graph"))?;
        let graph = JobGraph::try_from(wire).map_err(|error| Status::invalid_argument(error.to_string()))?;
        graph.validate().map_err(|diagnostics| refused(&diagnostics))?;
        let (mut graph, attached) = self.place_files(graph, files).await?;
        if overwrite {
            for output in &mut graph.outputs {
                if let OutputKind::Save(save) = &mut output.kind {
                    save.overwrite = true;
                }
            }
        }
        let (table_data, loaded) = tables::load_all(&graph)
            .await
            .map_err(|faults| refused(&Diagnostics(faults)))?;
        let slots = self.ask(Control::Slots).await?;
        let room = self.ask(Control::BroadcastRoom).await?;
        let (broadcast_data, broadcasts) = broadcasts::load_all(&graph, &table_data, room)
            .await
            .map_err(|faults| refused(&Diagnostics(faults)))?;
        broadcasts::forget_inline(&mut graph);
        let all: Vec<_> = table_data.iter().chain(&broadcast_data).cloned().collect();
        let partitions = graph
            .options
            .partitions
            .unwrap_or(slots)
            .clamp(1, MAX_DEFAULT_PARTITIONS.max(graph.options.partitions.unwrap_or(1)));
        let options = CompileOptions {
            partitions,
            registry: self.registry.clone(),
        };
        let compiled = compile(&graph, &all, &options)
            .await
            .map_err(|diagnostics| refused(&diagnostics))?;
        let faults = check_save_columns(&graph, &compiled);
        if !faults.is_empty() {
            return Err(refused(&Diagnostics(faults)));
        }
        Ok(Prepared {
            graph,
            compiled,
            partitions,
            table_data,
            tables: loaded,
            broadcasts,
            attached,
        })
    }

    /// Writes attached files to a directory of the submission and points the graph at them.
    async fn place_files(
        &self,
        mut graph: JobGraph,
        files: Vec<control::AttachedFile>,
    ) -> Result<(JobGraph, Option<AttachedFiles>), Status> {
        if files.is_empty() {
            return Ok((graph, None));
        }
        let number = self.submissions.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("tidemill-{}-{number}", self.generation));
        let place = move || AttachedFiles::place(directory, &files, &mut graph).map(|attached| (graph, Some(attached)));
        match tokio::task::spawn_blocking(place).await {
            Ok(placed) => placed.map_err(|error| match error {
                attached::Error::Write { .. } => Status::internal(error.to_string()),
                attached::Error::Read { .. } | attached::Error::TooManyLines => {
                    Status::invalid_argument(error.to_string())
                }
            }),
            Err(error) => Err(Status::internal(format!("attached files could not be taken: {error}"))),
        }
    }
}

fn stopping() -> Status {
    Status::unavailable("the driver is stopping")
}

fn query_status(error: QueryError) -> Status {
    Status::invalid_argument(match error.hint {
        Some(hint) => format!("{} ({hint})", error.message),
        None => error.message,
    })
}

/// Bytes in pieces that fit a message.
fn pieces(ipc: Bytes) -> impl Iterator<Item = Bytes> {
    (0..ipc.len())
        .step_by(SQL_PIECE)
        .map(move |at| ipc.slice(at..(at + SQL_PIECE).min(ipc.len())))
}

/// Partitions of a job that names none, at most.
const MAX_DEFAULT_PARTITIONS: u32 = 64;

struct Prepared {
    graph: JobGraph,
    compiled: CompiledJob,
    partitions: u32,
    table_data: Vec<tidemill_engine::TableData>,
    tables: Vec<tables::LoadedTable>,
    broadcasts: Vec<broadcasts::LoadedBroadcast>,
    attached: Option<AttachedFiles>,
}

fn check_save_columns(graph: &JobGraph, compiled: &CompiledJob) -> Vec<Diagnostic> {
    let check = |(i, output): (usize, &tidemill_dstream::OutputDef)| {
        let OutputKind::Save(save) = &output.kind else {
            return None;
        };
        let (_, schema) = compiled.stream_schemas.iter().find(|(name, _)| *name == output.from)?;
        let error = check_save_schema(save, schema).err()?;
        Some(Diagnostic::new(
            output.line.0,
            format!("outputs[{i}].save"),
            error.to_string(),
        ))
    };
    graph.outputs.iter().enumerate().filter_map(check).collect()
}

fn check_save_directories(graph: &JobGraph) -> Vec<Diagnostic> {
    let check = |(i, output): (usize, &tidemill_dstream::OutputDef)| {
        let OutputKind::Save(save) = &output.kind else {
            return None;
        };
        let error = check_save(save).err()?;
        Some(Diagnostic::new(
            output.line.0,
            format!("outputs[{i}].save"),
            error.to_string(),
        ))
    };
    graph.outputs.iter().enumerate().filter_map(check).collect()
}

fn check_no_wait(graph: &JobGraph) -> Vec<Diagnostic> {
    let live = graph.sources().filter(|(_, source)| is_live(source));
    live.map(|(stream, _)| {
        let path = format!("streams.{}.source", stream.name);
        Diagnostic::new(
            stream.line.0,
            path,
            "a live source has no end, so it cannot be taken without waiting for the clock",
        )
        .hint("leave out --no-wait, or read from files")
    })
    .collect()
}

#[tonic::async_trait]
impl ControlService for ControlHandler {
    async fn submit_job(
        &self,
        request: Request<control::SubmitJobRequest>,
    ) -> Result<Response<control::SubmitJobResponse>, Status> {
        let request = request.into_inner();
        let options = request.options.unwrap_or_default();
        let name = request
            .graph
            .as_ref()
            .map(|graph| graph.name.clone())
            .unwrap_or_default();
        let taken = self
            .ask(|reply| Control::NameTaken {
                name: name.clone(),
                reply,
            })
            .await?;
        if taken {
            return Err(name_taken(&name));
        }
        let prepared = self.prepare(request.graph, request.files, options.overwrite).await?;
        let mut faults = if options.no_wait {
            check_no_wait(&prepared.graph)
        } else {
            Vec::new()
        };
        faults.extend(check_save_directories(&prepared.graph));
        if prepared.graph.options.checkpoint.is_some() && !self.has_journal {
            let fault = Diagnostic::new(
                None,
                "checkpoint",
                "the driver keeps no journal, so no job can outlive it",
            );
            faults.push(fault.hint("start the driver with journal.url set, or use `tidemill run`"));
        }
        if !faults.is_empty() {
            return Err(refused(&Diagnostics(faults)));
        }
        let warnings = prepared.compiled.warnings.clone();
        let submission = Box::new(Submission {
            graph: prepared.graph,
            compiled: Arc::new(prepared.compiled),
            partitions: prepared.partitions,
            tables: prepared.tables,
            table_data: prepared.table_data,
            broadcasts: prepared.broadcasts,
            options,
            attached: prepared.attached,
            past: None,
        });
        let job = self.ask(|reply| Control::Submit { submission, reply }).await??;
        Ok(Response::new(control::SubmitJobResponse { job: job.0, warnings }))
    }

    async fn explain_job(
        &self,
        request: Request<control::ExplainJobRequest>,
    ) -> Result<Response<control::ExplainJobResponse>, Status> {
        let request = request.into_inner();
        let prepared = self.prepare(request.graph, request.files, false).await?;
        let text = explain(&prepared.graph, &prepared.compiled);
        Ok(Response::new(control::ExplainJobResponse { text }))
    }

    async fn list_jobs(
        &self,
        _: Request<control::ListJobsRequest>,
    ) -> Result<Response<control::ListJobsResponse>, Status> {
        let jobs = self.ask(Control::Jobs).await?;
        Ok(Response::new(control::ListJobsResponse { jobs }))
    }

    async fn get_job(
        &self,
        request: Request<control::GetJobRequest>,
    ) -> Result<Response<control::GetJobResponse>, Status> {
        let job = request.into_inner().job;
        let detail = self.ask(|reply| Control::Job { job, reply }).await??;
        Ok(Response::new(detail))
    }

    async fn stop_job(
        &self,
        request: Request<control::StopJobRequest>,
    ) -> Result<Response<control::StopJobResponse>, Status> {
        let control::StopJobRequest { job, now } = request.into_inner();
        let summary = self.ask(|reply| Control::Stop { job, now, reply }).await??;
        Ok(Response::new(control::StopJobResponse { summary: Some(summary) }))
    }

    type FollowJobStream = Items<control::FollowJobResponse>;

    async fn follow_job(
        &self,
        request: Request<control::FollowJobRequest>,
    ) -> Result<Response<Self::FollowJobStream>, Status> {
        let control::FollowJobRequest { job, history, listen } = request.into_inner();
        let Following { history, events } = self
            .ask(|reply| Control::Follow {
                job,
                history,
                listen,
                reply,
            })
            .await??;
        let past = futures::stream::iter(history.into_iter().map(Ok));
        let coming = futures::stream::unfold(events, move |events| async move {
            let mut events = events?;
            loop {
                match events.recv().await {
                    Ok(event) if !listen && event.event.as_ref().is_some_and(is_for_listeners) => {}
                    Ok(event) => {
                        let last = matches!(event.event, Some(follow_job_response::Event::Ended(_)));
                        return Some((Ok(event), (!last).then_some(events)));
                    }
                    // A follower that is too slow misses events; the job does not wait for it.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                }
            }
        });
        Ok(Response::new(Box::pin(past.chain(coming))))
    }

    async fn list_executors(
        &self,
        _: Request<control::ListExecutorsRequest>,
    ) -> Result<Response<control::ListExecutorsResponse>, Status> {
        let executors = self.ask(Control::Executors).await?;
        Ok(Response::new(control::ListExecutorsResponse { executors }))
    }

    async fn list_accumulators(
        &self,
        request: Request<control::ListAccumulatorsRequest>,
    ) -> Result<Response<control::ListAccumulatorsResponse>, Status> {
        let request = request.into_inner();
        let accumulators = self.ask(|reply| Control::Accumulators { request, reply }).await??;
        Ok(Response::new(accumulators))
    }

    type QuerySqlStream = Items<control::QuerySqlResponse>;

    async fn query_sql(
        &self,
        request: Request<control::QuerySqlRequest>,
    ) -> Result<Response<Self::QuerySqlStream>, Status> {
        let query = request.into_inner().query;
        let kept = self.kept_of(&query).await?;
        let (schema, batches) = self.catalog.query_with(&query, &kept).await.map_err(query_status)?;
        let ipc = encode_ipc(&schema, &batches).map_err(|error| Status::internal(error.to_string()))?;
        let pieces = pieces(ipc).map(|ipc| Ok(control::QuerySqlResponse { ipc }));
        Ok(Response::new(Box::pin(futures::stream::iter(pieces))))
    }

    async fn list_broadcasts(
        &self,
        request: Request<control::ListBroadcastsRequest>,
    ) -> Result<Response<control::ListBroadcastsResponse>, Status> {
        let job = request.into_inner().job;
        let broadcasts = self.ask(|reply| Control::Broadcasts { job, reply }).await??;
        Ok(Response::new(control::ListBroadcastsResponse { broadcasts }))
    }

    async fn update_broadcast(
        &self,
        request: Request<Streaming<control::UpdateBroadcastRequest>>,
    ) -> Result<Response<control::UpdateBroadcastResponse>, Status> {
        let version = Box::pin(self.update(request.into_inner())).await?;
        Ok(Response::new(control::UpdateBroadcastResponse { version }))
    }

    async fn drop_broadcast(
        &self,
        request: Request<control::DropBroadcastRequest>,
    ) -> Result<Response<control::DropBroadcastResponse>, Status> {
        let control::DropBroadcastRequest { job, name, destroy } = request.into_inner();
        let give_up = |reply| Control::GiveUpBroadcast {
            job,
            name,
            destroy,
            reply,
        };
        self.ask(give_up).await??;
        Ok(Response::new(control::DropBroadcastResponse {}))
    }

    async fn unpersist_stream(
        &self,
        request: Request<control::UnpersistStreamRequest>,
    ) -> Result<Response<control::UnpersistStreamResponse>, Status> {
        let control::UnpersistStreamRequest { job, stream } = request.into_inner();
        self.ask(|reply| Control::Unpersist { job, stream, reply }).await??;
        Ok(Response::new(control::UnpersistStreamResponse {}))
    }

    type SliceStreamStream = Items<control::SliceStreamResponse>;

    async fn slice_stream(
        &self,
        request: Request<control::SliceStreamRequest>,
    ) -> Result<Response<Self::SliceStreamStream>, Status> {
        let request = request.into_inner();
        let (from, to) = (BatchTime(request.from_ms), BatchTime(request.to_ms));
        let (job, stream) = (request.job, request.stream);
        let slicing = self
            .ask(|reply| Control::Slice {
                job,
                stream,
                from,
                to,
                reply,
            })
            .await??;
        let batches = slicing.batches.await.map_err(|_| stopping())??;
        // Each batch by itself: they are sent one after the other.
        let columns = slicing.columns;
        let responses = batches.into_iter().flat_map(move |batch| {
            let time = batch.0;
            let rows = kept::rows(&columns, &vec![batch]);
            let ipc =
                rows.and_then(|rows| encode_ipc(&columns, &rows).map_err(|error| Status::internal(error.to_string())));
            let (ipc, error) = match ipc {
                Ok(ipc) => (Some(ipc), None),
                Err(error) => (None, Some(Err(error))),
            };
            let response = move |ipc| {
                Ok(control::SliceStreamResponse {
                    batch_time_ms: time.0,
                    ipc,
                })
            };
            ipc.into_iter().flat_map(pieces).map(response).chain(error)
        });
        Ok(Response::new(Box::pin(futures::stream::iter(responses))))
    }
}
