//! Functions that a build has registered.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, ListArray, RecordBatch, StringViewArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::logical_expr::{AggregateUDF, Volatility, create_udaf};
use futures::StreamExt;
use tidemill_dstream::{ForeachUnit, Function, JobGraph, NativeCall, Operator, OutputKind, Reduction};
use tidemill_types::{BatchTime, FailureKind};

use super::support::*;
use crate::{
    BatchContext, BatchStream, BoxError, CompileOptions, Determinism, ForeachBatch, MapPartitions, Registry,
    RegistryBuilder, Template, Transform, compile,
};

use Determinism::{Deterministic, Nondeterministic};

fn length(columns: &[ArrayRef]) -> Result<ArrayRef, BoxError> {
    let lengths = columns[0]
        .as_string_view()
        .iter()
        .map(|text| text.map(|t| t.len() as i64));
    Ok(Arc::new(lengths.collect::<Int64Array>()))
}

fn letters(columns: &[ArrayRef]) -> Result<ArrayRef, BoxError> {
    let texts = columns[0].as_string_view();
    let lengths = texts.iter().map(|text| text.map_or(0, |text| text.chars().count()));
    let all = texts.iter().flatten().flat_map(str::chars).map(|c| c.to_string());
    let item = Arc::new(Field::new_list_field(DataType::Utf8View, true));
    Ok(Arc::new(ListArray::try_new(
        item,
        arrow::buffer::OffsetBuffer::from_lengths(lengths),
        Arc::new(all.map(Some).collect::<StringViewArray>()),
        None,
    )?))
}

fn larger(columns: &[ArrayRef]) -> Result<ArrayRef, BoxError> {
    let (a, b) = (
        columns[0].as_primitive::<Int64Type>(),
        columns[1].as_primitive::<Int64Type>(),
    );
    let larger = a.iter().zip(b).map(|(a, b)| a.max(b));
    Ok(Arc::new(larger.collect::<Int64Array>()))
}

/// Numbers the records of a partition.
struct Numbered;

impl MapPartitions for Numbered {
    fn schema(&self, input: &SchemaRef) -> Result<SchemaRef, BoxError> {
        if input.fields().iter().any(|field| field.name() == "place") {
            return Err("they have a `place` already".into());
        }
        let fields = input.fields().iter().cloned();
        let added = ["partition", "place"].map(|name| Arc::new(Field::new(name, DataType::Int64, false)));
        Ok(Arc::new(Schema::new(fields.chain(added).collect::<Vec<_>>())))
    }

    fn map(&self, context: BatchContext, input: BatchStream) -> Result<BatchStream, BoxError> {
        let mut place = 0;
        Ok(Box::pin(input.map(move |batch| {
            let batch = batch?;
            let rows = batch.num_rows() as i64;
            let partition = vec![i64::from(context.partition); batch.num_rows()];
            let numbers = Int64Array::from_iter_values(place..place + rows);
            place += rows;
            let mut columns = batch.columns().to_vec();
            columns.push(Arc::new(Int64Array::from(partition)));
            columns.push(Arc::new(numbers));
            Ok(RecordBatch::try_new(Numbered.schema(&batch.schema())?, columns)?)
        })))
    }
}

/// One record of how many there are, also if there are none.
struct Size;

fn size_schema() -> SchemaRef {
    let fields = ["time", "rows"].map(|name| Field::new(name, DataType::Int64, false));
    Arc::new(Schema::new(fields.to_vec()))
}

impl Transform for Size {
    fn schema(&self, _: &SchemaRef) -> Result<SchemaRef, BoxError> {
        Ok(size_schema())
    }

    fn transform(&self, context: BatchContext, input: Vec<RecordBatch>) -> Result<Vec<RecordBatch>, BoxError> {
        let rows: usize = input.iter().map(RecordBatch::num_rows).sum();
        let columns =
            [context.batch_time.millis(), rows as i64].map(|n| Arc::new(Int64Array::from(vec![n])) as ArrayRef);
        Ok(vec![RecordBatch::try_new(size_schema(), columns.to_vec())?])
    }
}

/// It says that it gives other columns than it does.
struct Liar;

impl Transform for Liar {
    fn schema(&self, _: &SchemaRef) -> Result<SchemaRef, BoxError> {
        Ok(size_schema())
    }

    fn transform(&self, _: BatchContext, input: Vec<RecordBatch>) -> Result<Vec<RecordBatch>, BoxError> {
        Ok(input)
    }
}

