//! The forms of saved files.

use anyhow::Result;
use tidemill_testkit::run_to_end;

use crate::support::{job, saved};

fn names(directory: &std::path::Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_and_compression_reads_back_as_the_rows() -> Result<()> {
    let forms = [
        ("text", "none", "txt"),
        ("csv", "gzip", "csv.gz"),
        ("json", "zstd", "json.zst"),
        ("json", "none", "json"),
        ("text", "gzip", "txt.gz"),
    ];
    let dir = tempfile::tempdir()?;
    let outputs: String = forms
        .iter()
        .map(|(format, compression, _)| {
            format!(
                "  - save: {{from: pairs, path: DIR/{format}-{compression}, format: {format}, compression: {compression}, files: 1}}\n"
            )
        })
        .collect();
    let graph = job(
        &format!(
            "
name: forms
batch_interval: 1s
partitions: 3
streams:
  lines: {{source: {{queue: {{lines: [['1', '2', '3', '4']]}}}}}}
  pairs:
    from: lines
    steps:
      - map: {{n: CAST(value AS BIGINT), text: \"concat('a,\\\"', value)\"}}
outputs:
{outputs}"
        ),
        dir.path(),
    )?;
    run_to_end(&graph, 2, None).await?;
    for (format, compression, ending) in forms {
        let batch = dir.path().join(format!("{format}-{compression}/batch_time=1000"));
        assert_eq!(names(&batch)?, [format!("part-00000.{ending}")]);
        let mut expected: Vec<String> = (1..=4)
            .map(|n| match format {
                "text" => format!("{n}\ta,\"{n}"),
                "csv" => format!("{n},\"a,\"\"{n}\""),
                _ => format!("{{\"n\":{n},\"text\":\"a,\\\"{n}\"}}"),
            })
            .collect();
        if format == "csv" {
            expected.push("n,text".to_owned());
        }
        expected.sort();
        assert_eq!(saved(&batch)?, expected, "{format} {compression}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_without_rows_has_a_directory_only_if_asked() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let graph = job(
        "
name: empty
batch_interval: 1s
streams:
  lines: {source: {queue: {lines: [[a], [], [b]]}}}
outputs:
  - save: {from: lines, path: DIR/some}
  - save: {from: lines, path: DIR/all, empty: true}
",
        dir.path(),
    )?;
    run_to_end(&graph, 1, None).await?;
    let visible = |name: &str| -> Result<Vec<String>> {
        Ok(names(&dir.path().join(name))?
            .into_iter()
            .filter(|name| !name.starts_with('.'))
            .collect())
    };
    assert_eq!(visible("some")?, ["batch_time=1000", "batch_time=3000"]);
    assert_eq!(
        visible("all")?,
        ["batch_time=1000", "batch_time=2000", "batch_time=3000"]
    );
    assert!(saved(&dir.path().join("all/batch_time=2000"))?.is_empty());
    Ok(())
}
