//! Where the remembered partitions of datasets are.

use std::collections::{BTreeMap, BTreeSet};

use tidemill_types::{DatasetId, ExecutorId};

/// A partition of a dataset, by its batch's index first, so that what is forgotten stands in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Part {
    pub(crate) index: i64,
    pub(crate) dataset: DatasetId,
    pub(crate) partition: u32,
}

/// A part is held by one executor, or it is lost, or nobody asks for it.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    /// Parts that an executor has, or makes or fetches at present: readers wait for them there.
    held: BTreeMap<Part, ExecutorId>,
    lost: BTreeSet<Part>,
}

impl Parts {
    pub(crate) fn place(&mut self, part: Part, executor: ExecutorId) {
        self.held.insert(part, executor);
        self.lost.remove(&part);
    }

    pub(crate) fn holder(&self, part: Part) -> Option<ExecutorId> {
        self.held.get(&part).copied()
    }

    pub(crate) fn lose(&mut self, part: Part) {
        if self.held.remove(&part).is_some() {
            self.lost.insert(part);
        }
    }

    pub(crate) fn lose_of(&mut self, executor: ExecutorId) {
        let lost = self.held.extract_if(.., |_, holder| *holder == executor);
        self.lost.extend(lost.map(|(part, _)| part));
    }

    /// Lets go of all parts before an index.
    pub(crate) fn forget_before(&mut self, index: i64) {
        while self.held.first_key_value().is_some_and(|(part, _)| part.index < index) {
            self.held.pop_first();
        }
        while self.lost.first().is_some_and(|part| part.index < index) {
            self.lost.pop_first();
        }
    }

    pub(crate) fn forget(&mut self, part: Part) {
        self.held.remove(&part);
        self.lost.remove(&part);
    }

    pub(crate) fn held(&self) -> impl Iterator<Item = (Part, ExecutorId)> {
        self.held.iter().map(|(part, holder)| (*part, *holder))
    }

    pub(crate) fn lost(&self) -> impl Iterator<Item = Part> {
        self.lost.iter().copied()
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}
