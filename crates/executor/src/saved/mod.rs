//! State by key in the job's checkpoint: what a task has left is saved there, and another executor goes on with it.
//!
//! ```text
//!   a task of a saved batch ends ─► its version is taken ─► waits for its turn ─► encoded ─► checkpoint ─► StateSaved
//!   a task needs a state that is not here ─► loaded from the checkpoint ─► put in the partition's memory ─► it goes on
//! ```
//! Nothing of it is done on task threads or in the event loop but the taking, which shares the rows. What waits for its turn
//! is held and counted as state. Where there is no room to hold it, it is read from the partition's memory when its turn
//! comes; if the partition has gone on by two batches by then, it is not saved, and the driver is told. A batch waits for
//! none of this.

mod file;
mod place;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidemill_dstream::plan::Keeps;
use tidemill_engine::{Error as EngineError, StateVersion, TaskMemory};
use tidemill_rpc::driver as wire;
use tidemill_rpc::driver::attach_request::Event as Report;
use tidemill_storage::{Charge, MemoryBudget, MemoryKind};
use tidemill_types::{FailureKind, TaskFailure, TaskKey};
use tokio::sync::Semaphore;
use tracing::warn;

use self::file::Identity;
pub(crate) use self::place::Checkpoint;
use self::place::Failed;
use crate::batch::Need;
use crate::event::Event;
use crate::event_loop::EventLoop;
use crate::job::InstalledJob;
use crate::node::Node;

/// States that are written at once, and that are read at once. More would take memory for little.
const AT_ONCE: usize = 2;
const TRIES: u32 = 3;
/// Before another try; grows with each.
const PAUSE: Duration = Duration::from_millis(200);
/// Bytes of a file that is being made are counted in steps.
const CHARGE_STEP: usize = 1 << 20;

/// Who may be at work on files of the checkpoint.
pub(crate) struct Turns {
    writing: Semaphore,
    reading: Semaphore,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            writing: Semaphore::new(AT_ONCE),
            reading: Semaphore::new(AT_ONCE),
        }
    }
}

/// The state that a task has left, until it is written.
pub(crate) struct Left {
    index: i64,
    memory: Arc<TaskMemory>,
    /// `None`: there was no room to hold it.
    held: Option<(StateVersion, Charge)>,
}

impl Left {
    /// Takes the state that a batch has left in `memory`.
    pub(crate) fn take(memory: Arc<TaskMemory>, index: i64, budget: &Arc<MemoryBudget>) -> Self {
        // What is wrong with it is said when its turn comes.
        let version = memory.state_version(index).ok().flatten();
        let held = version.and_then(|version| {
            let charge = budget.try_charge(MemoryKind::State, version.size() as u64)?;
            Some((version, charge))
        });
        Self { index, memory, held }
    }

    fn version(self) -> Result<(StateVersion, Option<Charge>), String> {
        if let Some((version, charge)) = self.held {
            return Ok((version, Some(charge)));
        }
        let gone = "there was no memory to hold the state, and its partition has gone on (give executors more memory: \
                    executor.memory)";
        match self.memory.state_version(self.index) {
            Ok(Some(version)) => Ok((version, None)),
            Ok(None) => Err(gone.to_owned()),
            Err(error) => Err(TaskFailure::from(error).message),
        }
    }
}

impl EventLoop {
    /// Saves what a task has left, when it is its turn.
    pub(crate) fn save_state(&self, task: TaskKey, left: Left) {
        let (Some(node), Some(job)) = (self.node.clone(), self.installed(task.job)) else {
            return;
        };
        let (events, epoch) = (self.events.clone(), self.epoch);
        tokio::spawn(async move {
            let Ok(_turn) = node.turns.writing.acquire().await else {
                return;
            };
            if !node.jobs.contains_key(&job.id) {
                return;
            }
            let result = save(&node, &job, &task, left).await;
            // The loop ends only with the process.
            let _ = events.send(Event::StateSaved { epoch, task, result });
        });
    }

    pub(crate) fn on_state_saved(&mut self, task: TaskKey, result: Result<u64, String>) {
        let (bytes, error) = match result {
            Ok(bytes) => (bytes, String::new()),
            Err(error) => {
                warn!(%task, error, "state could not be saved");
                (0, error)
            }
        };
        self.report(Report::StateSaved(wire::StateSaved {
            job: task.job.0,
            batch_time_ms: task.batch.0,
            stage: task.stage.0,
            partition: task.partition,
            bytes,
            error,
        }));
    }

    /// Loads the state that `task` has left, whose batch has the index `index`, in place of the one that is here.
    pub(crate) fn load_state(&mut self, node: &Arc<Node>, job: &Arc<InstalledJob>, task: TaskKey, index: i64) {
        // A second one could put the state back when a task has gone on from it.
        if !self.loading.insert(task) {
            return;
        }
        let (node, job) = (Arc::clone(node), Arc::clone(job));
        let memory = node.memories.memory(task.job, task.stage, task.partition);
        let (events, epoch) = (self.events.clone(), self.epoch);
        tokio::spawn(async move {
            let Ok(_turn) = node.turns.reading.acquire().await else {
                return;
            };
            let result = load(&node, &job, &task, memory, index).await;
            let _ = events.send(Event::StateLoaded { epoch, task, result });
        });
    }

