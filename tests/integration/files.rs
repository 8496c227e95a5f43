//! Files in, files out, tables from files.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use tidemill_client::StreamingContext;
use tidemill_dstream::{Source, TextFilesSource};
use tidemill_testkit::run_to_end;

use crate::support::job;

/// All lines of the files of a batch directory, without headers, sorted.
fn saved(directory: &Path, header: bool) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let text = std::fs::read_to_string(entry?.path())?;
        lines.extend(text.lines().skip(usize::from(header)).map(str::to_owned));
    }
    lines.sort();
    Ok(lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bounded_file_is_read_in_batches_and_saved_by_batch() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let lines: Vec<String> = (0..1000).map(|i| format!("{},{}", i % 7, i)).collect();
    std::fs::write(dir.path().join("in.csv"), lines.join("\n"))?;
    let graph = job(
        "
name: batches
batch_interval: 1s
partitions: 3
streams:
  lines:
    source: {text_file: {path: DIR/in.csv, batch_lines: 300}}
  sums:
    from: lines
    steps:
      - map: {key: \"split_part(value, ',', 1)\", n: \"CAST(split_part(value, ',', 2) AS BIGINT)\"}
      - reduce_by_key: {key: key, total: sum(n)}
outputs:
  - save: {from: sums, path: DIR/out, format: csv}
  - save: {from: lines, path: DIR/text, format: text, files: 1}
",
        dir.path(),
    )?;
    run_to_end(&graph, 2, None).await?;
    for (batch, range) in [(1, 0..300), (2, 300..600), (3, 600..900), (4, 900..1000)] {
        let mut expected: Vec<String> = (0..7)
            .map(|key| {
                let total: i64 = range.clone().filter(|i| i % 7 == key).sum();
                format!("{key},{total}")
            })
            .collect();
        expected.sort();
        let name = format!("batch_time={}", batch * 1000);
        assert_eq!(
            saved(&dir.path().join("out").join(&name), true)?,
            expected,
            "batch {batch}"
        );
        let text = dir.path().join("text").join(&name);
        assert_eq!(std::fs::read_dir(&text)?.count(), 1);
        assert_eq!(saved(&text, false)?.len(), range.count());
    }
    assert_eq!(visible(&dir.path().join("out"))?, 4);
    Ok(())
}

fn visible(directory: &Path) -> Result<usize> {
    let names = std::fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name()));
    let names: Vec<_> = names.collect::<Result<Vec<_>>>()?;
    Ok(names
        .iter()
        .filter(|name| !name.to_string_lossy().starts_with('.'))
        .count())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_batch_directory_is_an_error_unless_overwritten() -> Result<()> {
    let dir = tempfile::tempdir()?;
    std::fs::create_dir_all(dir.path().join("out/batch_time=1000"))?;
    std::fs::write(dir.path().join("out/batch_time=1000/mine.txt"), "keep")?;
    let save = |overwrite: bool| {
        let yaml = format!(
            "
name: again
batch_interval: 1s
streams:
  lines: {{source: {{queue: {{lines: [[a, b]]}}}}}}
outputs:
  - save: {{from: lines, path: DIR/out, overwrite: {overwrite}}}
"
        );
        job(&yaml, dir.path())
    };
    let error = run_to_end(&save(false)?, 1, None)
        .await
        .expect_err("the directory exists");
    assert!(error.to_string().contains("batch_time=1000"), "{error}");
    assert_eq!(
        std::fs::read_to_string(dir.path().join("out/batch_time=1000/mine.txt"))?,
        "keep"
    );
    run_to_end(&save(true)?, 1, None).await?;
    assert_eq!(saved(&dir.path().join("out/batch_time=1000"), false)?, ["a", "b"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_joins_a_table_from_a_file() -> Result<()> {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("users.csv"), "id,name\n1,ann\n2,bob\n")?;
    let graph = job(
        "
name: joined
batch_interval: 1s
partitions: 2
tables:
  users: {file: DIR/users.csv}
streams:
  lines: {source: {queue: {lines: [['1', '2', '3', '1']]}}}
  named:
    from: lines
    steps:
      - transform: \"SELECT name, count(*) AS n FROM input JOIN users ON CAST(value AS BIGINT) = id GROUP BY name\"
outputs:
  - print: {from: named}
",
        dir.path(),
    )?;
    let printed = run_to_end(&graph, 2, None).await?;
    assert_eq!(printed[0].sorted(), ["ann|2", "bob|1"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn watched_files_come_in_order_of_time_and_name_when_nobody_waits() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let input = dir.path().join("in");
    std::fs::create_dir(&input)?;
    for name in ["c.txt", "a.txt", "b.txt", ".hidden"] {
        std::fs::write(input.join(name), format!("{name}\n"))?;
    }
    // Three files of one time: names decide.
    let time = std::fs::File::open(input.join("c.txt"))?.metadata()?.modified()?;
    for name in ["a.txt", "b.txt", "c.txt"] {
        std::fs::File::options()
            .write(true)
            .open(input.join(name))?
            .set_modified(time)?;
    }
    let ctx = StreamingContext::new("files", Duration::from_secs(1));
    ctx.partitions(2);
    let source = Source::TextFiles(TextFilesSource {
        dir: input.display().to_string(),
        new_files_only: true,
        remember: Duration::from_secs(60),
        files_per_batch: Some(2),
    });
    ctx.source(source).print_rows(10);
    let printed = run_to_end(&ctx.graph()?, 1, None).await?;
    let seen: Vec<Vec<String>> = printed.iter().map(tidemill_testkit::Batch::sorted).collect();
    assert_eq!(seen, [vec!["a.txt", "b.txt"], vec!["c.txt"]]);
    Ok(())
}
