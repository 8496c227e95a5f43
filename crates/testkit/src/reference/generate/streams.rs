//! Random operators over several streams.

use super::growth::Growth;
use crate::reference::{Expr, JoinKind, Named, Op, Query, Schema, Type, Value, column};

impl Growth<'_> {
    /// Another stream with rows as often as this one, or this one again.
    fn partner(&mut self, place: usize) -> Option<usize> {
        if !self.is_even(place) {
            return None;
        }
        let alike = |other: &usize| self.slides[*other] == self.slides[place] && self.is_even(*other);
        let others: Vec<usize> = (0..self.model().nodes.len()).filter(alike).collect();
        self.random.pick_some(&others)
    }

    /// A column of `other` for each wanted one, of its type.
    fn aligned(&mut self, other: usize, wanted: &Schema) -> Op {
        let columns = wanted.columns().iter().map(|wanted| {
            let of_type = self
                .plain(other)
                .into_iter()
                .filter(|column| column.data_type == wanted.data_type);
            let of_type: Vec<String> = of_type.map(|column| column.name).collect();
            let same = of_type.iter().find(|name| **name == wanted.name).cloned();
            let found = same.or_else(|| self.random.pick_some(&of_type));
            let expr = found.map_or(Expr::Null(wanted.data_type.clone()), column);
            Named::new(&wanted.name, expr)
        });
        Op::Map(columns.collect())
    }

    pub(super) fn union(&mut self, parent: usize) -> Option<usize> {
        let mut inputs = vec![parent];
        for _ in 0..self.random.between(1, 2) {
            let other = self.partner(parent)?;
            let schema = self.schemas[parent].clone();
            if schema.matches(&self.schemas[other]) {
                inputs.push(other);
            } else if schema.is_plain() {
                let aligned = self.aligned(other, &schema);
                inputs.push(self.add(aligned, &[other])?);
            } else {
                return None;
            }
        }
        self.add(Op::Union, &inputs)
    }

    /// Pairs of key columns of one type.
    fn pairs(&self, left: usize, right: usize) -> Vec<(String, String)> {
        let column =
            |place: usize, name: &String| self.schemas[place].column(name).map(|column| column.data_type.clone());
        let mut pairs = Vec::new();
        for ours in self.key_names(left) {
            for theirs in self.key_names(right) {
                if column(left, &ours) == column(right, &theirs) {
                    pairs.push((ours.clone(), theirs));
                }
            }
        }
        pairs
    }

    pub(super) fn join(&mut self, parent: usize) -> Option<usize> {
        let other = self.partner(parent)?;
        let mut pairs = self.pairs(parent, other);
        let same: Vec<(String, String)> = pairs.iter().filter(|(left, right)| left == right).cloned().collect();
        if !same.is_empty() && self.random.one_in(2) {
            pairs = same;
        }
        let mut on = vec![self.random.pick_some(&pairs)?];
        if self.random.one_in(4) {
            pairs.retain(|(left, right)| on.iter().all(|(l, r)| l != left && r != right));
            on.extend(self.random.pick_some(&pairs));
        }
        let kinds = [
            JoinKind::Inner,
            JoinKind::LeftOuter,
            JoinKind::RightOuter,
            JoinKind::FullOuter,
        ];
        let op = Op::Join {
            kind: self.random.pick(&kinds),
            on,
            partitions: self.partitions(),
        };
        self.add(op, &[parent, other])
    }

    pub(super) fn cogroup(&mut self, parent: usize) -> Option<usize> {
        let mut inputs = vec![parent];
        let mut keys = self.some_keys(parent)?;
        for _ in 0..self.random.pick(&[1, 1, 2]) {
            let other = self.partner(parent)?;
            // A list is named as its stream.
            if !inputs.contains(&other) {
                inputs.push(other);
            }
        }
        keys.retain(|key| {
            let of = |place: &usize| self.schemas[*place].column(key).map(|column| column.data_type.clone());
            inputs.iter().all(|input| of(input) == of(&parent))
        });
        let op = Op::Cogroup {
            keys: (!keys.is_empty()).then_some(keys)?,
            partitions: self.partitions(),
        };
        self.add(op, &inputs)
    }

    pub(super) fn transform(&mut self, parent: usize) -> Option<usize> {
        let keys = self.some_keys(parent)?;
        let query = match self.random.below(10) {
            0 => Query::Select(self.expressions(parent).columns(1, 4)),
            1 => Query::Group {
                aggregates: self.expressions(parent).aggregates(&keys, 1, 3),
                keys,
            },
            2 => Query::Top {
                keys: self.sort_keys(parent),
                limit: self.random.between(1, 5),
            },
            3 => Query::Number { key: keys[0].clone() },
            4 => Query::Above {
                column: self.whole_number(parent)?,
            },
            5 => self.lookup(parent)?,
            6 => Query::Native,
            _ => {
                let alike = self.random.one_in(2);
                let all = self.model().nodes.len() as u64;
                let other = match alike {
                    true => self.partner(parent)?,
                    false => self.random.below(all) as usize,
                };
                let pairs = self.pairs(parent, other);
                let (key, other_key) = self.random.pick_some(&pairs)?;
                let names = |place: usize| self.schemas[place].names().map(str::to_owned).collect::<Vec<_>>();
                let (mut left, right) = (names(parent), names(other));
                left.retain(|name| *name != key);
                let (left, right) = (self.random.several(&left, 0, 2), self.random.several(&right, 0, 2));
                let query = match self.random.below(4) {
                    0 => Query::Exists { key, other_key },
                    1 => Query::NotIn { key, other_key },
                    _ => Query::Join {
                        key,
                        other_key,
                        left,
                        right,
                        outer: self.random.one_in(3),
                    },
                };
                let op = if alike {
                    Op::TransformWith(query)
                } else {
                    Op::Transform(query)
                };
                return self.add(op, &[parent, other]);
            }
        };
        self.add(Op::Transform(query), &[parent])
    }

    /// A column of whole numbers.
    fn whole_number(&mut self, parent: usize) -> Option<String> {
        let ints = self.plain(parent).into_iter();
        let ints = ints.filter(|column| column.data_type == Type::Int);
        let names: Vec<String> = ints.map(|column| column.name).collect();
        self.random.pick_some(&names)
    }

    /// A join with a table in which some keys have no name, and some several.
    fn lookup(&mut self, parent: usize) -> Option<Query> {
        let key = self.whole_number(parent)?;
        let names: Vec<String> = self.schemas[parent].names().map(str::to_owned).collect();
        let left: Vec<String> = names.into_iter().filter(|name| *name != key).collect();
        let row = |i: u64| vec![Value::Int(i as i64 % 4), Value::text(format!("name {i}"))];
        Some(Query::Lookup {
            key,
            left: self.random.several(&left, 0, 2),
            table: (0..self.random.between(1, 6)).map(row).collect(),
            outer: self.random.one_in(2),
        })
    }
}
