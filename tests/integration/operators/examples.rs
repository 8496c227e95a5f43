//! The Rust examples of docs/operators.md: the body of a function here is the example of its operator there.

use std::time::Duration;

use tidemill_client::{DStream, Reducer, StateSpec, StateUpdate, StreamingContext};
use tidemill_dstream::AccumulatorKind;

pub(super) type Example = fn(&StreamingContext);

/// Every example by its operator; the second of an operator ends with `_2`.
pub(super) const EXAMPLES: &[(&str, Example)] = &[
    ("map", map),
    ("flat_map", flat_map),
    ("filter", filter),
    ("map_values", map_values),
    ("flat_map_values", flat_map_values),
    ("sample", sample),
    ("accumulate", accumulate),
    ("map_partitions", map_partitions),
    ("glom", glom),
    ("union", union),
    ("repartition", repartition),
    ("partition_by", partition_by),
    ("count", count),
    ("count_by_value", count_by_value),
    ("distinct", distinct),
    ("reduce", reduce),
    ("reduce_2", reduce_2),
    ("reduce_by_key", reduce_by_key),
    ("reduce_by_key_2", reduce_by_key_2),
    ("aggregate", aggregate),
    ("aggregate_2", aggregate_2),
    ("group_by_key", group_by_key),
    ("combine_by_key", combine_by_key),
    ("sort_by", sort_by),
    ("sort_by_2", sort_by_2),
    ("transform", transform),
    ("transform_with", transform_with),
    ("join", join),
    ("left_outer_join", left_outer_join),
    ("right_outer_join", right_outer_join),
    ("full_outer_join", full_outer_join),
    ("cogroup", cogroup),
    ("window", window),
    ("window_2", window_2),
    ("count_by_window", count_by_window),
    ("count_by_value_and_window", count_by_value_and_window),
    ("reduce_by_window", reduce_by_window),
    ("reduce_by_key_and_window", reduce_by_key_and_window),
    ("reduce_by_key_and_window_2", reduce_by_key_and_window_2),
    ("group_by_key_and_window", group_by_key_and_window),
    ("update_state_by_key", update_state_by_key),
    ("update_state_by_key_2", update_state_by_key_2),
    ("map_with_state", map_with_state),
    ("state_snapshots", state_snapshots),
];

fn sales<const BATCHES: usize>(ctx: &StreamingContext, batches: [Vec<&str>; BATCHES]) -> DStream {
    ctx.queue_stream(batches).map([
        ("user", "split_part(value, ' ', 1)"),
        ("price", "CAST(split_part(value, ' ', 2) AS BIGINT)"),
    ])
}

fn map(ctx: &StreamingContext) {
    ctx.queue_stream([vec!["ann 3", "bob 4"], vec!["ann 5"]])
        .map([
            ("user", "split_part(value, ' ', 1)"),
            ("price", "CAST(split_part(value, ' ', 2) AS BIGINT)"),
        ])
        .print();
}

fn flat_map(ctx: &StreamingContext) {
    ctx.queue_stream([vec!["a b", "a"], vec![]])
        .flat_map([("word", "string_to_array(value, ' ')")])
        .print();
}

fn filter(ctx: &StreamingContext) {
    ctx.queue_stream([vec!["a", "bb", "ccc"]])
        .filter("length(value) > 1")
        .print();
}

fn map_values(ctx: &StreamingContext) {
    sales(ctx, [vec!["ann 3", "bob 4"]])
        .map_values("user", [("price", "price * 2")])
        .print();
}

fn flat_map_values(ctx: &StreamingContext) {
    ctx.queue_stream([vec!["ann tea,milk", "bob tea"]])
        .map([
            ("user", "split_part(value, ' ', 1)"),
            ("items", "split_part(value, ' ', 2)"),
        ])
        .flat_map_values("user", [("item", "string_to_array(items, ',')")])
        .print();
}

fn sample(ctx: &StreamingContext) {
    ctx.queue_stream([vec!["x"]])
        .flat_map([("n", "range(0, 10000)")])
        .sample(0.1, 7)
        .count()
        .map([("share", "round(count / 10000.0, 1)")])
        .print();
}

