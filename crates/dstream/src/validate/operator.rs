//! What can be wrong with a step.

use std::collections::HashSet;
use std::time::Duration;

use super::walk::{Names, Order, slide_after};
use super::{Faults, humane, is_whole_millis};
use crate::{Function, JobGraph, NamedFunction, Operator, Step, StreamDef, StreamInput};

/// A window's batches are counted in 32 bits, also where windows over windows add up.
const MAX_WINDOW_BATCHES: u128 = 100_000_000;

/// Checks a step by itself.
pub(super) fn check(step: &Step, path: &str, faults: &mut Faults) {
    match &step.operator {
        Operator::Map { columns } | Operator::FlatMap { columns } => {
            if columns.is_empty() {
                faults.hinted(
                    step.line,
                    path,
                    "no columns",
                    "give an expression, or {column: expression}",
                );
            }
            check_columns(columns.iter(), step, path, faults);
        }
        Operator::Filter {
            predicate: Function::Expr(sql),
        } => {
            faults.not_empty(step.line, path.to_owned(), "the expression", sql);
        }
        Operator::Union { with } => {
            if with.is_empty() {
                faults.add(step.line, path, "no stream to unite with");
            }
        }
        // Needs the parent's slide.
        Operator::Window { .. } | Operator::Count => {}
        Operator::ReduceByKey { keys, aggregates } => {
            if keys.is_empty() {
                faults.hinted(step.line, path, "no key", "such as `key: user`");
            }
            no_aggregates(aggregates, step, path, faults);
            check_columns(keys.iter().chain(aggregates), step, path, faults);
        }
        Operator::Reduce { aggregates } => {
            no_aggregates(aggregates, step, path, faults);
            check_columns(aggregates.iter(), step, path, faults);
        }
        Operator::Transform { sql } => faults.not_empty(step.line, path.to_owned(), "the query", sql),
    }
}

fn no_aggregates(aggregates: &[NamedFunction], step: &Step, path: &str, faults: &mut Faults) {
    if aggregates.is_empty() {
        faults.hinted(step.line, path, "no aggregates", "such as `count: count(*)`");
    }
}

fn check_columns<'a>(columns: impl Iterator<Item = &'a NamedFunction>, step: &Step, path: &str, faults: &mut Faults) {
    let mut seen = HashSet::new();
    for column in columns {
        let line = crate::Line(column.line.0.or(step.line.0));
        let path = format!("{path}.{}", column.name);
        let Function::Expr(sql) = &column.function;
        faults.not_empty(line, path.clone(), "the expression", sql);
        if column.name.is_empty() {
            faults.add(line, path, "a column has no name");
        } else if !seen.insert(&column.name) {
            faults.add(line, path, format!("two columns are named `{}`", column.name));
        }
    }
}

/// Checks windows against the slides of what they look at, and that united streams slide alike. Streams whose parents
/// are unknown or in a cycle are passed over.
pub(super) fn check_slides(graph: &JobGraph, names: &Names<'_>, order: &Order, faults: &mut Faults) {
    // Nothing is a multiple of an interval that is itself at fault.
    if graph.batch_interval.is_zero() || !is_whole_millis(graph.batch_interval) {
        return;
    }
    let mut slides: Vec<Option<Duration>> = vec![None; graph.streams.len()];
    let parent_slide = |stream: &StreamDef, slides: &[Option<Duration>]| match &stream.input {
        StreamInput::Source(_) => Some(graph.batch_interval),
        StreamInput::From(parent) => names.get(parent).and_then(|parent| slides[parent]),
    };
    for &index in &order.sorted {
        let stream = &graph.streams[index];
        slides[index] = parent_slide(stream, &slides).map(|parent| slide_after(stream, parent));
    }
    for stream in &graph.streams {
        if let Some(parent) = parent_slide(stream, &slides) {
            check_stream(graph, stream, parent, faults, |name| slides[names.get(name)?]);
        }
    }
}

fn check_stream(
    graph: &JobGraph,
    stream: &StreamDef,
    parent: Duration,
    faults: &mut Faults,
    slide_of: impl Fn(&str) -> Option<Duration>,
) {
    let mut slide = parent;
    for (index, step) in stream.steps.iter().enumerate() {
        let path = format!("streams.{}.steps[{index}].{}", stream.name, step.operator.name());
        match &step.operator {
            Operator::Window { length, slide: own } => {
                if !is_multiple(*length, slide) {
                    not_a_multiple(faults, step, &path, "length", *length, slide);
                } else if length.as_millis() / graph.batch_interval.as_millis() > MAX_WINDOW_BATCHES {
                    let message = format!(
                        "a window of {} has more than {MAX_WINDOW_BATCHES} batches",
                        humane(*length)
                    );
                    faults.add(step.line, format!("{path}.length"), message);
                }
                if let Some(own) = own {
                    if !is_multiple(*own, slide) {
                        not_a_multiple(faults, step, &path, "slide", *own, slide);
                    }
                    slide = *own;
                }
                if slide.is_zero() {
                    return;
                }
            }
            Operator::Union { with } => {
                for other in with {
                    if let Some(others) = slide_of(other).filter(|others| *others != slide) {
                        let message = format!(
                            "united streams must slide alike: `{other}` has a dataset every {}, this stream every {}",
                            humane(others),
                            humane(slide)
                        );
                        faults.add(step.line, path.clone(), message);
                    }
                }
            }
            _ => {}
        }
    }
}

fn is_multiple(duration: Duration, of: Duration) -> bool {
    let of = of.as_nanos();
    !duration.is_zero() && of > 0 && duration.as_nanos().is_multiple_of(of)
}

fn not_a_multiple(faults: &mut Faults, step: &Step, path: &str, what: &str, given: Duration, parent: Duration) {
    let path = format!("{path}.{what}");
    let message = format!(
        "the window's {what} {} is not a positive multiple of the stream's slide, {}",
        humane(given),
        humane(parent)
    );
    match nearest_multiple(given, parent) {
        Some(nearest) => faults.hinted(step.line, path, message, format!("the nearest is {}", humane(nearest))),
        None => faults.add(step.line, path, message),
    }
}

fn nearest_multiple(given: Duration, of: Duration) -> Option<Duration> {
    let of = u64::try_from(of.as_millis()).ok().filter(|of| *of > 0)?;
    let given = u64::try_from(given.as_millis()).ok()?;
    let times = (given.checked_add(of / 2)? / of).max(1);
    Some(Duration::from_millis(times.checked_mul(of)?))
}
