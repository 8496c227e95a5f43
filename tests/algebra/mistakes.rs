//! That the comparison finds mistakes: with a reference that makes one on purpose, a right cluster has to differ.

use anyhow::Result;
use tidemill_testkit::reference::{Case, Menu, Mistake};

use crate::cluster::Clusters;

/// Seeds in which a case for each mistake is looked for.
const SEEDS: u64 = 300;
/// Cases for each.
const CASES: usize = 2;

/// The first cases in whose outputs a mistake shows.
fn showing(mistake: Mistake) -> impl Iterator<Item = Case> {
    let cases = (0..SEEDS).map(|seed| Case::generate(seed, &Menu::default()));
    cases
        .filter(move |case| {
            let (right, wrong) = (case.expected(None), case.expected(Some(mistake)));
            right.is_ok_and(|right| wrong.is_ok_and(|wrong| right.difference(case, &wrong.printed(case)).is_some()))
        })
        .take(CASES)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_operator_is_found() -> Result<()> {
    let clusters = Clusters::start().await?;
    for mistake in Mistake::ALL {
        let mut cases = 0;
        for case in showing(mistake) {
            let found = clusters.run(&case).await?;
            let right = case.expected(None)?.difference(&case, &found);
            assert!(
                right.is_none(),
                "seed {}: {}",
                case.seed,
                right.as_ref().map(ToString::to_string).unwrap_or_default()
            );
            let wrong = case.expected(Some(mistake))?.difference(&case, &found);
            assert!(wrong.is_some(), "seed {}: {mistake:?} is not found", case.seed);
            cases += 1;
        }
        assert_eq!(cases, CASES, "{mistake:?} shows in too few of {SEEDS} graphs");
    }
    clusters.stop().await;
    Ok(())
}