fn accumulate(ctx: &StreamingContext) {
    let blank_lines = ctx.accumulator("blank_lines", AccumulatorKind::Count);
    let characters = ctx.accumulator("characters", AccumulatorKind::Sum);
    ctx.queue_stream([vec!["a", "", "bcd"], vec![""]])
        .accumulate_when(&blank_lines, "1", "value = ''")
        .accumulate(&characters, "length(value)")
        .filter("value <> ''")
        .print();
}

fn map_partitions(ctx: &StreamingContext) {
    ctx.queue_stream([vec!["a", "b"], vec![]])
        .map_partitions("shout")
        .print();
}

fn glom(ctx: &StreamingContext) {
    ctx.partitions(1);
    ctx.queue_stream([vec!["a", "b"], vec![]]).glom().print();
}

fn union(ctx: &StreamingContext) {
    let paper = ctx.queue_stream([vec!["a"], vec!["b"]]);
    let radio = ctx.queue_stream([vec!["c"], vec![]]);
    paper.union(&radio).print();
}

fn repartition(ctx: &StreamingContext) {
    ctx.partitions(1);
    ctx.queue_stream([vec!["a", "b", "c", "d"]])
        .repartition(2)
        .glom()
        .print();
}

fn partition_by(ctx: &StreamingContext) {
    sales(ctx, [vec!["ann 3", "bob 4", "ann 5"]])
        .partition_by("user")
        .partitions(3)
        .map_values("user", [("price", "price + 1")])
        .group_by_key("user")
        .print();
}

fn count(ctx: &StreamingContext) {
    ctx.queue_stream([vec!["a", "b"], vec![]]).count().print();
}

fn count_by_value(ctx: &StreamingContext) {
    ctx.queue_stream([vec!["a", "b", "a"], vec![]]).count_by_value().print();
}

fn distinct(ctx: &StreamingContext) {
    ctx.queue_stream([vec!["a", "b", "a"], vec!["a"]])
        .distinct()
        .partitions(2)
        .print();
}

fn reduce(ctx: &StreamingContext) {
    sales(ctx, [vec!["ann 3", "bob 4"], vec![]])
        .reduce([("total", "sum(price)"), ("sales", "count(*)")])
        .print();
}

fn reduce_2(ctx: &StreamingContext) {
    ctx.queue_stream([vec!["a", "ccc", "bb"], vec![]])
        .reduce_with("CASE WHEN length(b) > length(a) THEN b ELSE a END")
        .print();
}

fn reduce_by_key(ctx: &StreamingContext) {
    sales(ctx, [vec!["ann 3", "bob 4", "ann 5"], vec![]])
        .reduce_by_key("user", [("total", "sum(price)"), ("dearest", "max(price)")])
        .print();
}

fn reduce_by_key_2(ctx: &StreamingContext) {
    sales(ctx, [vec!["ann 3", "bob 4", "ann 5"], vec![]])
        .reduce_by_key_with("user", "a + b")
        .partitions(2)
        .print();
}

fn aggregate(ctx: &StreamingContext) {
    sales(ctx, [vec!["ann 3", "bob 4", "ann 5"], vec![]])
        .aggregate("user", [("median", "median(price)"), ("sales", "count(*)")])
        .print();
}

fn aggregate_2(ctx: &StreamingContext) {
    sales(ctx, [vec!["ann 3", "bob 4"], vec![]])
        .aggregate((), [("total", "sum(price)"), ("sales", "count(*)")])
        .print();
}

fn group_by_key(ctx: &StreamingContext) {
    sales(ctx, [vec!["ann 3", "bob 4", "ann 5"], vec![]])
        .group_by_key("user")
        .print();
}

fn combine_by_key(ctx: &StreamingContext) {
    sales(ctx, [vec!["ann 3", "bob 4", "ann 5"]])
        .combine_by_key(
            "user",
            [("total", "price"), ("sales", "1")],
            [("total", "total + value_price"), ("sales", "sales + 1")],
            [("total", "a + b"), ("sales", "a + b")],
        )
        .map_values("user", [("mean", "total / sales")])
        .print();
}

