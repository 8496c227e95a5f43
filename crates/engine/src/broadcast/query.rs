//! The query of a broadcast variable, asked on the driver.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::datasource::MemTable;
use datafusion::error::Result;
use datafusion::execution::context::{SQLOptions, SessionContext};
use datafusion::prelude::SessionConfig;
use tidemill_dstream::{Diagnostic, Line};

use crate::compile::{Place, check_size_within, is_query};
use crate::{TableData, error};

/// Planning runs on the caller's thread, whose stack is small.
const MAX_OPERATORS: usize = 100;

/// The rows of a query over tables.
///
/// # Errors
/// What is wrong with the query, at `path`.
pub async fn evaluate_query(
    sql: &str,
    tables: &[TableData],
    path: &str,
    line: Line,
) -> Result<(SchemaRef, Vec<RecordBatch>), Diagnostic> {
    let place = Place::new(path, line);
    check_size_within(sql, MAX_OPERATORS, &place)?;
    let mut config = SessionConfig::new()
        .with_target_partitions(1)
        .with_information_schema(false);
    config.options_mut().execution.enable_recursive_ctes = false;
    let context = SessionContext::new_with_config(config);
    let explain = |error| place.explain(&error, &context.state());
    for table in tables {
        let rows = MemTable::try_new(Arc::clone(&table.schema), vec![table.batches.clone()]).map_err(explain)?;
        context
            .register_table(table.name.as_str(), Arc::new(rows))
            .map_err(explain)?;
    }
    let state = context.state();
    let statement = state
        .sql_to_statement(sql, &state.config_options().sql_parser.dialect)
        .map_err(explain)?;
    if !is_query(&statement) {
        return Err(place.diagnostic("is not a query").hint("write SELECT ..."));
    }
    for reference in state.resolve_table_references(&statement).map_err(explain)? {
        let known = |table: &&TableData| table.name == reference.table();
        if !tables.iter().any(|table| known(&table)) && !state.table_functions().contains_key(reference.table()) {
            let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
            let fault = place.diagnostic(format!("unknown table `{}`", reference.table()));
            return Err(fault.suggest(reference.table(), names));
        }
    }
    let options = SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false);
    let frame = context.sql_with_options(sql, options).await.map_err(explain)?;
    let schema = Arc::new(frame.schema().as_arrow().clone());
    let rows = frame
        .collect()
        .await
        .map_err(|failed| place.diagnostic(error::message(&failed)))?;
    Ok((schema, rows))
}
