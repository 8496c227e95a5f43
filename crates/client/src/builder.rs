//! Job graphs in Rust, with the names that Spark Streaming has for them.
//!
//! A [`StreamingContext`] collects what its [`DStream`] handles are told; [`StreamingContext::graph`] turns it into a
//! [`JobGraph`]. A handle is a place in the graph, not data: an operator gives a new handle and leaves the old one as
//! it is, so one stream can be continued several times. Steps between two places that are looked at (a fork, a name,
//! an output, a step that takes them in) become one stream of the graph.
//!
//! Expressions are DataFusion SQL, as in job files: text such as `lower(value)`. Where one stands, a registered
//! function may stand too: [`Function::native`](tidemill_dstream::Function::native).
//!
//! Faults (streams of another context, and all that [`JobGraph::validate`] finds) are kept until `graph` or `start`.

mod accumulate;
mod aggregate;
mod broadcast;
mod columns;
mod join;
mod lifecycle;
mod lower;
mod output;
mod record;
mod state;
#[cfg(test)]
mod tests;
mod window;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidemill_dstream::{
    AccumulatorDef, BackPressure, BroadcastDef, Diagnostic, Diagnostics, FailurePolicy, GenerateSource, JobGraph,
    JobOptions, Line, Operator, OutputKind, QueueItem, SocketTextSource, Source, TableDef, TextFileSource,
    TextFilesSource,
};
use tidemill_types::StorageLevel;

pub use accumulate::Accumulator;
pub use aggregate::Reducer;
pub use broadcast::{Broadcast, BroadcastHandle};
pub use columns::{Columns, JoinKeys, Keys, Names, SortKeys};
pub use lifecycle::ContextState;
pub use state::{StateSpec, StateUpdate};

use self::lifecycle::Phase;
use crate::job_file::REMEMBER;

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
    accumulators: Vec<AccumulatorDef>,
    tables: Vec<TableDef>,
    broadcasts: Vec<BroadcastDef>,
    nodes: Vec<Node>,
    outputs: Vec<(usize, OutputKind)>,
    faults: Vec<Diagnostic>,
    phase: Phase,
}

/// A place in the graph: a source, or an operator behind another place.
#[derive(Debug)]
struct Node {
    name: Option<String>,
    persist: Option<StorageLevel>,
    kind: NodeKind,
}

#[derive(Debug)]
enum NodeKind {
    Source(Source),
    Step {
        parent: usize,
        operator: Operator,
        /// The streams that the step takes in; they get their names when the graph is made.
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
        self.job.lock().change("`partitions`").options.partitions = Some(partitions);
        self
    }

    /// What happens when a batch has failed for good.
    pub fn on_batch_failure(&self, policy: FailurePolicy) -> &Self {
        self.job.lock().change("`on_batch_failure`").options.on_batch_failure = policy;
        self
    }

    /// How long every named stream's batches are remembered, beyond what its windows need: for
    /// [`slice`](DStream::slice) and SQL. Set once.
    pub fn remember(&self, duration: Duration) -> &Self {
        let mut job = self.job.lock();
        let before = job.change("`remember`").options.remember.replace(duration);
        if before.is_some() {
            let fault = Diagnostic::new(None, "remember", "is set already, and can be set once");
            job.faults.push(fault);
        }
        drop(job);
        self
    }

    /// The weights of the controller that slows sources down to what can be processed, or none.
    pub fn back_pressure(&self, back_pressure: Option<BackPressure>) -> &Self {
        self.job.lock().change("`back_pressure`").options.back_pressure = back_pressure;
        self
    }

    /// Due batches beyond which receivers stop reading until one is completed.
    pub fn max_queued_batches(&self, batches: u32) -> &Self {
        self.job
            .lock()
            .change("`max_queued_batches`")
            .options
            .max_queued_batches = batches;
        self
    }

    /// Where what outlives the driver is kept: a directory that driver and executors share, or the URL of an object
    /// store. A driver that starts after the one that ran the job goes on with it.
    pub fn checkpoint(&self, place: impl Into<String>) -> &Self {
        self.job.lock().change("`checkpoint`").options.checkpoint = Some(place.into());
        self
    }

    /// How often state is saved; every 10 seconds, unless batches are longer.
    pub fn checkpoint_interval(&self, interval: Duration) -> &Self {
        self.job
            .lock()
            .change("`checkpoint_interval`")
            .options
            .checkpoint_interval = Some(interval);
        self
    }

    /// All settings at once.
    pub fn options(&self, options: JobOptions) -> &Self {
        self.job.lock().change("`options`").options = options;
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
        self.job.lock().change("`table`").tables.push(table);
        self
    }

    // === Sources: text in the column `value` ===

