//! The `outputs` of a job.

use tidemill_dstream::{Compression, FileFormat, ForeachUnit, Line, OutputDef, OutputKind, SaveOutput};

use super::document::Node;
use super::functions::call;
use super::keys;
use super::reader::{Reader, join};
use super::sources::each;

/// Rows that print shows unless told.
pub(crate) const PRINT_ROWS: u32 = 10;

pub(super) const FILE_FORMATS: &[(&str, FileFormat)] = &[
    ("text", FileFormat::Text),
    ("csv", FileFormat::Csv),
    ("json", FileFormat::Json),
];

pub(super) const COMPRESSIONS: &[(&str, Compression)] = &[
    ("none", Compression::None),
    ("gzip", Compression::Gzip),
    ("zstd", Compression::Zstd),
];

pub(super) const FOREACH_UNITS: &[(&str, ForeachUnit)] =
    &[("batch", ForeachUnit::Batch), ("partition", ForeachUnit::Partition)];

pub(super) fn outputs(reader: &mut Reader<'_>, node: &Node) -> Option<Vec<OutputDef>> {
    if node.is_null() {
        return Some(Vec::new());
    }
    let items = reader.list(node, "outputs", "a list of outputs, each after a `-`")?;
    each(items, "outputs", |item, at| output(reader, item, at))
}

fn output(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<OutputDef> {
    let entry = reader.kind(node, path, "output", OutputKind::NAMES)?;
    let at = join(path, &entry.key);
    let node = &entry.value;
    let (from, kind) = match entry.key.as_str() {
        "print" => {
            let settings = reader.settings(node, &at, keys::PRINT)?;
            let from = reader.required_text(&settings, "from");
            let rows = reader.optional(&settings, "rows", |reader, node, path| {
                reader.number(node, path, u32::MAX)
            });
            (
                from,
                OutputKind::Print {
                    rows: rows?.unwrap_or(PRINT_ROWS),
                },
            )
        }
        "save" => save(reader, node, &at)?,
        "table" => {
            let settings = reader.settings(node, &at, keys::TABLE_OUTPUT)?;
            let from = reader.required_text(&settings, "from");
            let name = reader.required_text(&settings, "name");
            let query = reader.optional(&settings, "query", |reader, node, path| {
                reader.text(node, path, "an SQL query")
            });
            (
                from,
                OutputKind::Table {
                    name: name?,
                    query: query?,
                },
            )
        }
        "foreach" => {
            let settings = reader.settings(node, &at, keys::FOREACH)?;
            let from = reader.required_text(&settings, "from");
            let function = call(reader, &settings);
            let per = reader.optional(&settings, "per", |reader, node, path| {
                reader.choice(node, path, "unit", FOREACH_UNITS)
            });
            (
                from,
                OutputKind::Foreach {
                    function: function?,
                    per: per?.unwrap_or(ForeachUnit::Batch),
                },
            )
        }
        other => {
            reader.unknown(entry.line, &at, "output", other, OutputKind::NAMES);
            return None;
        }
    };
    Some(OutputDef {
        from: from?,
        kind,
        line: Line(Some(entry.line)),
    })
}

fn save(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<(Option<String>, OutputKind)> {
    let settings = reader.settings(node, path, keys::SAVE)?;
    let from = reader.required_text(&settings, "from");
    let directory = reader.required_text(&settings, "path");
    let format = reader.optional(&settings, "format", |reader, node, path| {
        reader.choice(node, path, "format", FILE_FORMATS)
    });
    let files = reader.optional(&settings, "files", |reader, node, path| {
        reader.number(node, path, u32::MAX)
    });
    let compression = reader.optional(&settings, "compression", |reader, node, path| {
        reader.choice(node, path, "compression", COMPRESSIONS)
    });
    let overwrite = reader.optional(&settings, "overwrite", Reader::boolean);
    let empty = reader.optional(&settings, "empty", Reader::boolean);
    let save = SaveOutput {
        path: directory?,
        format: format?.unwrap_or(FileFormat::Text),
        files: files?,
        compression: compression?.unwrap_or_default(),
        overwrite: overwrite?.unwrap_or(false),
        empty: empty?.unwrap_or(false),
    };
    Some((from, OutputKind::Save(save)))
}
