//! Outputs.

use tidemill_dstream::{FileFormat, ForeachUnit, NativeCall, OutputKind, SaveOutput};

use super::DStream;
use crate::job_file::PRINT_ROWS;

impl DStream {
    fn output(&self, kind: OutputKind) {
        let what = format!("output `{}`", kind.name());
        self.job.lock().change(&what).outputs.push((self.node, kind));
    }

    /// Prints the first ten rows of each batch.
    pub fn print(&self) {
        self.print_rows(PRINT_ROWS);
    }

    pub fn print_rows(&self, rows: u32) {
        self.output(OutputKind::Print { rows });
    }

    /// Writes each batch to files in a directory of its own below `path`.
    pub fn save(&self, path: impl Into<String>, format: FileFormat) {
        self.save_with(SaveOutput {
            path: path.into(),
            format,
            files: None,
            compression: Default::default(),
            overwrite: false,
            empty: false,
        });
    }

    pub fn save_with(&self, save: SaveOutput) {
        self.output(OutputKind::Save(save));
    }

    /// Keeps the last batch as a table that can be queried.
    pub fn table(&self, name: impl Into<String>) {
        self.output(OutputKind::Table {
            name: name.into(),
            query: None,
        });
    }

    /// Keeps what a query over the last batch gives as a table. The query names the stream by its name.
    pub fn table_query(&self, name: impl Into<String>, query: impl Into<String>) {
        self.output(OutputKind::Table {
            name: name.into(),
            query: Some(query.into()),
        });
    }

    /// Gives each batch and its time to a registered function, on the driver, when the batch is committed. At least
    /// once.
    pub fn foreach(&self, function: impl Into<NativeCall>) {
        self.output(OutputKind::Foreach {
            function: function.into(),
            per: ForeachUnit::Batch,
        });
    }

    /// Gives each partition and its batch's time to a registered function, where the partition is. At least once.
    pub fn foreach_partition(&self, function: impl Into<NativeCall>) {
        self.output(OutputKind::Foreach {
            function: function.into(),
            per: ForeachUnit::Partition,
        });
    }
}
