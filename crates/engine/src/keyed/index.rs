//! The keys of a partition, each with a slot.

use std::ops::Range;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, SortField};
use datafusion::error::Result;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use smallvec::SmallVec;

use super::hash::hash_keys;

/// Most keys are a number or a short text.
const INLINE: usize = 24;

/// Maps keys to slots. A slot is a small number: those of removed keys are given to new ones, so that what is kept for
/// each slot stays as small as the most keys there ever were at once.
pub(crate) struct KeyIndex {
    converter: RowConverter,
    table: HashTable<u32>,
    /// By slot; of a free slot empty.
    keys: Vec<SmallVec<[u8; INLINE]>>,
    hashes: Vec<u64>,
    free: Vec<u32>,
}

impl KeyIndex {
    pub(crate) fn new<'a>(types: impl IntoIterator<Item = &'a DataType>) -> Result<Self> {
        let fields = types.into_iter().map(|t| SortField::new(t.clone()));
        Ok(Self {
            converter: RowConverter::new(fields.collect())?,
            table: HashTable::new(),
            keys: Vec::new(),
            hashes: Vec::new(),
            free: Vec::new(),
        })
    }

    /// The slot of each row's key; keys that are new get one. `columns` have the types of the index and at least one row
    /// or none.
    pub(crate) fn intern(&mut self, columns: &[ArrayRef]) -> Result<Vec<u32>> {
        let hashes = hash_keys(columns)?;
        let rows = self.converter.convert_columns(columns)?;
        let mut slots = Vec::with_capacity(hashes.len());
        for (row, hash) in rows.iter().zip(hashes) {
            let key = row.as_ref();
            let entry = self.table.entry(
                hash,
                |slot| self.hashes[*slot as usize] == hash && self.keys[*slot as usize].as_slice() == key,
                |slot| self.hashes[*slot as usize],
            );
            slots.push(match entry {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(new) => {
                    let slot = match self.free.pop() {
                        Some(slot) => {
                            self.keys[slot as usize] = SmallVec::from_slice(key);
                            self.hashes[slot as usize] = hash;
                            slot
                        }
                        None => {
                            self.keys.push(SmallVec::from_slice(key));
                            self.hashes.push(hash);
                            (self.keys.len() - 1) as u32
                        }
                    };
                    new.insert(slot);
                    slot
                }
            });
        }
        Ok(slots)
    }

    /// Forgets the key of a slot, which is free then.
    pub(crate) fn remove(&mut self, slot: u32) {
        let hash = self.hashes[slot as usize];
        if let Ok(entry) = self.table.find_entry(hash, |known| *known == slot) {
            entry.remove();
            self.keys[slot as usize] = SmallVec::new();
            self.free.push(slot);
        }
    }

    /// Puts keys under the slots that they had in another index; the same key twice only under the same slot. Call
    /// [`Self::free_the_rest`] when all are there.
    pub(crate) fn restore(&mut self, columns: &[ArrayRef], slots: &[u32]) -> Result<()> {
        let hashes = hash_keys(columns)?;
        let rows = self.converter.convert_columns(columns)?;
        let needed = slots.iter().max().map_or(0, |max| *max as usize + 1);
        if self.keys.len() < needed {
            self.keys.resize(needed, SmallVec::new());
            self.hashes.resize(needed, 0);
        }
        for ((row, hash), slot) in rows.iter().zip(hashes).zip(slots) {
            let key = row.as_ref();
            let entry = self.table.entry(
                hash,
                |slot| self.hashes[*slot as usize] == hash && self.keys[*slot as usize].as_slice() == key,
                |slot| self.hashes[*slot as usize],
            );
            if let Entry::Vacant(new) = entry {
                new.insert(*slot);
                self.keys[*slot as usize] = SmallVec::from_slice(key);
                self.hashes[*slot as usize] = hash;
            }
        }
        Ok(())
    }

    /// Makes the slots free that nothing was restored to.
    pub(crate) fn free_the_rest(&mut self) {
        let mut taken = vec![false; self.keys.len()];
        self.table.iter().for_each(|slot| taken[*slot as usize] = true);
        let free = (0..self.keys.len() as u32).filter(|slot| !taken[*slot as usize]);
        self.free = free.collect();
    }

    /// The slots that have a key, ascending.
    pub(crate) fn live(&self) -> impl Iterator<Item = u32> {
        let mut live: Vec<u32> = self.table.iter().copied().collect();
        live.sort_unstable();
        live.into_iter()
    }

    /// The keys of some slots, as columns.
    pub(crate) fn columns(&self, slots: impl Iterator<Item = u32>) -> Result<Vec<ArrayRef>> {
        let parser = self.converter.parser();
        let rows = slots.map(|slot| parser.parse(self.keys[slot as usize].as_slice()));
        Ok(self.converter.convert_rows(rows)?)
    }

    /// The keys of some slots as they are now.
    pub(crate) fn keys(&self, slots: impl Iterator<Item = u32>) -> Keys {
        let mut keys = Keys::default();
        for slot in slots {
            keys.bytes.extend_from_slice(&self.keys[slot as usize]);
            keys.ends.push(keys.bytes.len());
        }
        keys
    }

    pub(crate) fn hash(&self, slot: u32) -> u64 {
        self.hashes[slot as usize]
    }

    /// Keys that there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// One above the greatest slot that was ever given.
    pub(crate) fn slots(&self) -> usize {
        self.keys.len()
    }

    /// Bytes held.
    pub(crate) fn size(&self) -> usize {
        let outside = |key: &SmallVec<[u8; INLINE]>| if key.spilled() { key.capacity() } else { 0 };
        self.table.capacity() * 2 * size_of::<u32>()
            + self.keys.capacity() * size_of::<SmallVec<[u8; INLINE]>>()
            + self.keys.iter().map(outside).sum::<usize>()
            + self.hashes.capacity() * size_of::<u64>()
    }
}

