//! Random windows, and operators over them.

use super::expressions::Expressions;
use super::growth::Growth;
use crate::reference::{Expr, Op};

/// The longest window, in datasets of its stream.
const LONGEST: u64 = 6;
/// No stream has rows less often.
const SLOWEST: u64 = 6;

impl Growth<'_> {
    pub(super) fn window(&mut self, parent: usize) -> Option<(u64, Option<u64>)> {
        let slide = self.slides[parent];
        if !self.is_even(parent) {
            return None;
        }
        let length = slide * self.random.between(1, LONGEST);
        let own = (!self.random.one_in(2)).then(|| slide * self.random.between(1, 4));
        Some((length, own.filter(|own| *own <= SLOWEST)))
    }

    pub(super) fn windowed(&mut self, parent: usize) -> Option<Op> {
        let (length, slide) = self.window(parent)?;
        let mut filter = None;
        let op = match self.random.below(6) {
            0 => Op::Count,
            1 => Op::CountByValue {
                partitions: self.partitions(),
            },
            2 => Op::Reduce(self.reduction(parent, &[], true)?),
            3 => self.group_by_key(parent)?,
            _ => {
                let op = self.reduce_by_key(parent, true)?;
                if self.random.one_in(3) {
                    filter = self.filter_of(&op, parent);
                }
                op
            }
        };
        Some(Op::Windowed {
            length,
            slide,
            op: Box::new(op),
            filter,
        })
    }

    /// A predicate over what an operator gives.
    fn filter_of(&mut self, op: &Op, parent: usize) -> Option<Expr> {
        let mut model = self.model().clone();
        let place = model.add("reduced", op.clone(), &[parent]);
        let schema = model.schema_of(place, &self.schemas).ok()?;
        let mut expressions = Expressions {
            random: &mut self.random,
            schema: &schema,
        };
        Some(expressions.predicate())
    }
}
