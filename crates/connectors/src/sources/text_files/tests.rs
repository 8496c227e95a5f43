use std::fs::File;

use tempfile::{TempDir, tempdir};
use tidemill_dstream::InputItem;

use super::*;
use crate::testing::text;

const INTERVAL: Duration = Duration::from_secs(10);

fn source(dir: &str, new_files_only: bool) -> TextFilesSource {
    TextFilesSource {
        dir: dir.to_owned(),
        new_files_only,
        remember: Duration::from_secs(55),
        files_per_batch: None,
    }
}

fn request(batch_s: i64, no_wait: bool) -> AllocateRequest {
    AllocateRequest {
        batch: BatchTime(batch_s * 1000),
        index: batch_s / 10,
        interval: INTERVAL,
        partitions: 1,
        no_wait,
    }
}

/// Creates a file that was modified at a time in milliseconds.
fn create(path: &Path, modified_ms: u64) {
    fs::write(path, "x\n").unwrap();
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_millis(modified_ms))
        .unwrap();
}

/// The names of the files of a batch.
fn names(allocation: &Allocation) -> Vec<String> {
    let name = |item: &InputItem| match item {
        InputItem::File(range) => text(Path::new(Path::new(&range.path).file_name().unwrap())),
        other => panic!("{other:?} is no file"),
    };
    allocation.partitions.iter().flatten().map(name).collect()
}

struct Watched {
    dir: TempDir,
    planner: TextFilesPlanner,
}

impl Watched {
    fn new(start_s: i64, new_files_only: bool) -> Self {
        let dir = tempdir().unwrap();
        let source = source(&text(dir.path()), new_files_only);
        let planner = TextFilesPlanner::new(&source, BatchTime(start_s * 1000)).unwrap();
        Self { dir, planner }
    }

    fn create(&self, name: &str, modified_s: f64) {
        create(&self.dir.path().join(name), (modified_s * 1000.0) as u64);
    }

    fn batch(&mut self, batch_s: i64) -> Vec<String> {
        names(&self.planner.allocate(&request(batch_s, false)).unwrap())
    }
}

#[test]
fn a_file_is_in_the_first_batch_at_or_after_its_time_and_in_no_other() {
    let mut watched = Watched::new(100, true);
    watched.create("at", 110.0);
    watched.create("after", 110.001);
    watched.create("before", 109.0);
    assert_eq!(watched.batch(110), ["before", "at"], "by time, then by name");
    assert_eq!(watched.batch(120), ["after"]);
    assert_eq!(watched.batch(130), [""; 0]);
}

#[test]
fn the_file_rules() {
    // modified, new files only, in the batch at 210 s of a job that started at 150 s; remembered are 60 s
    for (modified_s, new_files_only, taken) in [
        (150.0, true, false),
        (150.001, true, true),
        (150.0, false, false),
        (150.001, false, true),
        (149.0, false, false),
        (210.0, true, true),
        (210.001, true, false),
        (0.0, false, false),
    ] {
        let mut watched = Watched::new(150, new_files_only);
        watched.create("file", modified_s);
        let names = watched.batch(210);
        assert_eq!(
            !names.is_empty(),
            taken,
            "modified at {modified_s}, new files only: {new_files_only}"
        );
    }
}

#[test]
fn files_older_than_the_job_are_taken_if_wanted_as_far_as_the_remember_window_reaches() {
    let mut watched = Watched::new(100, false);
    watched.create("recent", 60.0);
    watched.create("ancient", 50.0);
    // 55 s are rounded up to 60 s: six batches.
    assert_eq!(watched.batch(110), ["recent"]);
}

#[test]
fn a_file_that_is_touched_again_is_taken_again_only_after_the_window() {
    let mut watched = Watched::new(0, true);
    watched.create("file", 105.0);
    assert_eq!(watched.batch(110), ["file"]);
    watched.create("file", 115.0);
    assert_eq!(watched.batch(120), [""; 0], "still remembered");
    watched.create("file", 165.0);
    assert_eq!(watched.batch(170), ["file"], "forgotten after 60 s");
}

#[test]
fn an_old_file_that_appears_late_is_taken_within_the_window() {
    let mut watched = Watched::new(0, true);
    assert_eq!(watched.batch(110), [""; 0]);
    watched.create("late", 100.0);
    assert_eq!(watched.batch(150), ["late"]);
    watched.create("too late", 100.0);
    assert_eq!(watched.batch(160), [""; 0]);
}

#[test]
fn hidden_names_directories_and_dead_links_are_not_looked_at() {
    let mut watched = Watched::new(0, true);
    for name in [".hidden", "_temporary", "data"] {
        watched.create(name, 105.0);
    }
    let path = watched.dir.path();
    fs::create_dir(path.join("subdirectory")).unwrap();
    create(&path.join("subdirectory/inner"), 105_000);
    std::os::unix::fs::symlink(path.join("nowhere"), path.join("dead")).unwrap();
    assert_eq!(watched.batch(110), ["data"]);
}

