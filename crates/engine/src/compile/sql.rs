//! SQL over streams and tables: the queries of transforms and of table outputs.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use datafusion::catalog::CatalogProviderList;
use datafusion::catalog::{
    CatalogProvider, MemoryCatalogProvider, MemoryCatalogProviderList, MemorySchemaProvider, SchemaProvider,
};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, TableReference};
use datafusion::error::Result;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Sort};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;
use tidemill_dstream::Diagnostic;

use super::diagnose::Place;
use super::expressions::{analyze, check_size};
use super::leaf::{Leaf, LeafTable};
use super::steps::unqualified;
use crate::TableData;
use crate::session::STREAM_ROWS;

/// The name of a transform's batch in its SQL.
pub(super) const INPUT: &str = "input";

/// What a query can name.
#[derive(Default)]
pub(super) struct Relations(BTreeMap<String, LeafTable>);

impl Relations {
    /// A later relation hides an earlier one of the same name.
    pub(super) fn add(&mut self, name: &str, leaf: LeafTable) {
        self.0.insert(name.to_owned(), leaf);
    }
}

impl LeafTable {
    pub(super) fn table(table: &TableData) -> Self {
        Self {
            leaf: Leaf::Table(table.name.clone()),
            slide: 1,
            label: format!("table {}", table.name),
            schema: table.schema.clone(),
            physical: None,
        }
    }
}

/// The number of rows that the planner takes a leaf to have.
pub(super) fn estimated_rows(leaf: &Leaf, tables: &[TableData]) -> usize {
    match leaf {
        Leaf::Table(name) => tables
            .iter()
            .find(|table| table.name == *name)
            .map_or(0, |table| table.batches.iter().map(|batch| batch.num_rows()).sum()),
        _ => STREAM_ROWS,
    }
}

/// The names of the relations in a query, as far as it can be parsed.
pub(super) fn relations(sql: &str, state: &SessionState) -> Vec<String> {
    if check_size(sql, &Place::new("", tidemill_dstream::Line(None))).is_err() {
        return Vec::new();
    }
    parse(sql, state)
        .and_then(|statement| state.resolve_table_references(&statement))
        .map(|references| {
            references
                .into_iter()
                .map(|reference| reference.table().to_owned())
                .collect()
        })
        .unwrap_or_default()
}

fn parse(sql: &str, state: &SessionState) -> Result<Statement> {
    state.sql_to_statement(sql, &state.config_options().sql_parser.dialect)
}

/// The plan of a query: read only, over the given relations, with unqualified columns of distinct names.
pub(super) async fn plan(
    sql: &str,
    relations: &Relations,
    state: &SessionState,
    place: &Place,
) -> Result<LogicalPlan, Vec<Diagnostic>> {
    let explain = |e| vec![place.explain(&e, state)];
    check_size(sql, place).map_err(|fault| vec![fault])?;
    let statement = parse(sql, state).map_err(explain)?;
    if !is_query(&statement) {
        return Err(vec![place.diagnostic("is not a query").hint("write SELECT ...")]);
    }
    let known = known_relations(&statement, relations, state, place)?;
    let scoped = with_relations(state, known).map_err(explain)?;
    let plan = scoped.statement_to_plan(statement).await.map_err(explain)?;
    SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false)
        .verify_plan(&plan)
        .map_err(explain)?;
    check_subqueries(&plan, place)?;
    check_names(&plan, place)?;
    analyze(plan, state)
        .and_then(|plan| plan.transform_up_with_subqueries(draw_before_sorting).data())
        .and_then(unqualified)
        .map_err(explain)
}

pub(crate) fn is_query(statement: &Statement) -> bool {
    matches!(statement, Statement::Statement(statement) if matches!(statement.as_ref(), ast::Statement::Query(_)))
}

