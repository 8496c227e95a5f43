//! How much of a job is planned at once, and how much of it is one stage.
//!
//! Planning walks plans again and again, recursively, and puts the expressions of steps into each other: for a chain of
//! a thousand maps, or for thirty that name a column twice with a filter behind them, it would not come to an end. So a
//! long plan is cut into pieces. A piece is *sealed*: it is planned by itself, and is contained as it is in the plan of
//! what reads it. A stage of many pieces would be a tower of operators that call each other, so where it becomes too high
//! the rows of a piece are *kept*: they are a dataset of the batch, which the next stage reads where it is.
//!
//! ```text
//!   source ─ 32 levels ┄ 32 levels ┄ 32 levels ═ dataset ═ 32 levels ┄ 32 levels ...
//!                      sealed      sealed         kept
//! ```
//! Rows are the same however a plan is cut. What is lost is that filters move below a cut, and columns that nobody needs
//! are computed there.

use datafusion::common::DFSchema;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan};
use tidemill_dstream::Operator;

use super::{Elaborator, Faults, Node, Site};
use crate::compile::leaf::{Leaf, LeafTable, NodeId};

/// Operators of a plan, one above the other, up to which it is planned at once. Planning takes a time for each of them
/// that grows beyond this.
const MAX_LEVELS: usize = 32;

/// The same in a stage. Each takes up to 10 KiB of stack where a template is decoded and 3 KiB where it runs, in a debug
/// build.
const MAX_HEIGHT: usize = 96;

/// Size of an expression up to which those of the steps below are put into it: as large as one that is written in one
/// piece may be.
const MAX_SIZE: usize = 400;

/// What there is between a plan's rows and its leaves.
#[derive(Clone, Debug, Default)]
pub(super) struct Extent {
    /// Operators on the longest way down to something that is planned by itself.
    levels: usize,
    /// The same down to a source or a dataset.
    height: usize,
    columns: Vec<Made>,
    /// The largest expression that planning makes of several.
    largest: usize,
}

/// How large the expression of a column becomes.
#[derive(Clone, Copy, Debug)]
struct Made {
    /// In a filter that names the column and moves down: every column replaced by what it is made of.
    in_filter: usize,
    /// In a projection: put together with those below as long as none is computed twice.
    in_projection: usize,
}

impl Made {
    /// A column that is there.
    const READ: Self = Self {
        in_filter: 1,
        in_projection: 1,
    };
}

impl Extent {
    /// Columns that are there.
    fn of_columns(columns: usize, height: usize) -> Self {
        Self {
            levels: 0,
            height,
            columns: vec![Made::READ; columns],
            largest: 0,
        }
    }

    /// Whether it is too much to be planned at once.
    fn is_long(&self) -> bool {
        self.levels > MAX_LEVELS || self.largest > MAX_SIZE
    }

    /// Whether it is too much for one stage.
    fn is_high(&self) -> bool {
        self.height > MAX_HEIGHT
    }

    /// Whether a plan on top of it should be in another stage.
    fn is_half_high(&self) -> bool {
        self.height * 2 > MAX_HEIGHT
    }
}

impl Elaborator<'_> {
    /// A step, with the plan before it cut off if it would be too much with the step.
    pub(super) async fn step_within_bounds(
        &mut self,
        site: Site<'_>,
        operator: &Operator,
        input: LogicalPlan,
    ) -> Result<LogicalPlan, Faults> {
        let before = self.nodes.len();
        let mut plan = self.step(site, operator, input.clone()).await?;
        let extent = self.extent(&plan);
        let is_too_much = extent.is_long() || extent.is_high();
        if is_too_much && LeafTable::bare(&input).is_none() {
            // Made anew over what is before it, as if that were a stream of its own.
            self.nodes.truncate(before);
            let node = self.push(&site.before(), site.place.clone(), input);
            self.nodes[node.0].layout.sealed = true;
            self.nodes[node.0].kept = extent.is_high();
            let input = self
                .leaf(node)
                .scan(&site.stream.name)
                .map_err(|e| vec![site.place.explain(&e, self.state)])?;
            plan = self.step(site, operator, input).await?;
        }
        self.cut_below(&plan);
        Ok(plan)
    }

    /// Cuts the streams off that a plan reads, as far as it is too much with them.
    fn cut_below(&mut self, plan: &LogicalPlan) {
        let extent = self.extent(plan);
        if !extent.is_long() && !extent.is_high() {
            return;
        }
        for node in self.streams_of(plan) {
            let node = &mut self.nodes[node.0];
            node.layout.sealed |= extent.is_long() && node.extent.levels > 0;
            node.kept |= extent.is_high() && node.extent.is_half_high();
        }
    }

    /// The nodes whose rows of the batch a plan reads.
    fn streams_of(&self, plan: &LogicalPlan) -> Vec<NodeId> {
        let mut streams = Vec::new();
        // The closure never fails.
        let _ = plan.apply_with_subqueries(|node| {
            if let LogicalPlan::TableScan(scan) = node
                && let Some(Leaf::Stream(node)) = LeafTable::of(scan).map(|leaf| leaf.leaf)
            {
                streams.push(node);
            }
            Ok(TreeNodeRecursion::Continue)
        });
        streams
    }

    pub(super) fn extent(&self, plan: &LogicalPlan) -> Extent {
        let columns = plan.schema().fields().len();
        if let LogicalPlan::TableScan(scan) = plan {
            return match LeafTable::of(scan).map(|leaf| leaf.leaf) {
                Some(Leaf::Stream(node)) => self.nodes[node.0].read(columns),
                _ => Extent::of_columns(columns, 0),
            };
        }
        let inputs: Vec<Extent> = plan.inputs().into_iter().map(|input| self.extent(input)).collect();
        let mut extent = above(plan, &inputs);
        // The closure never fails.
        let _ = plan.apply_subqueries(|subquery| {
            let subquery = self.extent(subquery);
            extent.levels = extent.levels.max(subquery.levels + 1);
            extent.height = extent.height.max(subquery.height + 1);
            extent.largest = extent.largest.max(subquery.largest);
            Ok(TreeNodeRecursion::Continue)
        });
        extent
    }
}

