//! SQL over the tables that jobs put out: jobs are schemas, outputs are tables. What jobs keep on executors can be asked
//! for too: a caller says what there is ([`KeptTable`]), is told what of it a query names, and brings the rows.
//!
//! A catalog is a handle to one map that all its clones share. A job's tables are replaced in one step, so a query sees
//! the tables of one batch or of the next one, never of both; and it goes on with what it saw when it began.
//!
//! Queries read and do nothing else: no statement that changes anything, no files, a bound on memory, on rows and on
//! time.

mod names;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemTable, MemoryCatalogProvider, MemoryCatalogProviderList,
    MemorySchemaProvider, SchemaProvider,
};
use datafusion::common::TableReference;
use datafusion::error::Result;
use datafusion::execution::context::{SQLOptions, SessionContext};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::Statement;
use futures::StreamExt;
use parking_lot::RwLock;
use thiserror::Error;
use tidemill_dstream::{Diagnostic, Line, nearest};

use crate::compile::{Place, check_size_within, is_query};
use crate::projections::logical_rules;

/// Bytes that all queries together may hold.
const MEMORY: usize = 256 << 20;

/// Rows of one result.
const MAX_ROWS: usize = 100_000;

/// Operators and brackets of one query. It is planned on the caller's thread, whose stack may be small.
const MAX_OPERATORS: usize = 150;

/// How long one query may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why a query has no result.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct QueryError {
    pub message: String,
    /// What to do, or what may have been meant.
    pub hint: Option<String>,
}

impl From<Diagnostic> for QueryError {
    fn from(fault: Diagnostic) -> Self {
        Self {
            message: fault.message,
            hint: fault.hint,
        }
    }
}

/// Rows that are not in the catalog, but can be brought for a query that names them. They are found by their full name
/// only.
#[derive(Clone, Debug)]
pub struct KeptTable {
    /// `<job>_state` or `<job>_streams`.
    pub schema: String,
    pub name: String,
    pub columns: SchemaRef,
    pub rows: Vec<RecordBatch>,
}

type Tables = BTreeMap<String, Arc<MemTable>>;
type Jobs = BTreeMap<String, Tables>;

/// The output tables of all jobs.
#[derive(Clone)]
pub struct Catalog {
    jobs: Arc<RwLock<Arc<Jobs>>>,
    runtime: Arc<RuntimeEnv>,
}

impl Default for Catalog {
    fn default() -> Self {
        Self::new()
    }
}

