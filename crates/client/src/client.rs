//! The gRPC client of a driver.

#[cfg(test)]
mod tests;

use std::io::Cursor;
use std::pin::Pin;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamReader;
use prost::Message;
use tidemill_dstream::JobGraph;
use tidemill_rpc::control::control_service_client::ControlServiceClient;
use tidemill_rpc::control::{self, follow_job_response};
use tidemill_types::{BatchTime, JobId};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

use crate::AttachedFile;
use crate::error::{Error, Result, reason};
use crate::listener::{ListenerEvents, listener_event};
use crate::summary::{
    AccumulatorSummary, ExecutorSummary, JobDetail, JobEvent, JobSummary, PrintedBatch, RememberedBatch, accumulators,
    summary,
};

/// The largest message that is sent or taken: a job with its attached files, the rows of an answer's piece.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;
/// How long a driver may take to accept a connection and to answer the first call.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A driver that does not answer for this long and a ping more is gone, also in the middle of a long call.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to a driver. Clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) service: ControlServiceClient<Channel>,
    pub(crate) address: String,
}

/// How a job is run, beside what it says itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubmitOptions {
    /// Stop after this many completed batches.
    pub batches: Option<u64>,
    /// Take bounded input batch after batch without waiting for the clock.
    pub no_wait: bool,
    /// Save outputs replace what exists.
    pub overwrite: bool,
}

/// A job that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submitted {
    pub job: JobId,
    pub warnings: Vec<String>,
}

/// The events of a followed job. It ends after [`JobEvent::Ended`], or after an error.
pub type JobEvents = Pin<Box<dyn Stream<Item = Result<JobEvent>> + Send>>;

impl Client {
    /// Connects to the driver at `host:port` and waits until it answers, at most 5 s.
    ///
    /// # Errors
    /// [`Error::Address`], [`Error::Unreachable`].
    pub async fn connect(address: &str) -> Result<Self> {
        Self::connect_within(address, CONNECT_TIMEOUT).await
    }

    async fn connect_within(address: &str, timeout: Duration) -> Result<Self> {
        let endpoint = endpoint(address)?.connect_timeout(timeout);
        match tokio::time::timeout(timeout, Self::open(address, &endpoint)).await {
            Ok(connected) => connected,
            Err(_) => Err(Error::unreachable(address, format!("no answer within {timeout:?}"))),
        }
    }

