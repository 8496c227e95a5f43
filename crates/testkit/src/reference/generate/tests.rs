//! What is drawn: always sound, the same for a seed, and of every kind.

use std::collections::BTreeMap;

use tidemill_client::job_file::{ParseOptions, parse, to_yaml};

use super::{Case, Menu};
use crate::reference::Op;

fn cases(count: u64) -> impl Iterator<Item = Case> {
    (0..count).map(|seed| Case::generate(seed, &Menu::default()))
}

#[test]
fn every_graph_is_valid_and_can_be_evaluated_and_written_as_a_job_file() {
    for case in cases(300) {
        let graph = case.model.lower("random", &case.inputs).unwrap();
        graph
            .validate()
            .unwrap_or_else(|faults| panic!("seed {}: {faults:?}\n{graph:#?}", case.seed));
        case.expected(None).unwrap();
        let written = parse(&to_yaml(&graph), &ParseOptions::default());
        assert_eq!(written.unwrap(), graph, "seed {}", case.seed);
    }
}

#[test]
fn a_seed_gives_the_same_case_again() {
    assert!(cases(20).eq(cases(20)));
    assert_ne!(
        Case::generate(1, &Menu::default()).model,
        Case::generate(2, &Menu::default()).model
    );
}

#[test]
fn every_operator_is_drawn_and_most_outputs_have_records() {
    let mut operators: BTreeMap<String, usize> = BTreeMap::new();
    let (mut deep, mut outputs, mut filled) = (0, 0, 0);
    for case in cases(300) {
        let graph = case.model.lower("random", &case.inputs).unwrap();
        for step in graph.streams.iter().flat_map(|stream| &stream.steps) {
            *operators.entry(step.operator.name().to_owned()).or_default() += 1;
        }
        let evaluation = case.expected(None).unwrap();
        for output in &case.model.outputs {
            let rows = (1..=case.batches).map(|batch| evaluation.rows(*output, batch).map_or(0, <[_]>::len));
            outputs += 1;
            filled += usize::from(rows.sum::<usize>() > 0);
        }
        let mut depths = vec![0; case.model.nodes.len()];
        for (place, node) in case.model.nodes.iter().enumerate() {
            depths[place] =
                usize::from(node.op != Op::Source) + node.inputs.iter().map(|input| depths[*input]).max().unwrap_or(0);
        }
        let depth = depths.into_iter().max().unwrap_or(0);
        assert!(depth <= 8, "seed {} is {depth} deep", case.seed);
        deep += usize::from(depth >= 6);
    }
    let missing: Vec<&&str> = tidemill_dstream::Operator::NAMES
        .iter()
        .filter(|name| !operators.contains_key(**name))
        .collect();
    assert!(missing.is_empty(), "never drawn: {missing:?}; drawn: {operators:?}");
    assert!(deep > 60, "{deep} graphs of 300 are deep");
    assert!(filled * 10 > outputs * 8, "{filled} of {outputs} outputs have records");
}
