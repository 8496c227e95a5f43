//! Random operators with state.

use super::growth::Growth;
use crate::reference::AggregateFunction::{CountAll, Max, Sum};
use crate::reference::{
    Binary, Call, Expr, Keyed, Named, Op, Row, StateColumn, Type, Value, aggregate, call, column, literal,
};

impl Growth<'_> {
    /// Totals that may be removed, by an operator of either kind, and perhaps all states beside it.
    pub(super) fn state(&mut self, parent: usize) -> Option<usize> {
        if !self.is_even(parent) {
            return None;
        }
        let keys = self.some_keys(parent)?;
        let keyed = self.keyed(parent, keys)?;
        if self.random.one_in(2) {
            return self.add(Op::UpdateStateByKey(keyed), &[parent]);
        }
        let with_emit = self.random.one_in(2);
        let emitted = ["seen", "sum_now", "state_n", "state_high", "old_state_n", "timing_out"];
        let emit: Vec<Named> = match with_emit {
            true => keyed
                .keys
                .iter()
                .map(String::as_str)
                .chain(emitted)
                .map(Named::column)
                .collect(),
            false => Vec::new(),
        };
        let slide = self.slides[parent];
        let timeout = (!self.random.one_in(3)).then(|| self.random.between(1, 5 * slide));
        let map = self.add(Op::MapWithState { keyed, emit, timeout }, &[parent])?;
        if self.random.one_in(2) {
            return self.add(Op::StateSnapshots, &[map]);
        }
        Some(map)
    }

    /// A count that is removed when it has become too large, or when there is nothing new; and a high-water mark.
    fn keyed(&mut self, parent: usize, keys: Vec<String>) -> Option<Keyed> {
        let number = self.expressions(parent).of_type(&Type::Int);
        let values = vec![
            Named::new("seen", aggregate(CountAll)),
            Named::new("sum_now", aggregate(Sum(number.clone()))),
            Named::new("high_now", aggregate(Max(number))),
        ];
        let total = column("state_n")
            .or_else(literal(0))
            .binary(Binary::Add, column("seen"));
        let none = || Expr::Null(Type::Int);
        let (count, high) = match self.random.below(3) {
            0 => (total, call(Call::Greatest, [column("state_high"), column("high_now")])),
            1 => {
                let idle = column("seen").binary(Binary::Equal, literal(0));
                (idle.choose(none(), total), none())
            }
            _ => {
                let small = total.clone().binary(Binary::Less, literal(4));
                let high = column("state_high")
                    .or_else(literal(0))
                    .binary(Binary::Add, column("sum_now").or_else(literal(0)));
                (small.clone().choose(total, none()), small.choose(high, none()))
            }
        };
        let state = |name: &str, expr| StateColumn {
            name: name.to_owned(),
            data_type: Type::Int,
            expr,
        };
        let initial = if self.random.one_in(4) {
            self.initial(parent, &keys)?
        } else {
            Vec::new()
        };
        Some(Keyed {
            keys,
            values,
            state: vec![state("state_n", count), state("state_high", high)],
            initial,
            partitions: self.partitions(),
        })
    }

    fn initial(&mut self, parent: usize, keys: &[String]) -> Option<Vec<Row>> {
        let types = keys
            .iter()
            .map(|key| self.schemas[parent].column(key).map(|column| column.data_type.clone()));
        let types: Vec<Type> = types.collect::<Result<_, _>>().ok()?;
        let mut rows: Vec<Row> = Vec::new();
        for i in 0..self.random.between(1, 3) {
            let key = types.iter().map(|data_type| match data_type {
                Type::Int => Value::Int(i as i64),
                Type::Bool => Value::Bool(i == 0),
                _ => Value::text(["a", "b", "c"][i as usize % 3]),
            });
            let row: Row = key.chain([Value::Int(1), Value::Null]).collect();
            if !rows.iter().any(|other| other[..keys.len()] == row[..keys.len()]) {
                rows.push(row);
            }
        }
        Some(rows)
    }
}
