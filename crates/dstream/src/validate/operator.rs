//! What can be wrong with a step.

use std::collections::HashSet;
use std::time::Duration;

use super::walk::{Names, Order, slide_after};
use super::{Faults, humane, is_whole_millis};
use crate::{
    Function, JobGraph, Line, NamedFunction, NativeCall, Operator, Reduction, StateFunction, Step, StreamDef,
    StreamInput,
};

/// A window's batches are counted in 32 bits, also where windows over windows add up.
const MAX_WINDOW_BATCHES: u128 = 100_000_000;

/// Checks a step by itself.
pub(super) fn check(step: &Step, path: &str, faults: &mut Faults) {
    match &step.operator {
        Operator::Map { columns } | Operator::FlatMap { columns } => some_columns(columns, &[], step, path, faults),
        Operator::MapValues { keys, columns } | Operator::FlatMapValues { keys, columns } => {
            some_columns(columns, keys, step, path, faults);
        }
        Operator::Filter { predicate } => check_function(predicate, step.line, path, faults),
        Operator::Sample { fraction, .. } => {
            if !(0.0..=1.0).contains(fraction) {
                let message = format!("{fraction} is not between 0 and 1");
                faults.add(step.line, format!("{path}.fraction"), message);
            }
        }
        Operator::Accumulate { additions } => {
            if additions.is_empty() {
                faults.hinted(
                    step.line,
                    path,
                    "adds to nothing",
                    "such as `accumulate: {into: lines}`",
                );
            }
            for (addition, path) in super::accumulators::places(additions, path) {
                let line = Line(addition.line.0.or(step.line.0));
                check_function(&addition.add, line, &format!("{path}.add"), faults);
                if let Some(when) = &addition.when {
                    check_function(when, line, &format!("{path}.when"), faults);
                }
            }
        }
        Operator::MapPartitions { function } => check_call(function, step.line, path, faults),
        Operator::Union { with } | Operator::TransformWith { with, .. } | Operator::Cogroup { with, .. }
            if with.is_empty() =>
        {
            let what = match &step.operator {
                Operator::Union { .. } => "no stream to unite with",
                _ => "no other stream",
            };
            faults.hinted(step.line, path, what, "name one after `with:`");
        }
        Operator::Union { .. } | Operator::Glom | Operator::Count | Operator::StateSnapshots => {}
        Operator::Repartition { partitions } => check_partitions(Some(*partitions), step, path, faults),
        Operator::PartitionBy { keys, partitions } => {
            some_keys(keys, step, path, faults);
            check_partitions(*partitions, step, path, faults);
        }
        Operator::CountByValue { partitions } | Operator::Distinct { partitions } => {
            check_partitions(*partitions, step, path, faults);
        }
        Operator::Reduce { reduction } => check_reduction(reduction, &[], false, step, path, faults),
        Operator::ReduceByKey {
            keys,
            reduction,
            partitions,
        } => {
            some_keys(keys, step, path, faults);
            check_reduction(reduction, keys, false, step, path, faults);
            check_partitions(*partitions, step, path, faults);
        }
        Operator::Aggregate {
            keys,
            aggregates,
            partitions,
        } => {
            no_aggregates(aggregates, step, path, faults);
            check_columns(keys.iter().chain(aggregates), step, path, faults);
            check_partitions(*partitions, step, path, faults);
        }
        Operator::GroupByKey { keys, partitions } => {
            some_keys(keys, step, path, faults);
            check_columns(keys.iter(), step, path, faults);
            check_partitions(*partitions, step, path, faults);
        }
        Operator::CombineByKey {
            keys,
            create,
            merge_value,
            merge_combiners,
            partitions,
        } => {
            some_keys(keys, step, path, faults);
            check_columns(keys.iter().chain(create), step, path, faults);
            if create.is_empty() {
                faults.hinted(step.line, path, "no `create`", "such as `create: {total: price}`");
            }
            for (what, functions, optional) in [
                ("merge_value", merge_value, true),
                ("merge_combiners", merge_combiners, false),
            ] {
                let path = format!("{path}.{what}");
                check_columns(functions.iter(), step, &path, faults);
                if !(optional && functions.is_empty()) {
                    same_columns(functions, create, step, &path, faults);
                }
            }
            check_partitions(*partitions, step, path, faults);
        }
        Operator::SortBy { keys, limit } => {
            if keys.is_empty() {
                faults.hinted(step.line, path, "nothing to sort by", "such as `sort_by: count DESC`");
            }
            for key in keys {
                check_function(&key.function, step.line, path, faults);
            }
            faults.not_zero(step.line, format!("{path}.limit"), *limit);
        }
        Operator::Transform { function } => match function {
            Function::Expr(sql) => faults.not_empty(step.line, path.to_owned(), "the query", sql),
            Function::Native(call) => check_call(call, step.line, path, faults),
        },
        Operator::TransformWith { sql, .. } => {
            faults.not_empty(step.line, format!("{path}.sql"), "the query", sql);
        }
        Operator::Join { on, partitions, .. } => {
            if on.is_empty() {
                faults.hinted(step.line, path, "no key", "such as `on: user`");
            }
            check_partitions(*partitions, step, path, faults);
        }
        Operator::Cogroup { keys, partitions, .. } => {
            some_keys(keys, step, path, faults);
            check_partitions(*partitions, step, path, faults);
        }
        // The window needs the parent's slide.
        Operator::Window { .. } | Operator::CountByWindow { .. } => {}
        Operator::CountByValueAndWindow { partitions, .. } => check_partitions(*partitions, step, path, faults),
        Operator::ReduceByWindow { reduction, .. } => check_reduction(reduction, &[], true, step, path, faults),
        Operator::ReduceByKeyAndWindow {
            keys,
            reduction,
            filter,
            partitions,
            ..
        } => {
            some_keys(keys, step, path, faults);
            check_reduction(reduction, keys, true, step, path, faults);
            if let Some(filter) = filter {
                check_function(filter, step.line, &format!("{path}.filter"), faults);
            }
            check_partitions(*partitions, step, path, faults);
        }
        Operator::GroupByKeyAndWindow { keys, partitions, .. } => {
            some_keys(keys, step, path, faults);
            check_columns(keys.iter(), step, path, faults);
            check_partitions(*partitions, step, path, faults);
        }
        Operator::UpdateStateByKey(update) => {
            check_state(&update.keys, &update.values, &update.state, step, path, faults);
            check_initial(update.initial.as_deref(), step, path, faults);
            check_partitions(update.partitions, step, path, faults);
        }
        Operator::MapWithState(map) => {
            check_state(&map.keys, &map.values, &map.state, step, path, faults);
            check_columns(map.emit.iter(), step, &format!("{path}.emit"), faults);
            check_initial(map.initial.as_deref(), step, path, faults);
            faults.whole_millis(step.line, format!("{path}.timeout"), map.timeout);
            check_partitions(map.partitions, step, path, faults);
        }
    }
}