/// The relations that the statement names, or what is wrong with the names.
fn known_relations<'a>(
    statement: &Statement,
    relations: &'a Relations,
    state: &SessionState,
    place: &Place,
) -> Result<Vec<(&'a String, &'a LeafTable)>, Vec<Diagnostic>> {
    let references = state
        .resolve_table_references(statement)
        .map_err(|e| vec![place.explain(&e, state)])?;
    let mut faults = Vec::new();
    let mut known = Vec::new();
    for reference in references {
        match relations.0.get_key_value(reference.table()) {
            Some(relation) if matches!(reference, TableReference::Bare { .. }) => known.push(relation),
            _ if state.table_functions().contains_key(reference.table()) => {}
            _ => faults.push(
                place
                    .diagnostic(format!("unknown stream or table `{reference}`"))
                    .suggest(
                        reference.table(),
                        relations.0.keys().map(String::as_str).collect::<Vec<_>>(),
                    ),
            ),
        }
    }
    if faults.is_empty() { Ok(known) } else { Err(faults) }
}

/// The session with a catalog of its own.
fn with_relations(state: &SessionState, relations: Vec<(&String, &LeafTable)>) -> Result<SessionState> {
    let schema = MemorySchemaProvider::new();
    for (name, leaf) in relations {
        schema.register_table(name.clone(), Arc::new(leaf.clone()))?;
    }
    let catalog = MemoryCatalogProvider::new();
    let names = &state.config_options().catalog;
    catalog.register_schema(&names.default_schema, Arc::new(schema))?;
    let catalogs = MemoryCatalogProviderList::new();
    catalogs.register_catalog(names.default_catalog.clone(), Arc::new(catalog));
    let mut scoped = state.clone();
    scoped.register_catalog_list(Arc::new(catalogs));
    Ok(scoped)
}

/// A scalar subquery is planned as a join, which would repeat rows where SQL asks for an error.
fn check_subqueries(plan: &LogicalPlan, place: &Place) -> Result<(), Vec<Diagnostic>> {
    let mut fault = None;
    let walked = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Expr::ScalarSubquery(subquery) = expr
                    && subquery.outer_ref_columns.is_empty()
                    && subquery.subquery.max_rows().is_none_or(|rows| rows > 1)
                {
                    fault = Some(
                        place
                            .diagnostic("a subquery that stands for a value has to give one row")
                            .hint("use an aggregate or LIMIT 1"),
                    );
                    return Ok(TreeNodeRecursion::Stop);
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    match (walked, fault) {
        (_, Some(fault)) => Err(vec![fault]),
        (Err(error), None) => Err(vec![place.diagnostic(crate::error::message(&error))]),
        (Ok(_), None) => Ok(()),
    }
}

fn check_names(plan: &LogicalPlan, place: &Place) -> Result<(), Vec<Diagnostic>> {
    let mut seen = HashSet::new();
    let faults: Vec<Diagnostic> = plan
        .schema()
        .fields()
        .iter()
        .filter(|field| !seen.insert(field.name().as_str()))
        .map(|field| {
            place
                .diagnostic(format!("the result has two columns `{}`", field.name()))
                .subject(field.name().clone())
                .hint("give one of them another name with AS")
        })
        .collect();
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// `ORDER BY random()` draws once for each row, before sorting: the same rows are sorted in several places.
pub(super) fn draw_before_sorting(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Sort(Sort { expr, input, fetch }) = plan else {
        return Ok(Transformed::no(plan));
    };
    if !expr.iter().any(|sort| sort.expr.is_volatile()) {
        return Ok(Transformed::no(LogicalPlan::Sort(Sort { expr, input, fetch })));
    }
    let columns: Vec<Expr> = input
        .schema()
        .iter()
        .map(|field| Expr::Column(Column::from(field)))
        .collect();
    let mut drawn = columns.clone();
    let mut sorts = Vec::with_capacity(expr.len());
    for (i, mut sort) in expr.into_iter().enumerate() {
        if sort.expr.is_volatile() {
            let name = format!("__sort{i}");
            drawn.push(sort.expr.alias(&name));
            sort.expr = Expr::Column(Column::new_unqualified(name));
        }
        sorts.push(sort);
    }
    let plan = LogicalPlanBuilder::from(Arc::unwrap_or_clone(input))
        .project(drawn)?
        .sort_with_limit(sorts, fetch)?
        .project(columns)?
        .build()?;
    Ok(Transformed::yes(plan))
}
