//! The `source` of a stream.

use std::rc::Rc;
use std::time::Duration;

use tidemill_dstream::{GenerateSource, QueueItem, SocketTextSource, Source, TextFileSource, TextFilesSource};

use super::document::{Data, Node};
use super::keys;
use super::reader::{Reader, join};

/// As long as Spark's `fileStream.minRememberDuration`.
pub(crate) const REMEMBER: Duration = Duration::from_secs(60);

pub(super) fn source(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Source> {
    let entry = reader.kind(node, path, "source", Source::NAMES)?;
    let at = join(path, &entry.key);
    match entry.key.as_str() {
        "socket_text" => socket_text(reader, &entry.value, &at),
        "text_file" => text_file(reader, &entry.value, &at),
        "text_files" => text_files(reader, &entry.value, &at),
        "queue" => queue(reader, &entry.value, &at).map(Source::Queue),
        "generate" => generate(reader, &entry.value, &at),
        other => {
            reader.unknown(entry.line, &at, "source", other, Source::NAMES);
            None
        }
    }
}

fn socket_text(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Source> {
    let settings = reader.settings(node, path, keys::SOCKET_TEXT)?;
    let host = reader.required_text(&settings, "host");
    let port = reader
        .required(&settings, "port")
        .and_then(|node| reader.number(node, &settings.at("port"), u16::MAX));
    let block_interval = reader.optional(&settings, "block_interval", Reader::duration);
    let rate = |reader: &mut Reader<'_>, node: &Node, path: &str| reader.number(node, path, u64::MAX);
    let max_rate = reader.optional(&settings, "max_rate", rate);
    let initial_rate = reader.optional(&settings, "initial_rate", rate);
    Some(Source::SocketText(SocketTextSource {
        host: host?,
        port: port?,
        block_interval: block_interval?,
        max_rate: max_rate?,
        initial_rate: initial_rate?,
    }))
}

fn text_file(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Source> {
    let settings = reader.settings(node, path, keys::TEXT_FILE)?;
    let file = reader.required_text(&settings, "path");
    let batch_lines = reader.optional(&settings, "batch_lines", |reader, node, path| {
        reader.number(node, path, u64::MAX)
    });
    Some(Source::TextFile(TextFileSource {
        path: file?,
        batch_lines: batch_lines?,
    }))
}

fn text_files(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Source> {
    let settings = reader.settings(node, path, keys::TEXT_FILES)?;
    let dir = reader.required_text(&settings, "dir");
    let new_files_only = reader.optional(&settings, "new_files_only", Reader::boolean);
    let remember = reader.optional(&settings, "remember", Reader::duration);
    let files_per_batch = reader.optional(&settings, "files_per_batch", |reader, node, path| {
        reader.number(node, path, u32::MAX)
    });
    Some(Source::TextFiles(TextFilesSource {
        dir: dir?,
        new_files_only: new_files_only?.unwrap_or(true),
        remember: remember?.unwrap_or(REMEMBER),
        files_per_batch: files_per_batch?,
    }))
}

/// `{files: [a, b]}`, `{lines: [[..], [..]]}`, or a list of both kinds.
fn queue(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Vec<QueueItem>> {
    if let Data::List(items) = &node.data {
        return each(items, path, |item, at| match &item.data {
            Data::List(lines) => queue_lines(reader, lines, at),
            _ => reader.text(item, at, "a file or a list of lines").map(QueueItem::File),
        });
    }
    let settings = reader.settings(node, path, keys::QUEUE)?;
    match (settings.get("files"), settings.get("lines")) {
        (Some(node), None) => {
            let at = settings.at("files");
            let files = reader.list(node, &at, "a list of files, one a batch")?;
            each(files, &at, |item, at| {
                reader.text(item, at, "a file").map(QueueItem::File)
            })
        }
        (None, Some(node)) => {
            let at = settings.at("lines");
            let batches = reader.list(node, &at, "a list of lists of lines, one a batch")?;
            each(batches, &at, |item, at| {
                let lines = reader.list(item, at, "a list of lines")?;
                queue_lines(reader, lines, at)
            })
        }
        _ => {
            reader.fault(settings.line, path, "a queue has either `files` or `lines`");
            None
        }
    }
}

fn queue_lines(reader: &mut Reader<'_>, lines: &[Rc<Node>], path: &str) -> Option<QueueItem> {
    each(lines, path, |line, at| reader.text(line, at, "a line")).map(QueueItem::Lines)
}

fn generate(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Source> {
    let settings = reader.settings(node, path, keys::GENERATE)?;
    let rate = reader
        .required(&settings, "rate")
        .and_then(|node| reader.number(node, &settings.at("rate"), u64::MAX));
    let template = reader.required_text(&settings, "template");
    let seed = reader.optional(&settings, "seed", |reader, node, path| {
        reader.number(node, path, u64::MAX)
    });
    Some(Source::Generate(GenerateSource {
        rate: rate?,
        template: template?,
        seed: seed?.unwrap_or(0),
    }))
}

/// Reads all items of a list, also behind a fault.
pub(super) fn each<T>(
    items: &[Rc<Node>],
    path: &str,
    mut read: impl FnMut(&Node, &str) -> Option<T>,
) -> Option<Vec<T>> {
    let all: Vec<Option<T>> = items
        .iter()
        .enumerate()
        .map(|(index, item)| read(item, &format!("{path}[{index}]")))
        .collect();
    all.into_iter().collect()
}