/// A sum under another name, of functions that DataFusion has.
fn total(volatility: Volatility) -> AggregateUDF {
    create_udaf(
        "total",
        vec![DataType::Int64],
        Arc::new(DataType::Int64),
        volatility,
        Arc::new(|_| Ok(Box::new(Total(0)))),
        Arc::new(vec![DataType::Int64]),
    )
}

#[derive(Debug)]
struct Total(i64);

impl datafusion::logical_expr::Accumulator for Total {
    fn update_batch(&mut self, values: &[ArrayRef]) -> datafusion::error::Result<()> {
        self.0 += values[0].as_primitive::<Int64Type>().iter().flatten().sum::<i64>();
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> datafusion::error::Result<()> {
        self.update_batch(states)
    }

    fn evaluate(&mut self) -> datafusion::error::Result<datafusion::common::ScalarValue> {
        Ok(self.0.into())
    }

    fn state(&mut self) -> datafusion::error::Result<Vec<datafusion::common::ScalarValue>> {
        Ok(vec![self.0.into()])
    }

    fn size(&self) -> usize {
        size_of::<Self>()
    }
}

fn builder() -> RegistryBuilder {
    let long = |columns: &[ArrayRef]| {
        let texts = columns[0].as_string_view();
        Ok(texts
            .iter()
            .map(|text| text.map(|text| text.len() > 2))
            .collect::<BooleanArray>())
    };
    Registry::builder()
        .scalar("size_of", Deterministic, [DataType::Utf8View], DataType::Int64, length)
        .scalar(
            "size_now",
            Nondeterministic,
            [DataType::Utf8View],
            DataType::Int64,
            length,
        )
        .scalar(
            "larger",
            Deterministic,
            [DataType::Int64, DataType::Int64],
            DataType::Int64,
            larger,
        )
        .scalar("failing", Deterministic, [DataType::Utf8View], DataType::Int64, |_| {
            Err("no luck".into())
        })
        .scalar("short", Deterministic, [DataType::Utf8View], DataType::Int64, |_| {
            Ok(Arc::new(Int64Array::from(vec![1])))
        })
        .flat_map(
            "letters",
            Deterministic,
            [DataType::Utf8View],
            DataType::Utf8View,
            letters,
        )
        .filter("is_long", Deterministic, [DataType::Utf8View], long)
        .aggregate(total(Volatility::Immutable))
        .map_partitions("numbered", Deterministic, Numbered)
        .map_partitions("numbered_anyhow", Nondeterministic, Numbered)
        .transform("how_many", Deterministic, Size)
        .transform("liar", Deterministic, Liar)
        .foreach_blocking("sink", |_: ForeachBatch| Ok(()))
}

fn registry() -> Registry {
    builder().build().unwrap()
}

fn native(name: &str, args: &[&str]) -> NativeCall {
    NativeCall::new(name).args(args.iter().copied())
}

fn named(name: &str, call: NativeCall) -> Vec<tidemill_dstream::NamedFunction> {
    let mut columns = columns(&[(name, "")]);
    columns[0].function = Function::Native(call);
    columns
}

fn one(steps: Vec<Operator>) -> JobGraph {
    job(vec![source("lines", steps)], vec![table("lines")])
}

#[track_caller]
fn check_native(steps: Vec<Operator>, lines: &[&str], expected: &[&str]) {
    let graph = one(steps);
    for partitions in PARTITIONS {
        let mut mini = Mini::of_build(&graph, &[], partitions, &registry());
        let rows = mini.batch(&[("lines", lines)]).remove("lines").unwrap();
        assert_eq!(sorted(rows), expected, "{partitions} partitions");
    }
}

fn faults_of(steps: Vec<Operator>) -> String {
    let options = CompileOptions {
        partitions: 2,
        registry: registry(),
    };
    let graph = job(
        vec![source("lines", vec![]), from("out", "lines", steps)],
        vec![table("out")],
    );
    block_on(compile(&graph, &[], &options)).unwrap_err().to_string()
}

#[test]
fn scalar_functions_stand_where_expressions_do() {
    let map = |call| Operator::Map {
        columns: named("n", call),
    };
    // Of all columns, and of expressions.
    check_native(vec![map(native("size_of", &[]))], &["a", "bcd"], &["1", "3"]);
    check_native(
        vec![map(native("size_of", &["concat(value, '!')"]))],
        &["a", "bcd"],
        &["2", "4"],
    );
    let letters = Operator::FlatMap {
        columns: named("letter", native("letters", &[])),
    };
    check_native(vec![letters], &["ab", "", "c"], &["a", "b", "c"]);
    let long = Operator::Filter {
        predicate: Function::Native(native("is_long", &[])),
    };
    check_native(vec![long], &["a", "abc", "abcd"], &["abc", "abcd"]);
}

#[test]
fn functions_are_called_by_name_in_any_sql() {
    check_native(
        vec![crate::tests::support::map(&[("n", "size_of(value) + larger(1, 2)")])],
        &["abc"],
        &["5"],
    );
    check_native(
        vec![transform(
            "SELECT max(size_of(value)) AS n, total(size_of(value)) AS t FROM input WHERE is_long(value)",
        )],
        &["a", "abc", "abcd"],
        &["4|7"],
    );
    check_native(
        vec![reduce_by_key(
            &[("n", "size_of(value)")],
            &[("t", "total(size_of(value)) + 1")],
        )],
        &["ab", "cd", "e"],
        &["1|2", "2|5"],
    );
}

#[test]
fn aggregates_and_binary_reductions_take_registered_functions() {
    let aggregates = Operator::Aggregate {
        keys: Vec::new(),
        aggregates: named("t", native("total", &["size_of(value)"])),
        partitions: None,
    };
    check_native(vec![aggregates], &["ab", "c"], &["3"]);
    let binary = Operator::Reduce {
        reduction: Reduction::Binary {
            columns: named("n", native("larger", &[])),
            inverse: Vec::new(),
        },
    };
    let sizes = crate::tests::support::map(&[("n", "size_of(value)")]);
    check_native(vec![sizes, binary], &["ab", "c", "defg"], &["4"]);
}

#[test]
fn map_partitions_sees_each_partition_in_order() {
    let step = |name: &str| Operator::MapPartitions {
        function: native(name, &[]),
    };
    let graph = one(vec![
        Operator::Repartition { partitions: 2 },
        step("numbered"),
        filter("place < 2"),
    ]);
    let mut mini = Mini::of_build(&graph, &[], 3, &registry());
    let rows = mini
        .batch(&[("lines", &["a", "b", "c", "d", "e", "f"])])
        .remove("lines")
        .unwrap();
    let places: Vec<&str> = rows.iter().map(|row| row.split_once('|').unwrap().1).collect();
    assert_eq!(places, ["0|0", "0|1", "1|0", "1|1"]);
    // Of expressions, which are its columns.
    let graph = one(vec![
        Operator::MapPartitions {
            function: native("numbered", &["value", "upper(value)"]),
        },
        transform("SELECT value, \"upper(value)\" AS upper FROM input"),
    ]);
    let mut mini = Mini::of_build(&graph, &[], 2, &registry());
    assert_eq!(
        sorted(mini.batch(&[("lines", &["a", "b"])])["lines"].clone()),
        ["a|A", "b|B"]
    );
}

#[test]
fn a_transform_sees_the_whole_batch_and_its_time() {
    let step = Operator::Transform {
        function: Function::Native(native("how_many", &[])),
    };
    let graph = one(vec![filter("value <> 'x'"), step]);
    for partitions in PARTITIONS {
        let mut mini = Mini::of_build(&graph, &[], partitions, &registry());
        assert_eq!(mini.batch(&[("lines", &["a", "x", "b", "c"])])["lines"], ["1000|3"]);
        assert_eq!(mini.batch(&[])["lines"], ["2000|0"]);
    }
}

#[test]
fn what_goes_wrong_in_a_function_is_the_users_failure() {
    for (step, expected) in [
        (
            crate::tests::support::map(&[("n", "failing(value)")]),
            "function `failing` failed: no luck",
        ),
        (
            crate::tests::support::map(&[("n", "short(value)")]),
            "function `short` failed: gave 1 values for 2 rows",
        ),
        (
            Operator::Transform {
                function: Function::Native(native("liar", &[])),
            },
            "function `liar` failed: gave other columns than it said",
        ),
    ] {
        let mut mini = Mini::of_build(&one(vec![step]), &[], 1, &registry());
        let failure = mini.try_batch(&[("lines", &["a", "b"])]).unwrap_err();
        assert_eq!(failure.kind, FailureKind::User);
        assert!(failure.message.starts_with(expected), "{failure}");
    }
    // A failure of what is before a function passes through it.
    let steps = vec![
        crate::tests::support::map(&[("n", "1 / (length(value) - 1)")]),
        Operator::MapPartitions {
            function: native("numbered", &[]),
        },
    ];
    let mut mini = Mini::of_build(&one(steps), &[], 1, &registry());
    let failure = mini.try_batch(&[("lines", &["a"])]).unwrap_err();
    assert!(failure.message.contains("Divide by zero"), "{failure}");
    assert!(!failure.message.contains("numbered"), "{failure}");
}

#[test]
fn a_function_that_does_not_exist_or_fit_is_refused() {
    let map = |call| Operator::Map {
        columns: named("n", call),
    };
    let text = faults_of(vec![map(native("size", &[]))]);
    assert!(
        text.starts_with(
            "line 2: streams.out.steps[0].map.n.native: no function `size` is registered (this build has `failing`, \
             `how_many`, `is_long`, `larger`, `letters`, "
        ),
        "{text}"
    );
    assert_eq!(
        faults_of(vec![map(native("how_many", &[]))]),
        "line 2: streams.out.steps[0].map.n.native: `how_many` is registered as a function for transform, and this step \
         needs a function of a record"
    );
    assert_eq!(
        faults_of(vec![Operator::MapPartitions {
            function: native("how_many", &[])
        }]),
        "line 2: streams.out.steps[0].map_partitions.native: `how_many` is registered as a function for transform, and \
         this step needs a function for map_partitions"
    );
    assert_eq!(
        faults_of(vec![Operator::MapPartitions {
            function: native("numbered", &["value AS place"])
        }]),
        "line 2: streams.out.steps[0].map_partitions.native: `numbered` does not take these records: they have a `place` \
         already"
    );
    let text = faults_of(vec![map(native("size_of", &["valeu"]))]);
    assert_eq!(
        text,
        "line 2: streams.out.steps[0].map.n.args[0]: unknown column `valeu` (did you mean `value`?)"
    );
    let text = faults_of(vec![map(native("size_of", &["value", "1"]))]);
    assert!(text.contains("no function `size_of("), "{text}");
    let text = faults_of(vec![crate::tests::support::map(&[("n", "size_off(value)")])]);
    assert!(
        text.contains("unknown function `size_off` (did you mean `size_of`?)"),
        "{text}"
    );
}

#[test]
fn foreach_outputs_are_checked_and_given_their_columns() {
    let foreach = |call| {
        let kind = OutputKind::Foreach {
            function: call,
            per: ForeachUnit::Batch,
        };
        job(vec![source("lines", vec![])], vec![output("lines", kind)])
    };
    let compiled = |call| {
        let options = CompileOptions {
            partitions: 2,
            registry: registry(),
        };
        block_on(compile(&foreach(call), &[], &options))
    };
    let all = compiled(native("sink", &[])).unwrap();
    assert_eq!(all.plan.outputs[0].name, "foreach");
    let two = compiled(native("sink", &["value", "length(value)"])).unwrap();
    let schema = Template::decode(&two.templates[0], &registry()).unwrap().schema();
    let names: Vec<&String> = schema.fields().iter().map(|field| field.name()).collect();
    assert_eq!(names, ["value", "length(value)"]);
    assert!(
        compiled(native("total", &[]))
            .unwrap_err()
            .to_string()
            .starts_with("line 90: outputs[0].foreach.native: `total` is registered as an aggregate")
    );
}

#[test]
fn stages_say_whether_they_are_deterministic() {
    let deterministic = |registry: &Registry, steps: Vec<Operator>| {
        let options = CompileOptions {
            partitions: 2,
            registry: registry.clone(),
        };
        let plan = block_on(compile(&one(steps), &[], &options)).unwrap().plan;
        plan.stages.iter().map(|stage| stage.deterministic).collect::<Vec<_>>()
    };
    let sizes = |name: &str| reduce_by_key(&[("n", &format!("{name}(value)"))], &[("c", "count(*)")]);
    let all = registry();
    assert_eq!(deterministic(&all, vec![sizes("size_of")]), [true, true]);
    assert_eq!(deterministic(&all, vec![sizes("size_now")]), [false, true]);
    assert_eq!(
        deterministic(
            &all,
            vec![crate::tests::support::map(&[("n", "random()"), ("t", "now()")])]
        ),
        [true]
    );
    let numbered = |name| Operator::MapPartitions {
        function: native(name, &[]),
    };
    assert_eq!(deterministic(&all, vec![numbered("numbered")]), [true]);
    assert_eq!(deterministic(&all, vec![numbered("numbered_anyhow")]), [false]);
    let volatile = Registry::builder()
        .aggregate(total(Volatility::Volatile))
        .build()
        .unwrap();
    let totals = || reduce_by_key(&[("v", "value")], &[("t", "total(length(value))")]);
    assert_eq!(deterministic(&all, vec![totals()]), [true, true]);
    assert_eq!(deterministic(&volatile, vec![totals()]), [false, false]);
}

#[test]
fn what_is_not_deterministic_stays_above_the_window() {
    let panes = |registry: &Registry, name: &str| {
        let graph = one(vec![window(3, None), reduce_by_key(&[("v", "value")], &[("t", name)])]);
        let options = CompileOptions {
            partitions: 2,
            registry: registry.clone(),
        };
        let plan = block_on(compile(&graph, &[], &options)).unwrap().plan;
        plan.datasets.iter().any(|dataset| dataset.name.contains("panes"))
    };
    assert!(panes(&registry(), "sum(size_of(value))"));
    assert!(!panes(&registry(), "sum(size_now(value))"));
    assert!(panes(&registry(), "total(length(value))"));
    let volatile = Registry::builder()
        .aggregate(total(Volatility::Volatile))
        .build()
        .unwrap();
    assert!(!panes(&volatile, "total(length(value))"));
}

#[test]
fn an_executor_of_another_build_says_what_it_lacks() {
    let graph = |step| one(vec![step]);
    let options = CompileOptions {
        partitions: 1,
        registry: registry(),
    };
    for (step, name) in [
        (crate::tests::support::map(&[("n", "size_of(value)")]), "size_of"),
        (reduce(&[("n", "total(length(value))")]), "total"),
        (
            Operator::MapPartitions {
                function: native("numbered", &[]),
            },
            "numbered",
        ),
    ] {
        let compiled = block_on(compile(&graph(step), &[], &options)).unwrap();
        let Err(error) = Template::decode(&compiled.templates[0], &Registry::default()) else {
            panic!("`{name}` was not missed")
        };
        let failure = tidemill_types::TaskFailure::from(error);
        assert!(
            failure.message.starts_with(&format!(
                "function `{name}` is not registered here: driver and executors must be of one build"
            )),
            "{failure}"
        );
    }
}

#[test]
fn names_are_identifiers_of_their_own() {
    let build = |name: &str| {
        builder()
            .scalar(name, Deterministic, [DataType::Utf8View], DataType::Int64, length)
            .build()
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    assert_eq!(build("fresh_1"), Ok(()));
    assert_eq!(
        build("size_of"),
        Err("function `size_of` cannot be registered: another one has its name".to_owned())
    );
    assert_eq!(
        build("lower"),
        Err("function `lower` cannot be registered: a function of that name is part of SQL here".to_owned())
    );
    for name in ["Size", "1st", "", "a-b", "größe"] {
        assert!(build(name).unwrap_err().contains("lowercase letters"), "{name}");
    }
    assert_eq!(registry().names().count(), 13);
}

#[test]
fn foreach_functions_are_called_with_the_batch_and_fail_as_the_users() {
    use parking_lot::Mutex;
    let seen = Arc::new(Mutex::new(Vec::new()));
    struct Push(Arc<Mutex<Vec<String>>>);
    #[async_trait::async_trait]
    impl crate::Foreach for Push {
        async fn call(&self, batch: ForeachBatch) -> Result<(), BoxError> {
            let rows = concat_batches(&batch.schema, &batch.rows)?;
            self.0.lock().push(format!(
                "{} {:?} {}",
                batch.batch_time.millis(),
                batch.partition,
                rows.num_rows()
            ));
            Ok(())
        }
    }
    let registry = Registry::builder()
        .foreach("push", Push(Arc::clone(&seen)))
        .foreach_blocking("refuse", |_| Err("full".into()))
        .foreach_blocking("panic", |_| panic!("at the sink"))
        .build()
        .unwrap();
    let batch = ForeachBatch {
        job: "test".to_owned(),
        batch_time: BatchTime(7),
        partition: Some(3),
        schema: text(&[]).schema(),
        rows: vec![text(&["a", "b"]), text(&["c"])],
    };
    let call = |name: &str| {
        let batch = batch.clone();
        block_on(async { registry.foreach(name, batch, &tokio::runtime::Handle::current()).await })
    };
    call("push").unwrap();
    assert_eq!(*seen.lock(), ["7 Some(3) 3"]);
    let failure = call("refuse").unwrap_err();
    assert_eq!(
        (failure.kind, failure.message.as_str()),
        (FailureKind::User, "foreach `refuse` failed: full")
    );
    assert_eq!(call("panic").unwrap_err().message, "foreach `panic` panicked");
    assert_eq!(call("nothing").unwrap_err().kind, FailureKind::Internal);
}
