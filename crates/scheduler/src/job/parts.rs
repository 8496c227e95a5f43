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

/// A part is held by one executor, or it is lost, or nobody asks for it. Another executor may have a copy of one that is
/// held.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    /// Parts that an executor has, or makes or fetches at present: readers wait for them there.
    held: BTreeMap<Part, ExecutorId>,
    lost: BTreeSet<Part>,
    copies: BTreeMap<Part, ExecutorId>,
    /// Lost parts that somebody outside of the job asks for.
    asked: BTreeSet<Part>,
}

impl Parts {
    pub(crate) fn place(&mut self, part: Part, executor: ExecutorId) {
        self.held.insert(part, executor);
        self.lost.remove(&part);
        self.asked.remove(&part);
        if self.copies.get(&part) == Some(&executor) {
            self.copies.remove(&part);
        }
    }

    /// Another executor has a copy of a part, or is about to.
    pub(crate) fn copy(&mut self, part: Part, executor: ExecutorId) {
        if self.held.get(&part).is_some_and(|holder| *holder != executor) {
            self.copies.insert(part, executor);
        }
    }

    pub(crate) fn holder(&self, part: Part) -> Option<ExecutorId> {
        self.held.get(&part).copied()
    }

    pub(crate) fn copied_to(&self, part: Part) -> Option<ExecutorId> {
        self.copies.get(&part).copied()
    }

    /// A part was made once and nobody has it.
    pub(crate) fn miss(&mut self, part: Part) {
        if !self.held.contains_key(&part) {
            self.lost.insert(part);
        }
    }

    pub(crate) fn lose(&mut self, part: Part) {
        self.copies.remove(&part);
        if self.held.remove(&part).is_some() {
            self.lost.insert(part);
        }
    }

    /// An executor does not have a part any more. What another has a copy of is held there from now on; true: it is lost.
    pub(crate) fn lose_at(&mut self, part: Part, executor: ExecutorId) -> bool {
        if self.copies.get(&part) == Some(&executor) {
            self.copies.remove(&part);
            return false;
        }
        if self.held.get(&part) != Some(&executor) {
            return false;
        }
        match self.copies.remove(&part) {
            Some(copy) => {
                self.held.insert(part, copy);
                false
            }
            None => {
                self.lose(part);
                true
            }
        }
    }

    pub(crate) fn lose_of(&mut self, executor: ExecutorId) {
        self.copies.retain(|_, copy| *copy != executor);
        let of = |(part, holder): (&Part, &ExecutorId)| (*holder == executor).then_some(*part);
        for part in self.held.iter().filter_map(of).collect::<Vec<_>>() {
            self.lose_at(part, executor);
        }
    }

    /// Somebody wants a part that is lost.
    pub(crate) fn ask(&mut self, part: Part) {
        if self.lost.contains(&part) {
            self.asked.insert(part);
        }
    }

    pub(crate) fn is_asked(&self, part: Part) -> bool {
        self.asked.contains(&part)
    }

    /// Lets go of all parts before an index.
    pub(crate) fn forget_before(&mut self, index: i64) {
        while self.held.first_key_value().is_some_and(|(part, _)| part.index < index) {
            self.held.pop_first();
        }
        for parts in [&mut self.lost, &mut self.asked] {
            while parts.first().is_some_and(|part| part.index < index) {
                parts.pop_first();
            }
        }
        while self
            .copies
            .first_key_value()
            .is_some_and(|(part, _)| part.index < index)
        {
            self.copies.pop_first();
        }
    }

    pub(crate) fn forget(&mut self, part: Part) {
        self.held.remove(&part);
        self.lost.remove(&part);
        self.copies.remove(&part);
        self.asked.remove(&part);
    }

    /// Lets go of the parts of a dataset before an index.
    pub(crate) fn forget_of(&mut self, dataset: DatasetId, index: i64) {
        let known = self.held.keys().chain(&self.lost);
        let gone = known.filter(|part| part.dataset == dataset && part.index < index);
        for part in gone.copied().collect::<Vec<_>>() {
            self.forget(part);
        }
    }

    pub(crate) fn held(&self) -> impl Iterator<Item = (Part, ExecutorId)> {
        self.held.iter().map(|(part, holder)| (*part, *holder))
    }

    pub(crate) fn lost(&self) -> impl Iterator<Item = Part> {
        self.lost.iter().copied()
    }

    #[cfg(test)]
    pub(crate) fn copies(&self) -> impl Iterator<Item = (Part, ExecutorId)> {
        self.copies.iter().map(|(part, holder)| (*part, *holder))
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}