    /// Lines from a TCP server.
    pub fn socket_text_stream(&self, host: impl Into<String>, port: u16) -> DStream {
        self.source(Source::SocketText(SocketTextSource {
            host: host.into(),
            port,
            block_interval: None,
            max_rate: None,
            initial_rate: None,
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
    pub fn queue_stream<L: Into<String>>(&self, batches: impl IntoIterator<Item = Vec<L>>) -> DStream {
        let item = |lines: Vec<L>| QueueItem::Lines(lines.into_iter().map(Into::into).collect());
        self.source(Source::Queue(batches.into_iter().map(item).collect()))
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
        self.job.lock().change("`name`").nodes[self.node].name = Some(name.into());
        self.clone()
    }

    /// Keeps this very stream's batches at a storage level for as long as they are remembered, at least until the next
    /// batch is completed: for [`slice`](DStream::slice), SQL, and whoever else reads them. Said again, the last level
    /// counts.
    ///
    /// A stream that several others read is computed once in each batch without this.
    pub fn persist(&self, level: StorageLevel) -> Self {
        self.job.lock().change("`persist`").nodes[self.node].persist = Some(level);
        self.clone()
    }

    /// [`persist`](DStream::persist) in memory, and in files what there is no room for.
    pub fn cache(&self) -> Self {
        self.persist(StorageLevel::MEMORY_AND_DISK)
    }

    /// The number of partitions in which this very stream's step puts its records, where the step decides that: those by
    /// key, `distinct` and `count_by_value`. Unset, it is the job's.
    pub fn partitions(&self, partitions: u32) -> Self {
        let mut job = self.job.lock();
        job.change("`partitions`");
        let (place, name) = match &mut job.nodes[self.node].kind {
            NodeKind::Step { operator, .. } => {
                let name = operator.name();
                (partitions_of(operator), name)
            }
            NodeKind::Source(source) => (None, source.name()),
        };
        if let Some(place) = place {
            *place = Some(partitions);
        } else {
            let message = format!("`{name}` takes no number of partitions");
            let fault = Diagnostic::new(None, "streams", message).hint("put `repartition` behind it");
            job.faults.push(fault);
        }
        drop(job);
        self.clone()
    }

    fn then(&self, operator: Operator) -> Self {
        self.then_with([], operator)
    }

    /// A step that takes in other streams, whose names the operator gets when the graph is made.
    fn then_with<'a>(&self, others: impl IntoIterator<Item = &'a DStream>, operator: Operator) -> Self {
        let mut nodes = Vec::new();
        for other in others {
            if Arc::ptr_eq(&self.job, &other.job) {
                nodes.push(other.node);
            } else {
                let message = format!("`{}` with a stream of another StreamingContext", operator.name());
                self.job.lock().faults.push(Diagnostic::new(None, "streams", message));
            }
        }
        let step = NodeKind::Step {
            parent: self.node,
            operator,
            others: nodes,
        };
        Self {
            job: Arc::clone(&self.job),
            node: add(&self.job, step),
        }
    }
}

/// Where an operator has its number of partitions, if it may be left out.
fn partitions_of(operator: &mut Operator) -> Option<&mut Option<u32>> {
    match operator {
        Operator::PartitionBy { partitions, .. }
        | Operator::CountByValue { partitions }
        | Operator::Distinct { partitions }
        | Operator::ReduceByKey { partitions, .. }
        | Operator::Aggregate { partitions, .. }
        | Operator::GroupByKey { partitions, .. }
        | Operator::CombineByKey { partitions, .. }
        | Operator::Join { partitions, .. }
        | Operator::Cogroup { partitions, .. }
        | Operator::CountByValueAndWindow { partitions, .. }
        | Operator::ReduceByKeyAndWindow { partitions, .. }
        | Operator::GroupByKeyAndWindow { partitions, .. } => Some(partitions),
        Operator::UpdateStateByKey(update) => Some(&mut update.partitions),
        Operator::MapWithState(map) => Some(&mut map.partitions),
        Operator::Map { .. }
        | Operator::FlatMap { .. }
        | Operator::Filter { .. }
        | Operator::MapValues { .. }
        | Operator::FlatMapValues { .. }
        | Operator::Sample { .. }
        | Operator::Accumulate { .. }
        | Operator::MapPartitions { .. }
        | Operator::Glom
        | Operator::Union { .. }
        | Operator::Repartition { .. }
        | Operator::Count
        | Operator::Reduce { .. }
        | Operator::SortBy { .. }
        | Operator::Transform { .. }
        | Operator::TransformWith { .. }
        | Operator::Window { .. }
        | Operator::CountByWindow { .. }
        | Operator::ReduceByWindow { .. }
        | Operator::StateSnapshots => None,
    }
}

fn add(job: &Mutex<Job>, kind: NodeKind) -> usize {
    let mut job = job.lock();
    let what = match &kind {
        NodeKind::Source(source) => source.name(),
        NodeKind::Step { operator, .. } => operator.name(),
    };
    job.change(&format!("`{what}`"));
    job.nodes.push(Node {
        name: None,
        persist: None,
        kind,
    });
    job.nodes.len() - 1
}
