//! What can be wrong with broadcast variables before their values are read.

use std::collections::HashSet;

use super::{Faults, clipped, identifier};
use crate::{BroadcastDef, BroadcastSource, JobGraph, Literal, Shape, literal_type};

pub(super) fn check(graph: &JobGraph, faults: &mut Faults) {
    for def in &graph.broadcasts {
        let path = format!("broadcasts.{}", def.name);
        identifier(faults, def.line, &path, "broadcast", &def.name);
        faults.whole_millis(def.line, format!("{path}.reload"), def.reload);
        if def.reload.is_some() && !matches!(def.source, BroadcastSource::File { .. }) {
            faults.hinted(
                def.line,
                format!("{path}.reload"),
                "only a file can be looked at again",
                "with `updatable: true` a client can give it new values",
            );
        }
        source(def, &path, faults);
    }
}

fn source(def: &BroadcastDef, path: &str, faults: &mut Faults) {
    let mut of_one_type = |place: String, literals: &mut dyn Iterator<Item = &Literal>| {
        if let Err(fault) = literal_type(literals) {
            faults.add(def.line, place, fault);
        }
    };
    let inline = match &def.source {
        BroadcastSource::File { path: file, .. } => {
            faults.not_empty(def.line, format!("{path}.file"), "the path", file);
            return;
        }
        BroadcastSource::Query(sql) => {
            faults.not_empty(def.line, format!("{path}.query"), "the query", sql);
            return;
        }
        BroadcastSource::Arrow(_) => return,
        BroadcastSource::Value(_) | BroadcastSource::Bytes(_) => Shape::Scalar,
        BroadcastSource::List(values) => {
            of_one_type(format!("{path}.list"), &mut values.iter());
            Shape::List
        }
        BroadcastSource::Map(entries) => {
            of_one_type(format!("{path}.map"), &mut entries.iter().map(|(key, _)| key));
            of_one_type(format!("{path}.map"), &mut entries.iter().map(|(_, value)| value));
            Shape::Map
        }
        BroadcastSource::Rows(rows) => {
            rows_alike(def, path, rows, faults);
            Shape::Table
        }
    };
    if let Some(shape) = def.shape
        && shape != inline
    {
        let message = format!("this value is a {}, not a {}", inline.name(), shape.name());
        faults.add(def.line, format!("{path}.as"), message);
    }
}

fn rows_alike(def: &BroadcastDef, path: &str, rows: &[Vec<(String, Literal)>], faults: &mut Faults) {
    let place = format!("{path}.rows");
    let Some(first) = rows.first().filter(|row| !row.is_empty()) else {
        faults.hinted(
            def.line,
            place,
            "there is no row, so no column",
            "such as `rows: [{id: 1}]`",
        );
        return;
    };
    let names: HashSet<&str> = first.iter().map(|(name, _)| name.as_str()).collect();
    for (index, row) in rows.iter().enumerate() {
        let stranger = row.iter().find(|(name, _)| !names.contains(name.as_str()));
        if let Some((name, _)) = stranger {
            let message = format!("the first row has no column `{}`", clipped(name));
            faults.add(def.line, format!("{place}[{index}]"), message);
        }
    }
    for (name, _) in first {
        let column = rows.iter().flatten().filter(|(column, _)| column == name);
        if let Err(fault) = literal_type(column.map(|(_, value)| value)) {
            faults.add(def.line, place.clone(), format!("column `{}`: {fault}", clipped(name)));
        }
    }
}
