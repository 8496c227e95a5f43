//! What a failure prints: enough to repeat it, and the smallest job that fails so.

use tidemill_client::job_file::to_yaml;
use tidemill_testkit::reference::Case;

use crate::cluster::{Clusters, Failure};

/// Simpler cases that are tried for a failure.
const TRIES: u32 = 400;

/// The report of a case that failed, made small first.
pub(crate) async fn report(clusters: &Clusters, case: Case, failure: Failure) -> String {
    let (seed, drawn) = (case.seed, case.clone());
    let like = async |case: &Case| {
        let found = clusters.check(case).await;
        found.is_some_and(|found| found.is_like(&failure))
    };
    let small = case.shrink(TRIES, like).await;
    let (case, failure) = match clusters.check(&small).await {
        Some(found) => (small, found),
        // It fails now and then: what was seen first is the better report.
        None => (drawn, failure),
    };
    let failure = match failure {
        Failure::Job(reason) => format!("the job: {reason}\n"),
        Failure::Rows(difference) => difference.to_string(),
        Failure::Count(reason) => format!("{reason}\n"),
    };
    let graph = case
        .model
        .lower("random", &case.inputs)
        .expect("a case that was drawn is well typed");
    let files = case.model.files().expect("a case that was drawn is well typed");
    let files: String = files
        .iter()
        .map(|file| format!("{}:\n{}", file.path, file.content))
        .collect();
    format!(
        "seed {seed}: {failure}\non {} executors, for {} batches:\n{}\n{files}repeat: TIDEMILL_SEED={seed} TIDEMILL_GRAPHS=1 \
         cargo test -p tidemill --test algebra random_graphs",
        case.executors,
        case.batches,
        to_yaml(&graph),
    )
}
