use std::fs;

use tidemill_types::Incarnation;

use super::*;
use crate::memory::MemoryLimits;
use crate::testing::{numbers, values};

const LIMIT: u64 = 1000;

/// Keeps what it is told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<(u32, Gone)>>>);

impl Owner<u32> for Told {
    fn is_droppable(&self, _: &u32) -> bool {
        true
    }

    fn lost(&self, key: u32, why: Gone) {
        self.0.lock().push((key, why));
    }
}

fn shelf_of(spill: Option<Arc<SpillDir>>, told: &Told) -> Arc<Shelf<u32>> {
    let budget = MemoryBudget::new(MemoryLimits::without_floors(LIMIT));
    Shelf::new(budget, spill, 0, told.clone())
}

fn shelf(spill: Option<Arc<SpillDir>>) -> Arc<Shelf<u32>> {
    shelf_of(spill, &Told::default())
}

fn put(shelf: &Shelf<u32>, key: u32, rows: i64) {
    shelf.insert(key, MemoryKind::Blocks, vec![numbers(0..rows)]);
    shelf.budget.relieve();
}

fn put_at(shelf: &Shelf<u32>, key: u32, rows: i64, medium: Medium) {
    let mut draft = shelf.draft(MemoryKind::Datasets, medium);
    draft.push(numbers(0..rows)).unwrap();
    shelf.place(key, MemoryKind::Datasets, medium, draft.finish().unwrap());
    shelf.budget.relieve();
}

fn spilled(shelf: &Shelf<u32>, keys: std::ops::Range<u32>) -> Vec<bool> {
    keys.map(|key| shelf.item(&key).unwrap().spilled).collect()
}

#[test]
fn the_oldest_entries_are_spilled_and_read_back() {
    let parent = tempfile::tempdir().unwrap();
    let spill = SpillDir::create(parent.path(), Incarnation(1), u64::MAX).unwrap();
    let shelf = shelf(Some(Arc::clone(&spill)));
    for key in 0..5 {
        put(&shelf, key, 50);
    }
    assert_eq!(spilled(&shelf, 0..5), [true, true, true, false, false]);
    assert_eq!(shelf.budget.used(MemoryKind::Blocks), 800);
    for key in 0..5 {
        assert_eq!(values(&shelf.get(&key).unwrap().unwrap()).len(), 50);
    }
    shelf.retain(|_| false);
    assert_eq!((shelf.budget.total(), spill.used()), (0, 0));
    assert_eq!(fs::read_dir(spill.path()).unwrap().count(), 0);
}

#[test]
fn a_replaced_entry_counts_once() {
    let shelf = shelf(None);
    put(&shelf, 1, 50);
    put(&shelf, 1, 10);
    assert_eq!(shelf.budget.used(MemoryKind::Blocks), 80);
    assert_eq!(values(&shelf.get(&1).unwrap().unwrap()).len(), 10);
}

#[test]
fn an_entry_that_is_read_elsewhere_outlives_its_removal() {
    let parent = tempfile::tempdir().unwrap();
    let spill = SpillDir::create(parent.path(), Incarnation(1), u64::MAX).unwrap();
    let shelf = shelf(Some(spill));
    put(&shelf, 1, 500);
    assert!(shelf.item(&1).unwrap().spilled);
    let handle = shelf.open(&1).unwrap();
    assert!(shelf.remove(&1));
    let rows: Vec<_> = handle.rows().map(Result::unwrap).collect();
    assert_eq!(values(&rows).len(), 500);
}

#[test]
fn a_lost_file_removes_its_entry_and_is_told() {
    let parent = tempfile::tempdir().unwrap();
    let spill = SpillDir::create(parent.path(), Incarnation(1), u64::MAX).unwrap();
    let told = Told::default();
    let shelf = shelf_of(Some(Arc::clone(&spill)), &told);
    put(&shelf, 1, 500);
    for file in fs::read_dir(spill.path()).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    assert!(matches!(shelf.get(&1), Err(crate::Error::SpillLost { .. })));
    assert!(!shelf.contains(&1));
    assert!(shelf.get(&1).unwrap().is_none());
    assert_eq!((&*told.0.lock(), spill.lost()), (&vec![(1, Gone::FileLost)], 1));
}

