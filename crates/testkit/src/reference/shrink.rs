//! Smaller cases that may fail as a given one does.

mod functions;

use super::Case;

impl Case {
    /// The smallest case found that still fails, by trying simpler ones in turn, at most `tries` of them.
    pub async fn shrink(self, tries: u32, mut fails: impl AsyncFnMut(&Case) -> bool) -> Case {
        let mut case = self;
        let mut left = tries;
        'simpler: loop {
            for candidate in case.simpler() {
                if left == 0 {
                    return case;
                }
                left -= 1;
                if fails(&candidate).await {
                    case = candidate;
                    continue 'simpler;
                }
            }
            return case;
        }
    }

    /// Sound cases that are simpler by one thing, those without most of it first.
    fn simpler(&self) -> Vec<Case> {
        let mut simpler = self.smaller_graphs();
        simpler.extend(self.smaller_inputs());
        simpler.extend(self.smaller_clusters());
        simpler.extend(self.simpler_operators());
        let sound = simpler.into_iter().map(Case::without_unread);
        sound.filter(|case| case != self && case.is_sound()).collect()
    }

    fn is_sound(&self) -> bool {
        let graph = self.model.lower("simpler", &self.inputs);
        graph.is_ok_and(|graph| graph.validate().is_ok()) && self.expected(None).is_ok()
    }

    fn with(&self, change: impl FnOnce(&mut Case)) -> Case {
        let mut case = self.clone();
        change(&mut case);
        case
    }

    fn smaller_graphs(&self) -> Vec<Case> {
        let model = &self.model;
        let mut cases = Vec::new();
        if let several @ [_, _, ..] = model.outputs.as_slice() {
            cases.extend(
                several
                    .iter()
                    .map(|output| self.with(|case| case.model.outputs = vec![*output])),
            );
        }
        for (i, output) in model.outputs.iter().enumerate() {
            let inputs = model.nodes[*output].inputs.iter();
            cases.extend(inputs.map(|input| self.with(|case| case.model.outputs[i] = *input)));
        }
        // What reads a node reads its input instead.
        for (place, node) in model.nodes.iter().enumerate() {
            for input in &node.inputs {
                cases.push(self.with(|case| {
                    let readers = case.model.nodes.iter_mut().flat_map(|node| &mut node.inputs);
                    for read in readers.chain(&mut case.model.outputs) {
                        if *read == place {
                            *read = *input;
                        }
                    }
                }));
            }
            if node.inputs.len() > 2 {
                cases.push(self.with(|case| {
                    case.model.nodes[place].inputs.pop();
                }));
            }
        }
        cases
    }

    fn smaller_inputs(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        for batches in [self.batches / 2, self.batches - 1] {
            if batches > 0 {
                cases.push(self.with(|case| {
                    case.batches = batches;
                    case.inputs
                        .iter_mut()
                        .for_each(|source| source.truncate(batches as usize));
                }));
            }
        }
        for (i, source) in self.inputs.iter().enumerate() {
            for (j, rows) in source.iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
                cases.push(self.with(|case| case.inputs[i][j].clear()));
                if rows.len() > 1 {
                    cases.extend((0..rows.len()).map(|row| {
                        self.with(|case| {
                            case.inputs[i][j].remove(row);
                        })
                    }));
                }
            }
        }
        cases
    }

    /// Fewer of everything that rows do not depend on. Nothing here may undo another, or shrinking would not end.
    fn smaller_clusters(&self) -> Vec<Case> {
        vec![
            self.with(|case| case.executors = 1),
            self.with(|case| case.model.partitions = 1),
            self.with(|case| case.model.partitions = case.model.partitions.min(2)),
            self.with(|case| case.model.concurrent_batches = 1),
            self.with(|case| case.model.remember = None),
            self.with(|case| case.model.nodes.iter_mut().for_each(|node| node.own_stream = false)),
        ]
    }

    fn simpler_operators(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        for (place, node) in self.model.nodes.iter().enumerate() {
            let simpler = functions::simpler(&node.op).into_iter();
            cases.extend(simpler.map(|op| self.with(|case| case.model.nodes[place].op = op)));
        }
        cases
    }

    /// The case without nodes that no output needs.
    fn without_unread(mut self) -> Self {
        let nodes = &self.model.nodes;
        let mut read = vec![false; nodes.len()];
        self.model.outputs.iter().for_each(|output| read[*output] = true);
        // A read node's inputs stand before it, so one pass backwards finds them all.
        for place in (0..nodes.len()).rev() {
            if read[place] {
                nodes[place].inputs.iter().for_each(|input| read[*input] = true);
            }
        }
        let places: Vec<usize> = read
            .iter()
            .scan(0, |next, read| {
                let place = *next;
                *next += usize::from(*read);
                Some(place)
            })
            .collect();
        let sources: Vec<bool> = self.model.sources().map(|source| read[source]).collect();
        let mut sources = sources.into_iter();
        self.inputs.retain(|_| sources.next().unwrap_or(false));
        let mut kept = read.iter();
        self.model.nodes.retain(|_| kept.next().copied().unwrap_or(false));
        let moved = |place: &mut usize| *place = places[*place];
        self.model
            .nodes
            .iter_mut()
            .flat_map(|node| &mut node.inputs)
            .for_each(moved);
        self.model.outputs.iter_mut().for_each(moved);
        self.model.outputs.sort_unstable();
        self.model.outputs.dedup();
        self
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::reference::{Menu, Op};

    /// What never waits, done.
    fn done<T>(future: impl Future<Output = T>) -> T {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("it waits"),
        }
    }

    fn has_window(case: &Case) -> bool {
        case.model
            .nodes
            .iter()
            .any(|node| node.op.window().is_some_and(|(length, _)| length > 2))
    }

    #[test]
    fn a_case_shrinks_to_what_makes_it_fail() {
        let cases = (0..100).map(|seed| Case::generate(seed, &Menu::default()));
        let mut found = 0;
        for case in cases.filter(has_window).take(5) {
            let small = done(case.shrink(10_000, async |case: &Case| has_window(case)));
            let operators: Vec<&Op> = small.model.nodes.iter().map(|node| &node.op).collect();
            assert_eq!(operators.len(), 2, "{operators:?}");
            assert_eq!((small.batches, small.executors, small.model.partitions), (1, 1, 1));
            assert!(small.inputs.iter().flatten().all(Vec::is_empty));
            found += 1;
        }
        assert_eq!(found, 5);
    }

    #[test]
    fn every_simpler_case_is_valid() {
        for seed in 0..20 {
            for case in Case::generate(seed, &Menu::default()).simpler() {
                let graph = case.model.lower("simpler", &case.inputs).expect("a sound model");
                assert_eq!(graph.validate(), Ok(()), "seed {seed}: {graph:#?}");
            }
        }
    }
}
