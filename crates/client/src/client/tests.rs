//! Against a driver that answers from a script, over a real connection.

use std::sync::Arc;

use arrow::array::{Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use tidemill_dstream::{Diagnostic, Diagnostics};
use tidemill_rpc::control::control_service_server::{ControlService, ControlServiceServer};
use tidemill_rpc::convert::diagnostics_status;
use tidemill_rpc::plan;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Streaming};

use super::*;
use crate::{ContextState, JobState, StreamingContext};

/// Answers by the name of the job.
struct Driver;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn job_summary(name: &str, state: control::JobState) -> control::JobSummary {
    control::JobSummary {
        id: 7,
        name: name.to_owned(),
        state: state.into(),
        batch_interval_ms: 1000,
        completed_batches: 2,
        last_batch_time_ms: 5000,
        scheduling_delay_micros: 1500,
        ..Default::default()
    }
}

fn table() -> RecordBatch {
    let fields = vec![
        Field::new("tag", DataType::Utf8, true),
        Field::new("count", DataType::Int64, true),
    ];
    let (tags, counts) = (StringArray::from(vec!["#a", "#b"]), Int64Array::from(vec![2, 1]));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![Arc::new(tags), Arc::new(counts)]).unwrap()
}

fn ipc() -> Bytes {
    let table = table();
    let mut writer = StreamWriter::try_new(Vec::new(), &table.schema()).unwrap();
    writer.write(&table).unwrap();
    writer.into_inner().unwrap().into()
}

#[tonic::async_trait]
impl ControlService for Driver {
    async fn submit_job(
        &self,
        request: Request<control::SubmitJobRequest>,
    ) -> Result<Response<control::SubmitJobResponse>, Status> {
        let request = request.into_inner();
        let graph = JobGraph::try_from(request.graph.unwrap())?;
        match graph.name.as_str() {
            "faulty" => Err(diagnostics_status(&faults())),
            "nothing-but-faults" => {
                let fault = Diagnostic::new(Some(1), "streams.ü", "é".repeat(1000)).hint("ö".repeat(1000));
                Err(diagnostics_status(&Diagnostics(vec![fault; 1000])))
            }
            "taken" => Err(Status::already_exists("a job named `taken` is running")),
            "secret" => Err(Status::unauthenticated("no token")),
            "broken" => Err(Status::internal("a defect")),
            _ => {
                let bytes: usize = request.files.iter().map(|file| file.content.len()).sum();
                let options = request.options.unwrap();
                let warnings = vec![format!("{bytes} bytes, {:?} batches", options.batches)];
                let job = if graph.name == "endless" { 8 } else { 7 };
                Ok(Response::new(control::SubmitJobResponse { job, warnings }))
            }
        }
    }

    async fn explain_job(
        &self,
        request: Request<control::ExplainJobRequest>,
    ) -> Result<Response<control::ExplainJobResponse>, Status> {
        let text = format!("plan of {}", request.into_inner().graph.unwrap().name);
        Ok(Response::new(control::ExplainJobResponse { text }))
    }

    async fn list_jobs(
        &self,
        _: Request<control::ListJobsRequest>,
    ) -> Result<Response<control::ListJobsResponse>, Status> {
        let jobs = vec![job_summary("a", control::JobState::Running)];
        Ok(Response::new(control::ListJobsResponse { jobs }))
    }

    async fn get_job(
        &self,
        request: Request<control::GetJobRequest>,
    ) -> Result<Response<control::GetJobResponse>, Status> {
        let job = request.into_inner().job;
        let state = match job.as_str() {
            "gone" => return Err(Status::not_found("no job `gone`")),
            "from-the-future" => control::JobState::Unspecified,
            // What was submitted.
            "7" | "8" => control::JobState::Running,
            _ => control::JobState::Failed,
        };
        let response = control::GetJobResponse {
            summary: Some(control::JobSummary {
                error: "why".into(),
                ..job_summary(&job, state)
            }),
            stages: vec![control::StageSummary {
                id: 1,
                executors: vec![1, 2],
                ..Default::default()
            }],
            ..Default::default()
        };
        Ok(Response::new(response))
    }

