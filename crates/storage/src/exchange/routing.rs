//! Which executor reads which partition of an exchange, for each batch.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tidemill_types::{BatchTime, ExecutorId, RoutingVersion, StageId};

use super::Destinations;

/// What is behind a stage: the stage that reads, and for each partition of the exchange the partitions of that stage
/// that read it. With a hash each is read by one, with a broadcast the only one is read by all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    pub to: StageId,
    pub readers: Vec<Vec<u32>>,
}

/// For each stage, the executors of its partitions.
pub type RoutingTable = HashMap<StageId, Vec<ExecutorId>>;

/// The exchanges of a job and their routing. Plain data, owned by the router.
#[derive(Debug, Default)]
pub(super) struct JobRouting {
    exchanges: HashMap<StageId, Exchange>,
    tables: BTreeMap<RoutingVersion, RoutingTable>,
    batches: BTreeMap<BatchTime, BatchRouting>,
    /// Batches before this one are forgotten, unless they are in `batches`.
    forgotten_before: Option<BatchTime>,
    /// Batches at or after `forgotten_before` that were forgotten one by one.
    forgotten: BTreeSet<BatchTime>,
}

#[derive(Debug)]
struct BatchRouting {
    version: RoutingVersion,
    /// Partitions of reading stages that moved after the launch.
    moved: HashMap<(StageId, u32), ExecutorId>,
    /// The batch was forgotten once and is run again.
    reopened: bool,
}

impl JobRouting {
    pub(super) fn install(&mut self, exchanges: HashMap<StageId, Exchange>) {
        self.exchanges = exchanges;
    }

    pub(super) fn change(&mut self, version: RoutingVersion, table: RoutingTable) {
        self.tables.insert(version, table);
        self.prune();
    }

    pub(super) fn latest(&self) -> RoutingVersion {
        self.tables
            .last_key_value()
            .map(|(version, _)| *version)
            .unwrap_or_default()
    }

    pub(super) fn launch(&mut self, batch: BatchTime, version: RoutingVersion) {
        let reopened = self.is_forgotten(batch);
        self.forgotten.remove(&batch);
        let routing = self.batches.entry(batch).or_insert_with(|| BatchRouting {
            version,
            moved: HashMap::new(),
            reopened,
        });
        if version > routing.version {
            // The later table has the moves in it.
            routing.version = version;
            routing.moved.clear();
        }
    }

    /// The version that `batch` was launched with; the latest, if its launch is not known here.
    pub(super) fn batch_version(&self, batch: BatchTime) -> RoutingVersion {
        self.batches
            .get(&batch)
            .map_or_else(|| self.latest(), |routing| routing.version)
    }

    /// Moves the readers of `partitions` to where `version` has them, unless the batch is forgotten. `None` if the
    /// exchange or its routing is not known.
    pub(super) fn redirect(
        &mut self,
        batch: BatchTime,
        from_stage: StageId,
        partitions: &[u32],
        version: RoutingVersion,
    ) -> Option<()> {
        let exchange = self.exchanges.get(&from_stage)?;
        let table = self.table(version)?.get(&exchange.to)?;
        let readers = partitions
            .iter()
            .filter_map(|partition| exchange.readers.get(*partition as usize))
            .flatten();
        let moved: Vec<_> = readers
            .map(|reader| Some(((exchange.to, *reader), *table.get(*reader as usize)?)))
            .collect::<Option<_>>()?;
        if self.is_forgotten(batch) {
            return Some(());
        }
        let current = self.batch_version(batch);
        let routing = self.batches.entry(batch).or_insert_with(|| BatchRouting {
            version: current,
            moved: HashMap::new(),
            reopened: false,
        });
        routing.moved.extend(moved);
        Some(())
    }

    /// The executors that read `partitions` (or all) of what a map of `from_stage` makes in `batch`.
    pub(super) fn destinations(
        &self,
        batch: BatchTime,
        from_stage: StageId,
        partitions: Option<&[u32]>,
    ) -> Option<Destinations> {
        let exchange = self.exchanges.get(&from_stage)?;
        let routing = self.batches.get(&batch);
        let table = self.table(self.batch_version(batch))?.get(&exchange.to)?;
        let mut destinations = Destinations::new();
        for (partition, readers) in (0_u32..).zip(&exchange.readers) {
            if partitions.is_some_and(|partitions| !partitions.contains(&partition)) {
                continue;
            }
            for reader in readers {
                let moved = routing.and_then(|routing| routing.moved.get(&(exchange.to, *reader)));
                let executor = moved.or_else(|| table.get(*reader as usize))?;
                let targets = destinations.entry(*executor).or_default();
                if targets.last() != Some(&partition) {
                    targets.push(partition);
                }
            }
        }
        Some(destinations)
    }

    pub(super) fn is_forgotten(&self, batch: BatchTime) -> bool {
        let before = self.forgotten_before.is_some_and(|before| batch < before) && !self.batches.contains_key(&batch);
        before || self.forgotten.contains(&batch)
    }

    pub(super) fn forget_before(&mut self, before: BatchTime) {
        self.forgotten_before = self.forgotten_before.max(Some(before));
        self.forgotten.retain(|batch| *batch >= before);
        self.batches
            .retain(|batch, routing| *batch >= before || routing.reopened);
        self.prune();
    }

    pub(super) fn forget_batch(&mut self, batch: BatchTime) {
        self.batches.remove(&batch);
        if self.forgotten_before.is_none_or(|before| batch >= before) {
            self.forgotten.insert(batch);
        }
        self.prune();
    }

    /// The table of `version`, or the last one before it.
    fn table(&self, version: RoutingVersion) -> Option<&RoutingTable> {
        self.tables.range(..=version).next_back().map(|(_, table)| table)
    }

    /// Drops tables that no batch goes by.
    fn prune(&mut self) {
        let oldest = self.batches.values().map(|routing| routing.version).min();
        let oldest = oldest.map_or_else(|| self.latest(), |oldest| oldest.min(self.latest()));
        let Some(first) = self.tables.range(..=oldest).next_back().map(|(version, _)| *version) else {
            return;
        };
        self.tables = self.tables.split_off(&first);
    }
}