#[test]
fn a_directory_that_does_not_exist_has_no_files_until_it_does() {
    let parent = tempdir().unwrap();
    let dir = parent.path().join("in");
    let mut planner = TextFilesPlanner::new(&source(&text(&dir), true), BatchTime(0)).unwrap();
    let nothing = planner.allocate(&request(110, false)).unwrap();
    assert_eq!((nothing.rows, nothing.exhausted), (Some(0), false));
    fs::create_dir(&dir).unwrap();
    create(&dir.join("file"), 115_000);
    assert_eq!(names(&planner.allocate(&request(120, false)).unwrap()), ["file"]);
}

#[test]
fn a_glob_stands_for_directories_and_for_files() {
    let parent = tempdir().unwrap();
    for dir in ["in-1", "in-2", "out"] {
        fs::create_dir(parent.path().join(dir)).unwrap();
        create(&parent.path().join(dir).join(format!("file of {dir}")), 105_000);
    }
    create(&parent.path().join("in-3"), 104_000);
    let glob = text(&parent.path().join("in-*"));
    let mut planner = TextFilesPlanner::new(&source(&glob, true), BatchTime(0)).unwrap();
    let allocation = planner.allocate(&request(110, false)).unwrap();
    assert_eq!(names(&allocation), ["in-3", "file of in-1", "file of in-2"]);
    let files = text(&parent.path().join("*/*of in*"));
    let mut planner = TextFilesPlanner::new(&source(&files, true), BatchTime(0)).unwrap();
    let allocation = planner.allocate(&request(110, false)).unwrap();
    assert_eq!(names(&allocation), ["file of in-1", "file of in-2"]);
}

#[test]
fn a_glob_that_cannot_be_parsed_is_found_when_the_planner_is_made() {
    let fault = TextFilesPlanner::new(&source("/in/a***", true), BatchTime(0))
        .err()
        .unwrap();
    assert!(matches!(fault, Error::InvalidGlob { .. }), "{fault}");
}

#[test]
fn a_run_that_does_not_wait_lists_once_and_goes_by_time_and_name() {
    let dir = tempdir().unwrap();
    for (name, modified_s) in [("c", 10), ("b", 20), ("a", 20), ("z", 5), ("y", 30)] {
        create(&dir.path().join(name), modified_s * 1000);
    }
    let mut source = source(&text(dir.path()), true);
    source.files_per_batch = Some(2);
    let mut planner = TextFilesPlanner::new(&source, BatchTime(0)).unwrap();
    let mut batches = Vec::new();
    for index in 1..=3 {
        let allocation = planner.allocate(&request(index * 10, true)).unwrap();
        assert_eq!(allocation.exhausted, index == 3);
        batches.push(names(&allocation).join(","));
        create(&dir.path().join("late"), 1000);
    }
    assert_eq!(batches, ["z,c", "a,b", "y"]);
    let after = planner.allocate(&request(40, true)).unwrap();
    assert_eq!((after.rows, after.exhausted), (Some(0), true));
}

#[test]
fn without_a_number_of_files_a_run_that_does_not_wait_has_all_in_one_batch() {
    let dir = tempdir().unwrap();
    for name in ["a", "b", "c"] {
        create(&dir.path().join(name), 1000);
    }
    let mut planner = TextFilesPlanner::new(&source(&text(dir.path()), true), BatchTime(0)).unwrap();
    let allocation = planner.allocate(&request(10, true)).unwrap();
    assert_eq!(names(&allocation), ["a", "b", "c"]);
    assert!(allocation.exhausted);
}

#[test]
fn files_are_dealt_out_to_the_partitions_from_another_one_each_batch() {
    let mut watched = Watched::new(0, true);
    watched.create("a", 105.0);
    let mut request = request(110, false);
    request.partitions = 2;
    let filled = |allocation: Allocation| allocation.partitions.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(filled(watched.planner.allocate(&request).unwrap()), [0, 1], "batch 11");
    watched.create("b", 115.0);
    (request.batch, request.index) = (BatchTime(120_000), 12);
    assert_eq!(filled(watched.planner.allocate(&request).unwrap()), [1, 0], "batch 12");
}

#[test]
fn files_that_were_taken_before_a_restart_are_not_taken_again() {
    let mut watched = Watched::new(100, true);
    watched.create("a", 105.0);
    assert_eq!(watched.batch(110), ["a"]);
    let position = watched.planner.position();
    watched.create("b", 115.0);
    let source = source(&text(watched.dir.path()), true);
    watched.planner = TextFilesPlanner::new(&source, BatchTime(100_000)).unwrap();
    watched.planner.restore(&position).unwrap();
    assert_eq!(watched.batch(120), ["b"]);
}
