//! The jobs of the documents: each is parsed and type-checked, so that what is written there can be submitted.
//!
//! A YAML block that begins with `name:` is a complete job. Any other block is a fragment and is put into [`FRAME`] by
//! the key that it begins with: `accumulators`, `tables`, `streams` and `outputs` are added to the frame's own, a `source`
//! becomes a stream's, `broadcasts` are added to a job without any, `steps` are applied to a stream with the columns that
//! the examples use. Table files are replaced by a CSV
//! file with the columns of the examples.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tidemill_client::job_file::{KEYS, ParseOptions, STEP_KEYS, parse};
use tidemill_dstream::{BroadcastSource, JobGraph, Operator, OutputKind, Source, TableFormat};
use tidemill_local::LocalCluster;
use tidemill_testkit::config;

const FRAME: &str = "
name: fragment
batch_interval: 1s
accumulators:
  lines: count
ACCUMULATORS
tables:
  users: {file: users.csv}
TABLES
streams:
  text: {source: {queue: {lines: [[a]]}}}
  sales:
    from: text
    steps:
      - map: {value: value, word: value, buyer: value, city: value, product: value, amount: octet_length(value)}
  paper: {from: sales}
  radio: {from: sales}
  words:
    from: text
    steps:
      - reduce_by_key: {key: value, count: count(*)}
STREAMS
outputs:
  - print: {from: words}
OUTPUTS
";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(root().join(path)).with_context(|| format!("cannot read {path}"))
}

/// A YAML text with the place where it begins.
struct Block {
    place: String,
    text: String,
}

/// The YAML blocks of all documents, and all job files.
fn blocks() -> Result<Vec<Block>> {
    let mut documents = vec!["README.md".to_owned()];
    for entry in std::fs::read_dir(root().join("docs"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        // The examples of operators run: see `operators`.
        if name.ends_with(".md") && name != "operators.md" {
            documents.push(format!("docs/{name}"));
        }
    }
    let mut blocks = Vec::new();
    for document in documents {
        let text = read(&document)?;
        let mut open: Option<Block> = None;
        for (number, line) in text.lines().enumerate() {
            match (&mut open, line.starts_with("```")) {
                (None, true) if line == "```yaml" => {
                    let place = format!("{document}:{}", number + 2);
                    open = Some(Block {
                        place,
                        text: String::new(),
                    });
                }
                (Some(_), true) => blocks.extend(open.take()),
                (Some(block), false) => block.text.push_str(&format!("{line}\n")),
                (None, _) => {}
            }
        }
    }
    for entry in std::fs::read_dir(root().join("deploy/jobs"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            blocks.push(Block {
                place: path.display().to_string(),
                text: std::fs::read_to_string(&path)?,
            });
        }
    }
    Ok(blocks)
}

/// The text as a complete job.
fn completed(text: &str) -> String {
    let code = text.lines().find(|line| !line.starts_with('#')).unwrap_or_default();
    let body = || text.lines().skip(1).map(|line| format!("{line}\n")).collect::<String>();
    let indented = || text.lines().map(|line| format!("    {line}\n")).collect::<String>();
    if code == "accumulators:" {
        return framed(&body(), "", "", "");
    }
    if code.starts_with("broadcasts:") {
        // With streams of its own it is all of a job but the name.
        return match text.contains("\nstreams:") {
            true => format!("name: fragment\nbatch_interval: 1s\n{text}"),
            false => format!("{}{text}", completed("outputs:\n")),
        };
    }
    let (tables, streams, outputs) = match code.split(':').next().unwrap_or_default() {
        "tables" => (body().replace("users:", "people:"), String::new(), String::new()),
        "streams" => (String::new(), body(), String::new()),
        "outputs" => (String::new(), String::new(), body()),
        "source" => (String::new(), format!("  read:\n{}", indented()), String::new()),
        "steps" => (
            String::new(),
            format!("  made:\n    from: sales\n{}", indented()),
            String::new(),
        ),
        _ => return text.to_owned(),
    };
    // What nothing comes out of is not looked at as closely.
    let seen = ["read", "made", "errors"]
        .into_iter()
        .filter(|name| streams.contains(&format!("  {name}:\n")));
    let outputs = seen.fold(outputs, |outputs, name| {
        format!("{outputs}  - print: {{from: {name}}}\n")
    });
    framed("", &tables, &streams, &outputs)
}

fn framed(accumulators: &str, tables: &str, streams: &str, outputs: &str) -> String {
    FRAME
        .replace("ACCUMULATORS\n", accumulators)
        .replace("TABLES\n", tables)
        .replace("STREAMS\n", streams)
        .replace("OUTPUTS\n", outputs)
}

fn with_tables(mut graph: JobGraph, file: &Path) -> JobGraph {
    for table in &mut graph.tables {
        let own = root().join("deploy/jobs").join(&table.path);
        let file = if own.exists() { &own } else { file };
        table.path = file.display().to_string();
        table.format = Some(TableFormat::Csv);
    }
    for def in &mut graph.broadcasts {
        if let BroadcastSource::File { path, .. } = &mut def.source {
            let own = root().join("deploy/jobs").join(&path);
            let file = if own.exists() { &own } else { file };
            *path = file.display().to_string();
        }
    }
    graph
}

#[tokio::test(flavor = "multi_thread")]
async fn every_job_in_the_documents_would_be_accepted() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let users = dir.path().join("users.csv");
    std::fs::write(&users, "name,city\nann,Rome\n")?;
    let cluster = LocalCluster::of_build(&config()?, 1, &tidemill::functions().build()?).await?;
    let client = cluster.client().await?;
    let blocks = blocks()?;
    assert!(blocks.len() > 15, "only {} blocks were found", blocks.len());
    for block in blocks {
        let text = completed(&block.text);
        let graph = parse(&text, &ParseOptions::default()).with_context(|| format!("{}:\n{text}", block.place))?;
        let explained = client.explain(&with_tables(graph, &users), &[]).await;
        explained.with_context(|| format!("{}:\n{text}", block.place))?;
    }
    cluster.stop().await;
    Ok(())
}

