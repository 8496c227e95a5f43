//! Simpler forms of an operator.

use crate::reference::{Aggregate, AggregateFunction, Expr, Named, Op, Query, Reduction};

/// The same operator with a function or a setting less. Whether they fit, is for the model to say.
pub(super) fn simpler(op: &Op) -> Vec<Op> {
    let mut simpler = without_settings(op);
    // Lists and expressions are counted, then each is changed in a copy of its own.
    for list in 0..lists(&mut op.clone()).len() {
        for left_out in 0..lists(&mut op.clone())[list].len() {
            let mut changed = op.clone();
            lists(&mut changed)[list].remove(left_out);
            simpler.push(changed);
        }
    }
    for expr in 0..exprs(&mut op.clone()).len() {
        for part in parts(exprs(&mut op.clone())[expr]) {
            let mut changed = op.clone();
            *exprs(&mut changed)[expr] = part;
            simpler.push(changed);
        }
    }
    simpler
}

/// The functions that an operator can have fewer of.
fn lists(op: &mut Op) -> Vec<&mut Vec<Named>> {
    match op {
        Op::Map(columns)
        | Op::FlatMap(columns)
        | Op::MapValues { columns, .. }
        | Op::FlatMapValues { columns, .. }
        | Op::Transform(
            Query::Select(columns)
            | Query::Group {
                aggregates: columns, ..
            },
        )
        | Op::Reduce(Reduction::Aggregates(columns))
        | Op::GroupByKey { keys: columns, .. }
        | Op::CombineByKey { keys: columns, .. }
        | Op::MapWithState { emit: columns, .. } => vec![columns],
        Op::ReduceByKey {
            keys,
            reduction: Reduction::Aggregates(aggregates),
            ..
        }
        | Op::Aggregate { keys, aggregates, .. } => vec![keys, aggregates],
        Op::ReduceByKey { keys, .. } => vec![keys],
        Op::Windowed { op, .. } => lists(op),
        _ => Vec::new(),
    }
}

fn exprs(op: &mut Op) -> Vec<&mut Expr> {
    if let Op::Filter(predicate) = op {
        return vec![predicate];
    }
    lists(op).into_iter().flatten().map(|named| &mut named.expr).collect()
}

/// The expressions that an expression is made of.
fn parts(expr: &Expr) -> Vec<Expr> {
    match expr {
        Expr::Binary(_, left, right) => vec![(**left).clone(), (**right).clone()],
        Expr::Not(operand) | Expr::IsNull(operand) | Expr::Field(operand, _) => vec![(**operand).clone()],
        Expr::If(condition, then, otherwise) => vec![(**condition).clone(), (**then).clone(), (**otherwise).clone()],
        Expr::Call(_, arguments) => arguments.clone(),
        Expr::Aggregate(aggregate) => aggregates(aggregate),
        Expr::Column(_) | Expr::Literal(_) | Expr::Null(_) | Expr::BatchNumber => Vec::new(),
    }
}

fn aggregates(aggregate: &Aggregate) -> Vec<Expr> {
    use AggregateFunction::{Avg, Count, CountAll, CountDistinct, Max, Min, Sum};
    let made = |function, filter: &Option<Expr>| {
        let filter = filter.clone();
        Expr::Aggregate(Box::new(Aggregate { function, filter }))
    };
    let mut simpler = Vec::new();
    if aggregate.filter.is_some() {
        simpler.push(made(aggregate.function.clone(), &None));
    }
    let (of, make): (&Expr, fn(Expr) -> AggregateFunction) = match &aggregate.function {
        CountAll => return simpler,
        Count(of) => (of, Count),
        CountDistinct(of) => (of, CountDistinct),
        Sum(of) => (of, Sum),
        Min(of) => (of, Min),
        Max(of) => (of, Max),
        Avg(of) => (of, Avg),
    };
    simpler.extend(parts(of).into_iter().map(|part| made(make(part), &aggregate.filter)));
    simpler.push(made(CountAll, &aggregate.filter));
    simpler
}

fn without_settings(op: &Op) -> Vec<Op> {
    let with = |change: &dyn Fn(&mut Op)| {
        let mut op = op.clone();
        change(&mut op);
        op
    };
    let mut simpler = vec![with(&|op| {
        if let Some(partitions) = partitions(op) {
            *partitions = None;
        }
    })];
    simpler.push(with(&|op| {
        if let Op::UpdateStateByKey(keyed) | Op::MapWithState { keyed, .. } = op {
            keyed.initial.clear();
        }
    }));
    simpler.push(with(&|op| {
        if let Op::UpdateStateByKey(keyed) | Op::MapWithState { keyed, .. } = op {
            keyed.is_file = false;
        }
    }));
    match op {
        Op::Windowed {
            length,
            slide,
            op: inner,
            ..
        } => {
            let (length, slide) = (*length, *slide);
            simpler.extend([Op::Window { length, slide }, (**inner).clone()]);
            simpler.push(with(&|op| {
                if let Op::Windowed { filter, .. } = op {
                    *filter = None;
                }
            }));
        }
        Op::Window { length, slide } if *length > 2 => simpler.push(Op::Window {
            length: *length / 2,
            slide: *slide,
        }),
        Op::MapWithState { .. } => simpler.push(with(&|op| {
            if let Op::MapWithState { timeout, .. } = op {
                *timeout = None;
            }
        })),
        Op::Transform(Query::Join { .. } | Query::Lookup { .. }) | Op::TransformWith(Query::Join { .. }) => {
            simpler.push(with(&|op| {
                if let Op::Transform(Query::Join { outer, .. } | Query::Lookup { outer, .. })
                | Op::TransformWith(Query::Join { outer, .. }) = op
                {
                    *outer = false;
                }
            }));
        }
        Op::Join { .. } => simpler.push(with(&|op| {
            if let Op::Join { on, .. } = op {
                on.truncate(1);
            }
        })),
        _ => {}
    }
    simpler.retain(|simpler| simpler != op);
    simpler
}

fn partitions(op: &mut Op) -> Option<&mut Option<u32>> {
    match op {
        Op::PartitionBy { partitions, .. }
        | Op::CountByValue { partitions }
        | Op::Distinct { partitions }
        | Op::ReduceByKey { partitions, .. }
        | Op::Aggregate { partitions, .. }
        | Op::GroupByKey { partitions, .. }
        | Op::CombineByKey { partitions, .. }
        | Op::Join { partitions, .. }
        | Op::Cogroup { partitions, .. } => Some(partitions),
        Op::UpdateStateByKey(keyed) | Op::MapWithState { keyed, .. } => Some(&mut keyed.partitions),
        Op::Windowed { op, .. } => partitions(op),
        _ => None,
    }
}
