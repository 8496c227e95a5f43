//! The reference of operators: every example in docs/operators.md gives the rows that stand below it, as a job file and
//! in Rust.

mod examples;
mod shout;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use examples::EXAMPLES;
use tidemill_client::StreamingContext;
use tidemill_client::job_file::{ParseOptions, parse};
use tidemill_dstream::{JobGraph, Operator};
use tidemill_local::LocalCluster;
use tidemill_testkit::{Batch, config};

use crate::support::outcome;

/// A job with what it prints.
struct Documented {
    yaml: String,
    rows: String,
    rust: String,
}

fn reference() -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operators.md");
    Ok(std::fs::read_to_string(path)?)
}

/// The examples of the reference by their names: the operator's, and with `_2` for its second one.
fn documented() -> Result<BTreeMap<String, Documented>> {
    let reference = reference()?;
    let mut examples = BTreeMap::new();
    for section in reference.split("\n### ").skip(1) {
        let (operator, text) = section.split_once('\n').context("a section has a text")?;
        let jobs = code(text, "yaml");
        let (rows, rust) = (code(text, "text"), code(text, "rust"));
        assert!(!jobs.is_empty(), "{operator} has no example");
        assert_eq!(
            (jobs.len(), jobs.len()),
            (rows.len(), rust.len()),
            "{operator} has jobs without rows or without Rust"
        );
        for (place, ((yaml, rows), rust)) in jobs.into_iter().zip(rows).zip(rust).enumerate() {
            let name = match place {
                0 => operator.to_owned(),
                place => format!("{operator}_{}", place + 1),
            };
            examples.insert(name, Documented { yaml, rows, rust });
        }
    }
    Ok(examples)
}

/// The blocks of a language, up to the next heading.
fn code(text: &str, language: &str) -> Vec<String> {
    let text = text.split("\n## ").next().unwrap_or_default();
    let begin = format!("\n```{language}\n");
    let blocks = text.split(&begin).skip(1);
    blocks
        .filter_map(|block| block.split("\n```").next())
        .map(str::to_owned)
        .collect()
}

fn from_yaml(name: &str, yaml: &str) -> Result<JobGraph> {
    let graph = parse(yaml, &ParseOptions::default());
    graph.with_context(|| format!("the job of {name}:\n{yaml}"))
}

fn from_rust(name: &str) -> Result<JobGraph> {
    let (_, example) = EXAMPLES
        .iter()
        .find(|(known, _)| *known == name)
        .with_context(|| format!("no Rust example {name}"))?;
    let ctx = StreamingContext::new(format!("{name}-in-rust"), Duration::from_secs(1));
    example(&ctx);
    ctx.graph().with_context(|| format!("the Rust example {name}"))
}

/// The body of the example's function in the source of examples.
fn source_of(name: &str) -> Option<String> {
    let source = include_str!("operators/examples.rs");
    let after = source
        .split(&format!("\nfn {name}(ctx: &StreamingContext) {{\n"))
        .nth(1)?;
    let body = after.split("\n}\n").next()?;
    let lines: Vec<&str> = body
        .lines()
        .map(|line| line.strip_prefix("    ").unwrap_or(line))
        .collect();
    Some(lines.join("\n"))
}

fn has_step(graph: &JobGraph, operator: &str) -> bool {
    let mut steps = graph.streams.iter().flat_map(|stream| &stream.steps);
    steps.any(|step| step.operator.name() == operator)
}

#[test]
fn every_operator_has_examples_whose_rust_is_the_source_that_runs() -> Result<()> {
    let documented = documented()?;
    for operator in Operator::NAMES {
        assert!(documented.contains_key(*operator), "no section {operator}");
    }
    for (name, example) in &documented {
        let operator = name.trim_end_matches("_2");
        assert!(Operator::NAMES.contains(&operator), "{operator} is no operator");
        assert_eq!(source_of(name).as_deref(), Some(example.rust.as_str()), "{name}");
        let of_yaml = from_yaml(name, &example.yaml)?;
        assert!(has_step(&of_yaml, operator), "the job of {name} has no such step");
        // In Rust a filter of a window's keys is a step of its own, so only the first is looked for.
        assert!(
            has_step(&from_rust(name)?, operator),
            "the Rust of {name} has no such step"
        );
    }
    let known: BTreeSet<&str> = documented.keys().map(String::as_str).collect();
    for (name, _) in EXAMPLES {
        assert!(known.contains(name), "{name} is not in the document");
    }
    let helper = include_str!("operators/examples.rs")
        .split("\n}\n")
        .find_map(|item| Some(&item[item.find("fn sales<")?..]))
        .context("the examples have a helper")?;
    assert!(
        reference()?.contains(&format!("```rust\n{helper}\n}}\n```")),
        "the helper is another"
    );
    Ok(())
}

/// Batches as the document has them, with rows sorted unless the job orders them.
fn shown(batches: &[Batch], yaml: &str) -> String {
    let in_order = yaml.contains("sort_by:") || yaml.contains("ORDER BY");
    let line = |batch: &Batch| {
        let rows = if in_order { batch.rows.clone() } else { batch.sorted() };
        let rows = if rows.is_empty() {
            "-".to_owned()
        } else {
            rows.join("  ")
        };
        format!("{}s: {rows}", batch.time / 1000)
    };
    batches.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_gives_its_rows_as_a_job_file_and_in_rust() -> Result<()> {
    let cluster = LocalCluster::of_build(&config()?, 2, &shout::registry()?).await?;
    let client = cluster.client().await?;
    let mut wrong = Vec::new();
    for (name, example) in documented()? {
        for (form, graph) in [
            ("a job file", from_yaml(&name, &example.yaml)?),
            ("Rust", from_rust(&name)?),
        ] {
            match outcome(&client, &graph).await {
                Ok(outcome) => {
                    let (rows, error) = (shown(&outcome.printed, &example.yaml), outcome.error());
                    if rows != example.rows || !error.is_empty() {
                        let expected = &example.rows;
                        wrong.push(format!("{name} as {form} gives\n{rows}\nnot\n{expected}\n{error}"));
                    }
                }
                Err(error) => wrong.push(format!("{name} as {form} is refused: {error:#}")),
            }
        }
    }
    cluster.stop().await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    Ok(())
}
