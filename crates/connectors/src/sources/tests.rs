use std::fs;

use tempfile::tempdir;
use tidemill_dstream::{FilePart, FileRange, GenerateSource, QueueItem, SocketTextSource, TextFileSource};
use tidemill_types::FailureKind;

use super::*;
use crate::testing::{read_all, text};

fn request(index: i64, partitions: u32) -> AllocateRequest {
    AllocateRequest {
        batch: BatchTime(index * 1000),
        index,
        interval: Duration::from_secs(1),
        partitions,
        no_wait: true,
    }
}

/// What the tasks of a batch read, partition by partition.
fn read(source: &Source, allocation: &Allocation) -> Vec<Vec<String>> {
    let read = |item| read_all(open(item, source, &ReadOptions::default()).unwrap()).unwrap();
    allocation
        .partitions
        .iter()
        .map(|items| items.iter().flat_map(read).collect())
        .collect()
}

fn generate(rate: u64, template: &str) -> Source {
    Source::Generate(GenerateSource {
        rate,
        template: template.to_owned(),
        seed: 1,
    })
}

fn new_planner(source: &Source) -> Box<dyn InputPlanner> {
    planner(source, BatchTime(0)).unwrap().unwrap()
}

#[test]
fn a_source_with_a_receiver_has_no_planner() {
    let source = Source::SocketText(SocketTextSource {
        host: "127.0.0.1".into(),
        port: 1,
        block_interval: None,
        max_rate: None,
        initial_rate: None,
    });
    assert!(planner(&source, BatchTime(0)).unwrap().is_none());
}

#[test]
fn a_queue_gives_one_item_a_batch_by_the_number_of_the_batch_and_then_nothing() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("b.txt");
    fs::write(&file, "from\na file\n").unwrap();
    let lines = |lines: &[&str]| QueueItem::Lines(lines.iter().map(|&line| line.to_owned()).collect());
    let source = Source::Queue(vec![
        lines(&["a", "b", "c", "d", "e"]),
        QueueItem::File(text(&file)),
        lines(&[]),
        lines(&["with\na newline"]),
    ]);
    let mut planner = new_planner(&source);
    let mut allocate = |index| planner.allocate(&request(index, 2)).unwrap();

    let first = allocate(1);
    assert_eq!(read(&source, &first), [vec!["a", "b"], vec!["c", "d", "e"]]);
    assert_eq!((first.rows, first.exhausted), (Some(5), false));
    assert_eq!(first, allocate(1), "the same batch has the same item");
    assert_eq!(read(&source, &allocate(2)), [vec!["from", "a file"], vec![]]);
    assert_eq!(allocate(3).partitions, [vec![], vec![]]);
    let last = allocate(4);
    assert_eq!(read(&source, &last).concat(), ["with\na newline"]);
    assert!(last.exhausted);
    let after = allocate(5);
    assert_eq!((after.rows, after.exhausted), (Some(0), true));
    assert_eq!(after.partitions.len(), 2);
}

#[test]
fn a_queued_file_that_is_missing_is_an_error_that_names_it() {
    let source = Source::Queue(vec![QueueItem::File("/nowhere/a.txt".into())]);
    let error = new_planner(&source).allocate(&request(1, 1)).unwrap_err();
    assert!(error.to_string().contains("/nowhere/a.txt"), "{error}");
    assert_eq!(error.kind(), FailureKind::External);
}

#[test]
fn generated_lines_follow_the_rate_exactly_over_time() {
    // 2.5 lines a batch.
    let source = generate(25, "{index}");
    let mut planner = new_planner(&source);
    let mut indexes = Vec::new();
    for index in 1..=40 {
        let mut request = request(index, 3);
        request.interval = Duration::from_millis(100);
        let allocation = planner.allocate(&request).unwrap();
        let lines = read(&source, &allocation).concat();
        assert!((2..=3).contains(&lines.len()), "{lines:?}");
        assert_eq!(allocation.rows, Some(lines.len() as u64));
        assert!(!allocation.exhausted);
        indexes.extend(lines);
    }
    let expected: Vec<_> = (0..100).map(|index: u64| index.to_string()).collect();
    assert_eq!(indexes, expected);
}

