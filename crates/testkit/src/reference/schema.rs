//! The columns of a stream of the reference.

use super::{Row, Unfit, Value};

/// What a column's values are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    Bool,
    Int,
    Float,
    Text,
    /// A list whose order means something.
    List(Box<Type>),
    /// A list of records of several partitions: which come first is not promised, so it is compared without order.
    Bag(Box<Type>),
    Struct(Vec<Column>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub data_type: Type,
    /// Whether it may be null. Where it is hard to tell, it may.
    pub nullable: bool,
}

/// Columns by their distinct names.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Schema(Vec<Column>);

impl Type {
    /// Whether its values can be compared and grouped in SQL in the way of the reference.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        matches!(self, Self::Bool | Self::Int | Self::Float | Self::Text)
    }

    /// What a list holds.
    #[must_use]
    pub fn item(&self) -> Option<&Type> {
        match self {
            Self::List(item) | Self::Bag(item) => Some(item),
            _ => None,
        }
    }

    /// A value in the form in which all values that mean the same are equal.
    fn canonical(&self, value: &Value) -> Value {
        match (self, value) {
            (Self::List(item), Value::List(values)) => {
                Value::List(values.iter().map(|value| item.canonical(value)).collect())
            }
            (Self::Bag(item), Value::List(values)) => {
                let mut values: Vec<Value> = values.iter().map(|value| item.canonical(value)).collect();
                values.sort();
                Value::List(values)
            }
            (Self::Struct(columns), Value::Struct(fields)) => {
                let mut fields: Vec<(String, Value)> = fields
                    .iter()
                    .map(|(name, value)| {
                        let column = columns.iter().find(|column| column.name == *name);
                        let value = column.map_or_else(|| value.clone(), |column| column.data_type.canonical(value));
                        (name.clone(), value)
                    })
                    .collect();
                fields.sort();
                Value::Struct(fields)
            }
            _ => value.clone(),
        }
    }
}

impl Column {
    pub fn new(name: impl Into<String>, data_type: Type, nullable: bool) -> Self {
        Self {
            name: name.into(),
            data_type,
            nullable,
        }
    }
}

impl Schema {
    /// Columns that are known to have distinct names.
    pub(super) fn of<const N: usize>(columns: [Column; N]) -> Self {
        Self(columns.into())
    }

    /// # Errors
    /// Two columns of one name.
    pub fn new(columns: Vec<Column>) -> Result<Self, Unfit> {
        for (i, column) in columns.iter().enumerate() {
            if columns[..i].iter().any(|other| other.name == column.name) {
                return Err(Unfit::new(format!("two columns are named {}", column.name)));
            }
        }
        Ok(Self(columns))
    }

    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.0
    }

    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.iter().map(|column| column.name.as_str())
    }

    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|column| column.name == name)
    }

    /// # Errors
    /// There is no such column.
    pub fn column(&self, name: &str) -> Result<&Column, Unfit> {
        let position = self.position(name).ok_or_else(|| {
            let known: Vec<&str> = self.names().collect();
            Unfit::new(format!("no column {name} among {}", known.join(", ")))
        })?;
        Ok(&self.0[position])
    }

    /// The named columns, in the order of the names.
    ///
    /// # Errors
    /// One is not there.
    pub fn select<'a>(&self, names: impl IntoIterator<Item = &'a String>) -> Result<Self, Unfit> {
        let columns = names.into_iter().map(|name| self.column(name).cloned());
        Self::new(columns.collect::<Result<_, _>>()?)
    }

    /// The columns that are not named, in their own order.
    #[must_use]
    pub fn without<'a>(&self, names: impl IntoIterator<Item = &'a String> + Clone) -> Self {
        let others = self
            .0
            .iter()
            .filter(|column| !names.clone().into_iter().any(|name| *name == column.name));
        Self(others.cloned().collect())
    }

    /// The same columns, all of which may be null.
    #[must_use]
    pub fn nullable(&self) -> Self {
        let nullable = |column: &Column| Column {
            nullable: true,
            ..column.clone()
        };
        Self(self.0.iter().map(nullable).collect())
    }

    /// The same columns by other names, which are distinct if the given ones are.
    pub(super) fn renamed(&self, name: impl Fn(&str) -> String) -> Self {
        let renamed = |column: &Column| Column {
            name: name(&column.name),
            ..column.clone()
        };
        Self(self.0.iter().map(renamed).collect())
    }

    /// The columns of both.
    ///
    /// # Errors
    /// They have a name in common.
    pub fn and(&self, other: &Self) -> Result<Self, Unfit> {
        Self::new(self.0.iter().chain(&other.0).cloned().collect())
    }

    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.0.iter().all(|column| column.data_type.is_plain())
    }

    /// Whether the columns have the same names and types, in any order.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        let has = |column: &Column| {
            let theirs = other.column(&column.name);
            theirs.is_ok_and(|theirs| theirs.data_type == column.data_type)
        };
        self.0.len() == other.0.len() && self.0.iter().all(has)
    }

    /// The named values of a row.
    ///
    /// # Errors
    /// A column is not there.
    pub fn pick<'a>(&self, names: impl IntoIterator<Item = &'a str>, row: &[Value]) -> Result<Row, Unfit> {
        names
            .into_iter()
            .map(|name| {
                self.column(name)?;
                Ok(self
                    .position(name)
                    .map_or(Value::Null, |position| row[position].clone()))
            })
            .collect()
    }

    /// Rows as a multiset: equal for all that mean the same.
    #[must_use]
    pub fn canonical(&self, rows: &[Row]) -> Vec<Row> {
        let canonical = |row: &Row| -> Row {
            let columns = self.0.iter().zip(row);
            columns
                .map(|(column, value)| column.data_type.canonical(value))
                .collect()
        };
        let mut rows: Vec<Row> = rows.iter().map(canonical).collect();
        rows.sort();
        rows
    }
}
