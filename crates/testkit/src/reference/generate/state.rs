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
        let emitted = [
            "seen",
            "sum_now",
            "state_n",
            "state_high",
            "state_text",
            "old_state_n",
            "old_state_text",
            "timing_out",
        ];
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

    /// A count, a high-water mark of numbers and one of texts, which may be removed when the count has become too large,
    /// or when there is nothing new.
    fn keyed(&mut self, parent: usize, keys: Vec<String>) -> Option<Keyed> {
        let number = self.expressions(parent).of_type(&Type::Int);
        let text = self.expressions(parent).of_type(&Type::Text);
        let values = vec![
            Named::new("seen", aggregate(CountAll)),
            Named::new("sum_now", aggregate(Sum(number.clone()))),
            Named::new("high_now", aggregate(Max(number))),
            Named::new("text_now", aggregate(Max(text))),
        ];
        let total = column("state_n")
            .or_else(literal(0))
            .binary(Binary::Add, column("seen"));
        let none = || Expr::Null(Type::Int);
        let last_text = call(Call::Greatest, [column("state_text"), column("text_now")]);
        let (count, high, text) = match self.random.below(3) {
            0 => (
                total,
                call(Call::Greatest, [column("state_high"), column("high_now")]),
                last_text,
            ),
            1 => {
                let idle = column("seen").binary(Binary::Equal, literal(0));
                (idle.choose(none(), total), none(), Expr::Null(Type::Text))
            }
            _ => {
                let small = total.clone().binary(Binary::Less, literal(4));
                let high = column("state_high")
                    .or_else(literal(0))
                    .binary(Binary::Add, column("sum_now").or_else(literal(0)));
                let text = small.clone().choose(last_text, Expr::Null(Type::Text));
                (small.clone().choose(total, none()), small.choose(high, none()), text)
            }
        };
        let state = |name: &str, data_type, expr| StateColumn {
            name: name.to_owned(),
            data_type,
            expr,
        };
        let initial = if self.random.one_in(3) {
            self.initial(parent, &keys)?
        } else {
            Vec::new()
        };
        Some(Keyed {
            keys,
            values,
            state: vec![
                state("state_n", Type::Int, count),
                state("state_high", Type::Int, high),
                state("state_text", Type::Text, text),
            ],
            initial,
            is_file: self.random.one_in(2),
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
            let text = if i == 1 { Value::text("b") } else { Value::Null };
            let row: Row = key.chain([Value::Int(1), Value::Null, text]).collect();
            if !rows.iter().any(|other| other[..keys.len()] == row[..keys.len()]) {
                rows.push(row);
            }
        }
        Some(rows)
    }
}
