//! What can be wrong with a source.

use super::Faults;
use crate::{Line, Source, Template};

/// Lines a second, above any machine's rate, so that a batch's indexes cannot overflow.
const MAX_RATE: u64 = 1_000_000_000;

pub(super) fn check(source: &Source, line: Line, stream: &str, faults: &mut Faults) {
    let path = |setting: &str| format!("{stream}.source.{}.{setting}", source.name());
    match source {
        Source::SocketText(socket) => {
            faults.not_empty(line, path("host"), "the host", &socket.host);
            if socket.port == 0 {
                faults.add(line, path("port"), "0 is not a port to connect to");
            }
            faults.whole_millis(line, path("block_interval"), socket.block_interval);
            faults.not_zero(line, path("max_rate"), socket.max_rate);
            faults.not_zero(line, path("initial_rate"), socket.initial_rate);
        }
        Source::TextFile(file) => {
            faults.not_empty(line, path("path"), "the path", &file.path);
            faults.not_zero(line, path("batch_lines"), file.batch_lines);
        }
        Source::TextFiles(files) => {
            faults.not_empty(line, path("dir"), "the directory", &files.dir);
            faults.whole_millis(line, path("remember"), Some(files.remember));
            faults.not_zero(line, path("files_per_batch"), files.files_per_batch.map(u64::from));
        }
        Source::Queue(items) => {
            if items.is_empty() {
                faults.hinted(
                    line,
                    format!("{stream}.source.queue"),
                    "the queue is empty",
                    "give it files, or the lines of each batch",
                );
            }
            for (index, item) in items.iter().enumerate() {
                if let crate::QueueItem::File(file) = item {
                    faults.not_empty(line, path(&format!("files[{index}]")), "the path", file);
                }
            }
        }
        Source::Generate(generate) => {
            faults.not_zero(line, path("rate"), Some(generate.rate));
            if generate.rate > MAX_RATE {
                faults.add(
                    line,
                    path("rate"),
                    format!("{} is more than {MAX_RATE} lines a second", generate.rate),
                );
            }
            if let Err(message) = Template::parse(&generate.template) {
                faults.add(line, path("template"), message);
            }
        }
    }
}
