//! Every key that a job file may have, by section. The reference, docs/job-file.md, has a section for each.

pub(super) const JOB: &[&str] = &[
    "name",
    "batch_interval",
    "partitions",
    "weight",
    "max_attempts",
    "concurrent_batches",
    "on_batch_failure",
    "tables",
    "streams",
    "outputs",
];
pub(super) const TABLE: &[&str] = &["file", "format", "reload"];
pub(super) const STREAM: &[&str] = &["source", "from", "steps"];
pub(super) const SOCKET_TEXT: &[&str] = &["host", "port", "block_interval"];
pub(super) const TEXT_FILE: &[&str] = &["path", "batch_lines"];
pub(super) const TEXT_FILES: &[&str] = &["dir", "new_files_only", "remember", "files_per_batch"];
pub(super) const QUEUE: &[&str] = &["files", "lines"];
pub(super) const GENERATE: &[&str] = &["rate", "template", "seed"];
pub(super) const UNION: &[&str] = &["with"];
pub(super) const WINDOW: &[&str] = &["length", "slide"];
pub(super) const PRINT: &[&str] = &["from", "rows"];
pub(super) const SAVE: &[&str] = &["from", "path", "format", "files", "compression", "overwrite", "empty"];
pub(super) const TABLE_OUTPUT: &[&str] = &["from", "name", "query"];

/// The sections of a job file with their keys: the job's own ones, then those of each part, source, step and output.
/// The keys of `reduce_by_key` beside `key`, and those of the steps that take columns, are the columns' names.
pub const KEYS: &[(&str, &[&str])] = &[
    ("The job", JOB),
    ("Tables", TABLE),
    ("Streams", STREAM),
    ("socket_text", SOCKET_TEXT),
    ("text_file", TEXT_FILE),
    ("text_files", TEXT_FILES),
    ("queue", QUEUE),
    ("generate", GENERATE),
    ("union", UNION),
    ("window", WINDOW),
    ("reduce_by_key", &["key"]),
    ("print", PRINT),
    ("save", SAVE),
    ("table", TABLE_OUTPUT),
];
