//! Every key that a job file may have, by section. The references, docs/job-file.md and docs/operators.md, have a
//! section for each.

pub(super) const JOB: &[&str] = &[
    "name",
    "batch_interval",
    "partitions",
    "weight",
    "max_attempts",
    "concurrent_batches",
    "on_batch_failure",
    "remember",
    "back_pressure",
    "max_queued_batches",
    "checkpoint",
    "checkpoint_interval",
    "accumulators",
    "tables",
    "broadcasts",
    "streams",
    "outputs",
];
pub(super) const ACCUMULATOR: &[&str] = &["kind", "native", "type", "limit", "bounds", "listed"];
pub(super) const TABLE: &[&str] = &["file", "format", "reload"];
pub(super) const BROADCAST: &[&str] = &[
    "file",
    "format",
    "value",
    "list",
    "map",
    "rows",
    "query",
    "as",
    "reload",
    "updatable",
];
pub(super) const STREAM: &[&str] = &["source", "from", "persist", "steps"];
pub(super) const SOCKET_TEXT: &[&str] = &["host", "port", "block_interval", "max_rate", "initial_rate"];
pub(super) const BACK_PRESSURE: &[&str] = &["proportional", "integral", "derived", "min_rate"];
pub(super) const TEXT_FILE: &[&str] = &["path", "batch_lines"];
pub(super) const TEXT_FILES: &[&str] = &["dir", "new_files_only", "remember", "files_per_batch"];
pub(super) const QUEUE: &[&str] = &["files", "lines"];
pub(super) const GENERATE: &[&str] = &["rate", "template", "seed"];
pub(super) const PRINT: &[&str] = &["from", "rows"];
pub(super) const SAVE: &[&str] = &["from", "path", "format", "files", "compression", "overwrite", "empty"];
pub(super) const TABLE_OUTPUT: &[&str] = &["from", "name", "query"];
pub(super) const FOREACH: &[&str] = &["from", "native", "args", "per"];

// Steps, and parts of them that several have.
pub(super) const NONE: &[&str] = &[];
pub(super) const NATIVE: &[&str] = &["native", "args", "accumulators"];
pub(super) const PARTITIONS: &[&str] = &["partitions"];
pub(super) const KEY_AND_PARTITIONS: &[&str] = &["key", "partitions"];
pub(super) const MAP_VALUES: &[&str] = &["key"];
pub(super) const SAMPLE: &[&str] = &["fraction", "seed"];
/// Into an accumulator that is declared, or into one that is declared here.
pub(super) const ACCUMULATE: &[&str] = &["into", "add", "when", "kind", "native", "type", "limit", "bounds"];
pub(super) const UNION: &[&str] = &["with"];
pub(super) const REDUCE: &[&str] = &["function", "inverse"];
pub(super) const REDUCE_BY_KEY: &[&str] = &["key", "function", "inverse", "partitions"];
pub(super) const COMBINE_BY_KEY: &[&str] = &["key", "create", "merge_value", "merge_combiners", "partitions"];
pub(super) const SORT_BY: &[&str] = &["by", "limit"];
pub(super) const SORT_KEY: &[&str] = &["by", "order", "nulls"];
pub(super) const TRANSFORM_WITH: &[&str] = &["with", "sql"];
pub(super) const JOIN: &[&str] = &["with", "on", "partitions"];
pub(super) const COGROUP: &[&str] = &["with", "key", "partitions"];
pub(super) const WINDOW: &[&str] = &["length", "slide"];
pub(super) const COUNT_BY_VALUE_AND_WINDOW: &[&str] = &["length", "slide", "partitions"];
pub(super) const REDUCE_BY_WINDOW: &[&str] = &["length", "slide", "function", "inverse"];
pub(super) const REDUCE_BY_KEY_AND_WINDOW: &[&str] =
    &["key", "length", "slide", "function", "inverse", "filter", "partitions"];
pub(super) const GROUP_BY_KEY_AND_WINDOW: &[&str] = &["key", "length", "slide", "partitions"];
pub(super) const UPDATE_STATE_BY_KEY: &[&str] = &["key", "values", "state", "initial", "partitions"];
pub(super) const MAP_WITH_STATE: &[&str] = &["key", "values", "state", "emit", "timeout", "initial", "partitions"];

/// The sections of a job file with their keys: the job's own ones, then those of each part, source and output.
pub const KEYS: &[(&str, &[&str])] = &[
    ("The job", JOB),
    ("Back-pressure", BACK_PRESSURE),
    ("Accumulators", ACCUMULATOR),
    ("Tables", TABLE),
    ("Broadcasts", BROADCAST),
    ("Streams", STREAM),
    ("socket_text", SOCKET_TEXT),
    ("text_file", TEXT_FILE),
    ("text_files", TEXT_FILES),
    ("queue", QUEUE),
    ("generate", GENERATE),
    ("print", PRINT),
    ("save", SAVE),
    ("table", TABLE_OUTPUT),
    ("foreach", FOREACH),
];

/// The keys of each step. Steps that take columns have those, by name, beside them.
pub const STEP_KEYS: &[(&str, &[&str])] = &[
    ("map", NONE),
    ("flat_map", NONE),
    ("filter", NONE),
    ("map_values", MAP_VALUES),
    ("flat_map_values", MAP_VALUES),
    ("sample", SAMPLE),
    ("accumulate", ACCUMULATE),
    ("map_partitions", NATIVE),
    ("glom", NONE),
    ("union", UNION),
    ("repartition", PARTITIONS),
    ("partition_by", KEY_AND_PARTITIONS),
    ("count", NONE),
    ("count_by_value", PARTITIONS),
    ("distinct", PARTITIONS),
    ("reduce", &["function"]),
    ("reduce_by_key", &["key", "function", "partitions"]),
    ("aggregate", KEY_AND_PARTITIONS),
    ("group_by_key", KEY_AND_PARTITIONS),
    ("combine_by_key", COMBINE_BY_KEY),
    ("sort_by", &["by", "limit", "order", "nulls"]),
    ("transform", NONE),
    ("transform_with", TRANSFORM_WITH),
    ("join", JOIN),
    ("left_outer_join", JOIN),
    ("right_outer_join", JOIN),
    ("full_outer_join", JOIN),
    ("cogroup", COGROUP),
    ("window", WINDOW),
    ("count_by_window", WINDOW),
    ("count_by_value_and_window", COUNT_BY_VALUE_AND_WINDOW),
    ("reduce_by_window", REDUCE_BY_WINDOW),
    ("reduce_by_key_and_window", REDUCE_BY_KEY_AND_WINDOW),
    ("group_by_key_and_window", GROUP_BY_KEY_AND_WINDOW),
    ("update_state_by_key", UPDATE_STATE_BY_KEY),
    ("map_with_state", MAP_WITH_STATE),
    ("state_snapshots", NONE),
];