impl Node {
    /// What is below a plan that reads the node.
    fn read(&self, columns: usize) -> Extent {
        if self.kept || self.stateful {
            return Extent::of_columns(columns, 0);
        }
        let height = self.extent.height + 1;
        if self.layout.is_sealed() {
            return Extent::of_columns(columns, height);
        }
        Extent {
            levels: self.extent.levels + 1,
            height,
            ..self.extent.clone()
        }
    }
}

/// The extent of a plan over inputs of these.
fn above(plan: &LogicalPlan, inputs: &[Extent]) -> Extent {
    let width = plan.schema().fields().len();
    let below: &[Made] = inputs.first().map_or(&[], |input| &input.columns);
    let largest = inputs.iter().map(|input| input.largest).max().unwrap_or(0);
    let (columns, written) = match plan {
        LogicalPlan::Projection(projection) => projected(&projection.expr, projection.input.schema(), below),
        LogicalPlan::Filter(filter) => {
            let schema = filter.input.schema();
            let size = size(&filter.predicate, schema, |column| below[column].in_filter);
            (below.to_vec(), size.put_together())
        }
        LogicalPlan::Aggregate(aggregate) => {
            // Filters by a group's columns move below.
            let (groups, _) = projected(&aggregate.group_expr, aggregate.input.schema(), below);
            let results = groups.into_iter().chain(std::iter::repeat(Made::READ));
            (results.take(width).collect(), 0)
        }
        LogicalPlan::Unnest(unnest) => {
            let of = |column: &usize| below.get(*column).copied().unwrap_or(Made::READ);
            (unnest.dependency_indices.iter().map(of).collect(), 0)
        }
        _ => (passed(inputs, width), 0),
    };
    Extent {
        levels: inputs.iter().map(|input| input.levels).max().unwrap_or(0) + 1,
        height: inputs.iter().map(|input| input.height).max().unwrap_or(0) + 1,
        columns,
        largest: largest.max(written),
    }
}

/// What a projection makes of columns, and the largest expression that comes of putting it together with those below.
fn projected(exprs: &[Expr], schema: &DFSchema, below: &[Made]) -> (Vec<Made>, usize) {
    let mut named = vec![0_usize; below.len()];
    for expr in exprs {
        size(expr, schema, |column| {
            named[column] += 1;
            1
        });
    }
    let computes_twice = named
        .iter()
        .zip(below)
        .any(|(times, made)| *times > 1 && made.in_projection > 1);
    let (mut columns, mut largest) = (Vec::with_capacity(exprs.len()), 0);
    for expr in exprs {
        let together = size(expr, schema, |column| match computes_twice {
            true => 1,
            false => below[column].in_projection,
        });
        largest = largest.max(together.put_together());
        columns.push(Made {
            in_filter: size(expr, schema, |column| below[column].in_filter).size,
            in_projection: together.size,
        });
    }
    (columns, largest)
}

/// The columns that pass an operator: of its only input, of one input and the next, or the larger ones of any of several.
fn passed(inputs: &[Extent], width: usize) -> Vec<Made> {
    let larger = |a: Made, b: &Made| Made {
        in_filter: a.in_filter.max(b.in_filter),
        in_projection: a.in_projection.max(b.in_projection),
    };
    let all = || inputs.iter().flat_map(|input| &input.columns);
    if inputs.iter().all(|input| input.columns.len() == width) {
        let of = |column: usize| {
            inputs
                .iter()
                .map(|input| &input.columns[column])
                .fold(Made::READ, larger)
        };
        (0..width).map(of).collect()
    } else if all().count() == width {
        all().copied().collect()
    } else {
        vec![all().fold(Made::READ, larger); width]
    }
}

struct Size {
    size: usize,
    /// Something larger is in the place of a column.
    replaced: bool,
}

impl Size {
    /// Its size, if it is not as it was written: that may be as large as it is.
    fn put_together(&self) -> usize {
        if self.replaced { self.size } else { 0 }
    }
}

/// The size of an expression with columns of given sizes.
fn size(expr: &Expr, schema: &DFSchema, mut of_column: impl FnMut(usize) -> usize) -> Size {
    let (mut size, mut replaced) = (0_usize, false);
    // The closure never fails.
    let _ = expr.apply(|node| {
        let own = match node {
            Expr::Alias(_) => 0,
            Expr::Column(column) => schema.maybe_index_of_column(column).map_or(1, &mut of_column),
            _ => 1,
        };
        replaced |= own > 1;
        size = size.saturating_add(own);
        Ok(TreeNodeRecursion::Continue)
    });
    Size { size, replaced }
}
