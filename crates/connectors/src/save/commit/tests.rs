use std::collections::BTreeMap;

use tempfile::{TempDir, tempdir};
use tidemill_dstream::FileFormat;
use tidemill_types::FailureKind;

use super::super::tests::{PLACE, at, save_to, stage};
use super::*;

/// Everything below a directory that is not hidden: a path, and for a file its content.
fn visible(save: &SaveOutput) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for directory in names_in(Path::new(&save.path)).unwrap() {
        let name = directory.to_str().unwrap().to_owned();
        if name.starts_with('.') {
            continue;
        }
        let path = Path::new(&save.path).join(&name);
        for file in names_in(&path).unwrap() {
            let content = fs::read_to_string(path.join(&file)).unwrap();
            found.insert(format!("{name}/{}", file.to_str().unwrap()), content);
        }
        found.insert(name, String::new());
    }
    found
}

fn hidden(save: &SaveOutput) -> Vec<String> {
    let names = names_in(Path::new(&save.path)).unwrap();
    let names = names.into_iter().map(|name| name.to_str().unwrap().to_owned());
    names.filter(|name| name.starts_with('.')).collect()
}

fn entries(expected: &[(&str, &str)]) -> BTreeMap<String, String> {
    expected
        .iter()
        .map(|&(path, content)| (path.to_owned(), content.to_owned()))
        .collect()
}

struct Output {
    _dir: TempDir,
    save: SaveOutput,
    files: Vec<StagedFile>,
}

impl Output {
    fn new() -> Self {
        let dir = tempdir().unwrap();
        let save = save_to(&dir, FileFormat::Text);
        Self {
            _dir: dir,
            save,
            files: Vec::new(),
        }
    }

    /// Two partitions with rows, and an attempt that lost.
    fn staged() -> Self {
        let mut output = Self::new();
        stage(&output.save, &at(2, 0), &["the attempt that lost"]);
        output.files.extend(stage(&output.save, &at(0, 0), &["zero"]));
        output.files.extend(stage(&output.save, &at(2, 1), &["two"]));
        output
    }

    /// The batch's directory as another run left it.
    fn foreign(mut self, overwrite: bool) -> Self {
        self.save.overwrite = overwrite;
        create_directory(&PLACE.visible(&self.save)).unwrap();
        fs::write(PLACE.visible(&self.save).join("part-00009.txt"), "foreign\n").unwrap();
        self
    }

    fn commit(&self) -> Result<(), Error> {
        commit_save(&self.save, &PLACE, &self.files)
    }

    /// Commits, and once more, and expects the same of both.
    fn committed(&self) {
        for time in ["first", "second"] {
            self.commit().unwrap_or_else(|error| panic!("{time} commit: {error}"));
            assert_eq!(visible(&self.save), COMMITTED.with(Clone::clone), "{time} commit");
        }
        cleanup_staging(&self.save, PLACE.job, PLACE.generation).unwrap();
        assert_eq!(hidden(&self.save), [""; 0]);
    }
}

thread_local! {
    static COMMITTED: BTreeMap<String, String> = entries(&[
        ("batch_time=5000", ""),
        ("batch_time=5000/part-00000.txt", "zero\n"),
        ("batch_time=5000/part-00002.txt", "two\n"),
    ]);
}

#[test]
fn a_committed_batch_has_the_winners_files_and_nothing_before_its_commit() {
    let output = Output::staged();
    assert_eq!(visible(&output.save), entries(&[]));
    output.committed();
}

#[test]
fn a_commit_goes_on_wherever_an_earlier_one_broke_off() {
    // Some files moved.
    let output = Output::staged();
    gather(&output.save, &PLACE, &output.files[..1]).unwrap();
    assert_eq!(visible(&output.save), entries(&[]));
    output.committed();
    // All files moved.
    let output = Output::staged();
    gather(&output.save, &PLACE, &output.files).unwrap();
    assert_eq!(visible(&output.save), entries(&[]));
    output.committed();
    // The directory renamed, and what is left not removed.
    let output = Output::staged();
    gather(&output.save, &PLACE, &output.files).unwrap();
    publish(&output.save, &PLACE).unwrap();
    assert_eq!(visible(&output.save), COMMITTED.with(Clone::clone));
    output.committed();
}

#[test]
fn an_overwriting_commit_goes_on_wherever_an_earlier_one_broke_off() {
    let output = Output::staged().foreign(true);
    output.committed();

    let output = Output::staged().foreign(true);
    gather(&output.save, &PLACE, &output.files).unwrap();
    output.committed();

    let output = Output::staged().foreign(true);
    gather(&output.save, &PLACE, &output.files).unwrap();
    set_aside(&output.save, &PLACE).unwrap();
    assert_eq!(visible(&output.save), entries(&[]));
    output.committed();

    let output = Output::staged().foreign(true);
    gather(&output.save, &PLACE, &output.files).unwrap();
    set_aside(&output.save, &PLACE).unwrap();
    publish(&output.save, &PLACE).unwrap();
    output.committed();
}