/// The columns of a record-by-record step, and those that it keeps.
fn some_columns(columns: &[NamedFunction], kept: &[String], step: &Step, path: &str, faults: &mut Faults) {
    if columns.is_empty() {
        faults.hinted(
            step.line,
            path,
            "no columns",
            "give an expression, or {column: expression}",
        );
    }
    check_columns(columns.iter(), step, path, faults);
    for column in columns.iter().filter(|column| kept.contains(&column.name)) {
        let line = Line(column.line.0.or(step.line.0));
        let message = format!("`{}` is a key, which stays as it is", column.name);
        faults.add(line, format!("{path}.{}", column.name), message);
    }
}

fn some_keys<T>(keys: &[T], step: &Step, path: &str, faults: &mut Faults) {
    if keys.is_empty() {
        faults.hinted(step.line, path, "no key", "such as `key: user`");
    }
}

fn no_aggregates(aggregates: &[NamedFunction], step: &Step, path: &str, faults: &mut Faults) {
    if aggregates.is_empty() {
        faults.hinted(step.line, path, "no aggregates", "such as `count: count(*)`");
    }
}

fn check_reduction(
    reduction: &Reduction,
    keys: &[NamedFunction],
    in_window: bool,
    step: &Step,
    path: &str,
    faults: &mut Faults,
) {
    match reduction {
        Reduction::Aggregates(aggregates) => {
            no_aggregates(aggregates, step, path, faults);
            check_columns(keys.iter().chain(aggregates), step, path, faults);
        }
        Reduction::Binary { columns, inverse } => {
            check_columns(keys.iter(), step, path, faults);
            let path_of = |what: &str| format!("{path}.{what}");
            if columns.is_empty() {
                faults.hinted(
                    step.line,
                    path_of("function"),
                    "no function",
                    "such as `function: a + b`",
                );
            }
            check_value_functions(columns, step, &path_of("function"), faults);
            if inverse.is_empty() {
                return;
            }
            check_value_functions(inverse, step, &path_of("inverse"), faults);
            if in_window {
                same_columns(inverse, columns, step, &path_of("inverse"), faults);
            } else {
                let hint = "only windows have values that leave";
                faults.hinted(step.line, path_of("inverse"), "an inverse without a window", hint);
            }
        }
    }
}

