//! Pairs of records of two streams.

use std::collections::HashSet;

use arrow::datatypes::DataType;
use datafusion::common::{Column, JoinType, NullEquality, TableReference};
use datafusion::error::Result;
use datafusion::functions::core::expr_fn::coalesce;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use tidemill_dstream::{JoinKey, JoinKind};

use super::{Faults, StepBuilder, same_type};

/// What the sides are called in the plan.
const LEFT: &str = "__left";
const RIGHT: &str = "__right";

impl StepBuilder<'_> {
    /// `other` scans the stream `name`.
    pub(in crate::compile) fn join(
        &self,
        input: LogicalPlan,
        name: &str,
        other: LogicalPlan,
        kind: JoinKind,
        on: &[JoinKey],
    ) -> Result<LogicalPlan, Faults> {
        self.check_keys(&input, name, &other, on)?;
        let names = self.joined_names(&input, name, &other, on)?;
        let keys = on.iter().map(|key| {
            let (left, right) = (of(LEFT, &key.left), of(RIGHT, &key.right));
            let key_column = match kind {
                JoinKind::Inner | JoinKind::LeftOuter => Expr::Column(left),
                JoinKind::RightOuter => Expr::Column(right),
                JoinKind::FullOuter => coalesce(vec![Expr::Column(left), Expr::Column(right)]),
            };
            key_column.alias(&key.left)
        });
        let others = names.iter().map(|joined| {
            let column = of(joined.side, &joined.column);
            Expr::Column(column).alias(&joined.name)
        });
        let columns: Vec<Expr> = keys.chain(others).collect();
        let join_type = match kind {
            JoinKind::Inner => JoinType::Inner,
            JoinKind::LeftOuter => JoinType::Left,
            JoinKind::RightOuter => JoinType::Right,
            JoinKind::FullOuter => JoinType::Full,
        };
        let (left, right) = on
            .iter()
            .map(|key| (of(LEFT, &key.left), of(RIGHT, &key.right)))
            .unzip::<_, _, Vec<Column>, Vec<Column>>();
        let right_side = LogicalPlanBuilder::from(other)
            .alias(RIGHT)
            .and_then(LogicalPlanBuilder::build);
        self.finish(right_side.and_then(|right_side| {
            LogicalPlanBuilder::from(input)
                .alias(LEFT)?
                .join_detailed(right_side, join_type, (left, right), None, NullEquality::NullEqualsNull)?
                .project(columns)
        }))
    }

    fn check_keys(&self, input: &LogicalPlan, name: &str, other: &LogicalPlan, on: &[JoinKey]) -> Result<(), Faults> {
        let mut faults = Vec::new();
        if on.is_empty() {
            faults.push(self.place.diagnostic("has no key").hint("such as `on: user`"));
        }
        let mut seen = HashSet::new();
        for key in on.iter().filter(|key| !seen.insert(&key.left)) {
            let fault = self.place.diagnostic(format!("key `{}` is there twice", key.left));
            faults.push(fault.subject(key.left.clone()));
        }
        for key in on {
            faults.extend(self.known(input, std::slice::from_ref(&key.left)));
            let theirs = self
                .type_in(name, other, &key.right)
                .map_err(|fault| faults.push(fault));
            let ours = input.schema().field_with_unqualified_name(&key.left);
            let (Ok(theirs), Ok(ours)) = (theirs, ours) else {
                continue;
            };
            if !same_type(ours.data_type(), &theirs) {
                faults.push(self.other_type(&key.left, ours.data_type(), name, &key.right, &theirs));
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    /// The type of a column of another stream.
    pub(super) fn type_in(
        &self,
        stream: &str,
        other: &LogicalPlan,
        column: &str,
    ) -> Result<DataType, tidemill_dstream::Diagnostic> {
        let schema = other.schema();
        let field = schema.field_with_unqualified_name(column);
        field.map(|field| field.data_type().clone()).map_err(|_| {
            let known = schema.fields().iter().map(|field| field.name().as_str());
            self.place
                .diagnostic(format!("stream `{stream}` has no column `{column}`"))
                .suggest(column, known.collect::<Vec<_>>())
        })
    }

    /// A key of one type here and of another in the other stream.
    pub(super) fn other_type(
        &self,
        ours: &str,
        our_type: &DataType,
        stream: &str,
        theirs: &str,
        their_type: &DataType,
    ) -> tidemill_dstream::Diagnostic {
        let there = if ours == theirs {
            format!("{their_type} in stream `{stream}`")
        } else {
            format!("`{theirs}` of stream `{stream}` is {their_type}")
        };
        self.place
            .diagnostic(format!("key `{ours}` is {our_type} here and {there}"))
            .subject(ours)
            .hint("cast one of them in a map")
    }

    /// The columns of the result beside the keys.
    fn joined_names(
        &self,
        input: &LogicalPlan,
        name: &str,
        other: &LogicalPlan,
        on: &[JoinKey],
    ) -> Result<Vec<Joined>, Faults> {
        let ours: HashSet<&String> = input.schema().fields().iter().map(|field| field.name()).collect();
        let left = ours_without(input, |column| on.iter().any(|key| key.left == *column));
        let left = left.map(|column| Joined {
            side: LEFT,
            name: column.clone(),
            column: column.clone(),
        });
        let right = ours_without(other, |column| on.iter().any(|key| key.right == *column));
        let right = right.map(|column| Joined {
            side: RIGHT,
            name: match ours.contains(column) {
                true => format!("{name}_{column}"),
                false => column.clone(),
            },
            column: column.clone(),
        });
        let joined: Vec<Joined> = left.chain(right).collect();
        let mut seen: HashSet<&String> = on.iter().map(|key| &key.left).collect();
        let twice: Faults = joined
            .iter()
            .filter(|joined| !seen.insert(&joined.name))
            .map(|joined| {
                self.place
                    .diagnostic(format!("the result has two columns `{}`", joined.name))
                    .subject(joined.name.clone())
                    .hint("give one of them another name in a map")
            })
            .collect();
        if twice.is_empty() { Ok(joined) } else { Err(twice) }
    }
}

struct Joined {
    side: &'static str,
    column: String,
    /// In the result.
    name: String,
}

fn ours_without<'a>(
    plan: &'a LogicalPlan,
    is_key: impl Fn(&String) -> bool + 'a,
) -> impl Iterator<Item = &'a String> + 'a {
    let names = plan.schema().fields().iter().map(|field| field.name());
    names.filter(move |name| !is_key(name))
}

fn of(side: &'static str, column: &str) -> Column {
    Column::new(Some(TableReference::bare(side)), column)
}