/// Keys apart from their index, so that they can be made columns where nobody waits.
#[derive(Default)]
pub(crate) struct Keys {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Keys {
    /// Some of them, as columns of the types of their index.
    pub(crate) fn columns(&self, types: &[DataType], which: Range<usize>) -> Result<Vec<ArrayRef>> {
        let fields = types.iter().map(|data_type| SortField::new(data_type.clone()));
        let converter = RowConverter::new(fields.collect())?;
        let parser = converter.parser();
        let key = |number: usize| {
            let begin = number.checked_sub(1).map_or(0, |before| self.ends[before]);
            parser.parse(&self.bytes[begin..self.ends[number]])
        };
        Ok(converter.convert_rows(which.map(key))?)
    }

    /// Bytes held.
    pub(crate) fn size(&self) -> usize {
        self.bytes.capacity() + self.ends.capacity() * size_of::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Array, Int64Array, StringViewArray};

    use super::*;

    fn texts(keys: &[Option<&str>]) -> Vec<ArrayRef> {
        vec![Arc::new(StringViewArray::from_iter(keys.iter().copied()))]
    }

    #[test]
    fn a_key_keeps_its_slot_until_it_is_removed() {
        let mut index = KeyIndex::new([&DataType::Utf8View]).unwrap();
        let slots = index.intern(&texts(&[Some("a"), Some("b"), None, Some("a")])).unwrap();
        assert_eq!(slots, [0, 1, 2, 0]);
        index.remove(1);
        index.remove(1);
        assert_eq!(index.len(), 2);
        assert_eq!(index.intern(&texts(&[Some("c"), None, Some("b")])).unwrap(), [1, 2, 3]);
        let keys = index.columns([0, 1, 2, 3].into_iter()).unwrap();
        assert_eq!(&*keys[0], &*texts(&[Some("a"), Some("c"), None, Some("b")])[0]);
    }

    #[test]
    fn restored_keys_have_their_slots_and_the_others_are_free() {
        let mut index = KeyIndex::new([&DataType::Utf8View]).unwrap();
        index.restore(&texts(&[Some("d"), Some("b")]), &[3, 1]).unwrap();
        index.restore(&texts(&[Some("b"), None]), &[1, 0]).unwrap();
        index.free_the_rest();
        assert_eq!(index.live().collect::<Vec<_>>(), [0, 1, 3]);
        let slots = index
            .intern(&texts(&[Some("d"), None, Some("new"), Some("newer"), Some("b")]))
            .unwrap();
        assert_eq!(slots, [3, 0, 2, 4, 1]);
    }

    #[test]
    fn keys_of_several_columns_are_told_apart_by_all_of_them() {
        let mut index = KeyIndex::new([&DataType::Int64, &DataType::Utf8View]).unwrap();
        let columns = |numbers: &[i64], names: &[Option<&str>]| {
            let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(numbers.to_vec()))];
            columns.extend(texts(names));
            columns
        };
        let keys = columns(&[1, 1, 2, 1], &[Some("x"), None, Some("x"), Some("x")]);
        assert_eq!(index.intern(&keys).unwrap(), [0, 1, 2, 0]);
        let found = index.columns([2].into_iter()).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].len(), 1);
    }
}