    async fn open(address: &str, endpoint: &Endpoint) -> Result<Self> {
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| Error::unreachable(address, reason(&error)))?;
        let service = ControlServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let client = Self {
            service,
            address: address.to_owned(),
        };
        // A port can accept connections for a process that is stopped, or that is no driver: only an answer tells.
        match client.executors().await {
            Err(Error::Remote {
                code: Code::Unimplemented,
                ..
            }) => Err(Error::unreachable(address, "what answers there is not a driver")),
            Err(error @ Error::Unreachable { .. }) => Err(error),
            // Any other answer is the driver's, and the next call gets it too.
            _ => Ok(client),
        }
    }

    /// The driver's address, as it was given.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Type-checks, compiles and starts a job.
    ///
    /// # Errors
    /// [`Error::Rejected`] with all faults, [`Error::AlreadyExists`] for a taken name, [`Error::TooLarge`] before
    /// anything is sent.
    pub async fn submit(&self, graph: &JobGraph, files: &[AttachedFile], options: SubmitOptions) -> Result<Submitted> {
        let request = control::SubmitJobRequest {
            graph: Some(graph.into()),
            files: files.iter().map(attached).collect(),
            options: Some(control::RunOptions {
                batches: options.batches,
                no_wait: options.no_wait,
                overwrite: options.overwrite,
            }),
        };
        check_size(request.encoded_len())?;
        let response = self.answer(self.service.clone().submit_job(request).await)?;
        Ok(Submitted {
            job: JobId(response.job),
            warnings: response.warnings,
        })
    }

    /// The same checks, and the plan in words, without starting anything.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub async fn explain(&self, graph: &JobGraph, files: &[AttachedFile]) -> Result<String> {
        let request = control::ExplainJobRequest {
            graph: Some(graph.into()),
            files: files.iter().map(attached).collect(),
        };
        check_size(request.encoded_len())?;
        Ok(self.answer(self.service.clone().explain_job(request).await)?.text)
    }

    /// All jobs that the driver knows.
    ///
    /// # Errors
    /// [`Error::Unreachable`] and the like.
    pub async fn jobs(&self) -> Result<Vec<JobSummary>> {
        let response = self.answer(self.service.clone().list_jobs(control::ListJobsRequest {}).await)?;
        response.jobs.into_iter().map(JobSummary::try_from).collect()
    }

    /// A job by its number or name.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn job(&self, job: &str) -> Result<JobDetail> {
        let request = control::GetJobRequest { job: job.to_owned() };
        self.answer(self.service.clone().get_job(request).await)?.try_into()
    }

    /// Stops a job by its number or name: gracefully, or `now`, without finishing the batches that are due.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn stop(&self, job: &str, now: bool) -> Result<JobSummary> {
        let request = control::StopJobRequest {
            job: job.to_owned(),
            now,
        };
        summary(self.answer(self.service.clone().stop_job(request).await)?.summary)
    }

    /// What a job prints and does until it ends, with `history` from what the driver still has.
    ///
    /// # Errors
    /// [`Error::NotFound`]; the stream's own errors are its last item.
    pub async fn follow(&self, job: &str, history: bool) -> Result<JobEvents> {
        let request = control::FollowJobRequest {
            job: job.to_owned(),
            history,
            listen: false,
        };
        let stream = self.answer(self.service.clone().follow_job(request).await)?;
        let address = self.address.clone();
        Ok(Box::pin(stream.filter_map(move |message| match message {
            Ok(message) => event(message).transpose(),
            Err(status) => Some(Err(Error::from_status(&address, &status))),
        })))
    }

    /// What happens to a job's batches, receivers and output operations until it ends: first the last 512 events so far,
    /// then what comes.
    ///
    /// # Errors
    /// [`Error::NotFound`]; the stream's own errors are its last item.
    pub async fn listen(&self, job: &str) -> Result<ListenerEvents> {
        let request = control::FollowJobRequest {
            job: job.to_owned(),
            history: true,
            listen: true,
        };
        let stream = self.answer(self.service.clone().follow_job(request).await)?;
        let address = self.address.clone();
        Ok(Box::pin(stream.filter_map(move |message| match message {
            Ok(message) => listener_event(message),
            Err(status) => Some(Err(Error::from_status(&address, &status))),
        })))
    }

    /// The accumulators of a job by its number or name, also after its end: those that are listed or `all`, each with what at
    /// most `batches` of its last batches added. The driver keeps as many as it keeps of batches.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn accumulators(&self, job: &str, all: bool, batches: u32) -> Result<Vec<AccumulatorSummary>> {
        let request = control::ListAccumulatorsRequest {
            job: job.to_owned(),
            all,
            batches,
        };
        let response = self.answer(self.service.clone().list_accumulators(request).await)?;
        accumulators(response.accumulators)
    }

    /// All executors that the driver knows.
    ///
    /// # Errors
    /// [`Error::Unreachable`] and the like.
    pub async fn executors(&self) -> Result<Vec<ExecutorSummary>> {
        let response = self.answer(
            self.service
                .clone()
                .list_executors(control::ListExecutorsRequest {})
                .await,
        )?;
        Ok(response.executors.into_iter().map(ExecutorSummary::from).collect())
    }

    /// The rows of a read-only query over output tables, and over what jobs keep while they run: the state
    /// `<job>_state.<name>`, the remembered stream `<job>_streams.<stream>`.
    ///
    /// # Errors
    /// [`Error::Rejected`] or [`Error::NotFound`] for a query that names what is not there.
    pub async fn sql(&self, query: &str) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        let request = control::QuerySqlRequest {
            query: query.to_owned(),
        };
        let mut pieces = self.answer(self.service.clone().query_sql(request).await)?;
        let mut ipc = Vec::new();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|status| Error::from_status(&self.address, &status))?;
            ipc.extend_from_slice(&piece.ipc);
        }
        rows(&ipc)
    }

    /// The batches of a remembered stream from one time to another, both included, in order. Times are floored to the
    /// stream's slide. Batches that are not completed, and those that failed and were skipped, are not among them.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown job or stream; [`Error::Remote`] if the stream is not remembered, or not that
    /// far back.
    pub async fn slice(&self, job: &str, stream: &str, from: BatchTime, to: BatchTime) -> Result<Vec<RememberedBatch>> {
        let request = control::SliceStreamRequest {
            job: job.to_owned(),
            stream: stream.to_owned(),
            from_ms: from.0,
            to_ms: to.0,
        };
        let mut pieces = self.answer(self.service.clone().slice_stream(request).await)?;
        let mut batches: Vec<(BatchTime, Vec<u8>)> = Vec::new();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|status| Error::from_status(&self.address, &status))?;
            let time = BatchTime(piece.batch_time_ms);
            match batches.last_mut() {
                Some((last, ipc)) if *last == time => ipc.extend_from_slice(&piece.ipc),
                _ => batches.push((time, piece.ipc.to_vec())),
            }
        }
        let decoded = batches.into_iter().map(|(time, ipc)| {
            let (schema, rows) = rows(&ipc)?;
            Ok(RememberedBatch { time, schema, rows })
        });
        decoded.collect()
    }

    /// Keeps a remembered stream's batches no longer than windows need them. It cannot be sliced or asked for in SQL from
    /// then on.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown job or stream; [`Error::Remote`] if the stream is not remembered.
    pub async fn unpersist(&self, job: &str, stream: &str) -> Result<()> {
        let request = control::UnpersistStreamRequest {
            job: job.to_owned(),
            stream: stream.to_owned(),
        };
        self.answer(self.service.clone().unpersist_stream(request).await)?;
        Ok(())
    }

    /// The stream of a job's events has ended, which it does not before the job does.
    pub(crate) fn gone(&self) -> Error {
        Error::unreachable(&self.address, "it ended before the job did")
    }

    pub(crate) fn answer<T>(&self, response: Result<Response<T>, Status>) -> Result<T> {
        response
            .map(Response::into_inner)
            .map_err(|status| Error::from_status(&self.address, &status))
    }
}