    async fn stop_job(
        &self,
        request: Request<control::StopJobRequest>,
    ) -> Result<Response<control::StopJobResponse>, Status> {
        let request = request.into_inner();
        let state = if request.now {
            control::JobState::Stopped
        } else {
            control::JobState::Stopping
        };
        Ok(Response::new(control::StopJobResponse {
            summary: Some(job_summary(&request.job, state)),
        }))
    }

    type FollowJobStream = Answers<control::FollowJobResponse>;

    async fn follow_job(
        &self,
        request: Request<control::FollowJobRequest>,
    ) -> Result<Response<Self::FollowJobStream>, Status> {
        use follow_job_response::Event;
        let job = request.into_inner().job;
        let printed = control::PrintedBatch {
            batch_time_ms: 5000,
            stream: "tags".into(),
            ipc: ipc(),
            more: true,
        };
        let events = [
            Event::Printed(printed),
            Event::Batch(control::BatchSummary {
                batch_time_ms: 5000,
                ..Default::default()
            }),
            Event::Ended(job_summary(&job, control::JobState::Finished)),
        ];
        let events = tokio_stream::iter(events.map(|event| Ok(control::FollowJobResponse { event: Some(event) })));
        if job == "endless" || job == "8" {
            return Ok(Response::new(Box::pin(events.take(2).chain(tokio_stream::pending()))));
        }
        Ok(Response::new(Box::pin(events)))
    }

    async fn list_accumulators(
        &self,
        request: Request<control::ListAccumulatorsRequest>,
    ) -> Result<Response<control::ListAccumulatorsResponse>, Status> {
        let request = request.into_inner();
        assert_eq!(
            (request.job.as_str(), request.all, request.batches),
            ("7", true, u32::MAX)
        );
        let reading = |integer| {
            let value = plan::accumulator_scalar::Value::Integer(integer);
            Some(control::AccumulatorReading {
                value: Some(plan::AccumulatorScalar { value: Some(value) }),
                count: 2,
                ..Default::default()
            })
        };
        let accumulator = control::AccumulatorSummary {
            name: "lines".to_owned(),
            kind: "sum".to_owned(),
            r#type: "integer".to_owned(),
            listed: true,
            total: reading(5),
            batches: vec![control::AccumulatorBatch {
                batch_time_ms: 3000,
                reading: reading(2),
            }],
        };
        Ok(Response::new(control::ListAccumulatorsResponse {
            job: 7,
            accumulators: vec![accumulator],
        }))
    }

    async fn list_executors(
        &self,
        _: Request<control::ListExecutorsRequest>,
    ) -> Result<Response<control::ListExecutorsResponse>, Status> {
        let executors = vec![control::ExecutorSummary {
            id: 3,
            slots: 2,
            ..Default::default()
        }];
        Ok(Response::new(control::ListExecutorsResponse { executors }))
    }

    async fn unpersist_stream(
        &self,
        _: Request<control::UnpersistStreamRequest>,
    ) -> Result<Response<control::UnpersistStreamResponse>, Status> {
        Ok(Response::new(control::UnpersistStreamResponse {}))
    }

    async fn list_broadcasts(
        &self,
        request: Request<control::ListBroadcastsRequest>,
    ) -> Result<Response<control::ListBroadcastsResponse>, Status> {
        let broadcast = control::BroadcastSummary {
            name: request.into_inner().job,
            version: Some(1),
            newest: 2,
            executors: vec![4],
            ..Default::default()
        };
        let broadcasts = vec![broadcast];
        Ok(Response::new(control::ListBroadcastsResponse { broadcasts }))
    }

