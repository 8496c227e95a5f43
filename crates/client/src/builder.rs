//! Job graphs in Rust, with the names that Spark Streaming has for them.
//!
//! A [`StreamingContext`] collects what its [`DStream`] handles are told; [`StreamingContext::graph`] turns it into a
//! [`JobGraph`]. A handle is a place in the graph, not data: an operator gives a new handle and leaves the old one as
//! it is, so one stream can be continued several times. Steps between two places that are looked at (a fork, a name,
//! an output, a union) become one stream of the graph.
//!
//! Expressions are DataFusion SQL, as in job files: text such as `lower(value)`.
//!
//! Faults (streams of another context, and all that [`JobGraph::validate`] finds) are kept until `graph`.

mod columns;
mod lower;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidemill_dstream::{
    Diagnostic, Diagnostics, FailurePolicy, FileFormat, Function, GenerateSource, JobGraph, JobOptions, Line, Operator,
    OutputKind, QueueItem, SaveOutput, SocketTextSource, Source, TableDef, TextFileSource, TextFilesSource,
};

pub use columns::{Columns, Keys};

use crate::job_file::{PRINT_ROWS, REMEMBER};

/// Where a job begins: its name, its interval, its sources. Clones are the same job.
///
/// ```
/// use std::time::Duration;
/// use tidemill_client::StreamingContext;
/// use tidemill_client::dstream::FileFormat;
///
/// let ctx = StreamingContext::new("trending-hashtags", Duration::from_secs(10));
/// let tweets = ctx.socket_text_stream("127.0.0.1", 5555).name("tweets");
/// let hashtags = tweets
///     .window(Duration::from_secs(20), None)
///     .flat_map([("tag", "string_to_array(lower(value), ' ')")])
///     .filter("tag LIKE '#%'")
///     .reduce_by_key("tag", [("count", "count(*)")])
///     .name("hashtags");
/// hashtags.print();
/// hashtags.save("/data/hashtags", FileFormat::Csv);
/// hashtags.table_query("top", "SELECT * FROM hashtags ORDER BY count DESC LIMIT 10");
/// // A second chain from the same stream.
/// tweets.count().print();
///
/// let graph = ctx.graph()?;
/// assert_eq!(graph.streams.len(), 3);
/// # Ok::<(), tidemill_client::dstream::Diagnostics>(())
/// ```
#[derive(Clone, Debug)]
pub struct StreamingContext {
    job: Arc<Mutex<Job>>,
}

/// A stream of a [`StreamingContext`]. Clones are the same stream.
#[derive(Clone, Debug)]
pub struct DStream {
    job: Arc<Mutex<Job>>,
    node: usize,
}

/// What was built so far.
#[derive(Debug, Default)]
struct Job {
    name: String,
    batch_interval: Duration,
    options: JobOptions,
    tables: Vec<TableDef>,
    nodes: Vec<Node>,
    outputs: Vec<(usize, OutputKind)>,
    faults: Vec<Diagnostic>,
}

/// A place in the graph: a source, or an operator behind another place.
#[derive(Debug)]
struct Node {
    name: Option<String>,
    kind: NodeKind,
}

#[derive(Debug)]
enum NodeKind {
    Source(Source),
    Step {
        parent: usize,
        operator: Operator,
    },
    /// The other streams get their names when the graph is made.
    Union {
        parent: usize,
        others: Vec<usize>,
    },
}

impl StreamingContext {
    /// A job with this name, which has to be unique among the running jobs of a cluster.
    pub fn new(name: impl Into<String>, batch_interval: Duration) -> Self {
        let job = Job {
            name: name.into(),
            batch_interval,
            ..Job::default()
        };
        Self {
            job: Arc::new(Mutex::new(job)),
        }
    }

    // === Settings ===

    /// Partitions of every exchange and source; unset, the number of slots in the cluster.
    pub fn partitions(&self, partitions: u32) -> &Self {
        self.job.lock().options.partitions = Some(partitions);
        self
    }

    /// What happens when a batch has failed for good.
    pub fn on_batch_failure(&self, policy: FailurePolicy) -> &Self {
        self.job.lock().options.on_batch_failure = policy;
        self
    }

    /// All settings at once.
    pub fn options(&self, options: JobOptions) -> &Self {
        self.job.lock().options = options;
        self
    }

    /// A file whose rows SQL can use beside the streams; its format is that of its extension.
    pub fn table(&self, name: impl Into<String>, path: impl Into<String>) -> &Self {
        self.table_with(TableDef {
            name: name.into(),
            path: path.into(),
            format: None,
            reload: None,
            line: Line(None),
        })
    }

    pub fn table_with(&self, table: TableDef) -> &Self {
        self.job.lock().tables.push(table);
        self
    }

    // === Sources: text in the column `value` ===

    /// Lines from a TCP server.
    pub fn socket_text_stream(&self, host: impl Into<String>, port: u16) -> DStream {
        self.source(Source::SocketText(SocketTextSource {
            host: host.into(),
            port,
            block_interval: None,
        }))
    }

    /// The lines of a file or of the files that a glob matches, all in one batch. The job ends after it.
    pub fn text_file(&self, path: impl Into<String>) -> DStream {
        self.source(Source::TextFile(TextFileSource {
            path: path.into(),
            batch_lines: None,
        }))
    }

    /// The lines of files that appear in a directory.
    pub fn text_files_stream(&self, dir: impl Into<String>) -> DStream {
        self.source(Source::TextFiles(TextFilesSource {
            dir: dir.into(),
            new_files_only: true,
            remember: REMEMBER,
            files_per_batch: None,
        }))
    }

