//! Executors without a driver: they are sent what it would send, and what they report is looked at.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tidemill_dstream::plan::{JobPlan, SlotKind, StageOutput};
use tidemill_dstream::{
    Function, JobGraph, Line, MapWithState, NamedFunction, Operator, OutputDef, OutputKind, Source, StateFunction,
    Step, StreamDef, StreamInput, UpdateStateByKey,
};
use tidemill_engine::arrow::util::display::{ArrayFormatter, FormatOptions};
use tidemill_engine::{CompileOptions, CompiledJob, Registry, compile, decode_ipc};
use tidemill_rpc::driver::attach_response::Command;
use tidemill_rpc::driver::input_item::Item;
use tidemill_rpc::driver::output_report::Data;
use tidemill_rpc::driver::{AttachRequest, AttachResponse, FailureKind as WireKind, LaunchBatch, StateSaved};
use tidemill_rpc::plan as plan_wire;
use tidemill_storage::{MemoryLimits, Reclaim};
use tidemill_types::{Generation, Incarnation, JobId};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::*;
use crate::data_service::Served;
use crate::event_loop::Link;
use crate::options::Options;
use crate::queue::ReadyQueue;
use crate::receiver::Receivers;

const PATIENCE: Duration = Duration::from_secs(30);
const PARTITIONS: u32 = 3;
const JOB: u32 = 1;

fn columns(named: &[(&str, &str)]) -> Vec<NamedFunction> {
    let column = |(name, sql): &(&str, &str)| NamedFunction {
        name: (*name).to_owned(),
        function: Function::expr(*sql),
        line: Line(None),
    };
    named.iter().map(column).collect()
}

fn job(operator: Operator) -> JobGraph {
    let stream = StreamDef {
        name: "totals".to_owned(),
        input: StreamInput::Source(Source::Queue(Vec::new())),
        steps: vec![Step {
            operator,
            line: Line(None),
        }],
        persist: None,
        line: Line(None),
    };
    JobGraph {
        name: "counting".to_owned(),
        batch_interval: Duration::from_secs(1),
        streams: vec![stream],
        outputs: vec![OutputDef {
            from: "totals".to_owned(),
            kind: OutputKind::Table {
                name: "totals".to_owned(),
                query: None,
            },
            line: Line(None),
        }],
        ..JobGraph::default()
    }
}

/// One job for each kind of state.
fn both_kinds() -> [JobGraph; 2] {
    let (keys, values) = (columns(&[("word", "value")]), columns(&[("n", "count(*)")]));
    let state = StateFunction::Columns(columns(&[("total", "coalesce(total, 0) + n")]));
    [
        job(Operator::UpdateStateByKey(UpdateStateByKey {
            keys: keys.clone(),
            values: values.clone(),
            state: state.clone(),
            initial: None,
            partitions: None,
        })),
        job(Operator::MapWithState(MapWithState {
            keys,
            values,
            state,
            emit: columns(&[("word", "word"), ("total", "total"), ("over", "timing_out")]),
            timeout: Some(Duration::from_secs(3)),
            initial: None,
            partitions: None,
        })),
    ]
}

/// The lines of a batch.
fn lines(index: i64) -> Vec<String> {
    let words = ["a b c d", "a e", "b", "f g a", "c", "e"][index as usize - 1];
    words.split(' ').map(str::to_owned).collect()
}

/// An executor, and what it has reported and nobody has looked at.
struct Rig {
    plan: JobPlan,
    events: mpsc::UnboundedSender<Event>,
    reports: mpsc::UnboundedReceiver<AttachRequest>,
    served: Served,
    sequence: u64,
    tasks: HashMap<i64, Vec<wire::TaskReport>>,
    saved: Vec<StateSaved>,
    _directory: tempfile::TempDir,
}

impl Rig {
    async fn start(graph: &JobGraph, checkpoint: &Path) -> Self {
        let options = CompileOptions {
            partitions: PARTITIONS,
            registry: Registry::default(),
        };
        let compiled = compile(graph, &[], &options).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let (events, queue) = mpsc::unbounded_channel();
        let served = Served::default();
        let event_loop = EventLoop {
            options: Options {
                driver: String::new(),
                driver_timeout: Duration::ZERO,
                bind: String::new(),
                advertise: None,
                slots: 2,
                memory: 64 << 20,
                shuffle_window: 1 << 20,
                broadcast_memory: 1 << 20,
                storage_disk: 64 << 20,
                storage_directory: directory.path().to_owned(),
                max_block_bytes: 1 << 20,
                max_line_bytes: 1 << 20,
                registry: Registry::default(),
            },
            incarnation: Incarnation(1),
            events: events.clone(),
            cpu: Handle::current(),
            served: Arc::clone(&served),
            link: Link::default(),
            epoch: 0,
            node: None,
            jobs: HashMap::new(),
            batches: BTreeMap::new(),
            waiting: HashMap::new(),
            complete: HashSet::new(),
            refused: BTreeMap::new(),
            queue: ReadyQueue::new(2),
            receivers: Receivers::default(),
            collecting: HashMap::new(),
            loading: HashSet::new(),
        };
        tokio::spawn(event_loop.run(queue));
        let (sender, reports) = mpsc::unbounded_channel();
        let connected = Event::Connected {
            connection: 1,
            registered: wire::Registered {
                executor: 1,
                heartbeat_interval_ms: 3_600_000,
                resumed: false,
            },
            generation: Generation(1),
            reports: sender,
        };
        let _ = events.send(connected);
        let mut rig = Self {
            plan: compiled.plan.clone(),
            events,
            reports,
            served,
            sequence: 0,
            tasks: HashMap::new(),
            saved: Vec::new(),
            _directory: directory,
        };
        rig.install(graph, compiled, checkpoint).await;
        rig
    }