fn endpoint(address: &str) -> Result<Endpoint> {
    let url = if address.contains("://") {
        address.to_owned()
    } else {
        format!("http://{address}")
    };
    let not_an_address = |reason: String| Error::Address {
        address: address.to_owned(),
        reason,
    };
    let endpoint = Endpoint::from_shared(url).map_err(|error| not_an_address(reason(&error)))?;
    if endpoint.uri().port().is_none() {
        return Err(not_an_address("it has no port".to_owned()));
    }
    Ok(endpoint
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT))
}

fn attached(file: &AttachedFile) -> control::AttachedFile {
    control::AttachedFile {
        path: file.path.clone(),
        content: file.content.clone(),
    }
}

fn check_size(size: usize) -> Result<()> {
    if size > MAX_MESSAGE_BYTES {
        return Err(Error::TooLarge {
            size,
            limit: MAX_MESSAGE_BYTES,
        });
    }
    Ok(())
}

/// `None` for what is for listeners.
fn event(message: control::FollowJobResponse) -> Result<Option<JobEvent>> {
    let event = match message
        .event
        .ok_or_else(|| Error::answer("an event of no known kind"))?
    {
        follow_job_response::Event::Printed(printed) => {
            let (schema, rows) = rows(&printed.ipc)?;
            JobEvent::Printed(PrintedBatch {
                time: BatchTime(printed.batch_time_ms),
                stream: printed.stream,
                schema,
                rows,
                more: printed.more,
            })
        }
        follow_job_response::Event::Batch(batch) => JobEvent::Batch(batch.into()),
        follow_job_response::Event::Ended(ended) => JobEvent::Ended(ended.try_into()?),
        _ => return Ok(None),
    };
    Ok(Some(event))
}

/// The record batches of an Arrow IPC stream.
fn rows(ipc: &[u8]) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let reader = StreamReader::try_new(Cursor::new(ipc), None).map_err(Error::answer)?;
    let schema = reader.schema();
    let batches = reader.collect::<Result<Vec<_>, _>>().map_err(Error::answer)?;
    Ok((schema, batches))
}
