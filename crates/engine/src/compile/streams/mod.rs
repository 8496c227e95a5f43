//! The job graph as logical plans, one for each stream, every step type-checked where it stands.
//!
//! A plan reads other streams through leaves only; which of them are computed in place and which are datasets is
//! decided afterwards, when all readers are known. A stream is split in several nodes where its rows up to a step are
//! read as a whole: below a window, and below a transform, whose SQL may read its input more than once.

mod extent;
mod layout;
mod operators;
mod outputs;
mod state;
mod window;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::error::Result;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use tidemill_dstream::{Diagnostic, Function, JobGraph, Line, Operator, OutputKind, StreamDef, StreamInput};
use tidemill_types::{OutputId, StorageLevel, StreamId};

use self::extent::Extent;
pub(super) use self::layout::{Finish, Layout};
use self::window::slide_of;
use super::diagnose::Place;
use super::leaf::{Leaf, LeafTable, NodeId};
use super::sql::{self, Relations};
use crate::TableData;

/// A plan whose rows may be kept: a stream, a part of one, or what an output makes of one.
pub(super) struct Node {
    /// For people.
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) plan: LogicalPlan,
    /// It has rows in every `slide`-th batch.
    pub(super) slide: u32,
    /// Outputs that take its rows as they are.
    pub(super) outputs: Vec<OutputId>,
    pub(super) layout: Layout,
    /// It keeps state: it has to be computed once in every batch.
    pub(super) stateful: bool,
    /// Its rows are kept, for a stage with all that reads them would be too high.
    pub(super) kept: bool,
    /// What is planned and run with it.
    extent: Extent,
    /// Planning moves no rows.
    narrow: bool,
    /// The streams that have its rows and whose batches are remembered beyond what windows need.
    pub(super) remembered: Vec<String>,
    /// How its batches are kept, if a job says so.
    pub(super) level: Option<StorageLevel>,
}

impl Node {
    /// The columns of its rows.
    pub(super) fn schema(&self) -> SchemaRef {
        let schema = Arc::new(self.plan.schema().as_arrow().clone());
        self.layout.schema(schema)
    }
}

/// All nodes of a job; a node reads only nodes before it.
pub(super) struct Streams {
    pub(super) nodes: Vec<Node>,
    /// The columns of each stream, in definition order.
    pub(super) schemas: Vec<(String, SchemaRef)>,
    pub(super) unused: Vec<String>,
}

/// Makes the nodes of a job, or says all that is wrong with it.
pub(super) async fn elaborate(graph: &JobGraph, tables: &[TableData], state: &SessionState) -> Result<Streams, Faults> {
    let mut elaborator = Elaborator {
        graph,
        tables,
        state,
        nodes: Vec::new(),
        streams: HashMap::new(),
        snapshots: HashMap::new(),
        broken: HashSet::new(),
        faults: Vec::new(),
    };
    for stream in elaborator.in_order() {
        match elaborator.stream(stream).await {
            Ok(Some(node)) => {
                elaborator.streams.insert(&stream.name, node);
            }
            Ok(None) => {
                elaborator.broken.insert(&stream.name);
            }
            Err(faults) => {
                elaborator.broken.insert(&stream.name);
                elaborator.faults.extend(faults);
            }
        }
    }
    for (i, output) in graph.outputs.iter().enumerate() {
        if let Err(faults) = elaborator.output(OutputId(i as u32), output).await {
            elaborator.faults.extend(faults);
        }
    }
    elaborator.finish()
}

/// Where a step stands.
#[derive(Clone, Copy)]
struct Site<'a> {
    stream: &'a StreamDef,
    step: usize,
    place: &'a Place,
}

impl Site<'_> {
    /// What the rows before the step are called.
    fn before(&self) -> String {
        match (self.step, &self.stream.input) {
            (0, StreamInput::Source(_)) => self.stream.name.clone(),
            (step, _) => format!("{}.steps[..{step}]", self.stream.name),
        }
    }

    /// What the rows behind the step are called.
    fn behind(&self) -> String {
        match self.step + 1 {
            last if last == self.stream.steps.len() => self.stream.name.clone(),
            next => format!("{}.steps[..{next}]", self.stream.name),
        }
    }
}

type Faults = Vec<Diagnostic>;

struct Elaborator<'a> {
    graph: &'a JobGraph,
    tables: &'a [TableData],
    state: &'a SessionState,
    nodes: Vec<Node>,
    streams: HashMap<&'a str, NodeId>,
    /// How the states of streams that end with `map_with_state` are read, where a stream asks for them.
    snapshots: HashMap<String, LeafTable>,
    /// Streams with faults: what reads them is not looked at.
    broken: HashSet<&'a str>,
    faults: Faults,
}