fn sort_by(ctx: &StreamingContext) {
    ctx.queue_stream([vec!["c", "a", "b", "a", "b", "a"]])
        .count_by_value()
        .sort_by(["count DESC", "value"])
        .print();
}

fn sort_by_2(ctx: &StreamingContext) {
    ctx.queue_stream([vec!["c", "a", "b", "a", "b", "a"]])
        .count_by_value()
        .sort_by_limit("count DESC", 1)
        .print();
}

fn transform(ctx: &StreamingContext) {
    ctx.queue_stream([vec!["b", "a", "b"], vec![]])
        .transform("SELECT value, count(*) AS n FROM input GROUP BY value ORDER BY n DESC LIMIT 1")
        .print();
}

fn transform_with(ctx: &StreamingContext) {
    let common = ctx.queue_stream([vec!["the"], vec!["the"]]).name("common");
    ctx.queue_stream([vec!["the", "cat"], vec!["the", "end"]])
        .transform_with(
            [&common],
            "SELECT * FROM input WHERE value NOT IN (SELECT value FROM common)",
        )
        .print();
}

fn join(ctx: &StreamingContext) {
    let users = ctx.queue_stream([vec!["ann Anna", "eve Eva"], vec![]]).map([
        ("id", "split_part(value, ' ', 1)"),
        ("name", "split_part(value, ' ', 2)"),
    ]);
    let clicks = ctx.queue_stream([vec!["ann home", "bob shop"], vec!["ann help"]]).map([
        ("user", "split_part(value, ' ', 1)"),
        ("page", "split_part(value, ' ', 2)"),
    ]);
    clicks.join(&users, [("user", "id")]).print();
}

fn left_outer_join(ctx: &StreamingContext) {
    let users = ctx.queue_stream([vec!["ann Anna", "eve Eva"], vec![]]).map([
        ("id", "split_part(value, ' ', 1)"),
        ("name", "split_part(value, ' ', 2)"),
    ]);
    let clicks = ctx.queue_stream([vec!["ann home", "bob shop"], vec!["ann help"]]).map([
        ("user", "split_part(value, ' ', 1)"),
        ("page", "split_part(value, ' ', 2)"),
    ]);
    clicks.left_outer_join(&users, [("user", "id")]).print();
}

fn right_outer_join(ctx: &StreamingContext) {
    let users = ctx.queue_stream([vec!["ann Anna", "eve Eva"], vec![]]).map([
        ("id", "split_part(value, ' ', 1)"),
        ("name", "split_part(value, ' ', 2)"),
    ]);
    let clicks = ctx.queue_stream([vec!["ann home", "bob shop"], vec!["ann help"]]).map([
        ("user", "split_part(value, ' ', 1)"),
        ("page", "split_part(value, ' ', 2)"),
    ]);
    clicks.right_outer_join(&users, [("user", "id")]).print();
}

fn full_outer_join(ctx: &StreamingContext) {
    let users = ctx.queue_stream([vec!["ann Anna", "eve Eva"], vec![]]).map([
        ("id", "split_part(value, ' ', 1)"),
        ("name", "split_part(value, ' ', 2)"),
    ]);
    let clicks = ctx.queue_stream([vec!["ann home", "bob shop"], vec!["ann help"]]).map([
        ("user", "split_part(value, ' ', 1)"),
        ("page", "split_part(value, ' ', 2)"),
    ]);
    clicks.full_outer_join(&users, [("user", "id")]).partitions(2).print();
}

fn cogroup(ctx: &StreamingContext) {
    let names = ctx
        .queue_stream([vec!["ann Anna", "eve Eva"], vec![]])
        .map([
            ("user", "split_part(value, ' ', 1)"),
            ("name", "split_part(value, ' ', 2)"),
        ])
        .name("names");
    let clicks = ctx.queue_stream([vec!["ann home", "ann help"], vec!["bob shop"]]).map([
        ("user", "split_part(value, ' ', 1)"),
        ("page", "split_part(value, ' ', 2)"),
    ]);
    clicks.cogroup([&names], "user").name("clicks").print();
}

