//! Walks over a graph: who reads whom, in which order, how often.
//!
//! Every walk is iterative and linear in the graph: a job may have thousands of streams in one chain.

use std::collections::HashMap;
use std::time::Duration;

use crate::{Diagnostic, Diagnostics, JobGraph, StreamDef, StreamInput};

/// Something that reads a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consumer<'a> {
    /// The named stream begins with it.
    Stream(&'a str),
    /// The step of the named stream takes it in: a union, a join and the like.
    Step { stream: &'a str, step: usize },
    /// The output at this place writes it.
    Output(usize),
}

/// Each stream and what reads it through `from` or a step that names it, in definition order. Streams that SQL alone names are not known
/// here. Readers of streams that do not exist are left out.
#[must_use]
pub fn consumers(graph: &JobGraph) -> Vec<(&StreamDef, Vec<Consumer<'_>>)> {
    let names = Names::new(graph);
    let mut consumers: Vec<(&StreamDef, Vec<Consumer<'_>>)> =
        graph.streams.iter().map(|stream| (stream, Vec::new())).collect();
    for stream in &graph.streams {
        for edge in edges(stream) {
            let consumer = match edge.step {
                None => Consumer::Stream(&stream.name),
                Some(step) => Consumer::Step {
                    stream: &stream.name,
                    step,
                },
            };
            if let Some(index) = names.get(edge.parent) {
                consumers[index].1.push(consumer);
            }
        }
    }
    for (place, output) in graph.outputs.iter().enumerate() {
        if let Some(index) = names.get(&output.from) {
            consumers[index].1.push(Consumer::Output(place));
        }
    }
    consumers
}

/// Positions of streams by name; of streams with one name, the first.
pub(super) struct Names<'a>(HashMap<&'a str, usize>);

impl<'a> Names<'a> {
    pub(super) fn new(graph: &'a JobGraph) -> Self {
        let mut names = HashMap::with_capacity(graph.streams.len());
        for (index, stream) in graph.streams.iter().enumerate() {
            names.entry(stream.name.as_str()).or_insert(index);
        }
        Self(names)
    }

    pub(super) fn get(&self, name: &str) -> Option<usize> {
        self.0.get(name).copied()
    }
}

/// A stream's reference to another.
pub(super) struct Edge<'a> {
    pub(super) parent: &'a str,
    /// The step that makes it, `None` for `from`.
    pub(super) step: Option<usize>,
}

/// The streams that `stream` reads, as it names them.
pub(super) fn edges(stream: &StreamDef) -> impl Iterator<Item = Edge<'_>> {
    let from = match &stream.input {
        StreamInput::From(parent) => Some(Edge { parent, step: None }),
        StreamInput::Source(_) => None,
    };
    let steps = stream.steps.iter().enumerate().flat_map(|(index, step)| {
        step.operator.streams().iter().map(move |parent| Edge {
            parent,
            step: Some(index),
        })
    });
    from.into_iter().chain(steps)
}

/// Cycles that are reported; each may be as long as the graph.
const MAX_CYCLES: usize = 20;