    /// The lines of one item in each batch, then empty batches.
    pub fn queue_stream(&self, batches: impl IntoIterator<Item = Vec<String>>) -> DStream {
        self.source(Source::Queue(batches.into_iter().map(QueueItem::Lines).collect()))
    }

    /// Lines made from a template, `rate` a second. [`GenerateSource::template`] lists the placeholders.
    pub fn generate(&self, rate: u64, template: impl Into<String>) -> DStream {
        self.source(Source::Generate(GenerateSource {
            rate,
            template: template.into(),
            seed: 0,
        }))
    }

    /// Any source, with all its settings.
    pub fn source(&self, source: Source) -> DStream {
        DStream {
            job: Arc::clone(&self.job),
            node: add(&self.job, NodeKind::Source(source)),
        }
    }

    /// The graph as built so far.
    ///
    /// # Errors
    /// Everything that is wrong with it and can be seen without knowing schemas.
    pub fn graph(&self) -> Result<JobGraph, Diagnostics> {
        let job = self.job.lock();
        if !job.faults.is_empty() {
            return Err(Diagnostics(job.faults.clone()));
        }
        let graph = lower::lower(&job);
        graph.validate()?;
        Ok(graph)
    }
}

impl DStream {
    /// Names the stream, for SQL, for outputs and for people. Names this very stream: also handles cloned before see it.
    pub fn name(&self, name: impl Into<String>) -> Self {
        self.job.lock().nodes[self.node].name = Some(name.into());
        self.clone()
    }

    fn then(&self, operator: Operator) -> Self {
        self.add(NodeKind::Step {
            parent: self.node,
            operator,
        })
    }

    fn add(&self, kind: NodeKind) -> Self {
        Self {
            job: Arc::clone(&self.job),
            node: add(&self.job, kind),
        }
    }

    // === Operators ===

    /// One record to one record: named expressions, or one expression that becomes the column `value`.
    pub fn map(&self, columns: impl Columns) -> Self {
        self.then(Operator::Map {
            columns: columns.columns(),
        })
    }

    /// One record to any number: columns whose expression is a list are spread over records.
    pub fn flat_map(&self, columns: impl Columns) -> Self {
        self.then(Operator::FlatMap {
            columns: columns.columns(),
        })
    }

    /// The records for which the predicate is true.
    pub fn filter(&self, predicate: impl Into<Function>) -> Self {
        self.then(Operator::Filter {
            predicate: predicate.into(),
        })
    }

    /// The records of both, which have the same columns.
    pub fn union(&self, other: &DStream) -> Self {
        self.union_all([other])
    }

    /// The records of this stream and all others, which have the same columns.
    pub fn union_all<'a>(&self, others: impl IntoIterator<Item = &'a DStream>) -> Self {
        let mut nodes = Vec::new();
        for other in others {
            if Arc::ptr_eq(&self.job, &other.job) {
                nodes.push(other.node);
            } else {
                let message = "a union with a stream of another StreamingContext";
                self.job.lock().faults.push(Diagnostic::new(None, "streams", message));
            }
        }
        self.add(NodeKind::Union {
            parent: self.node,
            others: nodes,
        })
    }

    /// The records of the last `length`, every `slide`; `None` is every batch.
    pub fn window(&self, length: Duration, slide: impl Into<Option<Duration>>) -> Self {
        self.then(Operator::Window {
            length,
            slide: slide.into(),
        })
    }

    /// Groups by the keys and computes the aggregates.
    pub fn reduce_by_key(&self, keys: impl Keys, aggregates: impl Columns) -> Self {
        self.then(Operator::ReduceByKey {
            keys: keys.keys(),
            aggregates: aggregates.columns(),
        })
    }

    /// The aggregates of a whole batch, as one record.
    pub fn reduce(&self, aggregates: impl Columns) -> Self {
        self.then(Operator::Reduce {
            aggregates: aggregates.columns(),
        })
    }

    /// The number of records of a batch, in the column `count`.
    pub fn count(&self) -> Self {
        self.then(Operator::Count)
    }

    /// Any SQL over the batch, called `input`, and over other named streams and tables.
    pub fn transform(&self, sql: impl Into<String>) -> Self {
        self.then(Operator::Transform { sql: sql.into() })
    }

    // === Outputs ===

    fn output(&self, kind: OutputKind) {
        self.job.lock().outputs.push((self.node, kind));
    }

    /// Prints the first ten rows of each batch.
    pub fn print(&self) {
        self.print_rows(PRINT_ROWS);
    }

    pub fn print_rows(&self, rows: u32) {
        self.output(OutputKind::Print { rows });
    }

    /// Writes each batch to files in a directory of its own below `path`.
    pub fn save(&self, path: impl Into<String>, format: FileFormat) {
        self.save_with(SaveOutput {
            path: path.into(),
            format,
            files: None,
            compression: Default::default(),
            overwrite: false,
            empty: false,
        });
    }

    pub fn save_with(&self, save: SaveOutput) {
        self.output(OutputKind::Save(save));
    }

    /// Keeps the last batch as a table that can be queried.
    pub fn table(&self, name: impl Into<String>) {
        self.output(OutputKind::Table {
            name: name.into(),
            query: None,
        });
    }

    /// Keeps what a query over the last batch gives as a table. The query names the stream by its name.
    pub fn table_query(&self, name: impl Into<String>, query: impl Into<String>) {
        self.output(OutputKind::Table {
            name: name.into(),
            query: Some(query.into()),
        });
    }
}

fn add(job: &Mutex<Job>, kind: NodeKind) -> usize {
    let mut job = job.lock();
    job.nodes.push(Node { name: None, kind });
    job.nodes.len() - 1
}