    async fn install(&mut self, graph: &JobGraph, compiled: CompiledJob, checkpoint: &Path) {
        self.send(Command::InstallJob(wire::InstallJob {
            job: JOB,
            name: graph.name.clone(),
            plan: Some(plan_wire::JobPlan::from(&compiled.plan)),
            templates: compiled.templates,
            weight: 1,
            generation: 1,
            checkpoint: checkpoint.to_str().unwrap().to_owned(),
        }));
        let stages = self.plan.stages.iter().map(|stage| wire::StageRouting {
            stage: stage.id.0,
            executors: vec![1; stage.partitions as usize],
        });
        let routing = Command::Routing(wire::Routing {
            job: JOB,
            version: 1,
            stages: stages.collect(),
        });
        self.send(routing);
        loop {
            if let Report::JobInstalled(installed) = self.next().await {
                assert_eq!(installed.error, "");
                return;
            }
        }
    }

    fn send(&mut self, command: Command) {
        self.sequence += 1;
        let message = AttachResponse {
            sequence: self.sequence,
            acknowledged: 0,
            generation: 1,
            command: Some(command),
        };
        let _ = self.events.send(Event::Command {
            connection: 1,
            message: Box::new(message),
        });
    }

    async fn next(&mut self) -> Report {
        let message = tokio::time::timeout(PATIENCE, self.reports.recv()).await;
        message.expect("a report in time").unwrap().event.unwrap()
    }

    /// Launches all tasks of a batch.
    fn launch(&mut self, index: i64, attempt: u32, change: impl FnOnce(&mut LaunchBatch)) {
        let (mut tasks, mut expectations) = (Vec::new(), Vec::new());
        for stage in &self.plan.stages {
            if matches!(stage.output, StageOutput::Exchange { .. }) {
                expectations.push(wire::ShuffleExpectation {
                    from_stage: stage.id.0,
                    map_partitions: (0..stage.partitions).collect(),
                });
            }
            for (partition, reads) in (0..).zip(&stage.reads) {
                let is_source = |slot| {
                    let mut slots = stage.slots.iter();
                    slots.any(|of| of.id == slot && matches!(of.kind, SlotKind::Source { .. }))
                };
                let inputs = reads.iter().filter(|read| is_source(read.slot) && read.partition == 0);
                let inputs = inputs.map(|read| wire::SourceInput {
                    slot: read.slot.0,
                    partition: read.partition,
                    items: vec![wire::InputItem {
                        item: Some(Item::Lines(plan_wire::Lines { lines: lines(index) })),
                    }],
                });
                tasks.push(wire::TaskLaunch {
                    stage: stage.id.0,
                    partition,
                    attempt,
                    inputs: inputs.collect(),
                    only_targets: Vec::new(),
                });
            }
        }
        let mut launch = LaunchBatch {
            job: JOB,
            plan_version: self.plan.version.0,
            routing_version: 1,
            batch_time_ms: index * 1000,
            index,
            tasks,
            expectations,
            oldest_batch_ms: index * 1000,
            ..LaunchBatch::default()
        };
        change(&mut launch);
        self.tasks.remove(&index);
        self.send(Command::LaunchBatch(launch));
    }

    fn node(&self) -> Arc<Node> {
        self.served.read().clone().unwrap()
    }

    /// The memory of the state's first partition.
    fn first_memory(&self) -> Arc<TaskMemory> {
        let stage = self.plan.states().map(|(stage, _)| stage.id).next().unwrap();
        self.node().memories.find(JobId(JOB), stage, 0).unwrap()
    }

    /// The stage that keeps the state, and a batch of which it is saved.
    fn base(&self, index: i64) -> Vec<wire::StateBase> {
        let stage = self.plan.states().map(|(stage, _)| stage.id.0).next().unwrap();
        vec![wire::StateBase {
            stage,
            batch_time_ms: index * 1000,
        }]
    }

