use tidemill_types::{ExecutorId, Incarnation, ReceiverId};

use super::*;
use crate::memory::MemoryLimits;
use crate::testing::{numbers, values};

fn store(limit: u64, spill: Option<Arc<SpillDir>>) -> BlockStore {
    BlockStore::new(BlockStoreOptions {
        budget: MemoryBudget::new(MemoryLimits::without_floors(limit)),
        spill,
        lost: Arc::new(|what, why| panic!("{what:?} is gone: {why:?}")),
    })
}

fn block(job: u32, sequence: u64) -> BlockId {
    BlockId {
        job: JobId(job),
        receiver: ReceiverId(0),
        executor: ExecutorId(1),
        session: 0,
        sequence,
    }
}

fn dataset(job: u32, batch: i64) -> DatasetKey {
    DatasetKey {
        job: JobId(job),
        dataset: DatasetId(0),
        batch: BatchTime(batch),
        partition: 3,
    }
}

#[test]
fn what_is_put_is_there_with_its_size() {
    let store = store(u64::MAX, None);
    let stored = store.put_block(block(1, 0), vec![numbers(0..10), numbers(10..15)]);
    assert_eq!(stored, Stored { rows: 15, bytes: 120 });
    assert_eq!(store.block_size(block(1, 0)), Some(stored));
    assert_eq!(
        values(&store.block(block(1, 0)).unwrap().unwrap()),
        (0..15).collect::<Vec<_>>()
    );
    assert!(store.block(block(1, 1)).unwrap().is_none());
}

#[test]
fn a_block_cut_into_slices_counts_its_rows_once() {
    let store = store(u64::MAX, None);
    let whole = numbers(0..1000);
    let slices = (0..10).map(|i| whole.slice(i * 100, 100)).collect();
    assert_eq!(store.put_block(block(1, 0), slices).bytes, 8000);
}

#[test]
fn datasets_are_forgotten_by_time_and_blocks_by_id() {
    let store = store(u64::MAX, None);
    for batch in [1000, 2000, 3000] {
        store.put_dataset(dataset(1, batch), vec![numbers(0..1)]).unwrap();
        store.put_dataset(dataset(2, batch), vec![numbers(0..1)]).unwrap();
    }
    for sequence in 0..3 {
        store.put_block(block(1, sequence), vec![numbers(0..1)]);
    }
    assert_eq!(store.forget_datasets_before(JobId(1), BatchTime(3000)), 2);
    assert!(!store.has_dataset(dataset(1, 2000)));
    assert!(store.has_dataset(dataset(1, 3000)) && store.has_dataset(dataset(2, 1000)));

    assert_eq!(store.forget_blocks(&[block(1, 0), block(1, 9)]), 1);
    assert_eq!(store.forget_blocks(&[block(1, 1)]), 1);
    assert_eq!(store.forget_dataset(JobId(1), DatasetId(1), BatchTime(9000)), 0);
    assert_eq!(store.forget_dataset(JobId(1), DatasetId(0), BatchTime(9000)), 1);
    let inventory = store.inventory();
    assert_eq!(
        inventory.blocks.iter().map(|(id, _)| id.sequence).collect::<Vec<_>>(),
        [2]
    );
    assert_eq!(inventory.datasets.len(), 3);

    assert_eq!(store.forget_job(JobId(2)), 3);
    store.clear();
    assert_eq!(store.inventory(), Inventory::default());
}

#[test]
fn datasets_do_not_hold_the_text_that_they_were_made_of() {
    let store = store(u64::MAX, None);
    let text = crate::testing::wide_batch(10_000).slice(500, 5);
    let stored = store.put_dataset(dataset(1, 1000), vec![text.clone()]).unwrap();
    assert!(stored.bytes < 10_000, "{} bytes for 5 rows", stored.bytes);
    assert_eq!(store.dataset(dataset(1, 1000)).unwrap().unwrap()[0], text);
}

#[test]
fn an_empty_partition_is_there_and_survives_memory_pressure() {
    let parent = tempfile::tempdir().unwrap();
    let store = store(
        8,
        Some(SpillDir::create(parent.path(), Incarnation(1), u64::MAX).unwrap()),
    );
    store.put_dataset(dataset(1, 1000), vec![]).unwrap();
    store.put_block(block(1, 0), vec![numbers(0..100)]);
    assert_eq!(store.dataset(dataset(1, 1000)).unwrap().unwrap().len(), 0);
    let inventory = store.inventory();
    assert_eq!((inventory.memory_bytes, inventory.spilled_bytes), (0, 800));
    assert_eq!(values(&store.block(block(1, 0)).unwrap().unwrap()).len(), 100);
}

#[tokio::test]
async fn receivers_wait_while_the_store_is_full() {
    let store = Arc::new(store(100, None));
    store.put_block(block(1, 0), vec![numbers(0..20)]);
    assert!(store.is_full());
    let receiver = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            store.wait_for_room(50).await;
            store.put_block(block(1, 1), vec![numbers(0..5)])
        }
    });
    tokio::task::yield_now().await;
    assert!(!receiver.is_finished());
    store.forget_blocks(&[block(1, 0)]);
    receiver.await.unwrap();
    assert!(!store.is_full());
}

#[test]
fn only_what_no_unfinished_batch_has_made_is_let_go_of() {
    let parent = tempfile::tempdir().unwrap();
    let lost = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&lost);
    let store = BlockStore::new(BlockStoreOptions {
        budget: MemoryBudget::new(MemoryLimits::without_floors(1000)),
        spill: Some(SpillDir::create(parent.path(), Incarnation(1), u64::MAX).unwrap()),
        lost: Arc::new(move |what, why| told.lock().push((what, why))),
    });
    store.set_oldest(JobId(1), BatchTime(2000));
    for batch in [1000, 2000] {
        let mut writer = store.write_dataset(dataset(1, batch), Medium::Memory);
        writer.push(numbers(0..20)).unwrap();
        writer.finish().unwrap();
    }
    store.put_block(block(1, 0), vec![numbers(0..120)]);
    assert_eq!(*lost.lock(), [(Stowed::Dataset(dataset(1, 1000)), Gone::Dropped)]);
    assert!(store.dataset(dataset(1, 1000)).unwrap().is_none());
    assert_eq!(store.dataset(dataset(1, 2000)).unwrap().unwrap().len(), 1);
}

#[test]
fn a_dataset_that_has_room_nowhere_is_refused() {
    let store = store(100, None);
    let mut writer = store.write_dataset(dataset(1, 1000), Medium::MemoryAndDisk);
    assert!(matches!(writer.push(numbers(0..20)), Err(Error::Full { .. })));
    assert_eq!(store.memory_bytes(), 0);
}