impl<'a> Elaborator<'a> {
    /// The streams, each behind those that it reads and otherwise in definition order. The streams of a cycle, and those
    /// behind it, are reported and left out.
    fn in_order(&mut self) -> Vec<&'a StreamDef> {
        let streams = &self.graph.streams;
        let mut places: HashMap<&str, usize> = HashMap::new();
        for (place, stream) in streams.iter().enumerate() {
            places.entry(&stream.name).or_insert(place);
        }
        let mut readers: Vec<Vec<usize>> = vec![Vec::new(); streams.len()];
        let mut waits_for = vec![0; streams.len()];
        for (place, stream) in streams.iter().enumerate() {
            let reads = self.reads(stream);
            let parents: BTreeSet<usize> = reads
                .iter()
                .filter_map(|name| places.get(name.as_str()).copied())
                .collect();
            waits_for[place] = parents.len();
            for parent in parents {
                readers[parent].push(place);
            }
        }
        let mut ready: BTreeSet<usize> = (0..streams.len()).filter(|place| waits_for[*place] == 0).collect();
        let mut ordered = Vec::with_capacity(streams.len());
        while let Some(place) = ready.pop_first() {
            ordered.push(&streams[place]);
            for reader in &readers[place] {
                waits_for[*reader] -= 1;
                if waits_for[*reader] == 0 {
                    ready.insert(*reader);
                }
            }
        }
        for (stream, _) in streams.iter().zip(&waits_for).filter(|(_, waits_for)| **waits_for > 0) {
            let place = Place::new(format!("streams.{}", stream.name), stream.line);
            let fault = place.diagnostic("reads itself through other streams");
            self.faults.push(fault.subject(&stream.name));
            self.broken.insert(&stream.name);
        }
        ordered
    }

    /// The names of the streams that a stream reads.
    fn reads(&self, stream: &StreamDef) -> Vec<String> {
        let mut names = Vec::new();
        if let StreamInput::From(parent) = &stream.input {
            names.push(parent.clone());
        }
        for step in &stream.steps {
            match &step.operator {
                Operator::Transform {
                    function: Function::Expr(sql),
                }
                | Operator::TransformWith { sql, .. } => {
                    let relations = sql::relations(sql, self.state);
                    names.extend(
                        relations
                            .into_iter()
                            .filter(|name| name != sql::INPUT && *name != stream.name),
                    );
                }
                _ => {}
            }
            names.extend(step.operator.streams().iter().cloned());
        }
        names
    }

    /// `None` if a stream that it reads is broken.
    async fn stream(&mut self, stream: &'a StreamDef) -> Result<Option<NodeId>, Faults> {
        if self
            .reads(stream)
            .iter()
            .any(|name| self.broken.contains(name.as_str()))
        {
            return Ok(None);
        }
        let place = Place::new(format!("streams.{}", stream.name), stream.line);
        let mut plan = match &stream.input {
            StreamInput::Source(_) => self.source(stream, &place)?,
            StreamInput::From(parent) => self.scan(parent, &place)?,
        };
        for (i, step) in stream.steps.iter().enumerate() {
            let at = format!("streams.{}.steps[{i}].{}", stream.name, step.operator.name());
            let place = Place::new(at, Line(step.line.0.or(stream.line.0)));
            let site = Site {
                stream,
                step: i,
                place: &place,
            };
            let expanded = step.operator.expand();
            for operator in expanded.as_deref().unwrap_or(std::slice::from_ref(&step.operator)) {
                plan = self.step_within_bounds(site, operator, plan).await?;
            }
        }
        Ok(Some(self.push(&stream.name, place, plan)))
    }

    fn source(&self, stream: &StreamDef, place: &Place) -> Result<LogicalPlan, Faults> {
        let id = self
            .graph
            .sources()
            .position(|(source, _)| source.name == stream.name)
            .unwrap_or_default();
        let leaf = LeafTable {
            leaf: Leaf::Source(StreamId(id as u32)),
            slide: 1,
            label: format!("source {}", stream.name),
            schema: Arc::new(Schema::new(vec![Field::new("value", DataType::Utf8View, false)])),
            physical: None,
        };
        leaf.scan(&stream.name).map_err(|e| vec![place.explain(&e, self.state)])
    }

    pub(super) fn is_broadcast(&self, name: &str) -> bool {
        self.graph.broadcasts.iter().any(|def| def.name == name)
    }

    /// A plan that reads another stream, or a broadcast variable, which validation lets joins alone name.
    fn scan(&self, name: &str, place: &Place) -> Result<LogicalPlan, Faults> {
        match self.streams.get(name) {
            Some(node) => self
                .leaf(*node)
                .scan(name)
                .map_err(|e| vec![place.explain(&e, self.state)]),
            None if self.is_broadcast(name) => {
                let table = self
                    .tables
                    .iter()
                    .find(|table| table.name == name)
                    .map(LeafTable::table);
                let table = table.ok_or_else(|| vec![place.diagnostic(format!("`{name}` has no rows"))])?;
                table.scan(name).map_err(|e| vec![place.explain(&e, self.state)])
            }
            None => {
                let known: Vec<&str> = self.graph.streams.iter().map(|stream| stream.name.as_str()).collect();
                Err(vec![
                    place
                        .diagnostic(format!("unknown stream `{name}`"))
                        .suggest(name, known),
                ])
            }
        }
    }

    /// How a node is read. A node that only passes on what it reads is looked through.
    fn leaf(&self, id: NodeId) -> LeafTable {
        let node = &self.nodes[id.0];
        match LeafTable::bare(&node.plan) {
            Some(leaf) if !matches!(leaf.leaf, Leaf::Source(_)) && !node.layout.is_sealed() => leaf,
            _ => LeafTable {
                leaf: Leaf::Stream(id),
                slide: node.slide,
                label: node.name.clone(),
                schema: node.schema(),
                physical: None,
            },
        }
    }

    /// The node whose rows are the very rows of a node, as they are looked through to.
    fn keeper(&self, node: NodeId) -> NodeId {
        let leaf = self.leaf(node);
        match leaf.leaf {
            Leaf::Stream(target) if self.nodes[target.0].slide == leaf.slide => target,
            _ => node,
        }
    }

    fn push(&mut self, name: &str, place: Place, plan: LogicalPlan) -> NodeId {
        let slide = slide_of(&plan);
        let (extent, narrow) = (self.extent(&plan), self.is_narrow(&plan));
        self.nodes.push(Node {
            name: name.to_owned(),
            place,
            plan,
            slide,
            outputs: Vec::new(),
            layout: Layout::default(),
            stateful: false,
            kept: false,
            extent,
            narrow,
            remembered: Vec::new(),
            level: None,
        });
        NodeId(self.nodes.len() - 1)
    }

    /// The rows before a step as a node of their own, and how it is read.
    fn split(&mut self, site: Site<'_>, input: LogicalPlan) -> (NodeId, LeafTable) {
        match LeafTable::bare(&input) {
            // A window of one batch reads the stream itself, but not as often as it has rows.
            Some(leaf)
                if let Leaf::Stream(node) = leaf.leaf
                    && leaf.slide == self.nodes[node.0].slide =>
            {
                (node, leaf)
            }
            _ => {
                let node = self.push(&site.before(), site.place.clone(), input);
                (node, self.leaf(node))
            }
        }
    }

    /// What SQL can name: its input, the other streams, the tables.
    fn relations(&self, own: &str, input: LeafTable) -> Relations {
        let mut relations = Relations::default();
        for table in self.tables {
            relations.add(&table.name, LeafTable::table(table));
        }
        for (name, node) in &self.streams {
            relations.add(name, self.leaf(*node));
        }
        relations.add(own, input.clone());
        relations.add(sql::INPUT, input);
        relations
    }

    fn finish(mut self) -> Result<Streams, Faults> {
        if !self.faults.is_empty() {
            return Err(self.faults);
        }
        self.remember();
        let schema = |name: &str| {
            let node = self.streams.get(name)?;
            let leaf = self.leaf(*node);
            Some((name.to_owned(), leaf.schema))
        };
        let schemas = self
            .graph
            .streams
            .iter()
            .filter_map(|stream| schema(&stream.name))
            .collect();
        let used: HashSet<String> = self
            .graph
            .streams
            .iter()
            .flat_map(|stream| self.reads(stream))
            .chain(self.read_by_outputs())
            .collect();
        let unused = self.graph.streams.iter().filter(|stream| !used.contains(&stream.name));
        Ok(Streams {
            schemas,
            unused: unused.map(|stream| stream.name.clone()).collect(),
            nodes: self.nodes,
        })
    }
    /// The names of the streams that outputs read, and of tables that they name.
    fn read_by_outputs(&self) -> impl Iterator<Item = String> {
        self.graph.outputs.iter().flat_map(|output| {
            let query = match &output.kind {
                OutputKind::Table { query: Some(query), .. } => sql::relations(query, self.state),
                _ => Vec::new(),
            };
            query.into_iter().chain([output.from.clone()])
        })
    }

    /// Has the streams remembered that some output depends on: all of them if the job says so, else those that it
    /// persists.
    fn remember(&mut self) {
        let all = self.graph.options.remember.is_some();
        if !all && self.graph.streams.iter().all(|stream| stream.persist.is_none()) {
            return;
        }
        let streams = self.graph.streams.iter();
        let streams: HashMap<&str, &StreamDef> = streams.map(|stream| (stream.name.as_str(), stream)).collect();
        let mut needed: HashSet<String> = HashSet::new();
        let mut open: Vec<String> = self.read_by_outputs().collect();
        while let Some(name) = open.pop() {
            if let Some(stream) = streams.get(name.as_str())
                && needed.insert(name)
            {
                open.extend(self.reads(stream));
            }
        }
        for stream in &self.graph.streams {
            if let Some(node) = self.streams.get(stream.name.as_str())
                && needed.contains(&stream.name)
                && (all || stream.persist.is_some())
            {
                let keeper = self.keeper(*node);
                let node = &mut self.nodes[keeper.0];
                node.remembered.push(stream.name.clone());
                // Streams with the very same rows are one: it is kept as the most careful of them says.
                node.level = node.level.max(stream.persist);
            }
        }
    }
}