#[test]
fn what_was_looked_at_or_is_due_goes_later() {
    let parent = tempfile::tempdir().unwrap();
    let spill = SpillDir::create(parent.path(), Incarnation(1), u64::MAX).unwrap();
    let shelf = shelf(Some(spill));
    for key in 0..4 {
        put(&shelf, key, 25);
    }
    let due = shelf.due(0).unwrap();
    assert!(shelf.get(&1).unwrap().is_some());
    put(&shelf, 4, 50);
    assert_eq!(spilled(&shelf, 0..5), [false, false, true, false, false]);
    put(&shelf, 5, 50);
    assert_eq!(spilled(&shelf, 0..6), [false, true, true, true, false, false]);
    drop(due);
    put(&shelf, 6, 25);
    assert!(shelf.item(&0).unwrap().spilled);
}

#[test]
fn what_is_being_read_stays_in_memory() {
    let parent = tempfile::tempdir().unwrap();
    let spill = SpillDir::create(parent.path(), Incarnation(1), u64::MAX).unwrap();
    let shelf = shelf(Some(spill));
    put(&shelf, 0, 100);
    let reading = shelf.open(&0).unwrap();
    put(&shelf, 1, 50);
    assert_eq!(spilled(&shelf, 0..2), [false, true]);
    drop(reading);
    put(&shelf, 2, 50);
    assert_eq!(spilled(&shelf, 0..3), [true, true, false]);
}

#[test]
fn what_is_read_from_a_file_is_in_memory_too_if_there_is_room_and_leaves_it_without_a_write() {
    let parent = tempfile::tempdir().unwrap();
    let spill = SpillDir::create(parent.path(), Incarnation(1), u64::MAX).unwrap();
    let shelf = shelf(Some(Arc::clone(&spill)));
    put(&shelf, 0, 100);
    put(&shelf, 1, 100);
    assert_eq!(spilled(&shelf, 0..2), [true, false]);
    assert!(shelf.get(&0).unwrap().is_some());
    assert!(shelf.item(&0).unwrap().spilled, "there is no room");
    shelf.remove(&1);
    assert!(shelf.get(&0).unwrap().is_some());
    assert!(!shelf.item(&0).unwrap().spilled);
    let written = spill.written();
    put(&shelf, 2, 100);
    assert_eq!(spilled(&shelf, 0..1), [true]);
    assert_eq!(spill.written(), written);
}

#[test]
fn a_medium_says_where_an_entry_may_be() {
    let parent = tempfile::tempdir().unwrap();
    let spill = SpillDir::create(parent.path(), Incarnation(1), u64::MAX).unwrap();
    let told = Told::default();
    let shelf = shelf_of(Some(Arc::clone(&spill)), &told);
    put_at(&shelf, 0, 10, Medium::Disk);
    assert_eq!((spilled(&shelf, 0..1), shelf.budget.total()), (vec![true], 0));
    assert_eq!(values(&shelf.get(&0).unwrap().unwrap()).len(), 10);
    assert!(shelf.item(&0).unwrap().spilled, "it stays there");

    put_at(&shelf, 1, 25, Medium::Memory);
    put(&shelf, 2, 110);
    assert!(!shelf.contains(&1), "it may not go to a file");
    assert_eq!(*told.0.lock(), [(1, Gone::Dropped)]);
    assert_eq!(shelf.budget.usage(MemoryKind::Datasets).dropped, 1);

    put_at(&shelf, 3, 12, Medium::Memory);
    let due = shelf.due(3);
    let shuffled = shelf.budget.charge(MemoryKind::Shuffle, LIMIT);
    shelf.budget.relieve();
    assert!(shelf.item(&3).unwrap().spilled, "somebody is about to read it");
    drop((due, shuffled));
}

