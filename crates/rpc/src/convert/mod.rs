//! Domain types to wire types and back.
//!
//! To the wire is `From<&Domain>` and cannot fail; durations become whole milliseconds, as validation has them. From
//! the wire is `TryFrom`, whose [`Error`] names the field: a missing message, an enum value that is unspecified or of
//! a later version, a number that does not fit. Nothing else is checked here: a graph that comes from the wire still
//! has to be [validated](tidemill_dstream::JobGraph::validate).

mod accumulator;
mod broadcast;
mod diagnostic;
mod failure;
mod function;
mod graph;
mod input;
mod operator;
mod plan;
mod source;
#[cfg(test)]
mod tests;

use std::time::Duration;

use tidemill_types::{StorageLevel, UnknownLevel};

pub use broadcast::{broadcast_shape, broadcast_source};
pub use diagnostic::{diagnostics_from_status, diagnostics_status};
pub use input::input_item;

/// A wire message that says nothing in the domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Error {
    /// The field's path from the message that was converted, as in the proto file.
    pub field: String,
    pub message: String,
}

impl Error {
    fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }

    fn missing(field: &str) -> Self {
        Self::new(field, "missing, or of a later version")
    }

    fn unknown(field: &str, value: i32) -> Self {
        Self::new(field, format!("{value} is not a known value"))
    }

    /// The same error, seen from the message around it.
    fn inside(self, outer: &str) -> Self {
        let field = if self.field.is_empty() {
            outer.to_owned()
        } else {
            format!("{outer}.{}", self.field)
        };
        Self { field, ..self }
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

fn storage_level(field: &str, name: &str) -> Result<StorageLevel, Error> {
    let known = name.parse::<StorageLevel>();
    known.map_err(|UnknownLevel| Error::new(field, format!("`{name}` is not a known storage level")))
}

fn to_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Converts the elements of a repeated field.
fn each<T, U: TryFrom<T, Error = Error>>(field: &str, items: Vec<T>) -> Result<Vec<U>, Error> {
    let convert = |(index, item)| U::try_from(item).map_err(|error| error.inside(&format!("{field}[{index}]")));
    items.into_iter().enumerate().map(convert).collect()
}

/// Converts the message of a field that has to be there.
fn required<T, U: TryFrom<T, Error = Error>>(field: &str, item: Option<T>) -> Result<U, Error> {
    let item = item.ok_or_else(|| Error::missing(field))?;
    U::try_from(item).map_err(|error| error.inside(field))
}

fn every<'a, T: 'a, U: From<&'a T>>(items: &'a [T]) -> Vec<U> {
    items.iter().map(U::from).collect()
}
