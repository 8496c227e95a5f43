//! A graph that grows while its rows stay comparable.

use super::random::Random;
use super::{Case, Menu};
use crate::reference::{Model, Named, Op, Schema, column};

/// Operators between a source and an output, at most.
const DEPTH: u64 = 8;
/// Draws that do not fit are dropped; so many are enough for any graph.
const DRAWS: u64 = 60;

pub(super) struct Growth<'a> {
    pub(super) case: Case,
    pub(super) random: Random,
    menu: &'a Menu,
    pub(super) schemas: Vec<Schema>,
    pub(super) slides: Vec<u64>,
    /// By node, how many operators are on the longest way to it.
    depths: Vec<u64>,
}

impl<'a> Growth<'a> {
    pub(super) fn new(mut case: Case, random: Random, menu: &'a Menu) -> Self {
        for source in 0..case.inputs.len() {
            case.model.add(format!("in{source}"), Op::Source, &[]);
        }
        let sources = case.inputs.len();
        let mut growth = Self {
            case,
            random,
            menu,
            schemas: vec![Model::source_columns(); sources],
            slides: vec![1; sources],
            depths: vec![0; sources],
        };
        for source in 0..sources {
            if growth.random.one_in(3) {
                growth.rename(source);
            }
        }
        growth
    }

    /// A stream's columns under other names, so that keys that meet are not called alike.
    fn rename(&mut self, parent: usize) {
        let key = self.random.pick(&["k2", "user"]);
        let value = self.random.pick(&["v", "n"]);
        let columns = [(key, "k"), (value, "v"), ("t", "t")];
        let columns = columns.map(|(name, of)| Named::new(name, column(of)));
        self.add(Op::Map(columns.into()), &[parent]);
    }

    pub(super) fn grow(mut self) -> Case {
        let most = self.model().nodes.len() as u64 + self.random.between(2, 14);
        for _ in 0..DRAWS {
            if self.model().nodes.len() as u64 >= most {
                break;
            }
            let last = self.model().nodes.len() - 1;
            let parent = match self.random.below(3) {
                0 => self.random.below(last as u64 + 1) as usize,
                _ => last,
            };
            if self.depths[parent] < DEPTH {
                self.draw(parent);
            }
        }
        self.finish()
    }

    pub(super) fn model(&self) -> &Model {
        &self.case.model
    }

    /// The name of the next node.
    fn name(&self) -> String {
        format!("s{}", self.model().nodes.len())
    }

    /// Adds a node if it fits; gives its place.
    pub(super) fn add(&mut self, op: Op, inputs: &[usize]) -> Option<usize> {
        let depth = 1 + inputs.iter().map(|input| self.depths[*input]).max()?;
        if depth > DEPTH {
            return None;
        }
        let name = self.name();
        let place = self.case.model.add(name, op, inputs);
        self.case.model.nodes[place].own_stream = self.random.one_in(3);
        let fits = self.fits(place);
        match fits {
            Some(schema) => {
                self.schemas.push(schema);
                self.slides = self.case.model.slides();
                self.depths.push(depth);
                Some(place)
            }
            None => {
                self.case.model.nodes.pop();
                None
            }
        }
    }

    fn fits(&mut self, place: usize) -> Option<Schema> {
        let schema = self.case.model.schema_of(place, &self.schemas).ok()?;
        let graph = self.case.model.lower("random", &[]).ok()?;
        let mut steps = graph.streams.iter().flat_map(|stream| &stream.steps);
        if steps.any(|step| self.menu.excluded.iter().any(|name| name == step.operator.name())) {
            return None;
        }
        let evaluation = self.case.expected(None).ok()?;
        let has_rows = |node: usize| {
            (1..=self.case.batches).any(|batch| evaluation.rows(node, batch).is_some_and(|rows| !rows.is_empty()))
        };
        // What never has a record shows little.
        let parents = self.case.model.nodes[place].inputs.iter();
        let is_dull = !has_rows(place) && parents.copied().any(has_rows);
        if is_dull && !self.random.one_in(10) {
            return None;
        }
        Some(schema)
    }

    /// Removes what was added from a place on.
    pub(super) fn cut(&mut self, place: usize) {
        self.case.model.nodes.truncate(place);
        self.schemas.truncate(place);
        self.slides.truncate(place);
        self.depths.truncate(place);
    }

    /// Whether every way to the node goes by the slide that its first inputs say: in SQL, streams of different slides
    /// may be joined, and then there are fewer batches than a window above would think.
    pub(super) fn is_even(&self, place: usize) -> bool {
        let nodes = &self.model().nodes;
        nodes[place].inputs.iter().all(|input| {
            let reset = nodes[place].op.window().is_some();
            self.is_even(*input) && (reset || self.slides[*input] == self.slides[place])
        })
    }

    /// Outputs are all that nobody reads, and some others.
    fn finish(mut self) -> Case {
        for place in 0..self.case.model.nodes.len() {
            let nodes = &self.case.model.nodes;
            let is_read = nodes.iter().any(|node| node.inputs.contains(&place));
            let is_source = nodes[place].op == Op::Source;
            let is_chosen = !is_read || self.random.one_in(6);
            if is_chosen && !is_source {
                self.case.model.outputs.push(place);
            }
        }
        if self.case.model.outputs.is_empty() {
            self.case.model.outputs.push(0);
        }
        self.case
    }
}
