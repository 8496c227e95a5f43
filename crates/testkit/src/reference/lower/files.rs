//! Files that a job has beside its graph: what queries read as tables.

use tidemill_dstream::{Line, TableDef};

use crate::reference::{Model, Op, Query, Row, Unfit};

/// A table, and the file that it is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub table: String,
    /// Relative to the job.
    pub path: String,
    /// A JSON object a line. Nulls are left out.
    pub content: String,
}

/// The name of the table that a node reads.
pub(super) fn table_of(node: &str) -> String {
    format!("rows_of_{node}")
}

impl File {
    fn new<'a>(node: &str, columns: impl Iterator<Item = &'a str> + Clone, rows: &[Row]) -> Self {
        let line = |row: &Row| {
            let fields = columns.clone().zip(row).filter(|(_, value)| !value.is_null());
            let fields: Vec<String> = fields.map(|(name, value)| format!("{name:?}: {value}")).collect();
            format!("{{{}}}\n", fields.join(", "))
        };
        let table = table_of(node);
        Self {
            path: format!("{table}.json"),
            content: rows.iter().map(line).collect(),
            table,
        }
    }

    pub(super) fn definition(&self) -> TableDef {
        TableDef {
            name: self.table.clone(),
            path: self.path.clone(),
            format: None,
            reload: None,
            line: Line(None),
        }
    }
}

impl Model {
    /// The files that travel with the job.
    ///
    /// # Errors
    /// The model is not well typed.
    pub fn files(&self) -> Result<Vec<File>, Unfit> {
        let schemas = self.schemas()?;
        let mut files = Vec::new();
        for node in &self.nodes {
            match &node.op {
                Op::Transform(Query::Lookup { table, .. }) => {
                    files.push(File::new(&node.name, ["id", "label"].into_iter(), table));
                }
                Op::UpdateStateByKey(keyed) | Op::MapWithState { keyed, .. }
                    if keyed.is_file && !keyed.initial.is_empty() =>
                {
                    let columns = keyed.with_state(&schemas[node.inputs[0]])?;
                    files.push(File::new(&node.name, columns.names(), &keyed.initial));
                }
                _ => {}
            }
        }
        Ok(files)
    }
}
