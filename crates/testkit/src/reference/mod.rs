//! A naive reference of the DStream algebra: small, slow, and right by inspection.
//!
//! - A [`Model`] is a job whose functions are drawn from a menu: each [`Expr`] is SQL text and a meaning over plain
//!   [`Value`]s. [`Model::lower`] makes it the job graph that a cluster runs.
//! - An [`Evaluation`] is what the model means: every node's rows, batch by batch, with all history remembered, no
//!   partitions, no panes, no plans.
//! - A [`Case`] is a random model with random input, by its seed. [`Case::shrink`] makes a failing one small.
//!
//! ```text
//!               ┌─ lower ────► JobGraph ──► a cluster ──► printed rows ─┐
//!   seed ──► Case                                                      equal, as multisets, batch by batch
//!               └─ expected ─► Evaluation ────────────────────────────┘
//! ```
//!
//! What the algebra leaves open is kept out: which records a sample keeps, how many lists a glom gives, the order of
//! records, and of lists that come from several partitions. Numbers stay small enough to be exact.

mod compare;
mod evaluate;
mod expr;
mod generate;
mod lower;
mod model;
mod registered;
mod schema;
mod shrink;
#[cfg(test)]
mod tests;
mod unfit;
mod value;

pub use compare::{Difference, Found};
pub use evaluate::{Evaluation, Mistake};
pub use expr::{Aggregate, AggregateFunction, Binary, Call, Expr, Scope, aggregate, call, column, literal};
pub use generate::{Case, Menu};
pub use lower::{File, INTERVAL};
pub use model::{JoinKind, Keyed, Model, Named, Node, Op, Query, Reduction, SortKey, StateColumn};
pub use registered::registry;
pub use schema::{Column, Schema, Type};
pub use unfit::Unfit;
pub use value::{Row, Value};
