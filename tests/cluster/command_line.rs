//! The commands of the README, run as a person runs them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tidemill_testkit::{ProcessCluster, eventually};
use tokio::process::Command;

use crate::binary;

const DEADLINE: Duration = Duration::from_secs(60);

fn jobs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/jobs")
}

async fn tidemill(driver: &str, args: &[&str]) -> Result<(i32, String, String)> {
    let output = Command::new(binary())
        .args(args)
        .env("TIDEMILL_DRIVER", driver)
        .output()
        .await?;
    Ok((
        output.status.code().unwrap_or(-1),
        String::from_utf8(output.stdout)?,
        String::from_utf8(output.stderr)?,
    ))
}

async fn json(driver: &str, args: &[&str]) -> Result<Value> {
    let (code, stdout, stderr) = tidemill(driver, &[args, &["--output", "json"]].concat()).await?;
    anyhow::ensure!(code == 0, "{args:?} exited with {code}: {stderr}");
    Ok(serde_json::from_str(&stdout)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_shows_as_many_charts_as_asked_and_ends() -> Result<()> {
    let (code, stdout, stderr) = tidemill("127.0.0.1:1", &["demo", "--batches", "3"]).await?;
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(
        stdout.lines().filter(|line| line.starts_with("batch ")).count(),
        3,
        "{stdout}"
    );
    assert!(
        stdout.contains('#') && stdout.contains('█') && stdout.contains("What to try next"),
        "{stdout}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn trending_hashtags_of_a_replayed_file_equal_an_independent_count() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let tags = ["#alpha", "#beta", "#gamma", "#Delta"];
    let lines: Vec<String> = (0..2000)
        .map(|i| format!("line {i} {} text {}", tags[i % 4], tags[(i * 7 + i / 5) % 4]))
        .collect();
    let file = dir.path().join("tweets.txt");
    std::fs::write(&file, lines.join("\n"))?;
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for tag in lines
        .iter()
        .flat_map(|line| line.split(' '))
        .filter(|word| word.starts_with('#'))
    {
        *expected.entry(tag.to_lowercase()).or_default() += 1;
    }

    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port().to_string();
    drop(listener);
    let mut replay = Command::new(binary())
        .args(["replay", &file.display().to_string(), "--port", &port])
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let job = dir.path().join("job.yaml");
    std::fs::write(
        &job,
        format!(
            "name: trending\nbatch_interval: 500ms\nstreams:\n  tweets: {{source: {{socket_text: {{host: 127.0.0.1, port: {port}}}}}}}\n  hashtags:\n    from: tweets\n    steps:\n      - window: {{length: 60s}}\n      - flat_map: {{tag: \"string_to_array(lower(value), ' ')\"}}\n      - filter: \"tag LIKE '#%'\"\n      - reduce_by_key: {{key: tag, count: count(*)}}\noutputs:\n  - save: {{from: hashtags, format: csv, path: ./out}}\n"
        ),
    )?;
    let output = Command::new(binary())
        .args(["run", &job.display().to_string(), "--batches", "8", "--executors", "2"])
        .output()
        .await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(replay.wait().await?.success());
    let out = dir.path().join("out");
    let mut batches: Vec<PathBuf> = std::fs::read_dir(&out)?
        .map(|entry| Ok(entry?.path()))
        .filter(|path: &Result<PathBuf>| {
            path.as_ref()
                .is_ok_and(|path| path.to_string_lossy().contains("batch_time="))
        })
        .collect::<Result<_>>()?;
    batches.sort();
    let last = batches.last().context("no batch was saved")?;
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for part in std::fs::read_dir(last)? {
        let text = std::fs::read_to_string(part?.path())?;
        for line in text.lines().skip(1) {
            let (tag, count) = line.split_once(',').context("two columns")?;
            counts.insert(tag.to_owned(), count.parse()?);
        }
    }
    assert_eq!(counts, expected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_works_against_a_cluster_in_both_forms() -> Result<()> {
    let cluster = ProcessCluster::start(binary(), 3, 1, &[]).await?;
    let driver = cluster.address().to_owned();
    let dir = tempfile::tempdir()?;
    let job = dir.path().join("job.yaml");
    std::fs::write(
        &job,
        "name: digits\nbatch_interval: 200ms\nstreams:\n  lines: {source: {generate: {rate: 1000, template: 'd{int:0..9}'}}}\n  counts:\n    from: lines\n    steps:\n      - reduce_by_key: {key: value, count: count(*)}\noutputs:\n  - table: {from: counts, name: digits}\n",
    )?;
    let file = job.display().to_string();
    let (code, stdout, _) = tidemill(&driver, &["submit", &file]).await?;
    assert_eq!(
        (code, stdout.contains("job 1 (digits) submitted")),
        (0, true),
        "{stdout}"
    );
    eventually(DEADLINE, "three batches", || async {
        let detail = json(&driver, &["job", "digits"])
            .await
            .map_err(|error| error.to_string())?;
        let completed = detail["summary"]["completed_batches"].as_u64().unwrap_or(0);
        if completed >= 3 {
            Ok(())
        } else {
            Err(detail.to_string())
        }
    })
    .await?;
    let jobs = json(&driver, &["jobs"]).await?;
    assert_eq!(
        (jobs[0]["name"].as_str(), jobs[0]["state"].as_str()),
        (Some("digits"), Some("running"))
    );
    let executors = json(&driver, &["executors"]).await?;
    assert_eq!(executors.as_array().map(Vec::len), Some(3));
    let rows = json(&driver, &["sql", "SELECT value, count FROM digits ORDER BY value"]).await?;
    assert_eq!(rows.as_array().map(Vec::is_empty), Some(false), "{rows}");
    for (args, part) in [
        (vec!["jobs"], "digits"),
        (vec!["job", "digits"], "keeping up"),
        (vec!["executors"], "slots"),
        (vec!["sql", "SELECT count(*) FROM digits"], "|"),
        (vec!["top", "digits", "--count", "1"], "█"),
        (vec!["stop", "digits"], "digits"),
    ] {
        let (code, stdout, stderr) = tidemill(&driver, &args).await?;
        assert_eq!((code, stdout.contains(part)), (0, true), "{args:?}: {stdout} {stderr}");
    }
    let (code, _, stderr) = tidemill(&driver, &["stop", "digist"]).await?;
    assert_eq!((code, stderr.contains("did you mean `digits`")), (1, true), "{stderr}");
    let (code, _, stderr) = tidemill("127.0.0.1:1", &["jobs"]).await?;
    assert_eq!((code, stderr.contains("127.0.0.1:1")), (4, true), "{stderr}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_shows_where_stages_are_cut_and_validate_names_the_line() -> Result<()> {
    let hashtags = jobs().join("trending-hashtags.yaml").display().to_string();
    let (code, stdout, stderr) = tidemill("", &["explain", &hashtags]).await?;
    assert_eq!(code, 0, "{stderr}");
    for part in ["hashtags", "stage", "hash", "tag"] {
        assert!(stdout.to_lowercase().contains(part), "`{part}` is not in {stdout}");
    }
    let dir = tempfile::tempdir()?;
    let bad = dir.path().join("bad.yaml");
    std::fs::write(
        &bad,
        std::fs::read_to_string(&hashtags)?.replace("lower(value)", "lower(vlaue)"),
    )?;
    let (code, _, stderr) = tidemill("", &["validate", &bad.display().to_string()]).await?;
    assert_eq!(code, 3);
    assert!(
        stderr.contains("bad.yaml:") && stderr.contains("vlaue") && stderr.contains("value"),
        "{stderr}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_variable_gets_a_new_value_from_a_file_and_is_given_up() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("calls.yaml");
    std::fs::write(dir.path().join("countries.csv"), "code,name\nAT,Austria\n")?;
    std::fs::write(
        &file,
        "name: calls\nbatch_interval: 100ms\nbroadcasts:\n  countries: {file: countries.csv, as: map, updatable: true}\n\
         streams:\n  calls:\n    source: {generate: {rate: 100, template: AT}}\n    steps:\n      \
         - map: {country: \"broadcast_get('countries', value, 'unknown')\"}\n      - distinct:\n\
         outputs:\n  - table: {from: calls, name: seen}\n",
    )?;
    let cluster = ProcessCluster::start(binary(), 2, 2, &[]).await?;
    let driver = cluster.address();
    let (code, _, stderr) = tidemill(driver, &["submit", &file.display().to_string()]).await?;
    assert_eq!(code, 0, "{stderr}");
    let seen = |country: &'static str| async move {
        eventually(DEADLINE, country, || async {
            let rows = json(driver, &["sql", "SELECT country FROM seen"]).await;
            let rows = rows.map_err(|error| error.to_string())?;
            match rows == serde_json::json!([{"country": country}]) {
                true => Ok(()),
                false => Err(rows.to_string()),
            }
        })
        .await
    };
    seen("Austria").await?;
    let new = dir.path().join("new.csv");
    std::fs::write(&new, "code,name\nAT,Oesterreich\n")?;
    let change = json(
        driver,
        &["broadcast", "calls", "countries", "--file", &new.display().to_string()],
    )
    .await?;
    assert_eq!(change, serde_json::json!({"name": "countries", "version": 2}));
    seen("Oesterreich").await?;
    let listed = &json(driver, &["broadcasts", "calls"]).await?[0];
    assert_eq!(
        (&listed["shape"], &listed["version"], &listed["rows"]),
        (&"map".into(), &2.into(), &1.into())
    );
    assert_eq!(
        json(driver, &["job", "calls"]).await?["broadcasts"][0]["name"],
        "countries"
    );
    let (_, table, _) = tidemill(driver, &["broadcasts", "calls"]).await?;
    assert!(
        table.contains("countries") && table.contains("pieces by driver"),
        "{table}"
    );
    let held = |executors: Value| executors[0]["broadcast_bytes"].as_u64();
    assert!(held(json(driver, &["executors"]).await?).is_some());
    let (code, _, stderr) = tidemill(driver, &["broadcast", "calls", "country", "--refresh"]).await?;
    assert!(
        code == 1 && stderr.contains("did you mean `countries`?"),
        "{code} {stderr}"
    );
    let (code, _, stderr) = tidemill(driver, &["broadcast", "calls", "countries"]).await?;
    assert_eq!(code, 2, "{stderr}");
    let (code, stdout, stderr) = tidemill(driver, &["broadcast", "calls", "countries", "--unpersist"]).await?;
    assert!(code == 0 && stdout.contains("dropped from memory"), "{stderr}");
    let (code, stdout, stderr) = tidemill(driver, &["broadcast", "calls", "countries", "--destroy"]).await?;
    assert!(code == 0 && stdout.contains("destroyed"), "{stderr}");
    eventually(DEADLINE, "the job fails by its name", || async {
        let job = json(driver, &["job", "calls"])
            .await
            .map_err(|error| error.to_string())?;
        let error = job["summary"]["error"].as_str().unwrap_or_default().to_owned();
        match error.contains("broadcast `countries` was destroyed") {
            true => Ok(()),
            false => Err(job["summary"].to_string()),
        }
    })
    .await
}
