//! The demonstration: a job that needs nothing but this binary.

use anyhow::Result;
use tidemill_client::SubmitOptions;
use tidemill_client::job_file::{ParseOptions, parse};
use tidemill_config::Config;
use tidemill_connectors::TWEET_TEMPLATE;
use tidemill_local::LocalCluster;

use super::follow::{Printer, follow_to_end};

const JOB: &str = include_str!("demo.yaml");

pub(crate) async fn demo(config: &Config, batches: Option<u64>, executors: u32) -> Result<()> {
    let options = ParseOptions {
        set: vec![("TEMPLATE".to_owned(), TWEET_TEMPLATE.to_owned())],
        ..ParseOptions::default()
    };
    let graph = parse(JOB, &options)?;
    let mut config = config.clone();
    config.journal.url.clear();
    let cluster = LocalCluster::start(&config, executors).await?;
    let client = cluster.client().await?;
    println!(
        "A driver and {executors} executors run in this process (driver at {}).",
        cluster.address()
    );
    println!("Hashtags of generated tweets, counted over the last 20 s, every second:\n");
    let options = SubmitOptions {
        batches,
        ..SubmitOptions::default()
    };
    let submitted = client.submit(&graph, &[], options).await?;
    let result = follow_to_end(&client, &submitted.job.to_string(), Printer::Chart).await;
    cluster.stop().await;
    result?;
    println!("{NEXT}");
    Ok(())
}

const NEXT: &str = "\
What to try next:
  tidemill replay deploy/data/tweets.txt --port 5555 --rate 200 --loop    a source of tweets, and in a second terminal
  tidemill run deploy/jobs/trending-hashtags.yaml                         the same count from a job file
  tidemill explain deploy/jobs/trending-hashtags.yaml                     how it runs: streams, stages, exchanges
  docker-compose up                                                       a cluster: driver, executors, source and job";