#[test]
fn a_draft_that_outgrows_its_share_of_memory_goes_on_in_a_file() {
    let parent = tempfile::tempdir().unwrap();
    let spill = SpillDir::create(parent.path(), Incarnation(1), u64::MAX).unwrap();
    let shelf = shelf(Some(spill));
    let mut draft = shelf.draft(MemoryKind::Datasets, Medium::MemoryAndDisk);
    for part in 0..50 {
        draft.push(numbers(part * 10..part * 10 + 10)).unwrap();
        assert!(shelf.budget.total() <= LIMIT / 4);
    }
    shelf.place(7, MemoryKind::Datasets, Medium::MemoryAndDisk, draft.finish().unwrap());
    let item = shelf.item(&7).unwrap();
    assert_eq!((item.rows, item.bytes, item.spilled), (500, 4000, true));
    assert_eq!(values(&shelf.get(&7).unwrap().unwrap()), (0..500).collect::<Vec<_>>());
}

#[test]
fn a_draft_without_room_anywhere_says_who_has_it() {
    let parent = tempfile::tempdir().unwrap();
    let spill = SpillDir::create(parent.path(), Incarnation(1), 1).unwrap();
    let shelf = shelf(Some(Arc::clone(&spill)));
    put(&shelf, 0, 200);
    let shuffled = shelf.budget.charge(MemoryKind::Shuffle, LIMIT);
    let mut draft = shelf.draft(MemoryKind::Datasets, Medium::MemoryAndDisk);
    let error = draft.push(numbers(0..10)).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("80 bytes") && text.contains("shuffle 1000") && text.contains("storage.disk"),
        "{text}"
    );
    assert_eq!(error.kind(), tidemill_types::FailureKind::Resource);
    drop(shuffled);
}

#[test]
fn without_room_on_disk_entries_stay_in_memory_and_the_shelf_is_full() {
    let parent = tempfile::tempdir().unwrap();
    let spill = SpillDir::create(parent.path(), Incarnation(1), 1).unwrap();
    let shelf = shelf(Some(spill));
    put(&shelf, 1, 100);
    assert!(!shelf.is_full(MemoryKind::Blocks), "the disk is empty yet");
    put(&shelf, 2, 100);
    assert!(!shelf.item(&2).unwrap().spilled);
    put(&shelf, 3, 100);
    assert!(shelf.is_full(MemoryKind::Blocks));
    assert_eq!(shelf.budget.used(MemoryKind::Blocks), 1600);
    assert!(shelf.get(&1).unwrap().is_some());
    // The oldest is in the file: without it there is room on disk again.
    shelf.remove(&1);
    assert!(!shelf.is_full(MemoryKind::Blocks));
}

#[tokio::test]
async fn a_waiter_goes_on_when_room_is_made() {
    let shelf = shelf(None);
    put(&shelf, 1, 100);
    put(&shelf, 2, 20);
    assert!(!shelf.is_full(MemoryKind::Blocks));
    let waiting = tokio::spawn({
        let shelf = Arc::clone(&shelf);
        async move { shelf.wait_for_room(MemoryKind::Blocks, 100).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    shelf.remove(&1);
    waiting.await.unwrap();
}

#[tokio::test]
async fn something_larger_than_the_limit_fits_into_an_empty_shelf() {
    shelf(None).wait_for_room(MemoryKind::Blocks, LIMIT * 10).await;
}

#[test]
fn many_threads_put_spill_and_remove_without_losing_count() {
    let parent = tempfile::tempdir().unwrap();
    let spill = SpillDir::create(parent.path(), Incarnation(1), u64::MAX).unwrap();
    let shelf = shelf(Some(Arc::clone(&spill)));
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let shelf = &shelf;
            scope.spawn(move || {
                for i in 0..50_u32 {
                    let key = (i * 7 + thread) % 20;
                    put(shelf, key, 30);
                    shelf.get(&((key + 3) % 20)).unwrap();
                    shelf.remove(&((key + 5) % 20));
                }
            });
        }
    });
    let in_memory: u64 = shelf
        .items()
        .iter()
        .filter(|(_, item)| !item.spilled)
        .map(|(_, item)| item.bytes)
        .sum();
    assert_eq!(shelf.budget.used(MemoryKind::Blocks), in_memory);
    shelf.budget.relieve();
    assert!(shelf.budget.total() <= LIMIT);
    shelf.retain(|_| false);
    assert_eq!((shelf.budget.total(), spill.used()), (0, 0));
}