    pub(crate) fn on_state_loaded(&mut self, task: TaskKey, result: Result<(), TaskFailure>) {
        self.loading.remove(&task);
        match result {
            Ok(()) => {
                self.satisfy(Need::SavedState(task));
                // Some may have been launched before it was known that it is saved.
                self.satisfy(Need::State(task));
            }
            Err(failure) => {
                for waiting in self.waiting.remove(&Need::SavedState(task)).unwrap_or_default() {
                    self.on_task_finished(waiting, Err(failure.clone()));
                }
            }
        }
    }
}

fn identity(job: &InstalledJob, task: &TaskKey) -> Result<Identity, String> {
    let stage = job.stage(task.stage).ok_or("the stage is not known here")?;
    let Keeps::State { name } = &stage.keeps else {
        return Err(format!("stage {} keeps no state", stage.id));
    };
    Ok(Identity {
        job: job.name.clone(),
        state: name.clone(),
        batch: task.batch,
        partition: task.partition,
        partitions: stage.partitions,
    })
}

/// Writes a state to the job's checkpoint; the size of its file.
async fn save(node: &Node, job: &InstalledJob, task: &TaskKey, left: Left) -> Result<u64, String> {
    let checkpoint = job.checkpoint.as_ref().ok_or("the job has no checkpoint")?;
    let state = identity(job, task)?;
    let budget = Arc::clone(&node.budget);
    let of = state.clone();
    let encoded = tokio::task::spawn_blocking(move || encode(&of, left, &budget)).await;
    let (bytes, _charge) = encoded.map_err(|panic| panic.to_string())??;
    let length = bytes.len() as u64;
    let put = tried(|| checkpoint.put(&state, bytes.clone())).await;
    put.map_err(|failed| format!("{} cannot be written: {}", checkpoint.name_of(&state), failed.reason))?;
    Ok(length)
}

/// The file of a state, and its memory.
fn encode(state: &Identity, left: Left, budget: &Arc<MemoryBudget>) -> Result<(Bytes, Charge), String> {
    let (version, _held) = left.version()?;
    let mut file = Counted {
        bytes: file::begin(state),
        charge: budget.charge(MemoryKind::State, 0),
    };
    version
        .write(&mut file)
        .map_err(|error| TaskFailure::from(error).message)?;
    file.charge.resize(file.bytes.len() as u64);
    Ok((file::finish(file.bytes), file.charge))
}

/// Reads a state from the job's checkpoint into the memory of its partition.
async fn load(
    node: &Node,
    job: &Arc<InstalledJob>,
    task: &TaskKey,
    memory: Arc<TaskMemory>,
    index: i64,
) -> Result<(), TaskFailure> {
    let lost = |message: String| TaskFailure::new(FailureKind::InputLost, message);
    let checkpoint = job.checkpoint.as_ref();
    let checkpoint =
        checkpoint.ok_or_else(|| lost("a saved state is needed, and the job has no checkpoint".to_owned()))?;
    let state = identity(job, task).map_err(lost)?;
    let name = checkpoint.name_of(&state);
    let unusable = |reason: &str| format!("the saved state {name} cannot be used: {reason}");
    let file = tried(|| checkpoint.get(&state)).await;
    let file = file.map_err(|failed| lost(unusable(&failed.reason)))?;
    let charge = node.budget.charge(MemoryKind::State, file.len() as u64);
    let content = file::content(&file, &state).map_err(|fault| lost(unusable(&fault.to_string())))?;
    let (job, stage) = (Arc::clone(job), task.stage);
    let loaded = tokio::task::spawn_blocking(move || {
        charge.budget().relieve();
        let template = job.template(stage).ok_or(EngineError::Damaged)?;
        memory.load_state(template, index, &content)
    });
    match loaded.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            let failure = TaskFailure::from(error);
            Err(match failure.kind {
                // It may have room another time.
                FailureKind::Resource => failure,
                _ => lost(unusable(&failure.message)),
            })
        }
        Err(panic) => Err(lost(unusable(&panic.to_string()))),
    }
}

/// Does it until it succeeds, some times at most.
async fn tried<T, F: Future<Output = Result<T, Failed>>>(call: impl Fn() -> F) -> Result<T, Failed> {
    let mut tries = 1;
    loop {
        match call().await {
            Err(failed) if failed.retryable && tries < TRIES => {
                tokio::time::sleep(PAUSE * tries).await;
                tries += 1;
            }
            result => return result,
        }
    }
}

/// Bytes that count as they come.
struct Counted {
    bytes: Vec<u8>,
    charge: Charge,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() as u64 > self.charge.bytes() {
            self.charge.resize((self.bytes.len() + CHARGE_STEP) as u64);
            self.charge.budget().relieve();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
