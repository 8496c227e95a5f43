//! Sources.

use std::time::Duration;

use tidemill_dstream::{GenerateSource, QueueItem, SocketTextSource, Source, TextFileSource, TextFilesSource};

use super::{Error, each, every, to_millis};
use crate::plan;
use crate::plan::source::Source as Wire;

impl From<&Source> for plan::Source {
    fn from(source: &Source) -> Self {
        let source = match source {
            Source::SocketText(socket) => Wire::SocketText(plan::SocketText {
                host: socket.host.clone(),
                port: socket.port.into(),
                block_interval_ms: socket.block_interval.map(to_millis),
                max_rate: socket.max_rate,
                initial_rate: socket.initial_rate,
            }),
            Source::TextFile(file) => Wire::TextFile(plan::TextFile {
                path: file.path.clone(),
                batch_lines: file.batch_lines,
            }),
            Source::TextFiles(files) => Wire::TextFiles(plan::TextFiles {
                dir: files.dir.clone(),
                new_files_only: files.new_files_only,
                remember_ms: to_millis(files.remember),
                files_per_batch: files.files_per_batch,
            }),
            Source::Queue(items) => Wire::Queue(plan::Queue { items: every(items) }),
            Source::Generate(generate) => Wire::Generate(plan::Generate {
                rate: generate.rate,
                template: generate.template.clone(),
                seed: generate.seed,
            }),
        };
        Self { source: Some(source) }
    }
}

impl TryFrom<plan::Source> for Source {
    type Error = Error;

    fn try_from(source: plan::Source) -> Result<Self, Error> {
        Ok(match source.source.ok_or_else(|| Error::missing("source"))? {
            Wire::SocketText(socket) => Self::SocketText(SocketTextSource {
                host: socket.host,
                port: u16::try_from(socket.port)
                    .map_err(|_| Error::new("socket_text.port", format!("{} is not a port", socket.port)))?,
                block_interval: socket.block_interval_ms.map(Duration::from_millis),
                max_rate: socket.max_rate,
                initial_rate: socket.initial_rate,
            }),
            Wire::TextFile(file) => Self::TextFile(TextFileSource {
                path: file.path,
                batch_lines: file.batch_lines,
            }),
            Wire::TextFiles(files) => Self::TextFiles(TextFilesSource {
                dir: files.dir,
                new_files_only: files.new_files_only,
                remember: Duration::from_millis(files.remember_ms),
                files_per_batch: files.files_per_batch,
            }),
            Wire::Queue(queue) => Self::Queue(each("queue.items", queue.items)?),
            Wire::Generate(generate) => Self::Generate(GenerateSource {
                rate: generate.rate,
                template: generate.template,
                seed: generate.seed,
            }),
        })
    }
}

impl From<&QueueItem> for plan::QueueItem {
    fn from(item: &QueueItem) -> Self {
        use plan::queue_item::Item;
        let item = match item {
            QueueItem::File(path) => Item::File(path.clone()),
            QueueItem::Lines(lines) => Item::Lines(plan::Lines { lines: lines.clone() }),
        };
        Self { item: Some(item) }
    }
}

impl TryFrom<plan::QueueItem> for QueueItem {
    type Error = Error;

    fn try_from(item: plan::QueueItem) -> Result<Self, Error> {
        use plan::queue_item::Item;
        Ok(match item.item.ok_or_else(|| Error::missing("item"))? {
            Item::File(path) => Self::File(path),
            Item::Lines(lines) => Self::Lines(lines.lines),
        })
    }
}