fn window(ctx: &StreamingContext) {
    ctx.queue_stream([vec!["a"], vec!["b"], vec![], vec![]])
        .window(Duration::from_secs(2), None)
        .print();
}

fn window_2(ctx: &StreamingContext) {
    ctx.queue_stream([vec!["a"], vec!["b"], vec!["c"], vec!["d"], vec!["e"], vec!["f"]])
        .window(Duration::from_secs(2), Duration::from_secs(3))
        .print();
}

fn count_by_window(ctx: &StreamingContext) {
    ctx.queue_stream([vec!["a"], vec!["b"], vec![], vec![]])
        .count_by_window(Duration::from_secs(2), None)
        .print();
}

fn count_by_value_and_window(ctx: &StreamingContext) {
    ctx.queue_stream([vec!["a", "b"], vec!["a"], vec![], vec![]])
        .count_by_value_and_window(Duration::from_secs(2), None)
        .print();
}

fn reduce_by_window(ctx: &StreamingContext) {
    sales(ctx, [vec!["ann 3"], vec!["bob 4"], vec![], vec![]])
        .reduce_by_window([("total", "sum(price)")], Duration::from_secs(2), None)
        .print();
}

fn reduce_by_key_and_window(ctx: &StreamingContext) {
    ctx.queue_stream([vec!["a", "b"], vec!["a"], vec![], vec![]])
        .reduce_by_key_and_window("value", [("count", "count(*)")], Duration::from_secs(2), None)
        .filter("count > 1")
        .print();
}

fn reduce_by_key_and_window_2(ctx: &StreamingContext) {
    let sum = Reducer::new("a + b").inverse("a - b");
    sales(ctx, [vec!["ann 3", "bob 4"], vec!["ann 5"], vec![], vec![]])
        .reduce_by_key_and_window_with("user", sum, Duration::from_secs(4), Duration::from_secs(2))
        .print();
}

fn group_by_key_and_window(ctx: &StreamingContext) {
    sales(ctx, [vec!["ann 3"], vec!["ann 5", "bob 4"], vec![]])
        .group_by_key_and_window("user", Duration::from_secs(2), None)
        .print();
}

fn update_state_by_key(ctx: &StreamingContext) {
    let totals = StateUpdate::function([("total", "coalesce(total, 0) + n")]).values([("n", "count(*)")]);
    ctx.queue_stream([vec!["a", "b"], vec!["a"], vec![]])
        .update_state_by_key("value", totals)
        .print();
}

fn update_state_by_key_2(ctx: &StreamingContext) {
    let while_seen = StateUpdate::function([("total", "CASE WHEN n > 0 THEN coalesce(total, 0) + n END")])
        .values([("n", "count(*)")])
        .initial_state("SELECT 'a' AS value, CAST(10 AS BIGINT) AS total")
        .partitions(2);
    ctx.queue_stream([vec!["a", "b"], vec!["a"], vec![]])
        .update_state_by_key("value", while_seen)
        .print();
}

fn map_with_state(ctx: &StreamingContext) {
    let sessions = StateSpec::function([("clicks", "coalesce(clicks, 0) + n")])
        .values([("n", "count(*)")])
        .emit([("user", "value"), ("clicks", "clicks"), ("ended", "timing_out")])
        .timeout(Duration::from_secs(2));
    ctx.queue_stream([vec!["ann"], vec!["ann", "bob"], vec![], vec![], vec![]])
        .map_with_state("value", sessions)
        .print();
}

fn state_snapshots(ctx: &StreamingContext) {
    let clicks = StateSpec::function([("clicks", "coalesce(clicks, 0) + n")]).values([("n", "count(*)")]);
    ctx.queue_stream([vec!["ann"], vec!["ann", "bob"], vec![]])
        .map_with_state("value", clicks)
        .state_snapshots()
        .print();
}
