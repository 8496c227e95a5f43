//! Reading what executors keep: states and remembered streams.
//!
//! A read asks the executors that hold its parts and gathers their answers. All parts of a state are of one batch: the
//! last one that was completed when they were asked. An executor keeps that version and the one before it, so it may have
//! gone on by the time that it is asked; then everything is asked again, at once if another batch has been completed and
//! otherwise when one is. The same goes for a remembered partition that is on its way to another executor.
//!
//! Owned by the event loop; decoding is the asker's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidemill_rpc::driver as wire;
use tidemill_rpc::driver::attach_response::Command;
use tidemill_rpc::driver::read_kept::What;
use tidemill_scheduler::{DatasetPart, Event as SchedulerEvent, Forgotten};
use tidemill_types::{BatchTime, DatasetId, ExecutorId, JobId, StageId};
use tokio::sync::oneshot;
use tonic::Status;

use crate::event_loop::EventLoop;

/// How long a read may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What one read may give.
const MAX_ROWS: u64 = 5_000_000;
const MAX_BYTES: u64 = 256 << 20;

/// What is read of a job.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    State {
        stage: StageId,
        name: String,
    },
    /// All batches of a stream that are remembered, or those from one time to another.
    Stream {
        dataset: DatasetId,
        name: String,
        range: Option<(BatchTime, BatchTime)>,
    },
}

/// Batches in their order, each with the Arrow IPC streams of its partitions; an empty one has no rows.
pub(crate) type KeptBatches = Vec<(BatchTime, Vec<Vec<u8>>)>;

pub(crate) type ReadReply = oneshot::Sender<Result<KeptBatches, Status>>;

#[derive(Debug, Default)]
pub(crate) struct Reads {
    last_request: u64,
    open: Vec<Read>,
}

#[derive(Debug)]
struct Read {
    job: JobId,
    target: Target,
    /// Microseconds.
    deadline: i64,
    reply: ReadReply,
    /// The number under which its parts were asked for; answers under an earlier one are not listened to.
    request: u64,
    /// Parts that have not been answered, by batch and partition.
    missing: BTreeMap<Part, ExecutorId>,
    parts: BTreeMap<Part, Vec<u8>>,
    bytes: u64,
    /// The batches that were asked for.
    asked: BTreeSet<i64>,
    /// Asked again when a batch is completed.
    parked: bool,
}

type Part = (BatchTime, u32);

impl Target {
    fn describe(&self) -> String {
        match self {
            Self::State { name, .. } => format!("the state of `{name}`"),
            Self::Stream { name, .. } => format!("stream `{name}`"),
        }
    }
}

impl Reads {
    pub(crate) fn next_deadline(&self) -> Option<i64> {
        self.open.iter().map(|read| read.deadline).min()
    }

    fn take(&mut self, which: impl Fn(&Read) -> bool) -> Vec<Read> {
        self.open.extract_if(.., |read| which(read)).collect()
    }
}

/// A part of a batch with its holder: the batch's index and time, the partition.
type WantedPart = (i64, BatchTime, u32, Option<ExecutorId>);

impl EventLoop {
    pub(crate) fn read_kept(&mut self, job: JobId, target: Target, reply: ReadReply) {
        let timeout = i64::try_from(TIMEOUT.as_micros()).unwrap_or(i64::MAX);
        let read = Read {
            job,
            target,
            deadline: self.clock.now().saturating_add(timeout),
            reply,
            request: 0,
            missing: BTreeMap::new(),
            parts: BTreeMap::new(),
            bytes: 0,
            asked: BTreeSet::new(),
            parked: false,
        };
        self.ask(read);
    }

    /// Asks for all parts of a read.
    fn ask(&mut self, mut read: Read) {
        let wanted = match self.wanted(&read) {
            Ok(wanted) => wanted,
            Err(status) => return drop(read.reply.send(Err(status))),
        };
        self.reads.last_request += 1;
        read.request = self.reads.last_request;
        read.parts.clear();
        read.bytes = 0;
        read.asked = wanted.iter().map(|(index, ..)| *index).collect();
        // A part that nobody holds is made again: it is there some batches later.
        let lost = wanted.iter().filter(|(.., holder)| holder.is_none());
        let lost: Vec<(BatchTime, u32)> = lost.map(|(_, batch, partition, _)| (*batch, *partition)).collect();
        read.parked = !lost.is_empty();
        read.missing.clear();
        if read.parked {
            if let Target::Stream { dataset, .. } = read.target {
                // What was let go of for want of memory is made again only if somebody asks.
                let part = |(batch, partition)| DatasetPart {
                    dataset,
                    batch,
                    partition,
                };
                let parts = lost.into_iter().map(part).collect();
                let job = read.job;
                self.reads.open.push(read);
                return self.schedule(SchedulerEvent::PartsWanted { job, parts });
            }
            return self.reads.open.push(read);
        }
        let mut by_executor: BTreeMap<ExecutorId, Vec<wire::KeptPart>> = BTreeMap::new();
        for (index, batch, partition, holder) in wanted {
            let Some(executor) = holder else { continue };
            read.missing.insert((batch, partition), executor);
            by_executor.entry(executor).or_default().push(wire::KeptPart {
                batch_time_ms: batch.0,
                index,
                partition,
            });
        }
        let what = match &read.target {
            Target::State { stage, .. } => What::State(stage.0),
            Target::Stream { dataset, .. } => What::Dataset(dataset.0),
        };
        for (executor, parts) in by_executor {
            let ask = wire::ReadKept {
                request: read.request,
                job: read.job.0,
                what: Some(what),
                parts,
                max_rows: MAX_ROWS,
                max_bytes: MAX_BYTES,
            };
            self.sessions.send(executor, Command::ReadKept(ask));
        }
        if read.missing.is_empty() {
            return finish(read);
        }
        self.reads.open.push(read);
    }

