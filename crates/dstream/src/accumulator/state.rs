//! What an accumulator has taken in: a task's delta, a batch's share, or the total. All are of one form.

use std::collections::BTreeSet;

use super::{AccumulatorKind, ExactSum, HyperLogLog, Scalar, ValueType};

/// The states of an accumulator of some kind. Two of one kind merge, in any order, to the same.
#[derive(Clone, Debug, PartialEq)]
pub struct AccumulatorState {
    /// Values taken in: neither null nor NaN.
    pub count: u64,
    /// NaN that were given.
    pub nan: u64,
    pub held: Held,
}

/// What is held beside the count, by kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Held {
    /// Nothing more: the count is the value.
    Count,
    /// Wide enough for 2^64 values, so that a sum within its type is right whatever was on the way to it.
    Integers(i128),
    Floats(Box<ExactSum>),
    Least(Option<Scalar>),
    Greatest(Option<Scalar>),
    Distinct(DistinctSet),
    Approximate(HyperLogLog),
    /// By bucket, the last above all bounds.
    Buckets(Vec<u64>),
    /// The bytes of a registered kind; `None` before the first value.
    Native(Option<Vec<u8>>),
}

/// A set of values that gives up above a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DistinctSet {
    /// `None`: there were more than can be held.
    values: Option<BTreeSet<Scalar>>,
    /// Of the values, about: texts may be long.
    bytes: usize,
}

/// Bytes of the values of one set.
const MAX_SET_BYTES: usize = 16 << 20;

/// States of different kinds: they are not of one accumulator, or damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a state of another kind of accumulator")]
pub struct Mismatch;

/// Merges and reads states of registered kinds, which are bytes here.
pub trait NativeMerge {
    /// Takes `other` into `state`. Associative and commutative.
    ///
    /// # Errors
    /// Why it cannot be.
    fn merge(&self, name: &str, state: &mut Vec<u8>, other: &[u8]) -> Result<(), String>;

    /// What a state stands for; `None` is that of nothing added.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn value(&self, name: &str, state: Option<&[u8]>) -> Result<Scalar, String>;
}

impl AccumulatorState {
    /// Nothing added.
    #[must_use]
    pub fn zero(kind: &AccumulatorKind, value_type: Option<ValueType>) -> Self {
        let held = match kind {
            AccumulatorKind::Count => Held::Count,
            AccumulatorKind::Sum | AccumulatorKind::Average => match value_type {
                Some(ValueType::Float) => Held::Floats(Box::default()),
                _ => Held::Integers(0),
            },
            AccumulatorKind::Min => Held::Least(None),
            AccumulatorKind::Max => Held::Greatest(None),
            AccumulatorKind::Distinct { .. } => Held::Distinct(DistinctSet::default()),
            AccumulatorKind::ApproxDistinct => Held::Approximate(HyperLogLog::default()),
            AccumulatorKind::Histogram { bounds } => Held::Buckets(vec![0; bounds.len() + 1]),
            AccumulatorKind::Native { .. } => Held::Native(None),
        };
        Self { count: 0, nan: 0, held }
    }

