//! Clusters that stay for all cases, and a case on one of them.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::FutureExt;
use tidemill_client::{AttachedFile, PrintedBatch};
use tidemill_testkit::reference::{Case, Difference, Found, INTERVAL, registry};
use tidemill_testkit::{TestCluster, values};

/// A case takes a fraction of a second; one that takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// A cluster of one executor and one of three.
pub(crate) struct Clusters {
    one: TestCluster,
    three: TestCluster,
}

/// What is wrong with a case.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The job was refused, failed, or did not end.
    Job(String),
    Rows(Box<Difference>),
    /// An accumulator has another value than it should.
    Count(String),
}

impl Failure {
    pub(crate) fn is_like(&self, other: &Failure) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl Clusters {
    pub(crate) async fn start() -> Result<Self> {
        Ok(Self {
            one: TestCluster::of_build(1, &registry()?).await?,
            three: TestCluster::of_build(3, &registry()?).await?,
        })
    }

    pub(crate) async fn stop(self) {
        self.one.stop().await;
        self.three.stop().await;
    }

    /// Runs a case and compares it with the reference.
    pub(crate) async fn check(&self, case: &Case) -> Option<Failure> {
        let run = AssertUnwindSafe(self.run(case)).catch_unwind();
        let found = match tokio::time::timeout(DEADLINE, run).await {
            Ok(Ok(Ok(found))) => found,
            Ok(Ok(Err(error))) => return Some(Failure::Job(format!("{error:#}"))),
            Ok(Err(_)) => return Some(Failure::Job("a panic".to_owned())),
            Err(_) => return Some(Failure::Job(format!("it did not end within {DEADLINE:?}"))),
        };
        let evaluation = case.expected(None).expect("a case that was drawn can be evaluated");
        if let Some(difference) = evaluation.difference(case, &found) {
            return Some(Failure::Rows(Box::new(difference)));
        }
        match self.miscounted(case, &evaluation.counted()).await {
            Ok(wrong) => wrong.map(Failure::Count),
            Err(error) => Some(Failure::Job(format!("{error:#}"))),
        }
    }

    /// What is wrong with what the job has counted.
    async fn miscounted(&self, case: &Case, expected: &BTreeMap<String, u64>) -> Result<Option<String>> {
        let accumulators = self.cluster(case).client().accumulators("random", true, 0).await?;
        let wrong = accumulators.iter().find(|accumulator| {
            let expected = expected.get(&accumulator.name).copied().unwrap_or(0);
            accumulator.total.count != expected
        });
        Ok(wrong.map(|wrong| {
            let (name, counted) = (&wrong.name, wrong.total.count);
            let expected = expected.get(name).copied().unwrap_or(0);
            format!("{name} counted {counted} records of {expected}")
        }))
    }

    fn cluster(&self, case: &Case) -> &TestCluster {
        if case.executors == 1 { &self.one } else { &self.three }
    }

    /// What a cluster prints for a case.
    pub(crate) async fn run(&self, case: &Case) -> Result<Vec<Found>> {
        let cluster = self.cluster(case);
        let graph = case.model.lower("random", &case.inputs)?;
        let files = case.model.files()?.into_iter().map(|file| AttachedFile {
            path: file.path,
            content: file.content.into(),
        });
        let files: Vec<AttachedFile> = files.collect();
        let printed = cluster.run_with(&graph, &files, Some(case.batches)).await?;
        printed.iter().map(found).collect()
    }
}

fn found(printed: &PrintedBatch) -> Result<Found> {
    let rows = printed.rows.iter().map(values).collect::<Result<Vec<_>>>();
    let rows = rows.with_context(|| format!("stream {}", printed.stream))?;
    Ok(Found {
        stream: printed.stream.clone(),
        batch: printed.time.0 as u64 / INTERVAL.as_millis() as u64,
        columns: printed
            .schema
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect(),
        rows: rows.concat(),
    })
}
