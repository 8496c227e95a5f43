//! Random graphs.

use std::env;

use anyhow::{Context, Result};
use tidemill_testkit::reference::{Case, Menu};

use crate::cluster::Clusters;
use crate::report::report;

/// As many as take about a minute in a debug build.
const GRAPHS: u64 = 150;
/// More failures say nothing new.
const REPORTS: usize = 3;

/// What is drawn: everything but what is named in `TIDEMILL_WITHOUT`.
fn menu() -> Menu {
    let excluded = env::var("TIDEMILL_WITHOUT").unwrap_or_default();
    Menu {
        excluded: excluded.split(',').map(str::to_owned).collect(),
    }
}

/// A number in the environment.
fn number(name: &str, default: u64) -> Result<u64> {
    match env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text} is not a number")),
        Err(_) => Ok(default),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_graphs_mean_the_same_on_a_cluster_and_in_the_reference() -> Result<()> {
    let first = number("TIDEMILL_SEED", 0)?;
    let graphs = number("TIDEMILL_GRAPHS", GRAPHS)?;
    let clusters = Clusters::start().await?;
    let mut reports = Vec::new();
    for seed in first..first + graphs {
        let case = Case::generate(seed, &menu());
        if let Some(failure) = clusters.check(&case).await {
            eprintln!("seed {seed} fails, making it smaller");
            reports.push(report(&clusters, case, failure).await);
            if reports.len() == REPORTS {
                break;
            }
        }
    }
    clusters.stop().await;
    assert!(
        reports.is_empty(),
        "{} graphs failed\n{}",
        reports.len(),
        reports.join("\n\n")
    );
    Ok(())
}
