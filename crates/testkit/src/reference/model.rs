//! The model of a job: a graph of operators whose functions are drawn from a menu.
//!
//! Every operator is a node of its own. Lowering joins nodes in a row into the steps of one stream, unless a node has a
//! stream of its own.

use super::{Column, Expr, Schema, Type, Unfit};

mod output;

pub(crate) use output::{by_name, pair};

/// A job that can be lowered to a graph, and evaluated.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Model {
    /// Inputs stand before the nodes that read them.
    pub nodes: Vec<Node>,
    /// The nodes whose rows are compared.
    pub outputs: Vec<usize>,
    pub partitions: u32,
    pub concurrent_batches: u32,
    /// How many batches all streams remember, beyond what their windows need.
    pub remember: Option<u64>,
}

/// An operator in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The name of its stream, if it ends one.
    pub name: String,
    pub op: Op,
    /// The streams that it reads, by their places in [`Model::nodes`].
    pub inputs: Vec<usize>,
    /// Whether it ends a stream although nothing but the next node reads it.
    pub own_stream: bool,
}

/// An expression and the column that it becomes.
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    pub name: String,
    pub expr: Expr,
}

impl Named {
    pub fn new(name: impl Into<String>, expr: Expr) -> Self {
        Self {
            name: name.into(),
            expr,
        }
    }

    /// A column as it is.
    pub fn column(name: impl Into<String>) -> Self {
        let name = name.into();
        Self {
            expr: Expr::Column(name.clone()),
            name,
        }
    }
}

