//! Everything that can happen to an executor. Each variant says who sends it.

use std::sync::Arc;

use tidemill_rpc::driver::attach_request::Event as Report;
use tidemill_rpc::driver::{self as wire, AttachRequest, AttachResponse, Registered};
use tidemill_storage::{Gone, ShuffleReady, Stowed, VersionKey};
use tidemill_types::{BatchTime, BlockId, Generation, JobId, TaskAttempt, TaskFailure, TaskKey};
use tokio::sync::mpsc;

use crate::job::InstalledJob;
use crate::task::Finished;

pub(crate) enum Event {
    /// The attach task: the driver took the registration.
    Connected {
        connection: u64,
        registered: Registered,
        generation: Generation,
        reports: mpsc::UnboundedSender<AttachRequest>,
    },
    /// The attach task.
    Disconnected { connection: u64 },
    /// The attach task: a command of the driver.
    Command {
        connection: u64,
        message: Box<AttachResponse>,
    },
    /// Whoever has something to tell the driver.
    Report(Report),
    /// The installer: templates were decoded.
    Installed {
        epoch: u64,
        job: JobId,
        result: Result<Arc<InstalledJob>, String>,
    },
    /// The shuffle store.
    ShuffleReady { epoch: u64, ready: ShuffleReady },
    /// A task's thread.
    TaskFinished {
        epoch: u64,
        task: TaskAttempt,
        result: Result<Box<Finished>, TaskFailure>,
    },
    /// A fetch of a block that another executor holds.
    BlockFetched {
        epoch: u64,
        block: BlockId,
        result: Result<(), TaskFailure>,
    },
    /// A fetch of remembered partitions.
    DatasetsFetched {
        epoch: u64,
        job: JobId,
        stored: Vec<tidemill_storage::DatasetKey>,
        missing: Vec<tidemill_storage::DatasetKey>,
    },
    /// A reader of what is kept here: a piece of an answer for the driver.
    Kept { epoch: u64, rows: wire::KeptRows },
    /// A collector of a broadcast value: all of it is here, or why it cannot be used; `None`: nobody wants it any more.
    BroadcastCollected {
        epoch: u64,
        key: VersionKey,
        result: Option<Result<(), String>>,
    },
    /// Who saves states: that of a task is in the checkpoint, with the size of its file, or why it is not.
    StateSaved {
        epoch: u64,
        task: TaskKey,
        result: Result<u64, String>,
    },
    /// Who loads saved states: that of a task is here.
    StateLoaded {
        epoch: u64,
        task: TaskKey,
        result: Result<(), TaskFailure>,
    },
    /// The block store: something is gone before its time.
    Gone { epoch: u64, what: Stowed, why: Gone },
    /// A sender: a map output that was kept is lost.
    OutputLost { epoch: u64, map: TaskKey },
    /// Whoever takes in shuffled rows: there is no room for those of a batch.
    Refused {
        epoch: u64,
        job: JobId,
        batch: BatchTime,
        failure: TaskFailure,
    },
    /// The heartbeat timer.
    Heartbeat,
}