#[test]
fn generated_lines_do_not_depend_on_the_number_of_partitions() {
    let source = generate(100, crate::TWEET_TEMPLATE);
    let lines = |partitions| {
        let allocation = new_planner(&source).allocate(&request(3, partitions)).unwrap();
        assert_eq!(allocation.partitions.len(), partitions as usize);
        read(&source, &allocation).concat()
    };
    assert_eq!(lines(1), lines(7));
}

#[test]
fn generated_lines_know_their_batch() {
    let source = generate(10, "{batch_time}");
    let options = ReadOptions {
        batch: BatchTime(7000),
        batch_rows: 2,
        ..ReadOptions::default()
    };
    let item = InputItem::Generate { from: 0, until: 3 };
    assert_eq!(read_all(open(&item, &source, &options).unwrap()).unwrap(), ["7000"; 3]);
    assert_eq!(options.counters.rows.load(Ordering::Relaxed), 3);
}

#[test]
fn a_wrong_template_is_found_when_the_planner_is_made() {
    let Err(error) = planner(&generate(1, "{hashtga}"), BatchTime(0)) else {
        panic!("the template is wrong");
    };
    assert_eq!(error.kind(), FailureKind::User);
    assert!(error.to_string().contains("did you mean {hashtag}?"), "{error}");
}

#[test]
fn an_item_that_belongs_to_another_source_is_refused() {
    let source = Source::Queue(Vec::new());
    let item = InputItem::Generate { from: 0, until: 1 };
    let Err(error) = open(&item, &source, &ReadOptions::default()) else {
        panic!("a queue generates nothing");
    };
    assert_eq!(error.kind(), FailureKind::Internal);
}

// === text_file ===

fn text_file(path: &str, batch_lines: Option<u64>) -> Source {
    Source::TextFile(TextFileSource {
        path: path.to_owned(),
        batch_lines,
    })
}

#[test]
fn a_whole_file_is_one_batch_and_nothing_comes_after_it() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("a.txt");
    fs::write(&path, "one\ntwo\nthree").unwrap();
    let source = text_file(&text(&path), None);
    let mut planner = new_planner(&source);
    let all = planner.allocate(&request(1, 2)).unwrap();
    assert_eq!(read(&source, &all).concat(), ["one", "two", "three"]);
    assert!(all.exhausted);
    let after = planner.allocate(&request(2, 2)).unwrap();
    assert_eq!(after.partitions, [vec![], vec![]]);
    assert!(after.exhausted);
}

#[test]
fn a_file_that_grows_after_its_allocation_is_read_as_it_was() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("a.txt");
    fs::write(&path, "one\n").unwrap();
    let source = text_file(&text(&path), None);
    let all = new_planner(&source).allocate(&request(1, 1)).unwrap();
    fs::write(&path, "one\ntwo\n").unwrap();
    assert_eq!(read(&source, &all).concat(), ["one"]);
}

#[test]
fn the_files_of_a_glob_are_read_in_the_order_of_their_names() {
    let dir = tempdir().unwrap();
    for (name, content) in [("b.txt", "b"), ("a.txt", "a\n"), (".hidden.txt", "no"), ("c.log", "no")] {
        fs::write(dir.path().join(name), content).unwrap();
    }
    fs::create_dir(dir.path().join("d.txt")).unwrap();
    let source = text_file(&text(&dir.path().join("*.txt")), None);
    let all = new_planner(&source).allocate(&request(1, 3)).unwrap();
    assert_eq!(read(&source, &all).concat(), ["a", "b"]);
    assert_eq!(
        all.description,
        format!("2 files of {}/*.txt, 3 B", dir.path().display())
    );
}

#[test]
fn a_large_file_is_divided_among_all_partitions_in_order() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("large.txt");
    let lines: Vec<_> = (0..50_000)
        .map(|i| format!("line {i:08} {}", "x".repeat(i % 120)))
        .collect();
    fs::write(&path, lines.join("\n")).unwrap();
    let source = text_file(&text(&path), None);
    let all = new_planner(&source).allocate(&request(1, 3)).unwrap();
    let partitions = read(&source, &all);
    assert!(partitions.iter().all(|lines| lines.len() > 10_000));
    assert_eq!(partitions.concat(), lines);
}

