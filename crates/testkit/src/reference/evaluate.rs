//! The meaning of a job: its rows, node by node, batch by batch, with everything remembered.

mod operators;
mod sql;
mod state;

use std::collections::BTreeMap;

use super::{Model, Op, Row, Schema, Unfit};
use operators::{Batch, Records};
use state::States;

/// A mistake that the reference makes on purpose, to show that comparing with it finds mistakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// Windows leave out their oldest batch, if they have several.
    WindowForgetsABatch,
    /// Keys that are null do not join.
    NullKeysDoNotJoin,
    /// `count` has no record for an empty batch.
    NoCountOfNothing,
    /// `distinct` keeps all records.
    DistinctKeepsCopies,
    /// Outer joins leave out what has no partner.
    OuterJoinsAreInner,
    /// State of keys without records in a batch is lost.
    UntouchedStateIsLost,
    /// Keys time out in the batch after the one in which they are due.
    TimeoutsAreLate,
}

impl Mistake {
    pub const ALL: [Self; 7] = [
        Self::WindowForgetsABatch,
        Self::NullKeysDoNotJoin,
        Self::NoCountOfNothing,
        Self::DistinctKeepsCopies,
        Self::OuterJoinsAreInner,
        Self::UntouchedStateIsLost,
        Self::TimeoutsAreLate,
    ];
}

/// The rows of each node, for one batch after the other. `None`: the node is not due in that batch.
#[derive(Clone, Debug)]
pub struct Evaluation<'a> {
    model: &'a Model,
    schemas: Vec<Schema>,
    slides: Vec<u64>,
    mistake: Option<Mistake>,
    /// By node, then by batch.
    history: Vec<Vec<Option<Vec<Row>>>>,
    states: Vec<States>,
    batches: u64,
}

/// A batch of more rows takes longer than it is worth.
const MOST_ROWS: usize = 300;

impl<'a> Evaluation<'a> {
    /// # Errors
    /// The model is not well typed.
    pub fn new(model: &'a Model, mistake: Option<Mistake>) -> Result<Self, Unfit> {
        let schemas = model.schemas()?;
        let states = model.nodes.iter().map(|node| States::new(&node.op));
        Ok(Self {
            slides: model.slides(),
            history: vec![Vec::new(); model.nodes.len()],
            states: states.collect(),
            schemas,
            model,
            mistake,
            batches: 0,
        })
    }

    /// The columns of each node.
    #[must_use]
    pub fn schemas(&self) -> &[Schema] {
        &self.schemas
    }

    /// The rows of a node in a batch that has been evaluated, from 1.
    #[must_use]
    pub fn rows(&self, node: usize, batch: u64) -> Option<&[Row]> {
        let index = usize::try_from(batch.checked_sub(1)?).ok()?;
        self.history[node].get(index)?.as_deref()
    }

    /// How many records each node that counts has counted, by its name: all that an output depends on.
    #[must_use]
    pub fn counted(&self) -> BTreeMap<String, u64> {
        let mut needed = vec![false; self.model.nodes.len()];
        for output in &self.model.outputs {
            needed[*output] = true;
        }
        for (place, node) in self.model.nodes.iter().enumerate().rev() {
            if needed[place] {
                node.inputs.iter().for_each(|input| needed[*input] = true);
            }
        }
        let counting = self.model.nodes.iter().zip(&self.history).zip(needed);
        let counting = counting.filter(|((node, _), needed)| *needed && node.op == Op::Accumulate);
        counting
            .map(|((node, batches), _)| {
                let rows = batches.iter().flatten().map(|rows| rows.len() as u64);
                (node.name.clone(), rows.sum())
            })
            .collect()
    }

    /// Evaluates the next batch, given the rows of each source in the order of [`Model::sources`].
    ///
    /// # Errors
    /// There are too many rows, or a value leaves the range in which it can be compared.
    pub fn batch(&mut self, sources: &[Vec<Row>]) -> Result<(), Unfit> {
        self.batches += 1;
        let mut sources = sources.iter();
        for place in 0..self.model.nodes.len() {
            let node = &self.model.nodes[place];
            let rows = match &node.op {
                Op::Source => Some(sources.next().cloned().unwrap_or_default()),
                _ if !self.batches.is_multiple_of(self.slides[place]) => None,
                _ => Some(self.evaluate(place).map_err(|unfit| unfit.within(&node.name))?),
            };
            if rows.as_ref().is_some_and(|rows| rows.len() > MOST_ROWS) {
                return Err(Unfit::new("too many rows").within(&node.name));
            }
            self.history[place].push(rows);
        }
        Ok(())
    }

    /// A node that is due.
    fn evaluate(&mut self, place: usize) -> Result<Vec<Row>, Unfit> {
        let node = &self.model.nodes[place];
        let first = node.inputs[0];
        match &node.op {
            Op::UpdateStateByKey(_) | Op::MapWithState { .. } => {
                let rows = self.rows(first, self.batches).unwrap_or_default().to_vec();
                let records = Records {
                    schema: &self.schemas[first],
                    rows: &rows,
                };
                self.states[place].batch(&node.op, records, self.batches, self.mistake)
            }
            Op::StateSnapshots => Ok(self.states[first].snapshot()),
            Op::Window { length, .. } => Ok(self.window(first, *length)),
            Op::Windowed { length, op, filter, .. } => {
                let window = self.window(first, *length);
                let rows = self.step(op, &[(&self.schemas[first], &window)])?;
                match filter {
                    Some(filter) => self.step(&Op::Filter(filter.clone()), &[(&self.schemas[place], &rows)]),
                    None => Ok(rows),
                }
            }
            op => {
                let inputs = node.inputs.iter().map(|input| {
                    let rows = self.rows(*input, self.batches).unwrap_or_default();
                    (&self.schemas[*input], rows)
                });
                self.step(op, &inputs.collect::<Vec<_>>())
            }
        }
    }

    /// An operator that needs nothing but the batch.
    fn step(&self, op: &Op, inputs: &[(&Schema, &[Row])]) -> Result<Vec<Row>, Unfit> {
        let inputs = inputs.iter().map(|(schema, rows)| Records { schema, rows });
        let batch = Batch {
            inputs: inputs.collect(),
            number: self.batches,
            mistake: self.mistake,
        };
        batch.apply(op)
    }

    /// The rows of the batches in `(now - length, now]`.
    fn window(&self, node: usize, length: u64) -> Vec<Row> {
        let mut first = (self.batches + 1).saturating_sub(length).max(1);
        if self.mistake == Some(Mistake::WindowForgetsABatch) && length > 1 {
            first += 1;
        }
        let batches = (first..=self.batches).filter_map(|batch| self.rows(node, batch));
        batches.flatten().cloned().collect()
    }
}