/// Functions of value columns: named, or one without a name.
fn check_value_functions(functions: &[NamedFunction], step: &Step, path: &str, faults: &mut Faults) {
    match functions {
        [only] if only.name.is_empty() => check_function(&only.function, step.line, path, faults),
        _ => check_columns(functions.iter(), step, path, faults),
    }
}

/// Two sets of functions have to be about the same columns.
fn same_columns(functions: &[NamedFunction], columns: &[NamedFunction], step: &Step, path: &str, faults: &mut Faults) {
    let names = |functions: &[NamedFunction]| -> HashSet<String> {
        functions.iter().map(|function| function.name.clone()).collect()
    };
    let (given, wanted) = (names(functions), names(columns));
    let mut missing: Vec<&String> = wanted.difference(&given).collect();
    missing.sort();
    for column in missing {
        faults.add(step.line, path, format!("nothing for the column `{column}`"));
    }
    let mut unknown: Vec<&String> = given.difference(&wanted).collect();
    unknown.sort();
    for column in unknown {
        faults.unknown(
            step.line,
            path,
            "column",
            column,
            columns.iter().map(|c| c.name.as_str()),
        );
    }
}

fn check_state(
    keys: &[NamedFunction],
    values: &[NamedFunction],
    state: &StateFunction,
    step: &Step,
    path: &str,
    faults: &mut Faults,
) {
    some_keys(keys, step, path, faults);
    let columns = match state {
        StateFunction::Columns(columns) => columns.as_slice(),
        StateFunction::Native(call) => {
            check_call(call, step.line, &format!("{path}.state"), faults);
            &[]
        }
    };
    if columns.is_empty() && matches!(state, StateFunction::Columns(_)) {
        let hint = "such as `state: {total: coalesce(total, 0) + added}`";
        faults.hinted(step.line, format!("{path}.state"), "no state", hint);
    }
    // All of them are in one scope.
    check_columns(keys.iter().chain(values).chain(columns), step, path, faults);
}

fn check_initial(initial: Option<&str>, step: &Step, path: &str, faults: &mut Faults) {
    if let Some(initial) = initial {
        faults.not_empty(step.line, format!("{path}.initial"), "the query", initial);
    }
}