    /// The version is the number of bytes of content.
    async fn update_broadcast(
        &self,
        request: Request<Streaming<control::UpdateBroadcastRequest>>,
    ) -> Result<Response<control::UpdateBroadcastResponse>, Status> {
        use control::update_broadcast_request::Message;
        let mut requests = request.into_inner();
        let mut version = 0;
        while let Some(request) = requests.message().await? {
            match request.message {
                Some(Message::Content(content)) => version += content.len() as u32,
                Some(Message::Update(update)) if update.name == "fixed" => {
                    return Err(Status::failed_precondition("it keeps its value"));
                }
                _ => {}
            }
        }
        Ok(Response::new(control::UpdateBroadcastResponse { version }))
    }

    async fn drop_broadcast(
        &self,
        request: Request<control::DropBroadcastRequest>,
    ) -> Result<Response<control::DropBroadcastResponse>, Status> {
        match request.into_inner().destroy {
            true => Err(Status::not_found("no such broadcast")),
            false => Ok(Response::new(control::DropBroadcastResponse {})),
        }
    }

    type SliceStreamStream = Answers<control::SliceStreamResponse>;

    async fn slice_stream(
        &self,
        request: Request<control::SliceStreamRequest>,
    ) -> Result<Response<Self::SliceStreamStream>, Status> {
        let request = request.into_inner();
        if request.stream != "tags" {
            return Err(Status::out_of_range("not remembered"));
        }
        let ipc = ipc();
        let (head, tail) = ipc.split_at(ipc.len() / 2);
        let piece = |time: i64, ipc: &[u8]| {
            Ok(control::SliceStreamResponse {
                batch_time_ms: time,
                ipc: ipc.to_vec().into(),
            })
        };
        let (from, to) = (request.from_ms, request.to_ms);
        let pieces = vec![piece(from, head), piece(from, tail), piece(to, &ipc)];
        Ok(Response::new(Box::pin(tokio_stream::iter(pieces))))
    }

    type QuerySqlStream = Answers<control::QuerySqlResponse>;

    async fn query_sql(
        &self,
        request: Request<control::QuerySqlRequest>,
    ) -> Result<Response<Self::QuerySqlStream>, Status> {
        if request.into_inner().query == "cut" {
            let cut = control::QuerySqlResponse {
                ipc: ipc().slice(..100),
            };
            return Ok(Response::new(Box::pin(tokio_stream::once(Ok(cut)))));
        }
        let pieces: Vec<_> = ipc()
            .chunks(10)
            .map(|piece| control::QuerySqlResponse {
                ipc: piece.to_vec().into(),
            })
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(pieces.into_iter().map(Ok)))))
    }
}

fn faults() -> Diagnostics {
    Diagnostics(vec![
        Diagnostic::new(Some(3), "streams.a", "unknown column `x`").suggest("x", ["y"]),
        Diagnostic::new(None, "outputs", "no outputs"),
    ])
}

async fn serve() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let service = ControlServiceServer::new(Driver).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let server = Server::builder()
        .add_service(service)
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    address
}

async fn client() -> Client {
    Client::connect(&serve().await).await.unwrap()
}

fn graph(name: &str) -> JobGraph {
    let ctx = StreamingContext::new(name, Duration::from_secs(1));
    ctx.text_file("/a").print();
    ctx.graph().unwrap()
}

#[tokio::test]
async fn broadcast_variables_are_listed_and_get_content_of_any_size() {
    let client = client().await;
    let broadcasts = client.broadcasts("words").await.unwrap();
    let summary = &broadcasts[0];
    assert_eq!(
        (summary.name.as_str(), summary.version, summary.newest),
        ("words", Some(1), 2)
    );
    let content = |bytes: usize| crate::BroadcastUpdate::Content {
        format: tidemill_dstream::BroadcastFormat::Bytes,
        content: vec![1; bytes].into(),
    };
    let bytes = MAX_MESSAGE_BYTES + 5;
    let version = client.update_broadcast("words", "model", content(bytes)).await.unwrap();
    assert_eq!(version as usize, bytes);
    let refused = client.update_broadcast("words", "fixed", content(1)).await.unwrap_err();
    assert!(matches!(refused, Error::Remote { .. }), "{refused:?}");
    client.unpersist_broadcast("words", "model").await.unwrap();
    let unknown = client.destroy_broadcast("words", "model").await.unwrap_err();
    assert!(matches!(unknown, Error::NotFound(_)), "{unknown:?}");
}

