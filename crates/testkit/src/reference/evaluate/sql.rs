//! Queries beyond one operator.

use super::operators::{Batch, Records};
use crate::reference::{Query, Row, Schema, Unfit, Value};

impl Batch<'_> {
    pub(super) fn sql(&self, query: &Query) -> Result<Vec<Row>, Unfit> {
        let Records { schema, rows } = self.inputs[0];
        match query {
            Query::Above { column } => {
                let values = values(self.inputs[0], column)?;
                let least = values.iter().filter(|value| !value.is_null()).min();
                let is_above = |value: &Value| !value.is_null() && least.is_some_and(|least| value > least);
                let kept = rows.iter().zip(&values).filter(|(_, value)| is_above(value));
                Ok(kept.map(|(row, _)| row.clone()).collect())
            }
            Query::Join {
                key,
                other_key,
                left,
                right,
                outer,
            } => {
                let theirs = Side::new(self.other()?, other_key, right)?;
                Ok(Side::new(self.inputs[0], key, left)?.joined(&theirs, *outer))
            }
            Query::Lookup {
                key,
                left,
                table,
                outer,
            } => {
                let records: Vec<(Value, Row)> = table.iter().map(|row| (row[0].clone(), row[1..].to_vec())).collect();
                let theirs = Side { records, columns: 1 };
                Ok(Side::new(self.inputs[0], key, left)?.joined(&theirs, *outer))
            }
            Query::Exists { key, other_key } => {
                let theirs = values(self.other()?, other_key)?;
                self.where_key(key, |ours| !ours.is_null() && theirs.contains(ours))
            }
            Query::NotIn { key, other_key } => {
                let theirs = values(self.other()?, other_key)?;
                // In what is empty, nothing is. A null may be equal to anything.
                let is_known = |ours: &Value| !ours.is_null() && !theirs.contains(&Value::Null);
                self.where_key(key, |ours| {
                    theirs.is_empty() || is_known(ours) && !theirs.contains(ours)
                })
            }
            Query::Native => Ok(vec![vec![Value::Int(rows.len() as i64)]]),
            Query::Select(_) | Query::Group { .. } | Query::Top { .. } | Query::Number { .. } => {
                Err(Unfit::new(format!("{query:?} over {schema:?} is an operator")))
            }
        }
    }

    fn other(&self) -> Result<Records<'_>, Unfit> {
        let other = self.inputs.get(1).copied();
        other.ok_or_else(|| Unfit::new("reads one stream"))
    }

    fn where_key(&self, key: &str, keeps: impl Fn(&Value) -> bool) -> Result<Vec<Row>, Unfit> {
        let keys = values(self.inputs[0], key)?;
        let rows = self.inputs[0].rows.iter().zip(&keys);
        Ok(rows.filter(|(_, key)| keeps(key)).map(|(row, _)| row.clone()).collect())
    }
}

/// The records of one side of a join: the key of each, and what is selected.
struct Side {
    records: Vec<(Value, Row)>,
    columns: usize,
}

impl Side {
    fn new(records: Records<'_>, key: &str, columns: &[String]) -> Result<Self, Unfit> {
        let picked = |schema: &Schema, row: &Row| schema.pick(columns.iter().map(String::as_str), row);
        let keys = values(records, key)?.into_iter();
        let sides = keys
            .zip(records.rows)
            .map(|(key, row)| Ok((key, picked(records.schema, row)?)));
        Ok(Self {
            records: sides.collect::<Result<_, Unfit>>()?,
            columns: columns.len(),
        })
    }

    /// Key, ours and theirs for every pair of one key that is not null; with nulls for theirs if there is none and the
    /// join is outer.
    fn joined(&self, theirs: &Side, outer: bool) -> Vec<Row> {
        let mut rows = Vec::new();
        for (key, ours) in &self.records {
            let partners = theirs
                .records
                .iter()
                .filter(|(other, _)| !key.is_null() && key == other);
            let mut found: Vec<&Row> = partners.map(|(_, theirs)| theirs).collect();
            let nothing = vec![Value::Null; theirs.columns];
            if found.is_empty() && outer {
                found.push(&nothing);
            }
            rows.extend(
                found
                    .into_iter()
                    .map(|theirs| [std::slice::from_ref(key), &ours[..], &theirs[..]].concat()),
            );
        }
        rows
    }
}

/// The values of a column.
fn values(records: Records<'_>, column: &str) -> Result<Vec<Value>, Unfit> {
    let values = records
        .rows
        .iter()
        .map(|row| Ok(records.schema.pick([column], row)?.remove(0)));
    values.collect()
}
