//! The job graph as logical plans, one for each stream, every step type-checked where it stands.
//!
//! A plan reads other streams through leaves only; which of them are computed in place and which are datasets is
//! decided afterwards, when all readers are known. A stream is split in several nodes where its rows up to a step are
//! read as a whole: below a window, and below a transform, whose SQL may read its input more than once.

mod outputs;
mod state;
mod window;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::error::Result;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use tidemill_dstream::{
    Diagnostic, Function, JobGraph, Line, Operator, OutputKind, Reduction, Step, StreamDef, StreamInput,
};
use tidemill_types::{OutputId, StreamId};

use self::window::slide_of;
use super::diagnose::Place;
use super::leaf::{Leaf, LeafTable, NodeId};
use super::sql::{self, Relations};
use super::steps::StepBuilder;
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
    /// Into how many partitions the rows are spread at the end.
    pub(super) files: Option<u32>,
}

/// All nodes of a job; a node reads only nodes before it.
pub(super) struct Streams {
    pub(super) nodes: Vec<Node>,
    /// The columns of each stream, in definition order.
    pub(super) schemas: Vec<(String, SchemaRef)>,
    pub(super) unused: Vec<String>,
}

/// Makes the nodes of a job, or says all that is wrong with it.
pub(super) async fn elaborate(
    graph: &JobGraph,
    tables: &[TableData],
    state: &SessionState,
) -> Result<Streams, Vec<Diagnostic>> {
    let mut elaborator = Elaborator {
        graph,
        tables,
        state,
        nodes: Vec::new(),
        streams: HashMap::new(),
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

struct Elaborator<'a> {
    graph: &'a JobGraph,
    tables: &'a [TableData],
    state: &'a SessionState,
    nodes: Vec<Node>,
    streams: HashMap<&'a str, NodeId>,
    /// Streams with faults: what reads them is not looked at.
    broken: HashSet<&'a str>,
    faults: Vec<Diagnostic>,
}

impl<'a> Elaborator<'a> {
    /// The streams, each behind those that it reads. The streams of a cycle are reported and left out.
    fn in_order(&mut self) -> Vec<&'a StreamDef> {
        let graph = self.graph;
        let mut open: Vec<&'a StreamDef> = graph.streams.iter().collect();
        let mut done: HashSet<&'a str> = HashSet::new();
        let mut ordered = Vec::with_capacity(open.len());
        loop {
            let (ready, blocked): (Vec<_>, Vec<_>) = open.iter().copied().partition(|stream| {
                let reads = self.reads(stream);
                reads
                    .iter()
                    .all(|name| done.contains(name.as_str()) || graph.stream(name).is_none())
            });
            if ready.is_empty() {
                for stream in &blocked {
                    let place = Place::new(format!("streams.{}", stream.name), stream.line);
                    self.faults.push(
                        place
                            .diagnostic("reads itself through other streams")
                            .subject(&stream.name),
                    );
                    self.broken.insert(&stream.name);
                }
                return ordered;
            }
            done.extend(ready.iter().map(|stream| stream.name.as_str()));
            ordered.extend(ready);
            open = blocked;
            if open.is_empty() {
                return ordered;
            }
        }
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
    async fn stream(&mut self, stream: &'a StreamDef) -> Result<Option<NodeId>, Vec<Diagnostic>> {
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
            match step.operator.expand() {
                None => plan = self.step(stream, i, step, plan, &place).await?,
                Some(operators) => {
                    for operator in operators {
                        let line = step.line;
                        plan = self.step(stream, i, &Step { operator, line }, plan, &place).await?;
                    }
                }
            }
        }
        Ok(Some(self.push(&stream.name, place, plan)))
    }

    async fn step(
        &mut self,
        stream: &StreamDef,
        index: usize,
        step: &Step,
        input: LogicalPlan,
        place: &Place,
    ) -> Result<LogicalPlan, Vec<Diagnostic>> {
        let state = self.state;
        let builder = StepBuilder { state, place };
        match &step.operator {
            Operator::Map { columns } => builder.map(input, columns),
            Operator::FlatMap { columns } => builder.flat_map(input, columns),
            Operator::Filter { predicate } => builder.filter(input, predicate),
            Operator::Union { with } => {
                let others = with.iter().map(|name| Ok((name.clone(), self.scan(name, place)?)));
                let others = others.collect::<Result<_, Vec<Diagnostic>>>()?;
                builder.union(input, others)
            }
            Operator::ReduceByKey {
                keys,
                reduction: Reduction::Aggregates(aggregates),
                partitions: None,
            } => builder.reduce_by_key(input, keys, aggregates),
            Operator::Reduce {
                reduction: Reduction::Aggregates(aggregates),
            } => builder.reduce(input, aggregates),
            Operator::Count => builder.count(input),
            Operator::Window { length, slide } => {
                let (node, _) = self.split(stream, index, input, place);
                self.window(node, *length, *slide, &stream.name, place)
                    .map_err(|fault| vec![fault])
            }
            Operator::Transform {
                function: Function::Expr(sql),
            } => {
                let (_, leaf) = self.split(stream, index, input, place);
                let relations = self.relations(&stream.name, leaf);
                sql::plan(sql, &relations, state, place).await
            }
            Operator::UpdateStateByKey(_) | Operator::MapWithState(_) | Operator::StateSnapshots => {
                self.keyed_state(stream, index, step, input, place)
            }
            other => Err(vec![place.diagnostic(format!("{} is not supported yet", other.name()))]),
        }
    }

    fn source(&self, stream: &StreamDef, place: &Place) -> Result<LogicalPlan, Vec<Diagnostic>> {
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

    /// A plan that reads another stream.
    fn scan(&self, name: &str, place: &Place) -> Result<LogicalPlan, Vec<Diagnostic>> {
        match self.streams.get(name) {
            Some(node) => self
                .leaf(*node)
                .scan(name)
                .map_err(|e| vec![place.explain(&e, self.state)]),
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
            Some(leaf) if !matches!(leaf.leaf, Leaf::Source(_)) => leaf,
            _ => LeafTable {
                leaf: Leaf::Stream(id),
                slide: node.slide,
                label: node.name.clone(),
                schema: Arc::new(node.plan.schema().as_arrow().clone()),
                physical: None,
            },
        }
    }

    fn push(&mut self, name: &str, place: Place, plan: LogicalPlan) -> NodeId {
        let slide = slide_of(&plan);
        self.nodes.push(Node {
            name: name.to_owned(),
            place,
            plan,
            slide,
            outputs: Vec::new(),
            files: None,
        });
        NodeId(self.nodes.len() - 1)
    }

    /// The rows before a step as a node of their own, and how it is read.
    fn split(&mut self, stream: &StreamDef, step: usize, input: LogicalPlan, place: &Place) -> (NodeId, LeafTable) {
        match LeafTable::bare(&input) {
            Some(leaf) if let Leaf::Stream(node) = leaf.leaf => (node, leaf),
            _ => {
                let name = match (step, &stream.input) {
                    (0, StreamInput::Source(_)) => stream.name.clone(),
                    _ => format!("{}.steps[..{step}]", stream.name),
                };
                let node = self.push(&name, place.clone(), input);
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

    fn finish(self) -> Result<Streams, Vec<Diagnostic>> {
        if !self.faults.is_empty() {
            return Err(self.faults);
        }
        let schema = |name: &str| {
            let node = self.streams.get(name)?;
            Some((
                name.to_owned(),
                Arc::new(self.nodes[node.0].plan.schema().as_arrow().clone()),
            ))
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
            .chain(self.graph.outputs.iter().flat_map(|output| {
                let query = match &output.kind {
                    OutputKind::Table { query: Some(query), .. } => sql::relations(query, self.state),
                    _ => Vec::new(),
                };
                query.into_iter().chain([output.from.clone()])
            }))
            .collect();
        let unused = self.graph.streams.iter().filter(|stream| !used.contains(&stream.name));
        Ok(Streams {
            schemas,
            unused: unused.map(|stream| stream.name.clone()).collect(),
            nodes: self.nodes,
        })
    }
}
