//! Broadcast variables of a context.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use tidemill_dstream::{BroadcastDef, BroadcastFormat, BroadcastSource, JoinKind, Line, Literal, Operator, Shape};

use super::{DStream, JoinKeys, StreamingContext};

/// The value of a broadcast variable, and how it can change.
#[derive(Clone, Debug, PartialEq)]
pub struct Broadcast {
    pub(crate) source: BroadcastSource,
    shape: Option<Shape>,
    reload: Option<Duration>,
    updatable: bool,
}

impl From<BroadcastSource> for Broadcast {
    fn from(source: BroadcastSource) -> Self {
        Self {
            source,
            shape: None,
            reload: None,
            updatable: false,
        }
    }
}

impl Broadcast {
    /// One value.
    pub fn scalar(value: impl Into<Literal>) -> Self {
        BroadcastSource::Value(value.into()).into()
    }

    /// Many values of one type.
    pub fn list<V: Into<Literal>>(values: impl IntoIterator<Item = V>) -> Self {
        BroadcastSource::List(values.into_iter().map(Into::into).collect()).into()
    }

    /// A value for each key.
    pub fn map<K: Into<Literal>, V: Into<Literal>>(entries: impl IntoIterator<Item = (K, V)>) -> Self {
        let entries = entries.into_iter().map(|(key, value)| (key.into(), value.into()));
        BroadcastSource::Map(entries.collect()).into()
    }

    /// Rows of any columns: a table, unless [`shaped`](Self::shaped) says otherwise.
    ///
    /// # Errors
    /// The batches do not have this schema.
    pub fn rows(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Self, ArrowError> {
        let mut writer = StreamWriter::try_new(Vec::new(), schema)?;
        for batch in batches {
            writer.write(batch)?;
        }
        Ok(BroadcastSource::Arrow(writer.into_inner()?.into()).into())
    }

    /// One value of bytes.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        BroadcastSource::Bytes(bytes.into()).into()
    }

    /// A file, by its extension: CSV, JSON and Parquet are tables, anything else is a list of lines. A path that the
    /// driver reaches.
    pub fn file(path: impl Into<String>) -> Self {
        BroadcastSource::File {
            path: path.into(),
            format: None,
        }
        .into()
    }

    /// A file that is read in this way.
    pub fn file_as(path: impl Into<String>, format: BroadcastFormat) -> Self {
        BroadcastSource::File {
            path: path.into(),
            format: Some(format),
        }
        .into()
    }

    /// The rows of a query over tables and the broadcast variables before this one, asked when the job is submitted.
    pub fn query(sql: impl Into<String>) -> Self {
        BroadcastSource::Query(sql.into()).into()
    }

    /// The same rows in another shape.
    #[must_use]
    pub fn shaped(self, shape: Shape) -> Self {
        Self {
            shape: Some(shape),
            ..self
        }
    }

    /// Looks at the file again, this often, while the job runs.
    #[must_use]
    pub fn reload(self, every: Duration) -> Self {
        Self {
            reload: Some(every),
            ..self
        }
    }

    /// Lets clients give new values while the job runs.
    #[must_use]
    pub fn updatable(self) -> Self {
        Self {
            updatable: true,
            ..self
        }
    }
}

/// A broadcast variable of a context: what expressions call it, and joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BroadcastHandle {
    name: Arc<str>,
}

impl BroadcastHandle {
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The expression for a scalar's value.
    #[must_use]
    pub fn value(&self) -> String {
        format!("broadcast_value('{}')", self.name)
    }

    /// The expression for whether something, itself an expression, is in a list or a key of a map.
    #[must_use]
    pub fn contains(&self, value: &str) -> String {
        format!("broadcast_contains('{}', {value})", self.name)
    }

    /// The expression for the value of a key, an expression, in a map: null if it is not there.
    #[must_use]
    pub fn get(&self, key: &str) -> String {
        format!("broadcast_get('{}', {key})", self.name)
    }

    /// The same with another value for keys that are not there.
    #[must_use]
    pub fn get_or(&self, key: &str, default: &str) -> String {
        format!("broadcast_get('{}', {key}, {default})", self.name)
    }
}

impl StreamingContext {
    /// A read-only value that every executor holds once.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use tidemill_client::{Broadcast, StreamingContext};
    ///
    /// # let ctx = StreamingContext::new("requests", Duration::from_secs(1));
    /// let stopwords = ctx.broadcast("stopwords", Broadcast::list(["the", "a"]));
    /// let countries = ctx.broadcast("countries", Broadcast::map([("AT", "Austria"), ("KE", "Kenya")]));
    /// let words = ctx.queue_stream([vec!["the", "AT"]]);
    /// words
    ///     .filter(format!("NOT {}", stopwords.contains("value")))
    ///     .map([("country", countries.get_or("value", "'unknown'"))])
    ///     .print();
    /// # ctx.graph()?;
    /// # Ok::<(), tidemill_client::dstream::Diagnostics>(())
    /// ```
    pub fn broadcast(&self, name: impl Into<String>, value: Broadcast) -> BroadcastHandle {
        let name = name.into();
        let handle = BroadcastHandle {
            name: name.as_str().into(),
        };
        self.job.lock().change("`broadcast`").broadcasts.push(BroadcastDef {
            name,
            source: value.source,
            shape: value.shape,
            reload: value.reload,
            updatable: value.updatable,
            line: Line(None),
        });
        handle
    }
}

impl DStream {
    /// Pairs of this stream's records with the rows of a broadcast variable that have equal keys. The stream's records
    /// stay where they are.
    pub fn join_broadcast(&self, broadcast: &BroadcastHandle, on: impl JoinKeys) -> Self {
        self.join_with(JoinKind::Inner, broadcast, on)
    }

    /// `join_broadcast` that keeps records without a match, with nulls for the variable's columns.
    pub fn left_outer_join_broadcast(&self, broadcast: &BroadcastHandle, on: impl JoinKeys) -> Self {
        self.join_with(JoinKind::LeftOuter, broadcast, on)
    }

    fn join_with(&self, kind: JoinKind, broadcast: &BroadcastHandle, on: impl JoinKeys) -> Self {
        self.then(Operator::Join {
            kind,
            with: broadcast.name().to_owned(),
            on: on.join_keys(),
            partitions: None,
        })
    }
}
