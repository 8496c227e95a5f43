use std::fs;

use super::*;
use crate::testing::{numbers, values, wide_batch};

fn dir(parent: &Path) -> Arc<SpillDir> {
    SpillDir::create(parent, Incarnation(7), u64::MAX).unwrap()
}

#[test]
fn all_types_return_as_they_were() {
    let parent = tempfile::tempdir().unwrap();
    let batches = vec![wide_batch(1000).slice(10, 500), wide_batch(0), wide_batch(3)];
    let file = dir(parent.path())
        .write(MemoryKind::Blocks, &batches[0].schema(), &batches)
        .unwrap();
    let read = file.read().unwrap();
    assert_eq!(read, batches);
    assert!(Arc::ptr_eq(&read[0].schema(), file.schema()));
}

#[test]
fn a_batch_is_read_alone() {
    let parent = tempfile::tempdir().unwrap();
    let dir = dir(parent.path());
    let batches = vec![numbers(0..100), numbers(0..0), numbers(7..9)];
    let file = dir.write(MemoryKind::Blocks, &batches[0].schema(), &batches).unwrap();
    assert_eq!(file.batches(), 3);
    for (number, batch) in batches.iter().enumerate() {
        assert_eq!(file.read_batch(number).unwrap(), *batch);
    }
    assert!(matches!(file.read_batch(3), Err(Error::SpillLost { .. })));
    // Batches with dictionaries need what stands before them.
    let wide = vec![wide_batch(10), wide_batch(20)];
    let file = dir.write(MemoryKind::Blocks, &wide[0].schema(), &wide).unwrap();
    assert_eq!(file.read_batch(1).unwrap(), wide[1]);
}

#[test]
fn bytes_are_counted_by_kind_and_those_of_others_too() {
    let parent = tempfile::tempdir().unwrap();
    let dir = SpillDir::create(parent.path(), Incarnation(1), 1_000_000).unwrap();
    let batch = numbers(0..100);
    let file = dir
        .write(MemoryKind::State, &batch.schema(), std::slice::from_ref(&batch))
        .unwrap();
    assert_eq!(
        (dir.used_by(MemoryKind::State), dir.used_by(MemoryKind::Blocks)),
        (file.bytes(), 0)
    );
    assert_eq!(fs::metadata(&file.place.path).unwrap().len(), file.bytes());
    dir.share_with(|| 1_000_000);
    assert!(dir.is_full());
    assert_eq!(dir.used_by(MemoryKind::Tasks), 1_000_000);
    drop(dir.begin(MemoryKind::Blocks, &batch.schema()).err().unwrap());
    drop(file);
    assert_eq!(dir.used(), 1_000_000);
}

#[test]
fn a_file_that_is_given_up_leaves_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let dir = dir(parent.path());
    let mut writer = dir.begin(MemoryKind::Blocks, &numbers([]).schema()).unwrap();
    writer.push(&numbers(0..1000)).unwrap();
    assert!(dir.used() > 0);
    drop(writer);
    assert_eq!((dir.used(), fs::read_dir(dir.path()).unwrap().count()), (0, 0));
}

#[test]
fn a_batch_without_columns_keeps_its_rows() {
    let parent = tempfile::tempdir().unwrap();
    let options = RecordBatchOptions::new().with_row_count(Some(42));
    let schema = Arc::new(arrow::datatypes::Schema::empty());
    let batch = RecordBatch::try_new_with_options(Arc::clone(&schema), vec![], &options).unwrap();
    let file = dir(parent.path()).write(MemoryKind::Blocks, &schema, &[batch]).unwrap();
    assert_eq!(file.read().unwrap()[0].num_rows(), 42);
}

#[test]
fn a_damaged_cut_or_missing_file_is_lost() {
    let parent = tempfile::tempdir().unwrap();
    let batch = numbers(0..100);
    let file = dir(parent.path())
        .write(MemoryKind::Blocks, &batch.schema(), &[batch])
        .unwrap();
    let good = fs::read(&file.place.path).unwrap();

    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for bad in [&flipped[..], &good[..good.len() - 1], b""] {
        fs::write(&file.place.path, bad).unwrap();
        assert!(matches!(file.read(), Err(Error::SpillLost { .. })));
        assert!(matches!(file.read_batch(0), Err(Error::SpillLost { .. })));
    }
    assert_eq!(file.place.dir.lost(), 6);
    fs::remove_file(&file.place.path).unwrap();
    assert!(matches!(file.read(), Err(Error::SpillLost { .. })));
    fs::write(&file.place.path, &good).unwrap();
    assert_eq!(values(&file.read().unwrap()), (0..100).collect::<Vec<_>>());
}

#[test]
fn files_and_directory_go_with_their_owners() {
    let parent = tempfile::tempdir().unwrap();
    let dir = dir(parent.path());
    let batch = numbers(0..100);
    let file = dir.write(MemoryKind::Blocks, &batch.schema(), &[batch]).unwrap();
    assert_eq!(dir.used(), file.bytes());
    let path = file.place.path.clone();
    drop(file);
    assert!(!path.exists());
    assert_eq!(dir.used(), 0);
    assert!(dir.written() > 0);
    drop(dir);
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
}

#[test]
fn a_full_directory_refuses() {
    let parent = tempfile::tempdir().unwrap();
    let dir = SpillDir::create(parent.path(), Incarnation(1), 10).unwrap();
    let batch = numbers(0..100);
    let first = dir
        .write(MemoryKind::Blocks, &batch.schema(), std::slice::from_ref(&batch))
        .unwrap();
    assert!(dir.is_full());
    assert!(matches!(
        dir.write(MemoryKind::Blocks, &batch.schema(), std::slice::from_ref(&batch)),
        Err(Error::SpillFull { limit: 10 })
    ));
    drop(first);
    assert!(dir.write(MemoryKind::Blocks, &batch.schema(), &[batch]).is_ok());
}

#[test]
fn an_abandoned_directory_is_removed_and_a_live_one_is_not() {
    let parent = tempfile::tempdir().unwrap();
    let live = SpillDir::create(parent.path(), Incarnation(1), u64::MAX).unwrap();
    let abandoned = parent.path().join("spill-00000000000000ff");
    fs::create_dir(&abandoned).unwrap();
    fs::write(abandoned.join("0.arrow"), "rest").unwrap();
    fs::write(parent.path().join("spill-00000000000000ff.lock"), "").unwrap();
    fs::create_dir(parent.path().join("unrelated")).unwrap();

    let _second = SpillDir::create(parent.path(), Incarnation(2), u64::MAX).unwrap();
    assert!(!abandoned.exists());
    assert!(live.path().exists());
    assert!(parent.path().join("unrelated").exists());
}

#[test]
fn a_parent_that_cannot_be_made_is_an_error() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(
        SpillDir::create(&file.join("below"), Incarnation(1), 1),
        Err(Error::SpillFailed { .. })
    ));
}
