//! The memory and the disk that running tasks work with: DataFusion's operators reserve from the executor's budget, and
//! write what has no room into its directory for spilled data.
//!
//! Operators that can write to files (sorts, aggregates) share what there is evenly, so that none of them waits for
//! another; those that cannot (the build side of a hash join) take what is free, and fail when nothing is.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::common::resources_datafusion_err;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use tidemill_storage::{Charge, MemoryBudget, MemoryKind, SpillDir, sliced_bytes};

use crate::Error;

/// What the tasks of an executor work with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Workspace {
    runtime: Arc<RuntimeEnv>,
    spill: Option<Arc<SpillDir>>,
}

impl Default for Workspace {
    /// As much as the process can have.
    fn default() -> Self {
        Self {
            runtime: crate::session::runtime(),
            spill: None,
        }
    }
}

impl Workspace {
    /// Memory of `budget`, and files in the directory of `spill` within its limit.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn new(budget: &Arc<MemoryBudget>, spill: &Arc<SpillDir>) -> Result<Self, Error> {
        let disk = DiskManagerBuilder::default()
            .with_mode(DiskManagerMode::Directories(vec![spill.path().to_path_buf()]))
            .with_max_temp_directory_size(spill.limit());
        let pool = BudgetPool {
            budget: Arc::clone(budget),
            state: Mutex::new(State {
                charge: budget.charge(MemoryKind::Tasks, 0),
                spillers: 0,
                spillable: 0,
            }),
        };
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(pool))
            .with_disk_manager_builder(disk)
            .build_arc()?;
        let files = Arc::downgrade(&runtime.disk_manager);
        spill.share_with(move || files.upgrade().map_or(0, |files| files.used_disk_space()));
        Ok(Self {
            runtime,
            spill: Some(Arc::clone(spill)),
        })
    }

    /// For a task that begins: its operators may write what others have left of the disk.
    pub(crate) fn runtime(&self) -> Arc<RuntimeEnv> {
        if let Some(spill) = &self.spill {
            let files = &self.runtime.disk_manager;
            let others = spill.used().saturating_sub(files.used_disk_space());
            // It fails only where files are off.
            let _ = files.set_max_temp_directory_size(spill.limit().saturating_sub(others));
        }
        Arc::clone(&self.runtime)
    }
}

/// All batches of a stream, with the memory for so many copies of them.
pub(crate) async fn gather<E>(
    mut rows: impl Stream<Item = std::result::Result<RecordBatch, E>> + Unpin,
    work: &MemoryReservation,
    copies: usize,
) -> std::result::Result<Vec<RecordBatch>, E>
where
    E: From<DataFusionError>,
{
    let mut batches = Vec::new();
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        let bytes = usize::try_from(sliced_bytes(&batch)).unwrap_or(usize::MAX);
        work.try_grow(bytes.saturating_mul(copies))?;
        batches.push(batch);
    }
    Ok(batches)
}

/// DataFusion's view of the budget.
struct BudgetPool {
    budget: Arc<MemoryBudget>,
    state: Mutex<State>,
}

struct State {
    /// All that operators have.
    charge: Charge,
    /// Operators that can write to files.
    spillers: u64,
    /// What these have.
    spillable: u64,
}

impl fmt::Debug for BudgetPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BudgetPool")
            .field("reserved", &self.reserved())
            .finish()
    }
}

impl fmt::Display for BudgetPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} bytes reserved", self.name(), self.reserved())
    }
}