/// How records are made one.
#[derive(Clone, Debug, PartialEq)]
pub enum Reduction {
    Aggregates(Vec<Named>),
    /// For each value column a function of `a` and `b`, and perhaps its inverse.
    Binary {
        columns: Vec<Named>,
        inverse: Vec<Named>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct SortKey {
    pub column: String,
    pub descending: bool,
    pub nulls_first: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinKind {
    Inner,
    LeftOuter,
    RightOuter,
    FullOuter,
}

/// A query of a `transform`.
#[derive(Clone, Debug, PartialEq)]
pub enum Query {
    /// `SELECT .. FROM input`.
    Select(Vec<Named>),
    /// `SELECT .. GROUP BY`.
    Group { keys: Vec<String>, aggregates: Vec<Named> },
    /// `SELECT * .. ORDER BY .. LIMIT`.
    Top { keys: Vec<SortKey>, limit: u64 },
    /// All columns, and the place of the record among those with its key, in the order of all columns, as `place`.
    Number { key: String },
    /// The records whose whole number is larger than the least of the batch, by a subquery.
    Above { column: String },
    /// `SELECT l.key, l.left.., r.right AS right_.. FROM l JOIN r ON l.key = r.other_key`, where no null equals a null;
    /// `LEFT JOIN` if it is outer.
    Join {
        key: String,
        other_key: String,
        left: Vec<String>,
        right: Vec<String>,
        outer: bool,
    },
    /// The records for which there is one of the other stream with the key.
    Exists { key: String, other_key: String },
    /// `SELECT * .. WHERE key NOT IN (SELECT other_key ..)`, with what SQL makes of nulls.
    NotIn { key: String, other_key: String },
    /// A join with a table from a file, of whole numbers `id` and their names `label`.
    Lookup {
        key: String,
        left: Vec<String>,
        table: Vec<super::Row>,
        outer: bool,
    },
    /// A registered function that gives the number of a batch's records.
    Native,
}

impl Query {
    /// How many streams it reads.
    pub(super) fn streams(&self) -> usize {
        match self {
            Self::Join { .. } | Self::Exists { .. } | Self::NotIn { .. } => 2,
            _ => 1,
        }
    }
}

/// A state column: how it comes from the one before.
#[derive(Clone, Debug, PartialEq)]
pub struct StateColumn {
    pub name: String,
    pub data_type: Type,
    pub expr: Expr,
}

/// What both operators with state are told.
#[derive(Clone, Debug, PartialEq)]
pub struct Keyed {
    pub keys: Vec<String>,
    pub values: Vec<Named>,
    pub state: Vec<StateColumn>,
    /// Keys and states before the first batch.
    pub initial: Vec<super::Row>,
    /// Whether they come from a file.
    pub is_file: bool,
    pub partitions: Option<u32>,
}

/// Operators with their functions; those of [`dstream::Operator`](tidemill_dstream::Operator), where they are explained.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Lines of text, read as the columns of [`Model::source_columns`].
    Source,
    Map(Vec<Named>),
    FlatMap(Vec<Named>),
    Filter(Expr),
    MapValues {
        keys: Vec<String>,
        columns: Vec<Named>,
    },
    FlatMapValues {
        keys: Vec<String>,
        columns: Vec<Named>,
    },
    /// All records or none: which of them a fraction keeps, nobody can say.
    Sample {
        all: bool,
    },
    /// Counts the records in an accumulator with the name of the node.
    Accumulate,
    /// A registered function that gives every record of a partition twice.
    MapPartitions,
    /// `glom`, and the lists spread again: how many there are, is a matter of partitions.
    Glom,
    Union,
    Repartition(u32),
    PartitionBy {
        keys: Vec<String>,
        partitions: Option<u32>,
    },
    Count,
    CountByValue {
        partitions: Option<u32>,
    },
    Distinct {
        partitions: Option<u32>,
    },
    Reduce(Reduction),
    ReduceByKey {
        keys: Vec<Named>,
        reduction: Reduction,
        partitions: Option<u32>,
    },
    Aggregate {
        keys: Vec<Named>,
        aggregates: Vec<Named>,
        partitions: Option<u32>,
    },
    GroupByKey {
        keys: Vec<Named>,
        partitions: Option<u32>,
    },
    CombineByKey {
        keys: Vec<Named>,
        create: Vec<Named>,
        merge_value: Vec<Named>,
        merge_combiners: Vec<Named>,
        partitions: Option<u32>,
    },
    /// By all columns that can tell records apart, so that a limit keeps the same ones in every run.
    SortBy {
        keys: Vec<SortKey>,
        limit: Option<u64>,
    },
    Transform(Query),
    /// The same, with the other stream named beside the query.
    TransformWith(Query),
    Join {
        kind: JoinKind,
        /// Column names on both sides.
        on: Vec<(String, String)>,
        partitions: Option<u32>,
    },
    Cogroup {
        keys: Vec<String>,
        partitions: Option<u32>,
    },
    /// Length and slide in batches.
    Window {
        length: u64,
        slide: Option<u64>,
    },
    /// The form of `op` that has a window.
    Windowed {
        length: u64,
        slide: Option<u64>,
        op: Box<Op>,
        filter: Option<Expr>,
    },
    UpdateStateByKey(Keyed),
    MapWithState {
        keyed: Keyed,
        emit: Vec<Named>,
        /// In batches.
        timeout: Option<u64>,
    },
    StateSnapshots,
}

impl Model {
    /// A job without streams, with one partition.
    #[must_use]
    pub fn new() -> Self {
        Self {
            partitions: 1,
            concurrent_batches: 1,
            ..Self::default()
        }
    }

    /// The columns of every source: two whole numbers and a text, each of which may be null.
    #[must_use]
    pub fn source_columns() -> Schema {
        let column = |name, data_type| Column::new(name, data_type, true);
        Schema::of([column("k", Type::Int), column("v", Type::Int), column("t", Type::Text)])
    }

    /// Adds a node and gives its place.
    pub fn add(&mut self, name: impl Into<String>, op: Op, inputs: &[usize]) -> usize {
        self.nodes.push(Node {
            name: name.into(),
            op,
            inputs: inputs.to_vec(),
            own_stream: true,
        });
        self.nodes.len() - 1
    }

    /// The places of the sources.
    pub fn sources(&self) -> impl Iterator<Item = usize> {
        (0..self.nodes.len()).filter(|place| self.nodes[*place].op == Op::Source)
    }

    /// The columns of every node.
    ///
    /// # Errors
    /// A node does not fit its inputs.
    pub fn schemas(&self) -> Result<Vec<Schema>, Unfit> {
        let mut schemas: Vec<Schema> = Vec::with_capacity(self.nodes.len());
        for place in 0..self.nodes.len() {
            let schema = self.schema_of(place, &schemas);
            schemas.push(schema.map_err(|unfit| unfit.within(&self.nodes[place].name))?);
        }
        Ok(schemas)
    }

    /// Every how many batches each node has rows: where it reads several streams, when all are due.
    #[must_use]
    pub fn slides(&self) -> Vec<u64> {
        let mut slides: Vec<u64> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let inputs = node.inputs.iter().map(|input| slides[*input]);
            slides.push(
                node.op
                    .own_slide()
                    .unwrap_or_else(|| inputs.fold(1, least_common_multiple)),
            );
        }
        slides
    }
}

impl Op {
    /// The length and the slide of a window, in batches.
    #[must_use]
    pub fn window(&self) -> Option<(u64, Option<u64>)> {
        match self {
            Self::Window { length, slide } | Self::Windowed { length, slide, .. } => Some((*length, *slide)),
            _ => None,
        }
    }

    fn own_slide(&self) -> Option<u64> {
        self.window()?.1
    }
}

fn least_common_multiple(a: u64, b: u64) -> u64 {
    (1..=b)
        .map(|times| a * times)
        .find(|multiple| multiple.is_multiple_of(b))
        .unwrap_or(a * b)
}
