use std::fs;

use tidemill_types::Incarnation;

use super::*;
use crate::memory::MemoryLimits;
use crate::testing::{numbers, values};

const LIMIT: u64 = 1000;

fn budget() -> Arc<MemoryBudget> {
    MemoryBudget::new(MemoryLimits {
        blocks: LIMIT,
        shuffle: 0,
        map_outputs: 0,
    })
}

fn shelf(spill: Option<Arc<SpillDir>>) -> Shelf<u32> {
    Shelf::new(budget(), LIMIT, spill)
}

fn put(shelf: &Shelf<u32>, key: u32, rows: i64) {
    shelf.insert(key, MemoryKind::Blocks, vec![numbers(0..rows)]);
    shelf.relieve();
}

#[test]
fn the_oldest_entries_are_spilled_and_read_back() {
    let parent = tempfile::tempdir().unwrap();
    let spill = SpillDir::create(parent.path(), Incarnation(1), u64::MAX).unwrap();
    let shelf = shelf(Some(Arc::clone(&spill)));
    for key in 0..5 {
        put(&shelf, key, 50);
    }
    let spilled: Vec<_> = (0..5).map(|key| shelf.item(&key).unwrap().spilled).collect();
    assert_eq!(spilled, [true, true, true, false, false]);
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
    let handle = shelf.handle(&1).unwrap();
    assert!(shelf.remove(&1));
    assert_eq!(values(&handle.load().unwrap()).len(), 500);
}

#[test]
fn a_lost_file_removes_its_entry() {
    let parent = tempfile::tempdir().unwrap();
    let spill = SpillDir::create(parent.path(), Incarnation(1), u64::MAX).unwrap();
    let shelf = shelf(Some(Arc::clone(&spill)));
    put(&shelf, 1, 500);
    for file in fs::read_dir(spill.path()).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    assert!(matches!(shelf.get(&1), Err(crate::Error::SpillLost { .. })));
    assert!(!shelf.contains(&1));
    assert!(shelf.get(&1).unwrap().is_none());
}

#[test]
fn without_room_on_disk_entries_stay_in_memory_and_the_shelf_is_full() {
    let parent = tempfile::tempdir().unwrap();
    let spill = SpillDir::create(parent.path(), Incarnation(1), 1).unwrap();
    let shelf = shelf(Some(spill));
    put(&shelf, 1, 100);
    assert!(!shelf.is_full(), "the disk is empty yet");
    put(&shelf, 2, 100);
    assert!(!shelf.item(&2).unwrap().spilled);
    put(&shelf, 3, 100);
    assert!(shelf.is_full());
    assert_eq!(shelf.budget.used(MemoryKind::Blocks), 1600);
    assert!(shelf.get(&1).unwrap().is_some());
    // The oldest is in the file: without it there is room on disk again.
    shelf.remove(&1);
    assert!(!shelf.is_full());
}

#[tokio::test]
async fn a_waiter_goes_on_when_room_is_made() {
    let shelf = Arc::new(shelf(None));
    put(&shelf, 1, 100);
    put(&shelf, 2, 20);
    assert!(!shelf.is_full());
    let waiting = tokio::spawn({
        let shelf = Arc::clone(&shelf);
        async move { shelf.wait_for_room(100).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    shelf.remove(&1);
    waiting.await.unwrap();
}

#[tokio::test]
async fn something_larger_than_the_limit_fits_into_an_empty_shelf() {
    shelf(None).wait_for_room(LIMIT * 10).await;
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
    assert!(in_memory <= LIMIT);
    shelf.retain(|_| false);
    assert_eq!((shelf.budget.total(), spill.used()), (0, 0));
}
