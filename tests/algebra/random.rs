//! Random graphs.

use std::env;

use anyhow::{Context, Result};
use tidemill_testkit::reference::{Case, Menu, Mistake};

use crate::cluster::{Clusters, Failure};
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
        if let Some(failure) = clusters.check(&case, None).await {
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

/// Seeds in whose graphs a mistake shows.
const MISTAKES: [(Mistake, [u64; 3]); 0] = [];

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_operator_is_found() -> Result<()> {
    let clusters = Clusters::start().await?;
    for (mistake, seeds) in MISTAKES {
        for seed in seeds {
            let case = Case::generate(seed, &menu());
            let right = clusters.check(&case, None).await;
            assert!(right.is_none(), "seed {seed} without a mistake: {right:?}");
            let wrong = clusters.check(&case, Some(mistake)).await;
            assert!(
                matches!(wrong, Some(Failure::Rows(_))),
                "seed {seed} with {mistake:?}: {wrong:?}"
            );
        }
    }
    clusters.stop().await;
    Ok(())
}
