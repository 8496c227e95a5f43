//! What a cluster found against what the model means.

use std::fmt;

use super::{Case, Evaluation, Row, Schema};

/// The rows of an output in a batch, as a cluster printed them.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    pub stream: String,
    /// From 1.
    pub batch: u64,
    /// The names of the columns, in the order of the rows.
    pub columns: Vec<String>,
    pub rows: Vec<Row>,
}

/// The first batch of an output in which the two differ.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    pub stream: String,
    pub batch: u64,
    /// The names of the expected columns.
    pub columns: Vec<String>,
    /// Sorted; `None` for a stream that is not due.
    pub expected: Option<Vec<Row>>,
    pub found: Result<Option<Vec<Row>>, String>,
}

impl Evaluation<'_> {
    /// What a cluster prints that agrees with this evaluation.
    #[must_use]
    pub fn printed(&self, case: &Case) -> Vec<Found> {
        let mut printed = Vec::new();
        for batch in 1..=case.batches {
            for output in &case.model.outputs {
                printed.extend(self.rows(*output, batch).map(|rows| Found {
                    stream: case.model.nodes[*output].name.clone(),
                    batch,
                    columns: self.schemas()[*output].names().map(str::to_owned).collect(),
                    rows: rows.to_vec(),
                }));
            }
        }
        printed
    }

    /// Compares outputs batch by batch, as multisets of rows whose columns go by name.
    #[must_use]
    pub fn difference(&self, case: &Case, found: &[Found]) -> Option<Difference> {
        (1..=case.batches).find_map(|batch| {
            let mut outputs = case.model.outputs.iter();
            outputs.find_map(|output| self.difference_at(case, *output, batch, found))
        })
    }

    fn difference_at(&self, case: &Case, output: usize, batch: u64, found: &[Found]) -> Option<Difference> {
        let stream = &case.model.nodes[output].name;
        let schema = &self.schemas()[output];
        let expected = self.rows(output, batch).map(|rows| schema.canonical(rows));
        let here: Vec<&Found> = found
            .iter()
            .filter(|found| found.stream == *stream && found.batch == batch)
            .collect();
        let found = match here.as_slice() {
            [] => Ok(None),
            [only] => only.aligned(schema).map(|rows| Some(schema.canonical(&rows))),
            several => Err(format!("it is there {} times", several.len())),
        };
        (found.as_ref() != Ok(&expected)).then(|| Difference {
            stream: stream.clone(),
            batch,
            columns: schema.names().map(str::to_owned).collect(),
            expected,
            found,
        })
    }
}

impl Found {
    /// The rows with their columns in the order of the schema.
    fn aligned(&self, schema: &Schema) -> Result<Vec<Row>, String> {
        let place = |name: &str| self.columns.iter().position(|column| column == name);
        let places: Option<Vec<usize>> = schema.names().map(place).collect();
        let places = places.filter(|places| places.len() == self.columns.len());
        let places = places.ok_or_else(|| format!("it has the columns {}", self.columns.join(", ")))?;
        let aligned = |row: &Row| places.iter().map(|place| row[*place].clone()).collect();
        Ok(self.rows.iter().map(aligned).collect())
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} differs in batch {} ({})",
            self.stream,
            self.batch,
            self.columns.join(", ")
        )?;
        f.write_str("expected:")?;
        write_rows(f, self.expected.as_deref())?;
        f.write_str("found:")?;
        match &self.found {
            Ok(found) => write_rows(f, found.as_deref()),
            Err(reason) => writeln!(f, " {reason}"),
        }
    }
}

fn write_rows(f: &mut fmt::Formatter<'_>, rows: Option<&[Row]>) -> fmt::Result {
    match rows {
        None => writeln!(f, " not due"),
        Some([]) => writeln!(f, " no rows"),
        Some(rows) => {
            writeln!(f)?;
            for row in rows {
                let values: Vec<String> = row.iter().map(ToString::to_string).collect();
                writeln!(f, "  {}", values.join(" | "))?;
            }
            Ok(())
        }
    }
}