#[tokio::test]
async fn a_driver_that_is_not_there_is_said_with_what_to_do() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = Client::connect(&address).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    let text = error.to_string().to_lowercase();
    assert!(
        text.starts_with(&format!("no driver at {address}: connection refused")),
        "{text}"
    );
    assert!(
        text.ends_with("; is it running? set --driver or tidemill_driver"),
        "{text}"
    );
}

#[tokio::test]
async fn a_port_that_accepts_and_never_answers_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let error = Client::connect_within(&address, Duration::from_millis(100))
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with(&format!("no driver at {address}: no answer within 100ms; ")),
        "{error}"
    );
}

#[tokio::test]
async fn a_service_that_is_no_driver_is_said() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let routes = tonic::service::Routes::default();
    tokio::spawn(
        Server::builder()
            .add_routes(routes)
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let error = Client::connect(&address).await.unwrap_err();
    assert!(
        error.to_string().contains("what answers there is not a driver"),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_no_address_is_refused() {
    for address in ["localhost", "host name:7077", ":::", ""] {
        let error = Client::connect(address).await.unwrap_err();
        assert!(
            matches!(error, Error::Address { .. } | Error::Unreachable { .. }),
            "{address}: {error:?}"
        );
    }
    assert!(
        Client::connect("localhost")
            .await
            .unwrap_err()
            .to_string()
            .contains("it has no port; expected host:port")
    );
}

#[tokio::test]
async fn a_submission_carries_its_files_and_options() {
    let file = AttachedFile {
        path: "a.csv".into(),
        content: Bytes::from_static(b"1234"),
    };
    let options = SubmitOptions {
        batches: Some(5),
        ..SubmitOptions::default()
    };
    let submitted = client().await.submit(&graph("a"), &[file], options).await.unwrap();
    assert_eq!(submitted.job, JobId(7));
    assert_eq!(submitted.warnings, ["4 bytes, Some(5) batches"]);
    assert_eq!(client().await.explain(&graph("a"), &[]).await.unwrap(), "plan of a");
}

#[tokio::test]
async fn a_refusal_keeps_its_kind() {
    let client = client().await;
    let refusal = async |name: &str| {
        client
            .submit(&graph(name), &[], SubmitOptions::default())
            .await
            .unwrap_err()
    };
    match refusal("faulty").await {
        Error::Rejected(diagnostics) => assert_eq!(diagnostics, faults()),
        other => panic!("{other:?}"),
    }
    assert!(
        matches!(refusal("taken").await, Error::AlreadyExists(message) if message == "a job named `taken` is running")
    );
    assert!(matches!(refusal("secret").await, Error::Unauthenticated(_)));
    assert!(
        matches!(refusal("broken").await, Error::Remote { code: tonic::Code::Internal, message } if message == "a defect")
    );
    assert!(matches!(client.job("gone").await.unwrap_err(), Error::NotFound(message) if message == "no job `gone`"));
    assert!(matches!(
        client.job("from-the-future").await.unwrap_err(),
        Error::Answer { .. }
    ));
    assert!(matches!(client.sql("cut").await.unwrap_err(), Error::Answer { .. }));
}

#[tokio::test]
async fn as_many_faults_arrive_as_a_status_holds() {
    let error = client()
        .await
        .submit(&graph("nothing-but-faults"), &[], SubmitOptions::default())
        .await
        .unwrap_err();
    let Error::Rejected(faults) = error else {
        panic!("{error:?}")
    };
    assert!(
        faults.0.len() > 1 && faults.0.last().unwrap().message.ends_with(" more faults"),
        "{faults}"
    );
}

#[tokio::test]
async fn fifty_megabytes_are_submitted_and_what_no_message_holds_is_not_sent() {
    let client = client().await;
    let file = |size| {
        [AttachedFile {
            path: "a.csv".into(),
            content: vec![b'a'; size].into(),
        }]
    };
    let submitted = client
        .submit(&graph("a"), &file(50_000_000), SubmitOptions::default())
        .await
        .unwrap();
    assert_eq!(submitted.warnings, ["50000000 bytes, None batches"]);
    let error = client
        .submit(&graph("a"), &file(MAX_MESSAGE_BYTES), SubmitOptions::default())
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::TooLarge { size, limit: MAX_MESSAGE_BYTES } if size > MAX_MESSAGE_BYTES),
        "{error}"
    );
}