    /// Whether nothing was added, not even NaN.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.count == 0 && self.nan == 0
    }

    /// Counts values whose value makes no difference.
    pub fn add_count(&mut self, values: u64) {
        self.count += values;
    }

    /// Takes in a value. `hash` is asked for where values go by their hashes.
    ///
    /// # Errors
    /// The kind does not take values of this type.
    pub fn add(
        &mut self,
        kind: &AccumulatorKind,
        value: &Scalar,
        hash: impl FnOnce(&Scalar) -> u64,
    ) -> Result<(), Mismatch> {
        if !matches!(self.held, Held::Count)
            && let Scalar::Float(number) = value
            && number.is_nan()
        {
            self.nan += 1;
            return Ok(());
        }
        match (&mut self.held, value) {
            (Held::Count, _) => {}
            // Of 2^64 values of 64 bits none goes over 128.
            (Held::Integers(sum), Scalar::Integer(value)) => *sum = sum.wrapping_add(i128::from(*value)),
            (Held::Floats(sum), Scalar::Float(value)) => sum.add(*value),
            (Held::Least(least), value) => {
                if least.as_ref().is_none_or(|least| value < least) {
                    *least = Some(value.clone());
                }
            }
            (Held::Greatest(greatest), value) => {
                if greatest.as_ref().is_none_or(|greatest| value > greatest) {
                    *greatest = Some(value.clone());
                }
            }
            (Held::Distinct(set), value) => {
                let AccumulatorKind::Distinct { limit } = kind else {
                    return Err(Mismatch);
                };
                set.insert(value, *limit);
            }
            (Held::Approximate(sketch), value) => sketch.add(hash(value)),
            (Held::Buckets(buckets), Scalar::Float(value)) => {
                let AccumulatorKind::Histogram { bounds } = kind else {
                    return Err(Mismatch);
                };
                let bucket = bounds.partition_point(|bound| bound < value);
                *buckets.get_mut(bucket).ok_or(Mismatch)? += 1;
            }
            (Held::Integers(_) | Held::Floats(_) | Held::Buckets(_) | Held::Native(_), _) => return Err(Mismatch),
        }
        self.count += 1;
        Ok(())
    }

    /// Has a registered kind take in values: its bytes, which are `zero` before the first.
    ///
    /// # Errors
    /// The kind is no registered one.
    pub fn native_mut(&mut self, zero: impl FnOnce() -> Vec<u8>) -> Result<&mut Vec<u8>, Mismatch> {
        match &mut self.held {
            Held::Native(state) => Ok(state.get_or_insert_with(zero)),
            _ => Err(Mismatch),
        }
    }

    /// Takes in what another state has taken in.
    ///
    /// # Errors
    /// It is of another kind, or a registered kind cannot merge it; then this state may be half merged.
    pub fn merge(&mut self, kind: &AccumulatorKind, other: &Self, native: &dyn NativeMerge) -> Result<(), String> {
        match (&mut self.held, &other.held) {
            (Held::Count, Held::Count) => {}
            (Held::Integers(sum), Held::Integers(other)) => *sum = sum.wrapping_add(*other),
            (Held::Floats(sum), Held::Floats(other)) => sum.merge(other),
            (Held::Least(least), Held::Least(other)) => {
                if let Some(other) = other
                    && least.as_ref().is_none_or(|least| other < least)
                {
                    *least = Some(other.clone());
                }
            }
            (Held::Greatest(greatest), Held::Greatest(other)) => {
                if let Some(other) = other
                    && greatest.as_ref().is_none_or(|greatest| other > greatest)
                {
                    *greatest = Some(other.clone());
                }
            }
            (Held::Distinct(set), Held::Distinct(other)) => {
                let AccumulatorKind::Distinct { limit } = kind else {
                    return Err(Mismatch.to_string());
                };
                set.merge(other, *limit);
            }
            (Held::Approximate(sketch), Held::Approximate(other)) => sketch.merge(other),
            (Held::Buckets(buckets), Held::Buckets(other)) if buckets.len() == other.len() => {
                for (bucket, other) in buckets.iter_mut().zip(other) {
                    *bucket = bucket.saturating_add(*other);
                }
            }
            (Held::Native(state), Held::Native(other)) => {
                let AccumulatorKind::Native { name } = kind else {
                    return Err(Mismatch.to_string());
                };
                match (state.as_mut(), other) {
                    (_, None) => {}
                    (None, Some(other)) => *state = Some(other.clone()),
                    (Some(state), Some(other)) => native.merge(name, state, other)?,
                }
            }
            _ => return Err(Mismatch.to_string()),
        }
        self.count = self.count.saturating_add(other.count);
        self.nan = self.nan.saturating_add(other.nan);
        Ok(())
    }
}

impl Default for DistinctSet {
    fn default() -> Self {
        Self {
            values: Some(BTreeSet::new()),
            bytes: 0,
        }
    }
}

impl DistinctSet {
    /// A set of these values; `None`: of more than can be held.
    #[must_use]
    pub fn of(values: Option<impl IntoIterator<Item = Scalar>>) -> Self {
        let values: Option<BTreeSet<Scalar>> = values.map(|values| values.into_iter().collect());
        let bytes = values.iter().flatten().map(Scalar::size).sum();
        Self { values, bytes }
    }

    /// `None`: there were more than can be held.
    #[must_use]
    pub fn values(&self) -> Option<&BTreeSet<Scalar>> {
        self.values.as_ref()
    }

    fn insert(&mut self, value: &Scalar, limit: u32) {
        if let Some(values) = &mut self.values
            && !values.contains(value)
        {
            self.bytes += value.size();
            values.insert(value.clone());
            self.give_up_over(limit);
        }
    }

    fn merge(&mut self, other: &Self, limit: u32) {
        match (&mut self.values, &other.values) {
            (None, _) => {}
            (_, None) => *self = Self { values: None, bytes: 0 },
            (Some(values), Some(others)) => {
                for value in others {
                    if values.insert(value.clone()) {
                        self.bytes += value.size();
                    }
                }
                self.give_up_over(limit);
            }
        }
    }

    /// Whatever the order in which parts of a set merge: a part is over a limit only if the whole is.
    fn give_up_over(&mut self, limit: u32) {
        let number = self.values.as_ref().map_or(0, BTreeSet::len);
        if number > limit as usize || self.bytes > MAX_SET_BYTES {
            *self = Self { values: None, bytes: 0 };
        }
    }
}
