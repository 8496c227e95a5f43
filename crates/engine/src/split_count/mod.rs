//! Counting words: splits text and counts the tokens in one operator.
//!
//! ```text
//!   AggregateExec count by token
//!     FilterExec on the token                     SplitCountExec
//!       UnnestExec                        ──►       (the input)
//!         ProjectionExec string_to_array(lower(text), ' ')
//!           (the input)
//! ```
//! The general operators write every token as a value of a list, spread the lists, filter and hash; here a token is
//! looked up where it stands in the text, and only distinct tokens are ever stored or filtered. Rows and types are
//! exactly those of the operators that it replaces.

mod exec;
mod recognise;
mod tokens;

pub(crate) use exec::{SplitCount, SplitCountExec};
pub(crate) use recognise::apply;

#[cfg(test)]
mod tests;