/// The streams with parents before children and otherwise in definition order, and the first cycles that prevent it,
/// each stream in them reading the next. Without cycles the order is true.
pub(super) struct Order {
    pub(super) sorted: Vec<usize>,
    pub(super) cycles: Vec<Vec<usize>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Visit {
    New,
    /// On the path from the stream that the walk began with.
    Open,
    Done,
}

/// Depth first from each stream in turn, over the streams that it reads. Unknown names are passed over.
pub(super) fn order(graph: &JobGraph, names: &Names<'_>) -> Order {
    let parents: Vec<Vec<usize>> = graph
        .streams
        .iter()
        .map(|stream| edges(stream).filter_map(|edge| names.get(edge.parent)).collect())
        .collect();
    let mut order = Order {
        sorted: Vec::with_capacity(graph.streams.len()),
        cycles: Vec::new(),
    };
    let mut visits = vec![Visit::New; graph.streams.len()];
    // The open streams, each with the number of its parents that were looked at.
    let mut path: Vec<(usize, usize)> = Vec::new();
    for start in 0..graph.streams.len() {
        if visits[start] != Visit::New {
            continue;
        }
        visits[start] = Visit::Open;
        path.push((start, 0));
        while let Some((stream, next)) = path.last_mut() {
            let Some(&parent) = parents[*stream].get(*next) else {
                visits[*stream] = Visit::Done;
                order.sorted.push(*stream);
                path.pop();
                continue;
            };
            *next += 1;
            match visits[parent] {
                Visit::New => {
                    visits[parent] = Visit::Open;
                    path.push((parent, 0));
                }
                Visit::Open if order.cycles.len() < MAX_CYCLES => {
                    let from = path.iter().rposition(|(open, _)| *open == parent).unwrap_or(0);
                    order.cycles.push(path[from..].iter().map(|(open, _)| *open).collect());
                }
                Visit::Open | Visit::Done => {}
            }
        }
    }
    order
}

/// How many streams of a cycle a message names.
const CYCLE_NAMES: usize = 20;

/// A cycle said as `a -> b -> a`, from its stream that is defined first.
pub(super) fn cycle_fault(graph: &JobGraph, cycle: &[usize]) -> Diagnostic {
    let first = cycle
        .iter()
        .enumerate()
        .min_by_key(|(_, stream)| **stream)
        .map_or(0, |(place, _)| place);
    let names: Vec<&str> = (0..=cycle.len())
        .map(|i| graph.streams[cycle[(first + i) % cycle.len()]].name.as_str())
        .collect();
    let named = if names.len() > CYCLE_NAMES {
        let (head, tail) = (&names[..CYCLE_NAMES / 2], &names[names.len() - CYCLE_NAMES / 2..]);
        let left_out = names.len() - CYCLE_NAMES;
        format!("{} -> ({left_out} more) -> {}", head.join(" -> "), tail.join(" -> "))
    } else {
        names.join(" -> ")
    };
    let stream = &graph.streams[cycle[first]];
    Diagnostic::new(
        stream.line.0,
        format!("streams.{}", stream.name),
        format!("streams read each other in a cycle: {named}"),
    )
    .subject(&stream.name)
    .hint("each stream in it reads the next; a stream can only read streams that do not depend on it")
}

/// The slide of `stream` if its parent's is `parent`: that of its last window that has one.
pub(super) fn slide_after(stream: &StreamDef, parent: Duration) -> Duration {
    let own = stream.steps.iter().rev().find_map(|step| step.operator.window()?.1);
    own.unwrap_or(parent)
}

impl JobGraph {
    /// How often a stream has a dataset: its own slide, else its parent's, else the batch interval. `None` for a
    /// stream that is not there or whose parents are not.
    #[must_use]
    pub fn slide(&self, stream: &str) -> Option<Duration> {
        let names = Names::new(self);
        let mut def = &self.streams[names.get(stream)?];
        // A chain longer than the number of streams is a cycle.
        for _ in 0..=self.streams.len() {
            if let Some(own) = def.steps.iter().rev().find_map(|step| step.operator.window()?.1) {
                return Some(own);
            }
            match &def.input {
                StreamInput::Source(_) => return Some(self.batch_interval),
                StreamInput::From(parent) => def = &self.streams[names.get(parent)?],
            }
        }
        None
    }

    /// The streams with parents before children, otherwise in definition order, where `from` and steps that name streams make parents.
    ///
    /// # Errors
    /// Names that are not there, and cycles.
    pub fn topological(&self) -> Result<Vec<&StreamDef>, Diagnostics> {
        let names = Names::new(self);
        let mut faults = super::Faults::default();
        super::references(self, &names, &mut faults);
        let order = order(self, &names);
        faults.extend(order.cycles.iter().map(|cycle| cycle_fault(self, cycle)));
        faults.into_result()?;
        Ok(order.sorted.into_iter().map(|index| &self.streams[index]).collect())
    }
}
