//! A user's own job under test: queued input, collected output.

use anyhow::{Result, bail};
use tidemill_client::PrintedBatch;
use tidemill_dstream::{
    Function, JobGraph, Line, Operator, OutputDef, OutputKind, QueueItem, Source, Step, StreamDef, StreamInput,
};

use crate::{Batch, TestCluster};

/// A job as it would be submitted, except that sources are replaced by given batches, outputs by what they would show,
/// and the clock by a test's own: a batch follows the other without waiting, at times 1, 2, 3... intervals after zero
/// time.
///
/// ```
/// use std::time::Duration;
///
/// use tidemill_client::StreamingContext;
/// use tidemill_testkit::TestJob;
///
/// /// The job of a program, as `main` submits it.
/// fn trending() -> Result<tidemill_client::dstream::JobGraph, tidemill_client::dstream::Diagnostics> {
///     let ctx = StreamingContext::new("trending", Duration::from_secs(10));
///     let tweets = ctx.socket_text_stream("tweets.example.com", 5555).name("tweets");
///     let counts = tweets
///         .window(Duration::from_secs(20), None)
///         .flat_map([("tag", "string_to_array(lower(value), ' ')")])
///         .filter("tag LIKE '#%'")
///         .reduce_by_key("tag", [("count", "count(*)")])
///         .name("counts");
///     counts.table_query("top", "SELECT tag FROM counts ORDER BY count DESC, tag LIMIT 1");
///     ctx.graph()
/// }
///
/// #[tokio::main]
/// async fn main() -> anyhow::Result<()> {
///     let run = TestJob::new(trending()?)
///         .queue("tweets", [vec!["#rust #RUST is", "#fun"], vec![], vec!["more #fun"]])
///         .collect("counts")
///         .run()
///         .await?;
///     // A window covers two batches: the second still sees the first.
///     assert_eq!(run.output("counts"), [vec!["#fun|1", "#rust|2"], vec!["#fun|1", "#rust|2"], vec!["#fun|1"]]);
///     assert_eq!(run.output("top"), [["#rust"], ["#rust"], ["#fun"]]);
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct TestJob {
    graph: JobGraph,
    queues: Vec<(String, Vec<Vec<String>>)>,
    collected: Vec<String>,
    batches: Option<u64>,
    executors: u32,
}

/// What the outputs of a job would have shown.
#[derive(Clone, Debug)]
pub struct TestRun {
    names: Vec<String>,
    printed: Vec<PrintedBatch>,
}

/// An output shows all of its rows.
const ALL_ROWS: u32 = u32::MAX;

impl TestJob {
    /// A graph that [`StreamingContext`](tidemill_client::StreamingContext) or a job file made.
    #[must_use]
    pub fn new(graph: JobGraph) -> Self {
        Self {
            graph,
            queues: Vec::new(),
            collected: Vec::new(),
            batches: None,
            executors: 1,
        }
    }

    /// Lines for each batch, in place of the source of the named stream. The steps of the stream stay.
    #[must_use]
    pub fn queue<B, L>(mut self, stream: impl Into<String>, batches: impl IntoIterator<Item = B>) -> Self
    where
        B: IntoIterator<Item = L>,
        L: Into<String>,
    {
        let lines = |batch: B| batch.into_iter().map(Into::into).collect();
        self.queues
            .push((stream.into(), batches.into_iter().map(lines).collect()));
        self
    }

    /// Collects a stream that no output writes.
    #[must_use]
    pub fn collect(mut self, stream: impl Into<String>) -> Self {
        self.collected.push(stream.into());
        self
    }

    /// Runs for so many batches; without it, until the longest queue has ended.
    #[must_use]
    pub fn batches(mut self, batches: u64) -> Self {
        self.batches = Some(batches);
        self
    }

    /// Executors of the cluster; without it, one.
    #[must_use]
    pub fn executors(mut self, executors: u32) -> Self {
        self.executors = executors;
        self
    }