#[test]
fn batches_of_lines_go_on_over_the_ends_of_files_plain_and_compressed() {
    let dir = tempdir().unwrap();
    let write = |name: &str, content: &[u8]| fs::write(dir.path().join(name), content).unwrap();
    write("1.txt", b"a\r\nb\nc");
    write("2.txt", b"");
    let packed = zstd::stream::encode_all(&b"d\n\nf\ng\n"[..], 0).unwrap();
    write("3.txt.zst", &packed);
    write("4.txt", b"h\n");
    let source = text_file(&text(&dir.path().join("*")), Some(2));
    let mut planner = new_planner(&source);
    let mut batches = Vec::new();
    for index in 1.. {
        let allocation = planner.allocate(&request(index, 2)).unwrap();
        let lines = read(&source, &allocation).concat();
        assert_eq!(allocation.rows, Some(lines.len() as u64));
        batches.push(lines.join(","));
        if allocation.exhausted {
            break;
        }
    }
    assert_eq!(batches, ["a,b", "c,d", ",f", "g,h"]);
    let after = planner.allocate(&request(9, 2)).unwrap();
    assert_eq!((after.rows, after.exhausted), (Some(0), true));
}

#[test]
fn plain_files_are_allocated_by_bytes_so_that_no_task_reads_what_comes_before_its_batch() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("a.txt");
    fs::write(&path, "one\ntwo\nthree\nfour").unwrap();
    let mut planner = new_planner(&text_file(&text(&path), Some(2)));
    planner.allocate(&request(1, 1)).unwrap();
    let second = planner.allocate(&request(2, 1)).unwrap();
    let range = FileRange {
        path: text(&path),
        part: FilePart::Bytes { offset: 8, length: 10 },
    };
    assert_eq!(second.partitions, [vec![InputItem::File(range)]]);
    assert!(second.exhausted);
}

#[test]
fn a_batch_of_lines_that_ends_with_its_file_is_known_to_be_the_last() {
    let dir = tempdir().unwrap();
    for content in ["1\n2\n", "1\n2"] {
        let path = dir.path().join("a.txt");
        fs::write(&path, content).unwrap();
        let allocation = new_planner(&text_file(&text(&path), Some(2)))
            .allocate(&request(1, 1))
            .unwrap();
        assert_eq!((allocation.rows, allocation.exhausted), (Some(2), true), "{content:?}");
    }
}

#[test]
fn batches_of_lines_are_right_when_the_scan_crosses_its_chunks() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("a.txt");
    let lines: Vec<_> = (0..40_000).map(|i| format!("{i} {}", "y".repeat(i % 71))).collect();
    fs::write(&path, lines.join("\n")).unwrap();
    let source = text_file(&text(&path), Some(13_001));
    let mut planner = new_planner(&source);
    for (index, expected) in lines.chunks(13_001).enumerate() {
        let allocation = planner.allocate(&request(index as i64 + 1, 2)).unwrap();
        assert_eq!(read(&source, &allocation).concat(), expected);
        assert_eq!(allocation.exhausted, index == 3);
    }
}

#[test]
fn a_file_that_cannot_be_read_does_not_lose_what_was_found_before_it() {
    let dir = tempdir().unwrap();
    let (first, second) = (dir.path().join("1.txt"), dir.path().join("2.txt"));
    fs::write(&first, "a\n").unwrap();
    fs::write(&second, "b\n").unwrap();
    let source = text_file(&text(&dir.path().join("*.txt")), Some(2));
    let mut planner = new_planner(&source);
    fs::remove_file(&second).unwrap();
    let error = planner.allocate(&request(1, 1)).unwrap_err();
    assert!(error.to_string().contains("2.txt"), "{error}");
    fs::write(&second, "b\n").unwrap();
    let allocation = planner.allocate(&request(1, 1)).unwrap();
    assert_eq!(read(&source, &allocation).concat(), ["a", "b"]);
}

#[test]
fn paths_that_lead_nowhere_are_found_when_the_planner_is_made() {
    let dir = tempdir().unwrap();
    let fault = |path: &str| match planner(&text_file(path, None), BatchTime(0)) {
        Ok(_) => panic!("{path} is no input"),
        Err(error) => error,
    };
    assert!(matches!(fault("/nowhere/at/all.txt"), Error::OpenInput { .. }));
    assert!(matches!(fault(&text(dir.path())), Error::InputIsDirectory { .. }));
    assert!(matches!(
        fault(&text(&dir.path().join("*.txt"))),
        Error::NoInputMatches { .. }
    ));
    assert!(matches!(fault("/a***b"), Error::InvalidGlob { .. }));
}

