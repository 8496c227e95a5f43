//! Random jobs with random input, each by its seed.
//!
//! A graph grows node by node: whatever does not fit, makes too many rows or numbers too large is dropped and another
//! is drawn. A seed gives the same job in every run of one version of this code, and nothing more is promised.

mod expressions;
mod growth;
mod operators;
mod random;
mod state;
mod streams;
#[cfg(test)]
mod tests;
mod windows;

use super::{Evaluation, Mistake, Model, Row, Unfit, Value};
use growth::Growth;
use random::Random;

/// A job, what goes into it, and what it runs on.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    pub seed: u64,
    pub model: Model,
    /// The records of each source, in the order of [`Model::sources`], by batch.
    pub inputs: Vec<Vec<Vec<Row>>>,
    /// Batches of the run; those beyond the input are empty.
    pub batches: u64,
    pub executors: u32,
}

/// What is drawn from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Menu {
    /// Operators that are not drawn, by their names in job files.
    pub excluded: Vec<String>,
}

/// Few, so that joins and groups meet.
const KEYS: u64 = 5;
const VALUES: u64 = 20;
const TEXTS: [&str; 5] = ["a", "b", "c", "ab", "B"];

impl Case {
    /// The case of a seed.
    #[must_use]
    pub fn generate(seed: u64, menu: &Menu) -> Self {
        let mut random = Random::new(seed);
        let sources = 1 + random.below(3);
        let length = 5 + random.below(8);
        let inputs = (0..sources).map(|_| (0..length).map(|_| records(&mut random)).collect());
        let mut case = Self {
            seed,
            model: Model::new(),
            inputs: inputs.collect(),
            batches: length + random.below(3),
            executors: random.pick(&[1, 3]),
        };
        case.model.partitions = random.pick(&[1, 2, 3, 7]);
        case.model.concurrent_batches = random.pick(&[1, 1, 1, 2, 3]);
        case.model.remember = random.pick(&[None, None, None, None, Some(1), Some(3)]);
        Growth::new(case, random, menu).grow()
    }

    /// The rows of each output in each batch.
    ///
    /// # Errors
    /// The model is not well typed, or a value leaves the range in which it can be compared.
    pub fn expected(&self, mistake: Option<Mistake>) -> Result<Evaluation<'_>, Unfit> {
        let mut evaluation = Evaluation::new(&self.model, mistake)?;
        for batch in 0..self.batches {
            let of_batch = |source: &Vec<Vec<Row>>| source.get(batch as usize).cloned().unwrap_or_default();
            let sources: Vec<Vec<Row>> = self.inputs.iter().map(of_batch).collect();
            evaluation.batch(&sources)?;
        }
        Ok(evaluation)
    }
}

/// The records of a source in a batch.
fn records(random: &mut Random) -> Vec<Row> {
    let count = match random.below(4) {
        0 => 0,
        _ => random.below(7),
    };
    (0..count)
        .map(|_| {
            let row = [
                Value::Int(random.below(KEYS) as i64),
                Value::Int(random.below(VALUES) as i64 - 4),
                Value::text(random.pick(&TEXTS)),
            ];
            let or_null = |value| if random.one_in(8) { Value::Null } else { value };
            row.into_iter().map(or_null).collect()
        })
        .collect()
}