#[tokio::test]
async fn jobs_and_executors_are_told() {
    let client = client().await;
    let jobs = client.jobs().await.unwrap();
    assert_eq!((jobs[0].id, jobs[0].state), (JobId(7), JobState::Running));
    assert_eq!(jobs[0].last_batch, Some(BatchTime(5000)));
    assert_eq!(jobs[0].delays.scheduling, Duration::from_micros(1500));
    assert_eq!(jobs[0].error, None);
    let job = client.job("a").await.unwrap();
    assert_eq!(
        (job.summary.state, job.summary.error.as_deref()),
        (JobState::Failed, Some("why"))
    );
    assert_eq!(job.stages[0].executors.len(), 2);
    assert_eq!(client.stop("a", false).await.unwrap().state, JobState::Stopping);
    assert_eq!(client.stop("a", true).await.unwrap().state, JobState::Stopped);
    assert_eq!(client.executors().await.unwrap()[0].slots, 2);
}

#[tokio::test]
async fn the_pieces_of_an_answer_become_its_rows() {
    let (schema, rows) = client().await.sql("SELECT 1").await.unwrap();
    assert_eq!(schema, table().schema());
    assert_eq!(rows, [table()]);
}

#[tokio::test]
async fn a_followed_job_prints_and_ends() {
    let events: Vec<_> = client().await.follow("a", true).await.unwrap().collect().await;
    let events: Vec<_> = events.into_iter().map(Result::unwrap).collect();
    let [JobEvent::Printed(printed), JobEvent::Batch(batch), JobEvent::Ended(job)] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(
        (printed.stream.as_str(), printed.time, printed.more),
        ("tags", BatchTime(5000), true)
    );
    assert_eq!(printed.rows, [table()]);
    assert_eq!(batch.time, BatchTime(5000));
    assert_eq!(job.state, JobState::Finished);
}

#[test]
fn a_driver_that_dies_ends_what_follows_it_with_an_error() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    let (driver, user) = (runtime(), runtime());
    let address = driver.block_on(serve());
    user.block_on(async {
        let client = Client::connect(&address).await.unwrap();
        let mut events = client.follow("endless", false).await.unwrap();
        assert!(events.next().await.unwrap().is_ok());
        assert!(events.next().await.unwrap().is_ok());
        driver.shutdown_background();
        let error = events.next().await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
        assert!(matches!(client.jobs().await.unwrap_err(), Error::Unreachable { .. }));
    });
}

#[tokio::test]
async fn a_slice_is_put_together_batch_by_batch() {
    let client = client().await;
    let batches = client
        .slice("words", "tags", BatchTime(1000), BatchTime(2000))
        .await
        .unwrap();
    let times: Vec<i64> = batches.iter().map(|batch| batch.time.0).collect();
    assert_eq!(times, [1000, 2000]);
    for batch in &batches {
        assert_eq!((&batch.schema, &batch.rows), (&table().schema(), &vec![table()]));
    }
    let error = client
        .slice("words", "other", BatchTime(1000), BatchTime(2000))
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "not remembered");
}

