//! Windows, and steps that begin with one.

use std::time::Duration;

use tidemill_dstream::Operator;

use super::super::document::Node;
use super::super::functions::{function, mixed, partitions, required_keys};
use super::super::keys;
use super::super::reader::{Reader, Settings};

/// `length`, and maybe `slide`.
fn extent(reader: &mut Reader<'_>, settings: &Settings<'_>) -> Option<(Duration, Option<Duration>)> {
    let length = reader
        .required(settings, "length")
        .and_then(|node| reader.duration(node, &settings.at("length")));
    let slide = reader.optional(settings, "slide", Reader::duration);
    Some((length?, slide?))
}

pub(super) fn window(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Operator> {
    let settings = reader.settings(node, path, keys::WINDOW)?;
    let (length, slide) = extent(reader, &settings)?;
    Some(Operator::Window { length, slide })
}

pub(super) fn count_by_window(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Operator> {
    let settings = reader.settings(node, path, keys::WINDOW)?;
    let (length, slide) = extent(reader, &settings)?;
    Some(Operator::CountByWindow { length, slide })
}

pub(super) fn count_by_value_and_window(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Operator> {
    let settings = reader.settings(node, path, keys::COUNT_BY_VALUE_AND_WINDOW)?;
    let extent = extent(reader, &settings);
    let partitions = partitions(reader, &settings);
    let (length, slide) = extent?;
    Some(Operator::CountByValueAndWindow {
        length,
        slide,
        partitions: partitions?,
    })
}

pub(super) fn reduce_by_window(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Operator> {
    let all = mixed(reader, node, path, keys::REDUCE_BY_WINDOW)?;
    let extent = extent(reader, &all.settings);
    let reduction = all.reduction(reader, keys::REDUCE_BY_WINDOW);
    let (length, slide) = extent?;
    Some(Operator::ReduceByWindow {
        length,
        slide,
        reduction: reduction?,
    })
}

pub(super) fn reduce_by_key_and_window(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Operator> {
    let all = mixed(reader, node, path, keys::REDUCE_BY_KEY_AND_WINDOW)?;
    let keys = required_keys(reader, &all.settings);
    let extent = extent(reader, &all.settings);
    let reduction = all.reduction(reader, keys::REDUCE_BY_KEY_AND_WINDOW);
    let filter = reader.optional(&all.settings, "filter", function);
    let partitions = partitions(reader, &all.settings);
    let (length, slide) = extent?;
    Some(Operator::ReduceByKeyAndWindow {
        keys: keys?,
        length,
        slide,
        reduction: reduction?,
        filter: filter?,
        partitions: partitions?,
    })
}

pub(super) fn group_by_key_and_window(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Operator> {
    let settings = reader.settings(node, path, keys::GROUP_BY_KEY_AND_WINDOW)?;
    let keys = required_keys(reader, &settings);
    let extent = extent(reader, &settings);
    let partitions = partitions(reader, &settings);
    let (length, slide) = extent?;
    Some(Operator::GroupByKeyAndWindow {
        keys: keys?,
        length,
        slide,
        partitions: partitions?,
    })
}