// === positions ===

/// What the batches from `first` to the last have, one text each.
fn rest(planner: &mut dyn InputPlanner, source: &Source, first: i64) -> Vec<String> {
    let mut batches = Vec::new();
    for index in first..first + 100 {
        let allocation = planner.allocate(&request(index, 2)).unwrap();
        batches.push(read(source, &allocation).concat().join(","));
        if allocation.exhausted {
            break;
        }
    }
    batches
}

/// After every batch, a planner that goes on from the position of another gives what that one would have given.
fn goes_on_from_every_position(source: &Source) {
    let all = rest(&mut *new_planner(source), source, 1);
    let mut planner = new_planner(source);
    for index in 1..=i64::try_from(all.len()).unwrap() {
        planner.allocate(&request(index, 2)).unwrap();
        let mut later = new_planner(source);
        later.restore(&planner.position()).unwrap();
        assert_eq!(later.position(), planner.position(), "after batch {index}");
        let expected = match usize::try_from(index).unwrap() {
            // Nothing is left, which is said again.
            index if index == all.len() => vec![String::new()],
            index => all[index..].to_vec(),
        };
        assert_eq!(rest(&mut *later, source, index + 1), expected, "after batch {index}");
    }
}

#[test]
fn every_bounded_source_goes_on_behind_the_last_batch() {
    let dir = tempdir().unwrap();
    let write = |name: &str, content: &[u8]| fs::write(dir.path().join(name), content).unwrap();
    write("1.txt", b"a\r\nb\nc");
    write("2.txt", b"");
    write("3.txt.gz", &{
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, b"d\n\nf\ng\n").unwrap();
        encoder.finish().unwrap()
    });
    write("4.txt", b"h\n");
    let glob = text(&dir.path().join("*"));
    goes_on_from_every_position(&text_file(&glob, Some(1)));
    goes_on_from_every_position(&text_file(&glob, Some(2)));
    goes_on_from_every_position(&text_file(&glob, None));
    goes_on_from_every_position(&Source::TextFiles(tidemill_dstream::TextFilesSource {
        dir: text(dir.path()),
        new_files_only: false,
        remember: Duration::from_secs(60),
        files_per_batch: Some(1),
    }));
    let lines = |line: &str| QueueItem::Lines(vec![line.to_owned()]);
    goes_on_from_every_position(&Source::Queue(vec![lines("a"), lines("b"), lines("c")]));
}

#[test]
fn a_file_that_has_changed_before_its_position_is_not_gone_on_with() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("a.txt");
    fs::write(&path, "one\ntwo\nthree\n").unwrap();
    let source = text_file(&text(&path), Some(2));
    let mut planner = new_planner(&source);
    planner.allocate(&request(1, 1)).unwrap();
    let position = planner.position();
    fs::write(&path, "one\n2\nthree\n").unwrap();
    let error = new_planner(&source).restore(&position).unwrap_err();
    assert!(error.to_string().ends_with("a.txt has changed"), "{error}");
    let mut later = new_planner(&text_file(&text(&dir.path().join("*")), Some(2)));
    fs::remove_file(&path).unwrap();
    assert!(later.restore(&position).is_err(), "the file is opened");
}

#[test]
fn a_damaged_position_is_an_error() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("a.txt"), "one\ntwo\n").unwrap();
    let source = text_file(&text(&dir.path().join("a.txt")), Some(1));
    let mut planner = new_planner(&source);
    planner.allocate(&request(1, 1)).unwrap();
    let position = planner.position();
    for length in 0..position.len() {
        assert!(new_planner(&source).restore(&position[..length]).is_err(), "{length}");
    }
}

#[test]
fn positions_have_these_bytes_for_ever() {
    let written = position::Writer::new(2)
        .text("a")
        .number(4)
        .number(1)
        .text("b")
        .finish();
    let golden = [
        2, 1, 0, 0, 0, 0, 0, 0, 0, b'a', 4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, b'b',
    ];
    assert_eq!(written, golden);
}