    /// Partitions of every source and exchange.
    #[must_use]
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.graph.options.partitions = Some(partitions);
        self
    }

    /// Runs the job on a cluster of its own.
    ///
    /// # Errors
    /// A queue is for no source, a source would wait for a network, or the job is refused or fails.
    pub async fn run(self) -> Result<TestRun> {
        let cluster = TestCluster::start(self.executors).await?;
        let run = self.run_on(&cluster).await;
        cluster.stop().await;
        run
    }

    /// Runs the job on a cluster that stays.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_on(mut self, cluster: &TestCluster) -> Result<TestRun> {
        self.replace_sources()?;
        let names = self.replace_outputs();
        let printed = cluster.run(&self.graph, self.batches).await?;
        Ok(TestRun { names, printed })
    }

    fn replace_sources(&mut self) -> Result<()> {
        for (name, batches) in std::mem::take(&mut self.queues) {
            let sources: Vec<String> = self
                .graph
                .sources()
                .map(|(stream, _)| format!("`{}`", stream.name))
                .collect();
            let stream = self.graph.streams.iter_mut().find(|stream| stream.name == name);
            match stream.map(|stream| &mut stream.input) {
                Some(StreamInput::Source(source)) => {
                    *source = Source::Queue(batches.into_iter().map(QueueItem::Lines).collect());
                }
                _ => bail!("no source is named `{name}`; those of the job: {}", sources.join(", ")),
            }
        }
        for (stream, source) in self.graph.sources() {
            let name = &stream.name;
            match source {
                Source::SocketText(_) => bail!("`{name}` would read from a socket: give it a `queue`"),
                Source::Generate(_) if self.batches.is_none() => {
                    bail!("`{name}` generates lines for ever: say how many `batches`")
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Prints everything in place of all outputs, and gives the names of what is printed: those of streams, and for
    /// tables with a query those of the tables. A table that is called as a stream is the stream.
    fn replace_outputs(&mut self) -> Vec<String> {
        let mut names = std::mem::take(&mut self.collected);
        for output in std::mem::take(&mut self.graph.outputs) {
            let OutputKind::Table {
                name,
                query: Some(query),
            } = output.kind
            else {
                names.push(output.from);
                continue;
            };
            let is_taken = self.graph.streams.iter().any(|stream| stream.name == name);
            if is_taken {
                names.push(output.from);
                continue;
            }
            names.push(name.clone());
            let operator = Operator::Transform {
                function: Function::Expr(query),
            };
            let line = Line(None);
            self.graph.streams.push(StreamDef {
                name,
                input: StreamInput::From(output.from),
                steps: vec![Step { operator, line }],
                persist: None,
                line,
            });
        }
        names.sort();
        names.dedup();
        self.graph.outputs = names
            .iter()
            .map(|name| OutputDef {
                from: name.clone(),
                kind: OutputKind::Print { rows: ALL_ROWS },
                line: Line(None),
            })
            .collect();
        names
    }
}

impl TestRun {
    /// The rows of each batch in which the stream had any to give, also none: columns separated by `|`, sorted. The
    /// name is that of a stream with an output or [`collect`](TestJob::collect)ed, or that of a table with a query that
    /// no stream has.
    ///
    /// # Panics
    /// There is no such output.
    #[must_use]
    pub fn output(&self, name: &str) -> Vec<Vec<String>> {
        self.batches(name).iter().map(Batch::sorted).collect()
    }

    /// The same with the batches' times, and with the rows as they came.
    ///
    /// # Panics
    /// There is no such output.
    #[must_use]
    pub fn batches(&self, name: &str) -> Vec<Batch> {
        self.printed(name).map(Batch::from).collect()
    }

    /// The same as record batches.
    ///
    /// # Panics
    /// There is no such output.
    pub fn printed(&self, name: &str) -> impl Iterator<Item = &PrintedBatch> {
        let known = self.names.iter().any(|known| known == name);
        assert!(
            known,
            "nothing is collected as `{name}`; there are: {}",
            self.names.join(", ")
        );
        self.printed.iter().filter(move |printed| printed.stream == name)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidemill_client::StreamingContext;

    use super::*;

    fn job() -> TestJob {
        let ctx = StreamingContext::new("job", Duration::from_secs(1));
        let lines = ctx.socket_text_stream("127.0.0.1", 1).name("lines");
        ctx.generate(1, "{index}").name("made").print();
        let counts = lines.count().name("counts");
        counts.save("/nowhere", tidemill_dstream::FileFormat::Csv);
        counts.table("counts");
        counts.table_query("doubled", "SELECT count * 2 AS twice FROM counts");
        TestJob::new(ctx.graph().unwrap())
    }

    fn refused(job: TestJob) -> String {
        let mut job = job;
        job.replace_sources().unwrap_err().to_string()
    }

    #[test]
    fn every_source_has_to_end_without_a_network() {
        assert_eq!(
            refused(job().batches(1)),
            "`lines` would read from a socket: give it a `queue`"
        );
        let queued = || job().queue("lines", [["a"]]);
        assert_eq!(
            refused(queued()),
            "`made` generates lines for ever: say how many `batches`"
        );
        assert_eq!(
            refused(queued().queue("counts", [["a"]])),
            "no source is named `counts`; those of the job: `lines`, `made`"
        );
        queued().batches(1).replace_sources().unwrap();
        queued().queue("made", [["a"]]).replace_sources().unwrap();
    }

    #[test]
    fn outputs_are_printed_whole_by_the_names_of_streams_and_of_tables_with_a_query() {
        let mut job = job().collect("lines");
        assert_eq!(job.replace_outputs(), ["counts", "doubled", "lines", "made"]);
        assert_eq!(job.graph.validate(), Ok(()));
        let all = |output: &OutputDef| matches!(output.kind, OutputKind::Print { rows: ALL_ROWS });
        assert!(job.graph.outputs.iter().all(all));
    }

    #[test]
    #[should_panic(expected = "nothing is collected as `count`; there are: counts, made")]
    fn an_output_of_another_name_is_a_mistake_of_the_test() {
        let run = TestRun {
            names: vec!["counts".to_owned(), "made".to_owned()],
            printed: Vec::new(),
        };
        let _ = run.output("count");
    }
}