/// The text of a document's section, up to the next heading of its level or above.
fn section<'a>(document: &'a str, heading: &str) -> Option<&'a str> {
    let at = document.match_indices(&format!("# {heading}\n")).next()?.0;
    let level = document[..at].len() - document[..at].trim_end_matches('#').len() + 1;
    let rest = &document[at..];
    let end = (2..=level)
        .filter_map(|level| rest.find(&format!("\n{} ", "#".repeat(level))))
        .min();
    Some(&rest[..end.unwrap_or(rest.len())])
}

#[test]
fn the_references_have_every_step_source_output_and_key() -> Result<()> {
    let job_file = read("docs/job-file.md")?;
    let operators = read("docs/operators.md")?;
    for name in [Source::NAMES, OutputKind::NAMES].concat() {
        assert!(section(&job_file, name).is_some(), "no section for {name}");
    }
    for name in Operator::NAMES {
        assert!(STEP_KEYS.iter().any(|(step, _)| step == name), "no keys of {name}");
        let link = format!("[`{name}`](operators.md#{name})");
        assert!(job_file.contains(&link), "docs/job-file.md does not name {name}");
    }
    for (reference, sections) in [(&job_file, KEYS), (&operators, STEP_KEYS)] {
        for (heading, keys) in sections {
            let text = section(reference, heading).with_context(|| format!("no section {heading}"))?;
            for key in *keys {
                // Told once for all steps that have it.
                let common = match *key {
                    "partitions" => "Partitions",
                    "length" | "slide" => "Windows",
                    _ => heading,
                };
                let texts = [text, section(reference, common).unwrap_or_default()];
                let forms = [format!("`{key}`"), format!("{{{key}: "), format!(" {key}: ")];
                assert!(
                    forms.iter().any(|form| texts.iter().any(|text| text.contains(form))),
                    "the section {heading} does not tell of `{key}`"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn links_between_documents_lead_somewhere() -> Result<()> {
    for document in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "docs/job-file.md",
        "docs/operators.md",
        "docs/cli.md",
        "docs/client.md",
        "docs/shared-variables.md",
        "docs/testing.md",
    ] {
        let text = read(document)?;
        let base = root().join(document);
        let base = base.parent().context("a directory")?;
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() {
                root().join(document)
            } else {
                base.join(path)
            };
            assert!(target.exists(), "{document} links to {link}");
            if !anchor.is_empty() {
                let known = std::fs::read_to_string(&target)?;
                let is_there = known.lines().filter(|line| line.starts_with('#')).any(|line| {
                    let heading = line.trim_start_matches('#').trim().to_lowercase();
                    let slug: String = heading
                        .chars()
                        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
                        .collect();
                    slug.replace(' ', "-") == anchor
                });
                assert!(is_there, "{document} links to {link}");
            }
        }
    }
    Ok(())
}