impl MemoryPool for BudgetPool {
    fn name(&self) -> &str {
        "the executor's budget"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        if consumer.can_spill() {
            self.state.lock().spillers += 1;
        }
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        if consumer.can_spill() {
            self.state.lock().spillers -= 1;
        }
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        let mut state = self.state.lock();
        let bytes = state.charge.bytes() + additional as u64;
        state.charge.resize(bytes);
        if reservation.consumer().can_spill() {
            state.spillable += additional as u64;
        }
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        let mut state = self.state.lock();
        let bytes = state.charge.bytes().saturating_sub(shrink as u64);
        state.charge.resize(bytes);
        if reservation.consumer().can_spill() {
            state.spillable = state.spillable.saturating_sub(shrink as u64);
        }
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let bytes = additional as u64;
        let spills = reservation.consumer().can_spill();
        if spills {
            let state = self.state.lock();
            let others = state.charge.bytes() - state.spillable.min(state.charge.bytes());
            let attainable = self.budget.attainable(MemoryKind::Tasks).saturating_sub(others);
            if reservation.size() as u64 + bytes > attainable / state.spillers.max(1) {
                return Err(self.refuse(reservation, bytes));
            }
        }
        // Having others give way may take as long as writing files: not under the lock.
        let Some(charge) = self.budget.acquire(MemoryKind::Tasks, bytes) else {
            return Err(self.refuse(reservation, bytes));
        };
        let mut state = self.state.lock();
        state.charge.merge(charge);
        if spills {
            state.spillable += bytes;
        }
        Ok(())
    }

    fn reserved(&self) -> usize {
        usize::try_from(self.state.lock().charge.bytes()).unwrap_or(usize::MAX)
    }

    fn memory_limit(&self) -> MemoryLimit {
        let limit = self.budget.attainable(MemoryKind::Tasks);
        MemoryLimit::Finite(usize::try_from(limit).unwrap_or(usize::MAX))
    }
}

impl BudgetPool {
    fn refuse(&self, reservation: &MemoryReservation, bytes: u64) -> DataFusionError {
        resources_datafusion_err!(
            "{} has {} bytes and needs {bytes} more, and there is no room in memory ({}): give executors more memory \
             (executor.memory), or use more partitions",
            reservation.consumer().name(),
            reservation.size(),
            self.budget.describe()
        )
    }
}

#[cfg(test)]
mod tests {
    use tidemill_storage::MemoryLimits;
    use tidemill_types::Incarnation;

    use super::*;

    fn pool(total: u64) -> (Arc<MemoryBudget>, Workspace, tempfile::TempDir) {
        let parent = tempfile::tempdir().unwrap();
        let budget = MemoryBudget::new(MemoryLimits::without_floors(total));
        let spill = SpillDir::create(parent.path(), Incarnation(1), 1 << 20).unwrap();
        let workspace = Workspace::new(&budget, &spill).unwrap();
        (budget, workspace, parent)
    }

    #[test]
    fn operators_take_from_the_budget_and_give_back() {
        let (budget, workspace, _directory) = pool(1000);
        let pool = &workspace.runtime().memory_pool;
        let join = MemoryConsumer::new("a join").register(pool);
        join.try_grow(400).unwrap();
        assert_eq!(budget.used(MemoryKind::Tasks), 400);
        let blocks = budget.charge(MemoryKind::Blocks, 500);
        let error = join.try_grow(200).unwrap_err().to_string();
        assert!(error.contains("a join has 400 bytes and needs 200 more"), "{error}");
        assert!(
            error.contains("blocks 500") && error.contains("executor.memory"),
            "{error}"
        );
        drop(blocks);
        join.try_grow(200).unwrap();
        drop(join);
        assert_eq!(budget.total(), 0);
    }

    #[test]
    fn operators_that_can_spill_share_evenly() {
        let (budget, workspace, _directory) = pool(1000);
        let pool = &workspace.runtime().memory_pool;
        let sorts: Vec<_> = (0..2)
            .map(|_| MemoryConsumer::new("a sort").with_can_spill(true).register(pool))
            .collect();
        sorts[0].try_grow(500).unwrap();
        assert!(sorts[0].try_grow(1).is_err(), "the rest is for the other");
        sorts[1].try_grow(500).unwrap();
        drop(sorts);
        let alone = MemoryConsumer::new("a sort").with_can_spill(true).register(pool);
        alone.try_grow(1000).unwrap();
        assert_eq!(budget.used(MemoryKind::Tasks), 1000);
    }
}