impl Catalog {
    #[must_use]
    pub fn new() -> Self {
        let limited = RuntimeEnvBuilder::new()
            .with_memory_limit(MEMORY, 1.0)
            .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled))
            .build();
        Self {
            jobs: Arc::default(),
            // Without a disk manager there is nothing in it that can fail.
            runtime: Arc::new(limited.unwrap_or_default()),
        }
    }

    /// Replaces these tables of a job, all at once, and leaves its others. A table whose batches do not have its schema
    /// is not replaced.
    pub fn publish(&self, job: &str, tables: Vec<(String, SchemaRef, Vec<RecordBatch>)>) {
        let tables =
            tables.into_iter().filter_map(
                |(name, schema, batches)| match MemTable::try_new(schema, vec![batches]) {
                    Ok(table) => Some((name, Arc::new(table))),
                    Err(error) => {
                        tracing::error!(job, table = name, %error, "rows of a table do not have its columns");
                        None
                    }
                },
            );
        let tables: Tables = tables.collect();
        let mut jobs = self.jobs.write();
        Arc::make_mut(&mut jobs)
            .entry(job.to_owned())
            .or_default()
            .extend(tables);
    }

    pub fn remove_job(&self, job: &str) {
        Arc::make_mut(&mut self.jobs.write()).remove(job);
    }

    /// The names of a job's tables, ascending.
    #[must_use]
    pub fn tables(&self, job: &str) -> Vec<String> {
        self.jobs
            .read()
            .get(job)
            .map(|tables| tables.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// The result of a query. `table` is the table of that name if only one job has one, `job.table` is always clear.
    pub async fn query(&self, sql: &str) -> Result<(SchemaRef, Vec<RecordBatch>), QueryError> {
        self.query_with(sql, &[]).await
    }

    /// The same with rows that are kept elsewhere.
    pub async fn query_with(&self, sql: &str, kept: &[KeptTable]) -> Result<(SchemaRef, Vec<RecordBatch>), QueryError> {
        let known = self.known(kept)?;
        match tokio::time::timeout(TIMEOUT, self.run(sql, &known)).await {
            Ok(result) => result,
            Err(_) => Err(QueryError {
                message: format!("the query took more than {} s", TIMEOUT.as_secs()),
                hint: Some("ask for less, or put the query into the job".to_owned()),
            }),
        }
    }

    /// Which of these a query names, by their positions. A query that names something unknown is refused.
    pub fn named(&self, sql: &str, kept: &[KeptTable]) -> Result<Vec<usize>, QueryError> {
        let known = self.known(kept)?;
        let (_, references) = parse(sql, &known, &self.state())?;
        let mut named = Vec::new();
        for reference in &references {
            let found = names::find(reference, &known)?;
            let of = |table: &KeptTable| {
                let tables = known.kept.get(&table.schema);
                tables.and_then(|tables| tables.get(&table.name))
            };
            named.extend(
                kept.iter()
                    .position(|table| of(table).is_some_and(|kept| Arc::ptr_eq(kept, &found))),
            );
        }
        named.sort_unstable();
        named.dedup();
        Ok(named)
    }

    fn known(&self, kept: &[KeptTable]) -> Result<Known, QueryError> {
        let mut schemas = Jobs::new();
        for table in kept {
            let rows = MemTable::try_new(Arc::clone(&table.columns), vec![table.rows.clone()]);
            let rows = rows.map_err(|error| QueryError {
                message: format!(
                    "the rows of {}.{} are not of its columns: {}",
                    table.schema,
                    table.name,
                    crate::error::message(&error)
                ),
                hint: None,
            })?;
            let tables = schemas.entry(table.schema.clone()).or_default();
            tables.insert(table.name.clone(), Arc::new(rows));
        }
        Ok(Known {
            jobs: Arc::clone(&self.jobs.read()),
            kept: schemas,
        })
    }

    async fn run(&self, sql: &str, known: &Known) -> Result<(SchemaRef, Vec<RecordBatch>), QueryError> {
        let mut state = self.state();
        let place = Place::new("", Line(None));
        let explain = |state: &SessionState, error| QueryError::from(place.explain(&error, state));
        let (statement, references) = parse(sql, known, &state)?;
        let catalog = resolve(&references, known, &state)?;
        let catalog = catalog.map_err(|e| explain(&state, e))?;
        state.register_catalog_list(catalog);
        let plan = state
            .statement_to_plan(statement)
            .await
            .map_err(|e| explain(&state, e))?;
        read_only().verify_plan(&plan).map_err(|e| explain(&state, e))?;
        let context = SessionContext::new_with_state(state.clone());
        let frame = context
            .execute_logical_plan(plan)
            .await
            .map_err(|e| explain(&state, e))?;
        let mut rows = frame.execute_stream().await.map_err(|e| explain(&state, e))?;
        let schema = rows.schema();
        let mut batches = Vec::new();
        let mut count = 0;
        while let Some(batch) = rows.next().await {
            let batch = batch.map_err(|e| explain(&state, e))?;
            count += batch.num_rows();
            if count > MAX_ROWS {
                return Err(QueryError {
                    message: format!("the result has more than {MAX_ROWS} rows"),
                    hint: Some("add a LIMIT".to_owned()),
                });
            }
            batches.push(batch);
        }
        Ok((schema, batches))
    }

    fn state(&self) -> SessionState {
        // Tables are small; one partition keeps a query on the task that asked.
        let mut config = SessionConfig::new()
            .with_target_partitions(1)
            .with_information_schema(false);
        config.options_mut().execution.enable_recursive_ctes = false;
        SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(Arc::clone(&self.runtime))
            .with_default_features()
            .with_optimizer_rules(logical_rules())
            .build()
    }
}

/// All that a query can name.
struct Known {
    jobs: Arc<Jobs>,
    kept: Jobs,
}

/// A query and the tables that it names.
fn parse(sql: &str, known: &Known, state: &SessionState) -> Result<(Statement, Vec<TableReference>), QueryError> {
    let place = Place::new("", Line(None));
    let explain = |error| QueryError::from(place.explain(&error, state));
    check_size_within(sql, MAX_OPERATORS, &place)?;
    let schemas = known.jobs.iter().chain(&known.kept);
    let sql = names::quote(sql, schemas.flat_map(|(job, tables)| tables.keys().chain([job])));
    let statement = state
        .sql_to_statement(&sql, &state.config_options().sql_parser.dialect)
        .map_err(explain)?;
    if !is_query(&statement) {
        return Err(QueryError {
            message: "only queries can be asked here".to_owned(),
            hint: Some("write SELECT ...".to_owned()),
        });
    }
    let references = state.resolve_table_references(&statement).map_err(explain)?;
    let tables = references
        .into_iter()
        .filter(|reference| !state.table_functions().contains_key(reference.table()));
    Ok((statement, tables.collect()))
}

fn read_only() -> SQLOptions {
    SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false)
}

/// A catalog in which every reference is found under the very name that the query uses.
fn resolve(
    references: &[TableReference],
    known: &Known,
    state: &SessionState,
) -> Result<Result<Arc<dyn CatalogProviderList>>, QueryError> {
    let mut found = Vec::new();
    for reference in references {
        found.push((reference.schema(), reference.table(), names::find(reference, known)?));
    }
    Ok(register(found, state))
}

fn register(
    found: Vec<(Option<&str>, &str, Arc<MemTable>)>,
    state: &SessionState,
) -> Result<Arc<dyn CatalogProviderList>> {
    let names = &state.config_options().catalog;
    let catalog = MemoryCatalogProvider::new();
    catalog.register_schema(&names.default_schema, Arc::new(MemorySchemaProvider::new()))?;
    for (schema, table, provider) in found {
        let schema = schema.unwrap_or(&names.default_schema);
        let provider_of = match catalog.schema(schema) {
            Some(existing) => existing,
            None => {
                let new: Arc<dyn SchemaProvider> = Arc::new(MemorySchemaProvider::new());
                catalog.register_schema(schema, Arc::clone(&new))?;
                new
            }
        };
        provider_of.register_table(table.to_owned(), provider)?;
    }
    let catalogs = MemoryCatalogProviderList::new();
    catalogs.register_catalog(names.default_catalog.clone(), Arc::new(catalog));
    Ok(Arc::new(catalogs))
}

/// The nearest of the known names as a hint, or the names themselves.
fn suggestion(wrong: &str, known: &[String]) -> Option<String> {
    match nearest(wrong, known.iter().map(String::as_str)) {
        Some(near) => Some(format!("did you mean `{near}`?")),
        None if known.is_empty() => Some("no job has put out a table yet".to_owned()),
        None => Some(format!(
            "known: {}",
            known.iter().take(20).cloned().collect::<Vec<_>>().join(", ")
        )),
    }
}

#[cfg(test)]
mod tests;