    /// The parts that a read is of now.
    fn wanted(&self, read: &Read) -> Result<Vec<WantedPart>, Status> {
        let parts = |index: i64, batch: BatchTime, holders: Vec<Option<ExecutorId>>| {
            let holders = (0..).zip(holders);
            holders.map(move |(partition, holder)| (index, batch, partition, holder))
        };
        match &read.target {
            Target::State { stage, .. } => {
                let Some(version) = self.scheduler.state_version(read.job, *stage) else {
                    return Ok(Vec::new());
                };
                let owners = version.owners.into_iter().map(Some).collect();
                Ok(parts(version.index, version.batch, owners).collect())
            }
            Target::Stream { dataset, name, range } => {
                let batches = self.scheduler.remembered(read.job, *dataset, *range);
                let batches = batches.map_err(|Forgotten { since }| forgotten(name, *range, since))?;
                let all = batches
                    .into_iter()
                    .flat_map(|batch| parts(batch.index, batch.batch, batch.holders));
                Ok(all.collect())
            }
        }
    }

    /// A piece of an answer.
    pub(crate) fn on_kept_rows(&mut self, executor: ExecutorId, rows: wire::KeptRows) {
        let part = (BatchTime(rows.batch_time_ms), rows.partition);
        let position = self.reads.open.iter().position(|read| {
            read.request == rows.request && !read.parked && read.missing.get(&part) == Some(&executor)
        });
        let Some(position) = position else { return };
        let mut read = self.reads.open.swap_remove(position);
        let what = read.target.describe();
        if !rows.error.is_empty() {
            let (batch, partition) = part;
            let error = format!("{what}, partition {partition} of batch {batch}: {}", rows.error);
            return drop(read.reply.send(Err(Status::failed_precondition(error))));
        }
        if rows.absent {
            return self.ask_again(read);
        }
        read.bytes += rows.ipc.len() as u64;
        if read.bytes > MAX_BYTES {
            let error = format!("{what} has more than the {MAX_BYTES} bytes that can be read");
            return drop(read.reply.send(Err(Status::resource_exhausted(error))));
        }
        read.parts.entry(part).or_default().extend_from_slice(&rows.ipc);
        if rows.last {
            read.missing.remove(&part);
        }
        if read.missing.is_empty() {
            return finish(read);
        }
        self.reads.open.push(read);
    }

    /// A part was not where it was looked for.
    fn ask_again(&mut self, mut read: Read) {
        let now: Option<BTreeSet<i64>> = self
            .wanted(&read)
            .ok()
            .map(|parts| parts.iter().map(|(index, ..)| *index).collect());
        // Without another completed batch the answer would be the same.
        if now.as_ref() == Some(&read.asked) {
            read.parked = true;
            self.reads.open.push(read);
        } else {
            self.ask(read);
        }
    }

    /// Another batch of a job is completed.
    pub(crate) fn ask_parked(&mut self, job: JobId) {
        for read in self.reads.take(|read| read.job == job && read.parked) {
            self.ask(read);
        }
    }

    pub(crate) fn fail_reads_of_lost(&mut self, executor: ExecutorId, reason: &str) {
        let waits = |read: &Read| read.missing.values().any(|holder| *holder == executor);
        for read in self.reads.take(waits) {
            let what = read.target.describe();
            let error =
                format!("{what} cannot be read: executor {executor}, which holds a part of it, is lost ({reason})");
            drop(read.reply.send(Err(Status::aborted(error))));
        }
    }

    pub(crate) fn fail_reads_of_ended(&mut self, job: JobId) {
        for read in self.reads.take(|read| read.job == job) {
            let error = format!("{} cannot be read: the job has ended", read.target.describe());
            drop(read.reply.send(Err(Status::failed_precondition(error))));
        }
    }

    /// Gives up reads whose time is over.
    pub(crate) fn give_up_reads(&mut self, now: i64) {
        for read in self.reads.take(|read| read.deadline <= now) {
            let (what, seconds) = (read.target.describe(), TIMEOUT.as_secs());
            let silent: BTreeSet<ExecutorId> = read.missing.values().copied().collect();
            let silent: Vec<String> = silent.iter().map(ExecutorId::to_string).collect();
            let error = if read.parked {
                format!("{what} could not be read within {seconds} s: its partitions were never at the same batch")
            } else {
                format!(
                    "{what} could not be read within {seconds} s: no answer from executor {}",
                    silent.join(", ")
                )
            };
            drop(read.reply.send(Err(Status::deadline_exceeded(error))));
        }
    }
}

fn finish(read: Read) {
    let mut batches = KeptBatches::new();
    for ((batch, _), ipc) in read.parts {
        match batches.last_mut() {
            Some((last, parts)) if *last == batch => parts.push(ipc),
            _ => batches.push((batch, vec![ipc])),
        }
    }
    // Nobody waits any more if the request was given up.
    drop(read.reply.send(Ok(batches)));
}

fn forgotten(stream: &str, range: Option<(BatchTime, BatchTime)>, since: BatchTime) -> Status {
    let from = range.map_or(since, |(from, _)| from);
    Status::out_of_range(format!(
        "stream `{stream}` is not remembered from {from} on, only from {since} (the job's option `remember` says how long)"
    ))
}