    async fn take_in(&mut self) {
        match self.next().await {
            Report::BatchReport(report) => {
                let tasks = self.tasks.entry(report.batch_time_ms / 1000).or_default();
                tasks.extend(report.tasks);
            }
            Report::StateSaved(saved) => self.saved.push(saved),
            _ => {}
        }
    }

    /// What a batch has come to: its rows, or why tasks of it have failed.
    async fn outcome(&mut self, index: i64) -> Result<Vec<String>, Vec<wire::Failure>> {
        let all = self.plan.stages.iter().map(|stage| stage.partitions as usize).sum();
        while self.tasks.get(&index).map_or(0, Vec::len) < all {
            self.take_in().await;
        }
        let tasks = self.tasks.remove(&index).unwrap();
        let failures: Vec<_> = tasks.iter().filter_map(|task| task.failure.clone()).collect();
        if !failures.is_empty() {
            return Err(failures);
        }
        let mut rows = Vec::new();
        for output in tasks.iter().flat_map(|task| &task.outputs) {
            let Some(Data::Ipc(ipc)) = &output.data else { continue };
            for batch in decode_ipc(ipc).unwrap().1 {
                let options = FormatOptions::default();
                let columns = batch.columns().iter();
                let columns: Vec<_> = columns
                    .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap())
                    .collect();
                rows.extend((0..batch.num_rows()).map(|row| {
                    let values: Vec<String> = columns.iter().map(|column| column.value(row).to_string()).collect();
                    values.join("|")
                }));
            }
        }
        rows.sort();
        Ok(rows)
    }

    async fn saved(&mut self) -> Vec<StateSaved> {
        while self.saved.len() < PARTITIONS as usize {
            self.take_in().await;
        }
        std::mem::take(&mut self.saved)
    }

    /// Runs batches one after the other and saves the state of the second; the rows of each.
    async fn first_batches(&mut self, until: i64) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        for index in 1..=until {
            self.launch(index, 0, |launch| launch.save_state = index == 2);
            rows.push(self.outcome(index).await.unwrap());
        }
        for saved in self.saved().await {
            assert_eq!((saved.error.as_str(), saved.batch_time_ms, saved.job), ("", 2000, JOB));
            assert!(saved.bytes > 0);
        }
        rows
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_executor_goes_on_with_a_saved_state() {
    for graph in both_kinds() {
        let checkpoint = tempfile::tempdir().unwrap();
        let expected = Rig::start(&graph, checkpoint.path()).await.first_batches(6).await;
        let mut other = Rig::start(&graph, checkpoint.path()).await;
        let base = other.base(2);
        other.launch(3, 0, |launch| launch.state_bases = base);
        assert_eq!(other.outcome(3).await.unwrap(), expected[2]);
        for index in 4..=6 {
            other.launch(index, 0, |_| {});
            assert_eq!(other.outcome(index).await.unwrap(), expected[index as usize - 1]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_waits_until_the_batches_between_the_saved_state_and_its_own_have_run_again() {
    for graph in both_kinds() {
        let checkpoint = tempfile::tempdir().unwrap();
        let mut first = Rig::start(&graph, checkpoint.path()).await;
        let expected = first.first_batches(6).await;
        let other = Rig::start(&graph, checkpoint.path()).await;
        // The first has a newer state, which is replaced; the other one has none.
        for mut rig in [other, first] {
            let base = rig.base(2);
            // Whatever comes first.
            rig.launch(5, 1, |launch| launch.state_bases.clone_from(&base));
            for index in [4, 3] {
                rig.launch(index, 1, |launch| {
                    launch.restore = true;
                    launch.state_bases.clone_from(&base);
                });
            }
            // A restore drops what goes on with its state and has not begun: the driver launches it again.
            rig.launch(5, 2, |launch| launch.state_bases.clone_from(&base));
            assert_eq!(rig.outcome(5).await.unwrap(), expected[4]);
            assert_eq!(
                rig.outcome(3).await.unwrap(),
                Vec::<String>::new(),
                "a restore has no outputs"
            );
            rig.launch(6, 1, |_| {});
            assert_eq!(rig.outcome(6).await.unwrap(), expected[5]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saved_state_that_cannot_be_used_fails_its_task_by_the_name_of_the_file() {
    let [graph, _] = both_kinds();
    let checkpoint = tempfile::tempdir().unwrap();
    let expected = Rig::start(&graph, checkpoint.path()).await.first_batches(3).await;
    let path = checkpoint.path().join("state/totals/2000/part-1-of-3.state");
    let whole = std::fs::read(&path).unwrap();
    let mut other = Rig::start(&graph, checkpoint.path()).await;
    let base = other.base(2);
    let mut changed = whole.clone();
    *changed.last_mut().unwrap() ^= 1;
    for (attempt, (bytes, reason)) in (0..).zip([(Some(changed), "it is damaged"), (None, "No such file")]) {
        match bytes {
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        other.launch(3, attempt, |launch| launch.state_bases.clone_from(&base));
        let failures = other.outcome(3).await.unwrap_err();
        let [failure] = failures.as_slice() else {
            panic!("{failures:?}");
        };
        assert_eq!(failure.kind(), WireKind::InputLost);
        for part in [path.to_str().unwrap(), reason] {
            assert!(failure.message.contains(part), "{}", failure.message);
        }
    }
    std::fs::write(&path, whole).unwrap();
    other.launch(3, 2, |launch| launch.state_bases = base);
    assert_eq!(other.outcome(3).await.unwrap(), expected[2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_whose_file_on_disk_is_lost_is_loaded_as_it_was_saved() {
    for graph in both_kinds() {
        let checkpoint = tempfile::tempdir().unwrap();
        let expected = Rig::start(&graph, checkpoint.path()).await.first_batches(4).await;
        let mut rig = Rig::start(&graph, checkpoint.path()).await;
        rig.first_batches(2).await;
        let node = rig.node();
        assert!(node.memories.reclaim(u64::MAX, true) > 0);
        let spilled = std::fs::read_dir(node.spill.path()).unwrap();
        for path in spilled.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
            std::fs::write(path, b"").unwrap();
        }
        rig.launch(3, 1, |_| {});
        for failure in rig.outcome(3).await.unwrap_err() {
            assert_eq!(failure.kind(), WireKind::InputLost);
            assert!(failure.message.contains("on disk is lost"), "{}", failure.message);
        }
        let base = rig.base(2);
        rig.launch(3, 2, |launch| launch.state_bases = base);
        assert_eq!(rig.outcome(3).await.unwrap(), expected[2]);
        rig.launch(4, 0, |_| {});
        assert_eq!(rig.outcome(4).await.unwrap(), expected[3]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_for_which_there_is_no_room_is_read_when_its_turn_comes() {
    let [graph, _] = both_kinds();
    let checkpoint = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(&graph, checkpoint.path()).await;
    rig.first_batches(2).await;
    let memory = rig.first_memory();
    let (none, enough) = (
        MemoryBudget::new(MemoryLimits::without_floors(0)),
        MemoryBudget::new(MemoryLimits::without_floors(1 << 20)),
    );
    let late = || Left::take(Arc::clone(&memory), 2, &none);
    let (soon, too_late) = (late(), late());
    let held = Left::take(Arc::clone(&memory), 2, &enough);
    assert!(enough.used(MemoryKind::State) > 0);
    rig.launch(3, 0, |_| {});
    rig.outcome(3).await.unwrap();
    assert!(soon.version().is_ok());
    rig.launch(4, 0, |_| {});
    rig.outcome(4).await.unwrap();
    let error = too_late.version().map(drop).unwrap_err();
    assert!(error.contains("executor.memory"), "{error}");
    assert!(held.version().is_ok());
    assert_eq!(enough.used(MemoryKind::State), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_cannot_be_saved_is_reported_and_the_job_goes_on() {
    let [graph, _] = both_kinds();
    let directory = tempfile::tempdir().unwrap();
    let checkpoint = directory.path().join("checkpoint");
    std::fs::write(&checkpoint, b"a file where the directory should be").unwrap();
    let mut rig = Rig::start(&graph, &checkpoint).await;
    for index in 1..=3 {
        rig.launch(index, 0, |launch| launch.save_state = index == 1);
        rig.outcome(index).await.unwrap();
    }
    for saved in rig.saved().await {
        assert!(
            saved.error.contains("part-") && saved.error.contains("cannot be written"),
            "{saved:?}"
        );
    }
}

async fn tries(outcomes: &[Result<(), bool>]) -> (bool, u32) {
    let made = AtomicU32::new(0);
    let result = tried(|| {
        let outcome = outcomes[made.fetch_add(1, Ordering::Relaxed) as usize];
        let failed = |retryable| Failed {
            reason: "refused".to_owned(),
            retryable,
        };
        std::future::ready(outcome.map_err(failed))
    });
    (result.await.is_ok(), made.load(Ordering::Relaxed))
}

#[tokio::test(start_paused = true)]
async fn what_may_succeed_is_tried_again_and_what_cannot_is_not() {
    assert_eq!(tries(&[Ok(())]).await, (true, 1));
    assert_eq!(tries(&[Err(true), Err(true), Ok(())]).await, (true, 3));
    assert_eq!(tries(&[Err(true), Err(true), Err(true), Ok(())]).await, (false, 3));
    assert_eq!(tries(&[Err(false), Ok(())]).await, (false, 1));
}
