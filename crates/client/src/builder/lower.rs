//! From handles to named streams.
//!
//! A place becomes a stream of its own if something looks at it: it was named or persisted, it is the end of a chain with an output,
//! a step takes it in or looks at its state, or it is continued more than once. All others are steps of the place behind them. Places that
//! lead nowhere are left out, unless they have a name, which SQL may use.

use std::collections::HashSet;

use tidemill_dstream::{JobGraph, Line, Operator, OutputDef, Step, StreamDef, StreamInput};

use super::{Job, NodeKind};

pub(super) fn lower(job: &Job) -> JobGraph {
    let names = names(job);
    let streams = (0..job.nodes.len()).filter_map(|node| {
        let name = names[node].clone()?;
        Some(stream(job, &names, node, name))
    });
    let outputs = job.outputs.iter().map(|(node, kind)| OutputDef {
        from: name(&names, *node),
        kind: kind.clone(),
        line: Line(None),
    });
    JobGraph {
        name: job.name.clone(),
        batch_interval: job.batch_interval,
        options: job.options.clone(),
        accumulators: job.accumulators.clone(),
        tables: job.tables.clone(),
        broadcasts: job.broadcasts.clone(),
        streams: streams.collect(),
        outputs: outputs.collect(),
    }
}

/// The name of a place that something looks at, which [`names`] has given one.
fn name(names: &[Option<String>], node: usize) -> String {
    names[node].clone().unwrap_or_default()
}

/// The names of the places that become streams: their own, or `stream_1` and so on.
pub(super) fn names(job: &Job) -> Vec<Option<String>> {
    let mut continued = vec![0_usize; job.nodes.len()];
    let mut looked_at = vec![false; job.nodes.len()];
    for (node, _) in &job.outputs {
        looked_at[*node] = true;
    }
    // Children stand behind their parents, so what leads nowhere is known before its parent is reached.
    for node in (0..job.nodes.len()).rev() {
        let own = job.nodes[node].name.is_some() || job.nodes[node].persist.is_some();
        looked_at[node] |= own || continued[node] > 1;
        if !looked_at[node] && continued[node] == 0 {
            continue;
        }
        match &job.nodes[node].kind {
            NodeKind::Source(_) => {}
            NodeKind::Step {
                parent,
                operator,
                others,
            } => {
                continued[*parent] += 1;
                looked_at[*parent] |= matches!(operator, Operator::StateSnapshots);
                others.iter().for_each(|other| looked_at[*other] = true);
            }
        }
    }
    let mut taken: HashSet<&str> = job.nodes.iter().filter_map(|node| node.name.as_deref()).collect();
    taken.extend(job.tables.iter().map(|table| table.name.as_str()));
    taken.extend(job.broadcasts.iter().map(|def| def.name.as_str()));
    let mut generated = (1..)
        .map(|number| format!("stream_{number}"))
        .filter(|name| !taken.contains(name.as_str()));
    let name = |(node, looked_at): (usize, bool)| {
        if looked_at {
            job.nodes[node].name.clone().or_else(|| generated.next())
        } else {
            None
        }
    };
    looked_at.into_iter().enumerate().map(name).collect()
}

/// The stream that ends at `node`: its steps back to the next place that is a stream, or to a source.
fn stream(job: &Job, names: &[Option<String>], node: usize, own_name: String) -> StreamDef {
    let mut steps = Vec::new();
    let mut at = node;
    let input = loop {
        let (parent, operator) = match &job.nodes[at].kind {
            NodeKind::Source(source) => break StreamInput::Source(source.clone()),
            NodeKind::Step {
                parent,
                operator,
                others,
            } => {
                let others = others.iter().map(|other| name(names, *other)).collect();
                (*parent, with_streams(operator.clone(), others))
            }
        };
        steps.push(Step {
            operator,
            line: Line(None),
        });
        if let Some(parent) = &names[parent] {
            break StreamInput::From(parent.clone());
        }
        at = parent;
    };
    steps.reverse();
    StreamDef {
        name: own_name,
        input,
        steps,
        persist: job.nodes[node].persist,
        line: Line(None),
    }
}

/// The operator with the names of the streams that it takes in.
fn with_streams(mut operator: Operator, names: Vec<String>) -> Operator {
    match &mut operator {
        Operator::Union { with } | Operator::Cogroup { with, .. } | Operator::TransformWith { with, .. } => {
            *with = names
        }
        // A join with a broadcast variable has its name already.
        Operator::Join { with, .. } => {
            if let Some(name) = names.into_iter().next() {
                *with = name;
            }
        }
        _ => {}
    }
    operator
}
