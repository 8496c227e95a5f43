//! The job graph's own nouns.

use std::time::Duration;

use tidemill_types::StorageLevel;

use crate::{AccumulatorDef, BackPressure, BroadcastDef, NativeCall, Step};

/// The line of the job file that an element stands on, for messages. It never takes part in comparisons: two graphs
/// are equal whatever their files looked like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Line(pub Option<u32>);

impl PartialEq for Line {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl Eq for Line {}

/// A job: what a user submits.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct JobGraph {
    /// Unique among the running jobs of a cluster; a schema name in SQL.
    pub name: String,
    /// At least one millisecond, a whole number of them.
    pub batch_interval: Duration,
    pub options: JobOptions,
    pub accumulators: Vec<AccumulatorDef>,
    pub tables: Vec<TableDef>,
    pub broadcasts: Vec<BroadcastDef>,
    pub streams: Vec<StreamDef>,
    pub outputs: Vec<OutputDef>,
}

/// Settings of a job beside its graph.
#[derive(Clone, Debug, PartialEq)]
pub struct JobOptions {
    /// Partitions of every exchange and of every source; `None` is the number of slots in the cluster at submission.
    pub partitions: Option<u32>,
    /// Share of the slots relative to other jobs.
    pub weight: u32,
    /// Attempts of a task before its batch fails.
    pub max_attempts: u32,
    /// Batches that may be worked on at once.
    pub concurrent_batches: u32,
    pub on_batch_failure: FailurePolicy,
    /// How long every named stream's batches are remembered for `slice` and SQL, beyond what its windows need.
    pub remember: Option<Duration>,
    /// `None`: sources are read as fast as they send, as long as there is memory.
    pub back_pressure: Option<BackPressure>,
    /// Due batches beyond which no further one is made, and receivers stop reading, until one is completed.
    pub max_queued_batches: u32,
    /// Where what outlives the driver and the executors is kept, a directory or the URL of an object store; `None`: the
    /// job ends with its driver.
    pub checkpoint: Option<String>,
    /// How often state is saved there; `None`: [`CHECKPOINT_INTERVAL`](Self::CHECKPOINT_INTERVAL).
    pub checkpoint_interval: Option<Duration>,
}

impl JobOptions {
    /// How often state is saved where nothing else is said, unless batches are longer.
    pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(10);

    /// How many batches of an interval lie between saved states; `None` for a job that saves none.
    #[must_use]
    pub fn checkpoint_every(&self, batch_interval: Duration) -> Option<u32> {
        self.checkpoint.as_ref()?;
        let wanted = self
            .checkpoint_interval
            .unwrap_or(Self::CHECKPOINT_INTERVAL)
            .as_millis();
        let batches = wanted.div_ceil(batch_interval.as_millis().max(1)).max(1);
        Some(u32::try_from(batches).unwrap_or(u32::MAX))
    }
}

impl Default for JobOptions {
    fn default() -> Self {
        Self {
            partitions: None,
            weight: 1,
            max_attempts: 4,
            concurrent_batches: 1,
            on_batch_failure: FailurePolicy::Stop,
            remember: None,
            back_pressure: Some(BackPressure::default()),
            max_queued_batches: 100,
            checkpoint: None,
            checkpoint_interval: None,
        }
    }
}

/// What happens to a job when one of its batches has failed for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailurePolicy {
    /// The job ends as failed.
    Stop,
    /// The batch's outputs are dropped and later batches go on.
    Skip,
}

/// A file whose rows can be used in SQL beside the streams.
#[derive(Clone, Debug, PartialEq)]
pub struct TableDef {
    pub name: String,
    pub path: String,
    /// `None`: by the file's extension.
    pub format: Option<TableFormat>,
    /// How often the file is looked at again; `None`: never.
    pub reload: Option<Duration>,
    pub line: Line,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableFormat {
    /// With a header line.
    Csv,
    /// One JSON object a line.
    Json,
    Parquet,
}

/// A named stream: an input followed by steps.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamDef {
    pub name: String,
    pub input: StreamInput,
    pub steps: Vec<Step>,
    /// How its batches are kept for as long as they are remembered; `None`: as the plan needs them.
    pub persist: Option<StorageLevel>,
    pub line: Line,
}

#[derive(Clone, Debug, PartialEq)]
pub enum StreamInput {
    Source(Source),
    /// The name of another stream.
    From(String),
}

/// Where records come from. Every source of text has one column, `value`, of type Utf8View.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    SocketText(SocketTextSource),
    TextFile(TextFileSource),
    TextFiles(TextFilesSource),
    /// One item a batch, then empty batches.
    Queue(Vec<QueueItem>),
    Generate(GenerateSource),
}

impl Source {
    /// The source's name in a job file.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::SocketText(_) => "socket_text",
            Self::TextFile(_) => "text_file",
            Self::TextFiles(_) => "text_files",
            Self::Queue(_) => "queue",
            Self::Generate(_) => "generate",
        }
    }

    /// The names of all sources.
    pub const NAMES: &[&str] = &["socket_text", "text_file", "text_files", "queue", "generate"];
}

