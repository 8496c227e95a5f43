//! Random operators, and those over one stream.

use super::expressions::Expressions;
use super::growth::Growth;
use crate::reference::{Binary, Call, Column, Expr, Named, Op, Reduction, SortKey, Type, call, column, literal};

impl Growth<'_> {
    /// Draws an operator behind `parent`, with what it needs beside it.
    pub(super) fn draw(&mut self, parent: usize) {
        let before = self.model().nodes.len();
        if self.drawn(parent).is_none() {
            self.cut(before);
        }
    }

    fn drawn(&mut self, parent: usize) -> Option<usize> {
        if self.random.one_in(6) {
            return self.state(parent);
        }
        let op = match self.random.below(40) {
            0 | 1 => Op::Map(self.expressions(parent).columns(1, 4)),
            2 => self.flat_map(parent),
            3 | 4 => Op::Filter(self.expressions(parent).predicate()),
            5 | 6 => self.map_values(parent)?,
            7..=9 => return self.simple(parent),
            10 | 11 => return self.union(parent),
            12 => Op::Count,
            13 => Op::CountByValue {
                partitions: self.partitions(),
            },
            14 => Op::Distinct {
                partitions: self.partitions(),
            },
            15 => Op::Reduce(self.reduction(parent, &[], false)?),
            16..=18 => self.reduce_by_key(parent, false)?,
            19 => self.aggregate(parent)?,
            20 => self.group_by_key(parent)?,
            21 => self.combine_by_key(parent)?,
            22 => Op::SortBy {
                keys: self.sort_keys(parent),
                limit: (!self.random.one_in(4)).then(|| self.random.between(1, 5)),
            },
            23..=26 => return self.transform(parent),
            27..=30 => return self.join(parent),
            31..=33 => return self.cogroup(parent),
            34..=36 => {
                let (length, slide) = self.window(parent)?;
                Op::Window { length, slide }
            }
            _ => self.windowed(parent)?,
        };
        let place = self.add(op.clone(), &[parent])?;
        // What is done twice is not done once.
        if op.window().is_none() && self.random.one_in(8) {
            return self.add(op, &[place]).or(Some(place));
        }
        Some(place)
    }

    pub(super) fn expressions(&mut self, over: usize) -> Expressions<'_> {
        Expressions {
            random: &mut self.random,
            schema: &self.schemas[over],
        }
    }

    pub(super) fn partitions(&mut self) -> Option<u32> {
        self.random
            .pick(&[None, None, None, Some(1), Some(2), Some(3), Some(7)])
    }

    /// The plain columns of a node.
    pub(super) fn plain(&self, place: usize) -> Vec<Column> {
        let plain = self.schemas[place]
            .columns()
            .iter()
            .filter(|column| column.data_type.is_plain());
        plain.cloned().collect()
    }

    /// Names of columns that can be keys: not floats, whose equality depends on how they were computed.
    pub(super) fn key_names(&self, place: usize) -> Vec<String> {
        let plain = self.plain(place).into_iter();
        let keys = plain.filter(|column| column.data_type != Type::Float);
        keys.map(|column| column.name).collect()
    }

    /// Some of the columns as keys, mostly one.
    pub(super) fn some_keys(&mut self, place: usize) -> Option<Vec<String>> {
        let most = if self.random.one_in(4) { 2 } else { 1 };
        let keys = self.random.several(&self.key_names(place), 1, most);
        (!keys.is_empty()).then_some(keys)
    }

    /// Keys that are columns, or computed.
    fn keys(&mut self, place: usize) -> Option<Vec<Named>> {
        let names = self.some_keys(place)?;
        let keys = names.into_iter().map(|name| {
            let data_type = self.schemas[place].column(&name).map(|column| column.data_type.clone());
            let is_int = data_type == Ok(Type::Int);
            if is_int && self.random.one_in(4) {
                let expr = column(&name).binary(Binary::Remainder, literal(3));
                // Under another name the column stays a value.
                let name = if self.random.one_in(2) { "g".to_owned() } else { name };
                Named::new(name, expr)
            } else {
                Named::column(name)
            }
        });
        Some(keys.collect())
    }

    /// Lists that are there, or new ones.
    fn flat_map(&mut self, parent: usize) -> Op {
        let lists = self.schemas[parent]
            .columns()
            .iter()
            .filter(|column| column.data_type.item().is_some());
        let lists: Vec<String> = lists.map(|column| column.name.clone()).collect();
        let there = self.random.pick_some(&lists);
        let mut expressions = self.expressions(parent);
        let mut columns = expressions.columns(1, 3);
        let list = match there {
            Some(list) => column(list),
            None => expressions.list(),
        };
        match columns.iter_mut().find(|column| column.name == "v") {
            Some(column) => column.expr = list,
            None => columns.push(Named::new("v", list)),
        }
        if self.random.one_in(4) && !columns.iter().any(|column| column.name == "e") {
            columns.push(Named::new("e", self.expressions(parent).list()));
        }
        Op::FlatMap(columns)
    }

    fn map_values(&mut self, parent: usize) -> Option<Op> {
        let keys = self.some_keys(parent)?;
        let spread = self.random.one_in(3);
        let mut expressions = self.expressions(parent);
        let mut columns = expressions.columns(1, 3);
        if spread {
            let list = expressions.list();
            columns[0].expr = list;
        }
        columns.retain(|column| !keys.contains(&column.name));
        Some(if spread {
            Op::FlatMapValues { keys, columns }
        } else {
            Op::MapValues { keys, columns }
        })
    }

    /// Operators that change no record, and one that has each of them twice.
    fn simple(&mut self, parent: usize) -> Option<usize> {
        let op = match self.random.below(14) {
            12 | 13 => Op::Accumulate,
            0 => Op::Sample { all: true },
            1 => Op::Sample { all: false },
            2 | 3 => Op::Repartition(self.random.pick(&[1, 2, 3, 7])),
            4..=6 => Op::PartitionBy {
                keys: self.some_keys(parent)?,
                partitions: self.partitions(),
            },
            7 | 8 => Op::MapPartitions,
            _ => Op::Glom,
        };
        self.add(op, &[parent])
    }

    pub(super) fn reduction(&mut self, parent: usize, keys: &[String], in_window: bool) -> Option<Reduction> {
        let values = self.schemas[parent].without(keys);
        if self.random.one_in(2) || values.columns().is_empty() || !values.is_plain() {
            let aggregates = self.expressions(parent).aggregates(keys, 1, 3);
            return Some(Reduction::Aggregates(aggregates));
        }
        let mut expressions = self.expressions(parent);
        let folds: Vec<(String, Expr, Option<Expr>)> = values
            .columns()
            .iter()
            .map(|column| {
                let (function, inverse) = expressions.fold(column);
                (column.name.clone(), function, inverse)
            })
            .collect();
        let inverse = folds
            .iter()
            .map(|(name, _, inverse)| Some(Named::new(name, inverse.clone()?)));
        let inverse: Option<Vec<Named>> = inverse.collect();
        Some(Reduction::Binary {
            columns: folds
                .into_iter()
                .map(|(name, function, _)| Named::new(name, function))
                .collect(),
            inverse: inverse.filter(|_| in_window).unwrap_or_default(),
        })
    }

    pub(super) fn reduce_by_key(&mut self, parent: usize, in_window: bool) -> Option<Op> {
        let keys = self.keys(parent)?;
        let names: Vec<String> = keys.iter().map(|key| key.name.clone()).collect();
        Some(Op::ReduceByKey {
            reduction: self.reduction(parent, &names, in_window)?,
            keys,
            partitions: self.partitions(),
        })
    }

    fn aggregate(&mut self, parent: usize) -> Option<Op> {
        let keys = if self.random.one_in(3) {
            Vec::new()
        } else {
            self.keys(parent)?
        };
        let names: Vec<String> = keys.iter().map(|key| key.name.clone()).collect();
        Some(Op::Aggregate {
            aggregates: self.expressions(parent).aggregates(&names, 1, 3),
            keys,
            partitions: self.partitions(),
        })
    }

    pub(super) fn group_by_key(&mut self, parent: usize) -> Option<Op> {
        Some(Op::GroupByKey {
            keys: self.keys(parent)?,
            partitions: self.partitions(),
        })
    }

    /// The sum and the number of a whole number's values, or the largest of a text's.
    fn combine_by_key(&mut self, parent: usize) -> Option<Op> {
        let keys = self.keys(parent)?;
        let values = self.plain(parent);
        let value = self.random.pick_some(&values)?;
        let of_record = || column(&value.name);
        let merging = || column(format!("value_{}", value.name));
        let pair = |function: fn(Expr, Expr) -> Expr| function(column("a"), column("b"));
        let add: fn(Expr, Expr) -> Expr = |a, b| a.binary(Binary::Add, b);
        let greatest: fn(Expr, Expr) -> Expr = |a, b| call(Call::Greatest, [a, b]);
        let (create, merge_value, merge_combiners) = match value.data_type {
            Type::Int => (
                vec![Named::new("total", of_record()), Named::new("n", literal(1))],
                vec![
                    Named::new("total", add(column("total"), merging())),
                    Named::new("n", add(column("n"), literal(1))),
                ],
                vec![Named::new("total", pair(add)), Named::new("n", pair(add))],
            ),
            Type::Text => (
                vec![Named::new("high", of_record())],
                vec![Named::new("high", greatest(column("high"), merging()))],
                vec![Named::new("high", pair(greatest))],
            ),
            _ => return None,
        };
        Some(Op::CombineByKey {
            keys,
            create,
            merge_value: if self.random.one_in(2) { Vec::new() } else { merge_value },
            merge_combiners,
            partitions: self.partitions(),
        })
    }

    /// All columns, in some order.
    pub(super) fn sort_keys(&mut self, parent: usize) -> Vec<SortKey> {
        let names: Vec<String> = self.schemas[parent].names().map(str::to_owned).collect();
        let all = names.len() as u64;
        let names = self.random.several(&names, all, all);
        let key = |column| SortKey {
            column,
            descending: self.random.one_in(2),
            nulls_first: self.random.pick(&[None, None, Some(true), Some(false)]),
        };
        names.into_iter().map(key).collect()
    }
}
