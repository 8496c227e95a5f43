//! A build of Tidemill with two functions of its own: `luhn` tells whether a text is a card number without a typing
//! error, and `alert` writes rows to files.
//!
//! It is the whole `tidemill` command. Driver and executors of a cluster are started from it, and every job there can
//! name the functions: `custom-build run job.yaml`, `custom-build driver`, `custom-build executor`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tidemill::arrow::array::{AsArray, BooleanArray};
use tidemill::arrow::datatypes::DataType;
use tidemill::arrow::util::pretty::pretty_format_batches;
use tidemill::{BoxError, Determinism, ForeachBatch, Registry};

/// The sum of the digits of a number, every second one doubled, is a multiple of ten.
fn luhn(number: &str) -> bool {
    let digits: Vec<u32> = number.chars().filter_map(|c| c.to_digit(10)).collect();
    let doubled = |(i, digit): (usize, &u32)| match (i % 2, digit * 2) {
        (0, _) => *digit,
        (_, twice) => twice % 10 + twice / 10,
    };
    digits.len() >= 12
        && digits
            .iter()
            .rev()
            .enumerate()
            .map(doubled)
            .sum::<u32>()
            .is_multiple_of(10)
}

/// A file for each batch and partition. It may be called again for the same rows, and makes the same file then.
fn alert(directory: &Path, batch: &ForeachBatch) -> Result<(), BoxError> {
    if batch.rows.is_empty() {
        return Ok(());
    }
    std::fs::create_dir_all(directory)?;
    let part = batch.partition.unwrap_or_default();
    let file = directory.join(format!("{}-{part}.txt", batch.batch_time));
    Ok(std::fs::write(file, pretty_format_batches(&batch.rows)?.to_string())?)
}

fn registry(alerts: PathBuf) -> Result<Registry, BoxError> {
    let registry = Registry::builder()
        .filter("luhn", Determinism::Deterministic, [DataType::Utf8View], |columns| {
            let numbers = columns[0].as_string_view().iter();
            Ok(numbers.map(|number| number.map(luhn)).collect::<BooleanArray>())
        })
        .foreach_blocking("alert", move |batch| alert(&alerts, &batch))
        .build()?;
    Ok(registry)
}

fn main() -> ExitCode {
    match registry(PathBuf::from("alerts")) {
        Ok(registry) => tidemill::main_with(registry),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Result, anyhow};
    use tidemill_client::job_file::{ParseOptions, parse};
    use tidemill_testkit::{Batch, TestCluster};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn its_job_runs_on_a_cluster_of_this_build_and_on_no_other() -> Result<()> {
        let graph = parse(include_str!("../job.yaml"), &ParseOptions::default())?;
        let alerts = tempfile::tempdir()?;
        let registry = registry(alerts.path().to_owned()).map_err(|error| anyhow!(error))?;
        let cluster = TestCluster::of_build(2, &registry).await?;
        let printed = cluster.run(&graph, None).await?;
        cluster.stop().await;
        let rows: Vec<Vec<String>> = printed.iter().map(|batch| Batch::from(batch).sorted()).collect();
        assert_eq!(rows, [["4539 5787 6362 1487"], ["no number"]]);
        let files = std::fs::read_dir(alerts.path())?.map(|file| Ok(std::fs::read_to_string(file?.path())?));
        let files = files.collect::<Result<Vec<String>>>()?;
        assert_eq!(files.len(), 2);
        for number in ["4539 5787 6362 1487", "no number"] {
            assert!(files.iter().any(|file| file.contains(number)), "{number} of {files:?}");
        }

        let cluster = TestCluster::start(1).await?;
        let refused = cluster.run(&graph, None).await;
        cluster.stop().await;
        let error = refused.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("unknown function `luhn`"), "{error}");
        Ok(())
    }
}
