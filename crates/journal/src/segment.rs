//! Putting the records of many groups in a row, whoever wrote them.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::group::{Decoded, FORMAT, Group};

/// The groups of a file. A torn tail is left out: it was never durable.
pub(crate) fn groups(place: &str, bytes: &Bytes) -> Result<Vec<Group>> {
    let mut groups = Vec::new();
    let mut rest = bytes.clone();
    while !rest.is_empty() {
        match Group::decode(&rest) {
            Decoded::Group(group, length) => {
                groups.push(group);
                rest = rest.slice(length..);
            }
            Decoded::Format(found) => return Err(format(place, found)),
            // What comes behind was made durable after it, so that it cannot be a write that was cut off.
            Decoded::Incomplete | Decoded::Damaged(_) if Group::any_behind(&rest) => {
                return Err(Error::Damaged {
                    place: format!("{place}, byte {}", bytes.len() - rest.len()),
                    reason: "unreadable bytes stand before a group that can be read".to_owned(),
                });
            }
            Decoded::Incomplete | Decoded::Damaged(_) => break,
        }
    }
    Ok(groups)
}

/// The one group of an object.
pub(crate) fn whole_group(place: &str, bytes: &Bytes) -> Result<Group> {
    let damaged = |reason: &str| Error::Damaged {
        place: place.to_owned(),
        reason: reason.to_owned(),
    };
    match Group::decode(bytes) {
        Decoded::Group(group, length) if length == bytes.len() => Ok(group),
        Decoded::Group(..) => Err(damaged("bytes stand behind its group")),
        Decoded::Incomplete => Err(damaged("its group is not whole")),
        Decoded::Damaged(reason) => Err(damaged(reason)),
        Decoded::Format(found) => Err(format(place, found)),
    }
}

fn format(place: &str, found: u16) -> Error {
    Error::Format {
        place: place.to_owned(),
        found,
        known: FORMAT,
    }
}

/// The records behind `snapshot`, from the groups of segments in the order in which these were begun. The first sequence
/// of a segment is where the one before it ends, whatever a writer still appended there that was not told of it.
pub(crate) fn in_a_row(snapshot: u64, segments: Vec<(String, Vec<Group>)>) -> Result<Vec<(u64, Bytes)>> {
    let mut records: BTreeMap<u64, Bytes> = BTreeMap::new();
    let mut place = String::from("its beginning");
    for (name, groups) in segments {
        let Some(first) = groups.first() else { continue };
        records.split_off(&first.first);
        let next = records.last_key_value().map_or(snapshot, |(last, _)| *last) + 1;
        if first.first > next {
            return Err(missing(name, next, first.first));
        }
        for group in groups {
            for (sequence, record) in (group.first..).zip(group.records) {
                if sequence > snapshot {
                    records.insert(sequence, record);
                }
            }
        }
        place = name;
    }
    for (expected, found) in (snapshot + 1..).zip(records.keys()) {
        if expected != *found {
            return Err(missing(place, expected, *found));
        }
    }
    Ok(records.into_iter().collect())
}

fn missing(place: String, from: u64, until: u64) -> Error {
    Error::Damaged {
        place,
        reason: format!("records {from} to {} are missing", until - 1),
    }
}