fn check_partitions(partitions: Option<u32>, step: &Step, path: &str, faults: &mut Faults) {
    if let Some(partitions) = partitions
        && !(1..=super::MAX_PARTITIONS).contains(&partitions)
    {
        let message = format!("{partitions} is not between 1 and {}", super::MAX_PARTITIONS);
        faults.add(step.line, format!("{path}.partitions"), message);
    }
}

fn check_columns<'a>(columns: impl Iterator<Item = &'a NamedFunction>, step: &Step, path: &str, faults: &mut Faults) {
    let mut seen = HashSet::new();
    for column in columns {
        let line = Line(column.line.0.or(step.line.0));
        let path = format!("{path}.{}", column.name);
        check_function(&column.function, line, &path, faults);
        if column.name.is_empty() {
            faults.add(line, path, "a column has no name");
        } else if !seen.insert(&column.name) {
            faults.add(line, path, format!("two columns are named `{}`", column.name));
        }
    }
}

fn check_function(function: &Function, line: Line, path: &str, faults: &mut Faults) {
    match function {
        Function::Expr(sql) => faults.not_empty(line, path.to_owned(), "the expression", sql),
        Function::Native(call) => check_call(call, line, path, faults),
    }
}

fn check_call(call: &NativeCall, line: Line, path: &str, faults: &mut Faults) {
    faults.not_empty(line, format!("{path}.native"), "the name of the function", &call.name);
    for (i, arg) in call.args.iter().enumerate() {
        faults.not_empty(line, format!("{path}.args[{i}]"), "the expression", arg);
    }
    let mut seen = HashSet::new();
    for (handle, _) in call.accumulators.iter().filter(|(handle, _)| !seen.insert(handle)) {
        faults.add(
            line,
            format!("{path}.accumulators.{handle}"),
            format!("`{handle}` is bound twice"),
        );
    }
}

/// Checks that snapshots are of a state: their stream is from one that ends with `map_with_state`.
pub(super) fn check_snapshots(graph: &JobGraph, names: &Names<'_>, faults: &mut Faults) {
    for stream in &graph.streams {
        for (index, step) in stream.steps.iter().enumerate() {
            if !matches!(step.operator, Operator::StateSnapshots) {
                continue;
            }
            let parent = match &stream.input {
                StreamInput::From(parent) if index == 0 => match names.get(parent) {
                    Some(parent) => graph.streams[parent].steps.last(),
                    // Reported as unknown.
                    None => continue,
                },
                _ => None,
            };
            if !parent.is_some_and(|last| matches!(last.operator, Operator::MapWithState(_))) {
                let path = format!("streams.{}.steps[{index}].{}", stream.name, step.operator.name());
                let message = "there is no state here to look at";
                let hint = "it is the first step of a stream from one that ends with map_with_state";
                faults.hinted(step.line, path, message, hint);
            }
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
        if let Some((length, own)) = step.operator.window() {
            if !is_multiple(length, slide) {
                not_a_multiple(faults, step, &path, "length", length, slide);
            } else if length.as_millis() / graph.batch_interval.as_millis() > MAX_WINDOW_BATCHES {
                let message = format!(
                    "a window of {} has more than {MAX_WINDOW_BATCHES} batches",
                    humane(length)
                );
                faults.add(step.line, format!("{path}.length"), message);
            }
            if let Some(own) = own {
                if !is_multiple(own, slide) {
                    not_a_multiple(faults, step, &path, "slide", own, slide);
                }
                slide = own;
            }
            if slide.is_zero() {
                return;
            }
        }
        for other in step.operator.streams() {
            if let Some(others) = slide_of(other).filter(|others| *others != slide) {
                let message = format!(
                    "{} streams must slide alike: `{other}` has a dataset every {}, this stream every {}",
                    match &step.operator {
                        Operator::Union { .. } => "united",
                        Operator::TransformWith { .. } => "transformed",
                        _ => "joined",
                    },
                    humane(others),
                    humane(slide)
                );
                faults.add(step.line, path.clone(), message);
            }
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