/// UTF-8 lines from a TCP server.
#[derive(Clone, Debug, PartialEq)]
pub struct SocketTextSource {
    pub host: String,
    pub port: u16,
    /// How often a block is cut; `None`: the smaller of 200 ms and the batch interval.
    pub block_interval: Option<Duration>,
    /// Lines a second that are read at most; `None`: what back-pressure allows.
    pub max_rate: Option<u64>,
    /// The same until the first batch is completed.
    pub initial_rate: Option<u64>,
}

/// A bounded source: the lines of one file, or of the files that a glob matches, in the order of their names.
#[derive(Clone, Debug, PartialEq)]
pub struct TextFileSource {
    pub path: String,
    /// Lines a batch; `None`: everything in one batch.
    pub batch_lines: Option<u64>,
}

/// A watched directory, by the file rules of Spark's `textFileStream`.
#[derive(Clone, Debug, PartialEq)]
pub struct TextFilesSource {
    /// A directory, or a glob of directories or files.
    pub dir: String,
    /// Whether files older than the start of the job are left out.
    pub new_files_only: bool,
    /// How long a file is remembered as seen, and how old a new file may be.
    pub remember: Duration,
    /// Files a batch in a run that does not wait for the clock; `None`: all in one batch.
    pub files_per_batch: Option<u32>,
}

/// One batch of a queue source.
#[derive(Clone, Debug, PartialEq)]
pub enum QueueItem {
    /// The lines of a file.
    File(String),
    /// Lines given with the job.
    Lines(Vec<String>),
}

/// Lines made from a template. A line is a function of the batch time and its index in the batch.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateSource {
    /// Lines a second.
    pub rate: u64,
    /// Text with `{placeholders}`: `{index}` is the line's number since zero time, `{batch_time}` the batch's time in
    /// milliseconds, `{word}` a word, `{hashtag}` a hashtag (few are frequent, many are rare), `{user}` a name,
    /// `{int:LOW..HIGH}` a number, `{pick:a|b|c}` one of the given. `{{` and `}}` stand for braces.
    pub template: String,
    /// Another seed gives other lines.
    pub seed: u64,
}

/// An output operation.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputDef {
    /// The stream.
    pub from: String,
    pub kind: OutputKind,
    pub line: Line,
}

#[derive(Clone, Debug, PartialEq)]
pub enum OutputKind {
    /// The first rows of each batch, to the driver's log and to followers.
    Print {
        rows: u32,
    },
    Save(SaveOutput),
    /// The last batch as a table that can be queried; `query` is SQL over the stream by its name.
    Table {
        name: String,
        query: Option<String>,
    },
    /// A registered function is given the rows, with the batch time. At least once.
    Foreach {
        function: NativeCall,
        per: ForeachUnit,
    },
}

/// What a `foreach` output is called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeachUnit {
    /// The whole batch, when it is committed, on the driver.
    Batch,
    /// Each partition, where it is.
    Partition,
}

impl OutputKind {
    /// The output's name in a job file.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Print { .. } => "print",
            Self::Save(_) => "save",
            Self::Table { .. } => "table",
            Self::Foreach { .. } => "foreach",
        }
    }

    pub const NAMES: &[&str] = &["print", "save", "table", "foreach"];
}

/// Files, one directory `batch_time=<ms>` for each batch, visible at once.
#[derive(Clone, Debug, PartialEq)]
pub struct SaveOutput {
    pub path: String,
    pub format: FileFormat,
    /// Files a batch; `None`: one for each partition that has rows.
    pub files: Option<u32>,
    pub compression: Compression,
    /// Whether an existing directory of a batch is replaced.
    pub overwrite: bool,
    /// Whether a batch without rows makes a directory.
    pub empty: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFormat {
    /// The only column, or all columns separated by tabs, one record a line.
    Text,
    /// With a header line.
    Csv,
    /// One JSON object a line.
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Compression {
    #[default]
    None,
    Gzip,
    Zstd,
}

impl JobGraph {
    #[must_use]
    pub fn accumulator(&self, name: &str) -> Option<&AccumulatorDef> {
        self.accumulators.iter().find(|accumulator| accumulator.name == name)
    }

    #[must_use]
    pub fn stream(&self, name: &str) -> Option<&StreamDef> {
        self.streams.iter().find(|s| s.name == name)
    }

    /// Whether every source ends by itself, so that the job is a batch job.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.sources().all(|(_, source)| matches!(source, Source::TextFile(_)))
    }

    /// The input streams, in definition order.
    pub fn sources(&self) -> impl Iterator<Item = (&StreamDef, &Source)> {
        self.streams.iter().filter_map(|stream| match &stream.input {
            StreamInput::Source(source) => Some((stream, source)),
            StreamInput::From(_) => None,
        })
    }
}

impl TableFormat {
    /// The format of a file's extension, before which `.gz` or `.zst` may stand.
    #[must_use]
    pub fn of(path: &str) -> Option<Self> {
        let path = path.to_ascii_lowercase();
        let plain = [".gz", ".zst"]
            .iter()
            .find_map(|ending| path.strip_suffix(ending))
            .unwrap_or(&path);
        match plain.rsplit_once('.')?.1 {
            "csv" => Some(Self::Csv),
            "json" | "jsonl" | "ndjson" => Some(Self::Json),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}
