//! The command line where something is wrong or special: settings, ports, flags, paths.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Result;
use tidemill_testkit::{ProcessCluster, eventually};
use tokio::process::Command;

use crate::binary;

const DEADLINE: Duration = Duration::from_secs(60);

/// What a command that ends by itself printed, and how it ended.
struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ended {
    #[track_caller]
    fn expect(&self, code: i32, parts: &[&str]) {
        let text = format!("{}{}", self.stdout, self.stderr);
        assert_eq!(self.code, code, "{text}");
        for part in parts {
            assert!(text.contains(part), "`{part}` is not in: {text}");
        }
    }
}

async fn tidemill(args: &[&str], settings: &[(&str, &str)]) -> Result<Ended> {
    let command = Command::new(binary())
        .args(args)
        .envs(settings.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(DEADLINE, command).await??;
    Ok(Ended {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout)?,
        stderr: String::from_utf8(output.stderr)?,
    })
}

fn write(directory: &Path, name: &str, text: &str) -> Result<String> {
    let path = directory.join(name);
    std::fs::create_dir_all(directory)?;
    std::fs::write(&path, text)?;
    Ok(path.display().to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_setting_is_refused_with_its_place_and_the_nearest_known_one() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let driver = ["driver", "--bind", "127.0.0.1:0"];
    tidemill(&driver, &[("TIDEMILL__DRIVER__BINDD", "127.0.0.1:0")])
        .await?
        .expect(1, &["driver.bindd", "environment", "did you mean `driver.bind`"]);
    let file = write(dir.path(), "tidemill.toml", "[executor]\nslotz = 3\n")?;
    tidemill(&["executor", "--config", &file], &[])
        .await?
        .expect(1, &["executor.slotz", "tidemill.toml", "did you mean `executor.slots`"]);
    let missing = dir.path().join("missing.toml").display().to_string();
    let ended = tidemill(&["demo", "--config", &missing], &[]).await?;
    ended.expect(1, &[&missing, "No such file"]);
    assert_eq!(ended.stderr.matches("No such file").count(), 1, "{}", ended.stderr);
    tidemill(&["jobs", "--verbose"], &[])
        .await?
        .expect(2, &["--verbose", "Usage"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named_with_the_flag_that_chooses_another() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let _held = std::net::TcpListener::bind(taken)?;
    let (address, port) = (taken.to_string(), taken.port().to_string());
    for role in ["driver", "executor"] {
        tidemill(&[role, "--bind", &address], &[])
            .await?
            .expect(1, &[&address, "in use", "--bind"]);
    }
    let file = write(dir.path(), "lines.txt", "a\n")?;
    tidemill(&["replay", &file, "--port", &port], &[])
        .await?
        .expect(1, &[&address, "in use", "--port"]);
    Ok(())
}

const QUEUE: &str = "
name: queued
batch_interval: 1s
tables:
  users: {file: data/users.csv}
streams:
  lines: {source: {queue: {files: [data/a.txt, data/b.txt]}}}
  named:
    from: lines
    steps:
      - transform: SELECT name FROM input JOIN users ON value = CAST(id AS VARCHAR)
outputs:
";

/// A job that reads files beside it, and those.
fn write_queue_job(directory: &Path, outputs: &str) -> Result<String> {
    write(&directory.join("data"), "users.csv", "id,name\n1,ann\n2,bob\n")?;
    write(&directory.join("data"), "a.txt", "1\n")?;
    write(&directory.join("data"), "b.txt", "2\n1\n")?;
    write(directory, "queued.yaml", &format!("{QUEUE}{outputs}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn run_takes_paths_from_beside_the_file_and_replaces_batches_only_if_told() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let job = write_queue_job(
        dir.path(),
        "  - print: {from: named}\n  - save: {from: named, path: ./out, files: 1}\n",
    )?;
    let run = ["run", &job, "--no-wait", "--output", "json"];
    let first = tidemill(&run, &[]).await?;
    first.expect(0, &["\"batch_time\":1000", "\"batch_time\":2000", "ann", "bob"]);
    assert_eq!(first.stdout.lines().count(), 2, "{}", first.stdout);
    let saved = |batch: u32| std::fs::read_to_string(dir.path().join(format!("out/batch_time={batch}/part-00000.txt")));
    assert_eq!(saved(1000)?, "ann\n");
    tidemill(&run, &[])
        .await?
        .expect(1, &["batch_time=1000", "exists already"]);
    write(&dir.path().join("data"), "a.txt", "2\n")?;
    let again = tidemill(&[&run[..], &["--overwrite", "--batches", "3"]].concat(), &[]).await?;
    again.expect(0, &["\"batch_time\":3000"]);
    assert_eq!(again.stdout.lines().count(), 3, "{}", again.stdout);
    assert_eq!(saved(1000)?, "bob\n");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_files_that_are_no_text_are_replaced_and_counted_in_the_log() -> Result<()> {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("in.txt"), b"good\nb\xffd\n\xfe\n")?;
    let job = write(
        dir.path(),
        "text.yaml",
        "name: text\nbatch_interval: 1s\npartitions: 1\nstreams:\n  lines: {source: {text_file: {path: in.txt}}}\noutputs:\n  - print: {from: lines}\n",
    )?;
    let ended = tidemill(&["run", &job, "--no-wait"], &[]).await?;
    ended.expect(0, &["good", "b\u{fffd}d"]);
    ended.expect(0, &["lines of files were repaired", "lines=2"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_source_needs_the_clock_and_batches_can_be_counted() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let yaml = |source: &str| {
        format!(
            "name: live\nbatch_interval: 100ms\nstreams:\n  lines:\n    source: {{{source}}}\noutputs:\n  - print: {{from: lines, rows: 1}}\n"
        )
    };
    let socket = write(
        dir.path(),
        "socket.yaml",
        &yaml("socket_text: {host: 127.0.0.1, port: 1}"),
    )?;
    tidemill(&["run", &socket, "--no-wait"], &[])
        .await?
        .expect(3, &["socket.yaml:4", "lines.source", "live source", "--no-wait"]);
    let made = write(
        dir.path(),
        "made.yaml",
        &yaml("generate: {rate: 10, template: '{index}'}"),
    )?;
    for flags in [&["--no-wait"][..], &[]] {
        let run = [&["run", &made, "--batches", "4"], flags].concat();
        let ended = tidemill(&run, &[]).await?;
        ended.expect(0, &[]);
        assert_eq!(ended.stdout.matches("Time: ").count(), 4, "{}", ended.stdout);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn submit_sends_files_along_refuses_other_places_and_a_job_stops_once() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let cluster = ProcessCluster::start(binary(), 2, 1, &[]).await?;
    let driver = [("TIDEMILL_DRIVER", cluster.address())];
    let lost = write_queue_job(&dir.path().join("lost"), "  - save: {from: named, path: ./out}\n")?;
    tidemill(&["submit", &lost], &driver)
        .await?
        .expect(3, &["queued.yaml:13", "`./out`", "executors"]);
    let job = write_queue_job(&dir.path().join("kept"), "  - table: {from: named, name: named}\n")?;
    tidemill(&["submit", &job, "--no-wait", "--batches", "2"], &driver)
        .await?
        .expect(0, &["(queued) submitted"]);
    // Neither driver nor executors look at the files again.
    std::fs::remove_dir_all(dir.path().join("kept"))?;
    eventually(DEADLINE, "the end of the job", || async {
        let ended = tidemill(&["jobs", "--output", "json"], &driver)
            .await
            .map_err(|error| error.to_string())?;
        if ended.stdout.contains("\"finished\"") {
            Ok(())
        } else {
            Err(ended.stdout)
        }
    })
    .await?;
    let ended = tidemill(&["job", "queued", "--follow"], &driver).await?;
    ended.expect(0, &[]);
    for job in ["queued", "1"] {
        tidemill(&["stop", job], &driver)
            .await?
            .expect(1, &["has ended already", "finished"]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn looks_and_checks_have_both_forms_and_shells_get_their_completions() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let job = write(
        dir.path(),
        "made.yaml",
        "name: made\nbatch_interval: 100ms\nstreams:\n  lines: {source: {generate: {rate: 10, template: x}}}\n  counts: {from: lines, steps: [count]}\noutputs:\n  - table: {from: counts, name: counts}\n",
    )?;
    tidemill(&["validate", &job, "--output", "json"], &[])
        .await?
        .expect(0, &["\"valid\": true"]);
    tidemill(&["explain", &job, "--output", "json"], &[])
        .await?
        .expect(0, &["\"explanation\"", "stage 0"]);
    let cluster = ProcessCluster::start(binary(), 1, 1, &[]).await?;
    let driver = [("TIDEMILL_DRIVER", cluster.address())];
    tidemill(&["submit", &job], &driver).await?.expect(0, &[]);
    eventually(DEADLINE, "the table", || async {
        let looked = tidemill(&["top", "counts", "--count", "1", "--output", "json"], &driver).await;
        let looked = looked.map_err(|error| error.to_string())?;
        if looked.stdout == "{\"rows\":[{\"count\":1}],\"table\":\"counts\"}\n" {
            Ok(())
        } else {
            Err(format!("{}{}", looked.stdout, looked.stderr))
        }
    })
    .await?;
    for (shell, part) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef tidemill"),
        ("fish", "complete -c tidemill"),
    ] {
        tidemill(&["completions", shell], &[])
            .await?
            .expect(0, &[part, "replay"]);
    }
    Ok(())
}
