//! The stages of typical jobs, as they are committed: an exchange, a dataset or a stage more shows in review.
//!
//! The jobs are in `jobs`, their stages in `snapshots`. What is meant to change is accepted by
//! `INSTA_UPDATE=always cargo test -p tidemill --test golden`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tidemill_client::job_file::{ParseOptions, parse};
use tidemill_engine::{CompileOptions, Registry, TableData, compile, explain, load_table};

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/golden")
        .join(name)
}

/// What `tidemill explain` says of a job's stages, without their operators one by one.
async fn stages(yaml: &str) -> Result<String> {
    let graph = parse(yaml, &ParseOptions::default())?;
    let mut tables = Vec::new();
    for table in &graph.tables {
        let format = table.known_format().context("the format of a table")?;
        let (schema, batches) = load_table(&directory("jobs").join(&table.path), format).await?;
        let name = table.name.clone();
        tables.push(TableData { name, schema, batches });
    }
    let options = CompileOptions {
        partitions: graph.options.partitions.context("the job's partitions")?,
        registry: Registry::default(),
    };
    let compiled = compile(&graph, &tables, &options).await?;
    let explained = explain(&graph, &compiled);
    let stages = explained.find("\nstage ").context("a stage")?;
    let lines = explained[stages + 1..].lines();
    Ok(lines
        .filter(|line| !line.starts_with("    "))
        .collect::<Vec<_>>()
        .join("\n"))
}

async fn check(name: &str, yaml: &str) -> Result<()> {
    let stages = stages(yaml).await?;
    let mut settings = insta::Settings::new();
    settings.set_snapshot_path(directory("snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, stages));
    Ok(())
}

macro_rules! jobs {
    ($($name:ident)*) => {
        const JOBS: &[&str] = &[$(stringify!($name)),*];

        $(#[tokio::test]
        async fn $name() -> Result<()> {
            check(stringify!($name), include_str!(concat!("jobs/", stringify!($name), ".yaml"))).await
        })*
    };
}

jobs! {
    cogroup
    distinct
    map_with_state
    reduce_after_partition_by
    remembered_streams
    sessions
    sort_by
    stream_join
    table_join
    transform_sql
    union_with_two_outputs
    update_state
    window_beyond_its_length
    windowed_count
    windows_in_a_row
    word_count
}

#[test]
fn every_file_is_of_a_job_that_is_looked_at() -> Result<()> {
    let names = |name: &str, ending: &str| -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for entry in std::fs::read_dir(directory(name))? {
            let file = entry?.file_name().into_string().unwrap_or_default();
            names.extend(file.strip_suffix(ending).map(str::to_owned));
        }
        Ok(names)
    };
    let jobs: BTreeSet<String> = JOBS.iter().map(ToString::to_string).collect();
    assert_eq!(names("jobs", ".yaml")?, jobs);
    assert_eq!(names("snapshots", ".snap")?, jobs);
    Ok(())
}
