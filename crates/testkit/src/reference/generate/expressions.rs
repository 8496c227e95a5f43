//! Random functions over given columns.

use super::random::Random;
use crate::reference::{
    Aggregate, AggregateFunction, Binary, Call, Column, Expr, Named, Schema, Type, aggregate, call, column, literal,
};

/// Draws expressions over the columns of a record.
pub(super) struct Expressions<'a> {
    pub(super) random: &'a mut Random,
    pub(super) schema: &'a Schema,
}

/// Names of columns, of which `k` is mostly a key. SQL reserves one.
const NAMES: [&str; 9] = ["k", "v", "t", "a", "b", "c", "d", "k2", "user"];
const AGGREGATE_NAMES: [&str; 6] = ["n", "total", "high", "low", "mean", "kinds"];
/// How deep expressions nest.
const DEPTH: u64 = 2;

impl Expressions<'_> {
    /// Everything with a plain value that a record holds without computing, and the sizes of its lists.
    pub(super) fn leaves(&self) -> Vec<(Expr, Type)> {
        let mut leaves = Vec::new();
        for found in self.schema.columns() {
            let name = &found.name;
            match &found.data_type {
                Type::List(_) | Type::Bag(_) => leaves.push((call(Call::Size, [column(name)]), Type::Int)),
                Type::Struct(fields) => leaves.extend(
                    fields
                        .iter()
                        .filter(|field| field.data_type.is_plain())
                        .map(|field| (column(name).field(&field.name), field.data_type.clone())),
                ),
                plain => leaves.push((column(name), plain.clone())),
            }
        }
        leaves
    }

    fn leaf(&mut self, of: &Type) -> Option<Expr> {
        let leaves = self.leaves().into_iter().filter(|(_, data_type)| data_type == of);
        let leaves: Vec<Expr> = leaves.map(|(expr, _)| expr).collect();
        self.random.pick_some(&leaves)
    }

    /// An expression of a plain type.
    pub(super) fn of_type(&mut self, data_type: &Type) -> Expr {
        self.nested(data_type, DEPTH)
    }

    fn nested(&mut self, data_type: &Type, depth: u64) -> Expr {
        match data_type {
            Type::Bool => self.bool(depth),
            Type::Text => self.text(depth),
            Type::Float => self.float(depth),
            _ => self.int(depth),
        }
    }

    fn leaf_or(&mut self, data_type: &Type, other: impl FnOnce(&mut Random) -> Expr) -> Expr {
        match self.leaf(data_type) {
            Some(leaf) => leaf,
            None => other(self.random),
        }
    }

    fn small(random: &mut Random) -> Expr {
        literal(random.below(10) as i64 - 1)
    }

    fn int(&mut self, depth: u64) -> Expr {
        if depth == 0 || self.random.one_in(3) {
            return self.leaf_or(&Type::Int, Self::small);
        }
        let small = Self::small(self.random);
        match self.random.below(13) {
            0 => self
                .int(depth - 1)
                .binary(Binary::Remainder, literal(self.random.between(2, 5) as i64)),
            1 | 2 => self.int(depth - 1).binary(Binary::Add, small),
            3 => self.int(depth - 1).binary(Binary::Add, self.int(depth - 1)),
            4 => self.int(depth - 1).binary(Binary::Subtract, self.int(depth - 1)),
            5 => self.int(depth - 1).binary(Binary::Multiply, literal(2)),
            6 => self.int(depth - 1).or_else(small),
            7 => call(Call::Length, [self.text(depth - 1)]),
            8 => self.bool(depth - 1).choose(self.int(depth - 1), self.int(depth - 1)),
            9 => call(Call::Greatest, [self.int(depth - 1), self.int(depth - 1)]),
            10 => call(Call::Least, [self.int(depth - 1), small]),
            11 => call(Call::NullIf, [self.int(depth - 1), small]),
            _ => Expr::BatchNumber,
        }
    }

    fn text(&mut self, depth: u64) -> Expr {
        let word = |random: &mut Random| literal(random.pick(&["a", "x", "yes"]));
        if depth == 0 || self.random.one_in(2) {
            return self.leaf_or(&Type::Text, word);
        }
        match self.random.below(6) {
            0 => call(Call::Upper, [self.text(depth - 1)]),
            1 => call(Call::Lower, [self.text(depth - 1)]),
            2 => self.text(depth - 1).binary(Binary::Concat, word(self.random)),
            3 => self.text(depth - 1).or_else(word(self.random)),
            4 => call(Call::ToText, [self.int(depth - 1)]),
            _ => self.bool(depth - 1).choose(self.text(depth - 1), word(self.random)),
        }
    }

    fn float(&mut self, depth: u64) -> Expr {
        match self.leaf(&Type::Float) {
            Some(leaf) if self.random.one_in(2) => leaf,
            _ => call(Call::Half, [self.int(depth.saturating_sub(1))]),
        }
    }

    fn bool(&mut self, depth: u64) -> Expr {
        if let Some(leaf) = self.leaf(&Type::Bool).filter(|_| depth == 0 || self.random.one_in(4)) {
            return leaf;
        }
        let below = depth.saturating_sub(1);
        match self.random.below(if depth == 0 { 3 } else { 8 }) {
            0 => self.int(below).binary(Binary::Less, Self::small(self.random)),
            1 => Self::small(self.random).binary(Binary::Less, self.int(below)),
            2 => {
                let leaves: Vec<Expr> = self.leaves().into_iter().map(|(expr, _)| expr).collect();
                self.random.pick_some(&leaves).map_or(literal(true), Expr::is_null)
            }
            3 => self.text(below).binary(Binary::Equal, self.text(below)),
            4 => self.int(below).binary(Binary::Equal, self.int(below)),
            5 => self.bool(below).negated(),
            6 => self.bool(below).binary(Binary::And, self.bool(below)),
            _ => self.bool(below).binary(Binary::Or, self.bool(below)),
        }
    }

    /// A predicate, in favour of those that keep something.
    pub(super) fn predicate(&mut self) -> Expr {
        self.bool(DEPTH)
    }

    /// Columns of a `map`: mostly what is there.
    pub(super) fn columns(&mut self, least: u64, most: u64) -> Vec<Named> {
        let names = self.random.several(&NAMES, least, most);
        names
            .into_iter()
            .map(|name| {
                let same = self.schema.column(name).is_ok();
                let expr = match self.random.below(6) {
                    0..=2 if same => column(name),
                    0..=3 => {
                        let columns: Vec<Column> = self.schema.columns().to_vec();
                        let kept = self.random.pick_some(&columns);
                        kept.map_or(literal(1), |kept| column(kept.name))
                    }
                    _ => {
                        let data_type = self
                            .random
                            .pick(&[Type::Int, Type::Int, Type::Text, Type::Bool, Type::Float]);
                        self.of_type(&data_type)
                    }
                };
                Named::new(name, expr)
            })
            .collect()
    }

    /// A list in order.
    pub(super) fn list(&mut self) -> Expr {
        match self.random.below(4) {
            0 => call(Call::Range, [self.int(0).binary(Binary::Remainder, literal(4))]),
            1 => Expr::Call(Call::Array, vec![self.text(1), self.text(1)]),
            2 => {
                let items = Expr::Call(Call::Array, vec![self.int(1), self.int(1), self.int(1)]);
                let nothing = Expr::Null(Type::List(Box::new(Type::Int)));
                self.bool(1).choose(items, nothing)
            }
            _ => Expr::Call(Call::Array, vec![self.int(1)]),
        }
    }

    /// Aggregates under names that no key has.
    pub(super) fn aggregates(&mut self, keys: &[String], least: u64, most: u64) -> Vec<Named> {
        let names = AGGREGATE_NAMES
            .iter()
            .filter(|name| !keys.iter().any(|key| key == *name));
        let names: Vec<&str> = names.copied().collect();
        let names = self.random.several(&names, least, most);
        names
            .into_iter()
            .map(|name| Named::new(name, self.aggregated()))
            .collect()
    }

    fn aggregated(&mut self) -> Expr {
        match self.random.below(8) {
            0 => self.aggregate().or_null_as_zero(),
            1 => {
                let left = aggregate(AggregateFunction::Sum(self.int(1)));
                left.binary(Binary::Subtract, aggregate(AggregateFunction::CountAll))
            }
            _ => Expr::Aggregate(Box::new(self.aggregate().0)),
        }
    }

    fn aggregate(&mut self) -> Drawn {
        let leaves: Vec<Expr> = self.leaves().into_iter().map(|(expr, _)| expr).collect();
        let some = self.random.pick_some(&leaves).unwrap_or(literal(1));
        let int = self.int(1);
        let (function, is_int) = match self.random.below(9) {
            0 | 1 => (AggregateFunction::CountAll, true),
            2 => (AggregateFunction::Count(some), true),
            3 => (AggregateFunction::CountDistinct(some), true),
            4 | 5 => (AggregateFunction::Sum(int), true),
            6 => (AggregateFunction::Min(some), false),
            7 => (AggregateFunction::Max(some), false),
            _ => (AggregateFunction::Avg(int), false),
        };
        let filter = self.random.one_in(6).then(|| self.bool(1));
        Drawn(Aggregate { function, filter }, is_int)
    }

    /// A function of `a` and `b` that does not mind in which order it is applied, and its inverse if it has one.
    pub(super) fn fold(&mut self, of: &Column) -> (Expr, Option<Expr>) {
        let both = |function| call(function, [column("a"), column("b")]);
        let added = column("a").binary(Binary::Add, column("b"));
        match (&of.data_type, self.random.below(4)) {
            (Type::Int, 0 | 1) if !of.nullable => (added, Some(column("a").binary(Binary::Subtract, column("b")))),
            (Type::Int, 0) => (added, None),
            (Type::Int, 1) => {
                let zero = |name: &str| column(name).or_else(literal(0));
                (zero("a").binary(Binary::Add, zero("b")), None)
            }
            (Type::Bool, 0 | 1) => (column("a").binary(Binary::And, column("b")), None),
            (Type::Bool, _) => (column("a").binary(Binary::Or, column("b")), None),
            (_, 0 | 2) => (both(Call::Greatest), None),
            _ => (both(Call::Least), None),
        }
    }
}

/// An aggregate, and whether it is a whole number.
struct Drawn(Aggregate, bool);

impl Drawn {
    fn or_null_as_zero(self) -> Expr {
        let Self(aggregate, is_int) = self;
        let expr = Expr::Aggregate(Box::new(aggregate));
        if is_int { expr.or_else(literal(0)) } else { expr }
    }
}