#[test]
fn a_commit_may_be_finished_by_a_later_generation() {
    let output = Output::staged();
    gather(&output.save, &PLACE, &output.files[..1]).unwrap();
    let later = CommitPlace {
        generation: PLACE.generation.next(),
        ..PLACE
    };
    commit_save(&output.save, &later, &output.files).unwrap();
    assert_eq!(visible(&output.save), COMMITTED.with(Clone::clone));
}

#[test]
fn another_runs_directory_is_an_error_and_stays_as_it_is() {
    let output = Output::staged().foreign(false);
    for _ in 0..2 {
        let error = output.commit().unwrap_err();
        assert!(matches!(error, Error::BatchDirectoryExists { .. }), "{error}");
        assert_eq!(error.kind(), FailureKind::External);
    }
    let foreign = entries(&[("batch_time=5000", ""), ("batch_time=5000/part-00009.txt", "foreign\n")]);
    assert_eq!(visible(&output.save), foreign);
    // Once it is out of the way the batch can be committed.
    fs::remove_dir_all(PLACE.visible(&output.save)).unwrap();
    output.committed();
}

#[test]
fn the_same_batch_of_an_earlier_run_is_another_runs_also_if_its_files_look_alike() {
    let mut output = Output::staged();
    output.commit().unwrap();
    output.files.clear();
    output.files.extend(stage(&output.save, &at(0, 0), &["ZERO"]));
    let error = output.commit().unwrap_err();
    assert!(matches!(error, Error::BatchDirectoryExists { .. }), "{error}");
    assert_eq!(visible(&output.save), COMMITTED.with(Clone::clone));
}

#[test]
fn files_that_a_killed_run_left_do_not_get_into_the_batch() {
    let output = Output::staged();
    let ready = PLACE.ready(&output.save);
    create_directory(&ready).unwrap();
    fs::write(ready.join("part-00000.txt"), "old zero\n").unwrap();
    fs::write(ready.join("part-00001.txt"), "old one\n").unwrap();
    output.committed();
}

#[test]
fn a_batch_without_rows_has_no_directory_unless_it_is_wanted() {
    let mut output = Output::new();
    for _ in 0..2 {
        output.commit().unwrap();
        assert_eq!(visible(&output.save), entries(&[]));
    }
    output.save.empty = true;
    for _ in 0..2 {
        output.commit().unwrap();
        assert_eq!(visible(&output.save), entries(&[("batch_time=5000", "")]));
    }
}

#[test]
fn a_batch_without_rows_does_not_leave_another_runs_rows_in_its_place() {
    let error = Output::new().foreign(false).commit().unwrap_err();
    assert!(matches!(error, Error::BatchDirectoryExists { .. }), "{error}");
    let output = Output::new().foreign(true);
    for _ in 0..2 {
        output.commit().unwrap();
        assert_eq!(visible(&output.save), entries(&[]));
    }
    let mut output = Output::new().foreign(true);
    output.save.empty = true;
    for _ in 0..2 {
        output.commit().unwrap();
        assert_eq!(visible(&output.save), entries(&[("batch_time=5000", "")]));
    }
}

#[test]
fn a_staged_file_that_is_not_there_is_an_error_that_says_why_it_may_be() {
    let output = Output::staged();
    fs::remove_file(&output.files[1].staged).unwrap();
    let error = output.commit().unwrap_err();
    assert!(matches!(error, Error::StagedFileMissing { .. }), "{error}");
    assert!(error.to_string().contains("driver and all executors share"), "{error}");
    assert_eq!(visible(&output.save), entries(&[]));
}

#[test]
fn an_aborted_batch_leaves_nothing_and_gives_back_what_it_was_about_to_replace() {
    let output = Output::staged().foreign(true);
    gather(&output.save, &PLACE, &output.files[..1]).unwrap();
    set_aside(&output.save, &PLACE).unwrap();
    for _ in 0..2 {
        abort_save(&output.save, &PLACE).unwrap();
        let foreign = entries(&[("batch_time=5000", ""), ("batch_time=5000/part-00009.txt", "foreign\n")]);
        assert_eq!(visible(&output.save), foreign);
    }
    cleanup_staging(&output.save, PLACE.job, PLACE.generation).unwrap();
    assert_eq!(hidden(&output.save), [""; 0]);
}

#[test]
fn cleaning_up_leaves_other_jobs_and_generations_alone() {
    let output = Output::staged();
    let mut others = Vec::new();
    for (job, generation) in [(33, 7), (3, 8)] {
        let mut place = at(0, 0);
        place.commit.job = JobId(job);
        place.commit.generation = Generation(generation);
        others.extend(stage(&output.save, &place, &["other"]));
    }
    cleanup_staging(&output.save, PLACE.job, PLACE.generation).unwrap();
    assert!(others.iter().all(|file| file.staged.is_file()));
    assert!(output.files.iter().all(|file| !file.staged.exists()));
    // An output of which nothing was ever written has nothing to clean up.
    cleanup_staging(&Output::new().save, PLACE.job, PLACE.generation).unwrap();
}
