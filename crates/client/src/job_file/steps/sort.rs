//! `sort_by`.

use tidemill_dstream::{Operator, SortKey};

use super::super::document::{Data, Node};
use super::super::functions::{function, is_native};
use super::super::keys;
use super::super::reader::Reader;
use super::super::sources::each;
use crate::sort_key::sort_key;

const ORDERS: &[(&str, bool)] = &[("asc", false), ("desc", true)];
const NULLS: &[(&str, bool)] = &[("first", true), ("last", false)];

/// A sort key, a list of them, or `{by: .., limit: ..}`.
pub(super) fn sort_by(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Operator> {
    if !matches!(node.data, Data::Map(_)) || is_native(node) {
        let keys = sort_keys(reader, node, path)?;
        return Some(Operator::SortBy { keys, limit: None });
    }
    let settings = reader.settings(node, path, keys::SORT_BY)?;
    let keys = reader
        .required(&settings, "by")
        .and_then(|node| sort_keys(reader, node, &settings.at("by")));
    let limit = reader.optional(&settings, "limit", |reader, node, path| {
        reader.number(node, path, u64::MAX)
    });
    Some(Operator::SortBy {
        keys: keys?,
        limit: limit?,
    })
}

fn sort_keys(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Vec<SortKey>> {
    match &node.data {
        Data::List(items) => each(items, path, |item, at| one(reader, item, at)),
        _ => one(reader, node, path).map(|key| vec![key]),
    }
}

/// `expression DESC NULLS LAST`, `{native: name}`, or `{by: function, order: desc, nulls: last}`.
fn one(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<SortKey> {
    if !matches!(node.data, Data::Map(_)) {
        return reader.expression(node, path).map(|sql| sort_key(&sql));
    }
    if is_native(node) {
        return Some(SortKey {
            function: function(reader, node, path)?,
            descending: false,
            nulls_first: None,
        });
    }
    let settings = reader.settings(node, path, keys::SORT_KEY)?;
    let by = reader
        .required(&settings, "by")
        .and_then(|node| function(reader, node, &settings.at("by")));
    let descending = reader.optional(&settings, "order", |reader, node, path| {
        reader.choice(node, path, "order", ORDERS)
    });
    let nulls_first = reader.optional(&settings, "nulls", |reader, node, path| {
        reader.choice(node, path, "place of nulls", NULLS)
    });
    Some(SortKey {
        function: by?,
        descending: descending?.unwrap_or(false),
        nulls_first: nulls_first?,
    })
}
