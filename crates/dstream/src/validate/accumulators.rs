//! What can be wrong with accumulators before types are known.

use super::{Faults, identifier};
use crate::{AccumulatorKind, Addition, JobGraph, Line, Operator, Step};

/// Buckets of a histogram: each task sends all of them.
const MAX_BOUNDS: usize = 1000;
/// A set travels with every task that adds to it.
const MAX_DISTINCT: u32 = 1_000_000;

/// Checks the definitions by themselves.
pub(super) fn check(graph: &JobGraph, faults: &mut Faults) {
    for accumulator in &graph.accumulators {
        let (line, path) = (accumulator.line, format!("accumulators.{}", accumulator.name));
        identifier(faults, line, &path, "accumulator", &accumulator.name);
        if let Some(value_type) = accumulator.value_type
            && !accumulator.kind.takes(value_type)
        {
            let message = format!(
                "{} takes numbers, and the type is {value_type}",
                accumulator.kind.name()
            );
            faults.add(line, format!("{path}.type"), message);
        }
        match &accumulator.kind {
            AccumulatorKind::Distinct { limit } => {
                if !(1..=MAX_DISTINCT).contains(limit) {
                    let message = format!("{limit} is not between 1 and {MAX_DISTINCT}");
                    faults.hinted(line, format!("{path}.limit"), message, "approx_distinct has no limit");
                }
            }
            AccumulatorKind::Histogram { bounds } => check_bounds(bounds, line, &format!("{path}.bounds"), faults),
            AccumulatorKind::Native { name } => {
                faults.not_empty(line, format!("{path}.native"), "the name of the registered kind", name);
            }
            AccumulatorKind::Sum
            | AccumulatorKind::Count
            | AccumulatorKind::Min
            | AccumulatorKind::Max
            | AccumulatorKind::Average
            | AccumulatorKind::ApproxDistinct => {}
        }
    }
    let names = graph.accumulators.iter().map(|accumulator| {
        let path = format!("accumulators.{}", accumulator.name);
        (accumulator.name.as_str(), accumulator.line, path)
    });
    faults.unique("accumulator", names);
}

fn check_bounds(bounds: &[f64], line: Line, path: &str, faults: &mut Faults) {
    if bounds.is_empty() {
        faults.hinted(line, path, "no bounds", "such as `bounds: [10, 100, 1000]`");
    } else if bounds.len() > MAX_BOUNDS {
        faults.add(
            line,
            path,
            format!("{} bounds, the limit is {MAX_BOUNDS}", bounds.len()),
        );
    } else if !bounds.iter().all(|bound| bound.is_finite()) {
        faults.add(line, path, "a bound is not a number");
    } else if !bounds.is_sorted_by(|a, b| a < b) {
        faults.add(line, path, "the bounds are not in ascending order");
    }
}

/// The additions of a step, each with its path.
pub(super) fn places<'a>(additions: &'a [Addition], path: &str) -> impl Iterator<Item = (&'a Addition, String)> {
    let alone = additions.len() == 1;
    let place = move |i| if alone { path.to_owned() } else { format!("{path}[{i}]") };
    let places: Vec<String> = (0..additions.len()).map(place).collect();
    additions.iter().zip(places)
}

/// Reports accumulators that a step names and that are not there.
pub(super) fn check_step(graph: &JobGraph, step: &Step, path: &str, faults: &mut Faults) {
    let Operator::Accumulate { additions } = &step.operator else {
        return;
    };
    for (addition, path) in places(additions, path) {
        if graph.accumulator(&addition.into).is_none() {
            let line = Line(addition.line.0.or(step.line.0));
            let known = graph.accumulators.iter().map(|accumulator| accumulator.name.as_str());
            faults.unknown(line, format!("{path}.into"), "accumulator", &addition.into, known);
        }
    }
}