#[tokio::test]
async fn a_context_is_started_once_and_nothing_changes_after_it() {
    let client = client().await;
    let ctx = StreamingContext::new("words", Duration::from_secs(1));
    let lines = ctx.queue_stream([vec!["a"]]);
    lines.print();
    assert_eq!(ctx.state(), ContextState::Initialized);
    let error = ctx.await_termination().await.unwrap_err();
    assert_eq!(error.to_string(), "the context was not started");
    ctx.start(&client, SubmitOptions::default()).await.unwrap();
    assert_eq!(ctx.state(), ContextState::Active);
    let error = ctx.start(&client, SubmitOptions::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "the context was started already");
    assert!(ctx.await_termination_or_timeout(Duration::from_secs(60)).await.unwrap());
    assert_eq!(ctx.state(), ContextState::Stopped);
    let error = ctx.start(&client, SubmitOptions::default()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the context was stopped: build another one to start again"
    );

    lines.count().print();
    ctx.partitions(2);
    let Error::Rejected(faults) = ctx.await_termination().await.unwrap_err() else {
        panic!("changes are faults");
    };
    let faults: Vec<&str> = faults.0.iter().map(|fault| fault.message.as_str()).collect();
    assert_eq!(
        faults,
        ["`count`", "output `print`", "`partitions`"]
            .map(|what| format!("{what} after the context was stopped: nothing can be added or changed then"))
    );
    assert!(ctx.graph().is_err());
}

#[tokio::test]
async fn a_context_whose_start_failed_or_that_was_stopped_before_it_cannot_be_started() {
    let client = client().await;
    let nothing = StreamingContext::new("nothing", Duration::from_secs(1));
    let error = nothing.start(&client, SubmitOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::Rejected(_)), "{error}");
    let stopped = StreamingContext::new("stopped", Duration::from_secs(1));
    stopped.queue_stream([vec!["a"]]).print();
    stopped.stop(true).await.unwrap();
    stopped.stop(false).await.unwrap();
    for ctx in [nothing, stopped] {
        assert_eq!(ctx.state(), ContextState::Stopped);
        assert!(ctx.await_termination_or_timeout(Duration::ZERO).await.unwrap());
        let error = ctx.start(&client, SubmitOptions::default()).await.unwrap_err();
        assert!(matches!(error, Error::Lifecycle(_)), "{error}");
    }
}

#[tokio::test]
async fn waiting_for_the_end_is_over_after_the_timeout() {
    let client = client().await;
    let ctx = StreamingContext::new("endless", Duration::from_secs(1));
    ctx.queue_stream([vec!["a"]]).print();
    let handle = ctx.start(&client, SubmitOptions::default()).await.unwrap();
    assert!(
        !handle
            .await_termination_or_timeout(Duration::from_millis(1))
            .await
            .unwrap()
    );
    assert!(
        !ctx.await_termination_or_timeout(Duration::from_millis(1))
            .await
            .unwrap()
    );
    assert_eq!(ctx.state(), ContextState::Active);
}

#[tokio::test]
async fn accumulators_are_asked_for_by_the_job_and_by_their_names() {
    let client = Client::connect(&serve().await).await.unwrap();
    let job = client
        .start(&graph("words"), &[], SubmitOptions::default())
        .await
        .unwrap();
    let lines = job.accumulator("lines").await.unwrap();
    assert_eq!(
        (lines.kind.as_str(), lines.value_type.as_deref()),
        ("sum", Some("integer"))
    );
    assert_eq!(
        lines.total.value,
        Some(tidemill_dstream::accumulator::Scalar::Integer(5))
    );
    let batches: Vec<_> = lines
        .batches
        .iter()
        .map(|batch| (batch.time.0, batch.reading.count))
        .collect();
    assert_eq!(batches, [(3000, 2)]);
    let unknown = job.accumulator("line").await.unwrap_err().to_string();
    assert!(
        unknown.contains("no accumulator `line` (did you mean `lines`?)"),
        "{unknown}"
    );
}
