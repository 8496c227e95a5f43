use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use tidemill_types::{BroadcastId, JobId};

use super::*;
use crate::memory::{MemoryBudget, MemoryKind, MemoryLimits};

fn budget() -> Arc<MemoryBudget> {
    MemoryBudget::new(MemoryLimits::without_floors(1 << 30))
}

fn value(bytes: usize) -> Bytes {
    (0..bytes).map(|i| (i % 251) as u8).collect::<Vec<u8>>().into()
}

fn cut(value: &Bytes, manifest: &Manifest, piece: u32, part: usize) -> Vec<Bytes> {
    let piece = value.slice(manifest.range(piece));
    (0..piece.len())
        .step_by(part)
        .map(|at| piece.slice(at..(at + part).min(piece.len())))
        .collect()
}

#[test]
fn a_manifest_has_a_checksum_for_each_piece_and_the_last_is_shorter() {
    let manifest = Manifest::of(&value(2 * PIECE_BYTES + 5));
    assert_eq!(manifest.pieces(), 3);
    assert_eq!(manifest.range(2), 2 * PIECE_BYTES..2 * PIECE_BYTES + 5);
    assert!(manifest.range(3).is_empty());
    assert_eq!(
        Manifest::checked(manifest.bytes, manifest.checksums.clone()),
        Some(manifest.clone())
    );
    assert_eq!(Manifest::checked(manifest.bytes, vec![1]), None);
    assert!(manifest.is_piece(2, &value(2 * PIECE_BYTES + 5)[2 * PIECE_BYTES..]));
    assert!(!manifest.is_piece(2, &[0; 5]));
}

#[test]
fn a_value_without_bytes_is_whole_at_once() {
    let assembly = Assembly::new(Manifest::of(&[]), &budget());
    assert_eq!(assembly.whole().map(|whole| whole.len()), Some(0));
    assert!(assembly.piece(0).is_none());
}

#[test]
fn a_damaged_piece_is_not_taken_and_the_right_one_is_then() {
    let whole = value(PIECE_BYTES + 100);
    let manifest = Manifest::of(&whole);
    let assembly = Assembly::new(manifest.clone(), &budget());
    let mut bad = whole[PIECE_BYTES..].to_vec();
    bad[3] ^= 1;
    assert_eq!(assembly.store(1, &[bad.into()]), Stored::Corrupt);
    assert_eq!(
        assembly.store(1, &[whole.slice(PIECE_BYTES..PIECE_BYTES + 99)]),
        Stored::Corrupt
    );
    assert_eq!(assembly.store(7, &[whole.slice(0..1)]), Stored::Corrupt);
    assert!(assembly.piece(1).is_none());
    assert_eq!(assembly.store(1, &cut(&whole, &manifest, 1, 7)), Stored::Partial);
    assert_eq!(assembly.store(1, &cut(&whole, &manifest, 1, 7)), Stored::Known);
    assert_eq!(assembly.have(), [1]);
    assert!(assembly.whole().is_none());
    assert_eq!(assembly.store(0, &cut(&whole, &manifest, 0, 1 << 16)), Stored::Whole);
    assert_eq!(assembly.whole().unwrap().as_slice(), &whole[..]);
}

#[test]
fn memory_is_charged_until_the_last_user_lets_go() {
    let whole = value(1000);
    let budget = budget();
    let store = PieceStore::new(Arc::clone(&budget));
    let key = VersionKey {
        job: JobId(1),
        broadcast: BroadcastId(0),
        version: 1,
    };
    let assembly = store.begin(key, &Manifest::of(&whole));
    assert_eq!(assembly.store(0, std::slice::from_ref(&whole)), Stored::Whole);
    assert!(Arc::ptr_eq(&assembly, &store.begin(key, &Manifest::of(&whole))));
    let used = assembly.whole();
    let sent = store.give(key, 0).unwrap();
    drop(assembly);
    store.drop_versions(|version| version.job == JobId(1));
    assert!(store.give(key, 0).is_none());
    assert_eq!(budget.used(MemoryKind::Broadcasts), 1000);
    drop(used);
    assert_eq!(sent.parts(600).map(|part| part.len()).collect::<Vec<_>>(), [600, 400]);
    drop(sent);
    assert_eq!(budget.used(MemoryKind::Broadcasts), 0);
    assert_eq!(store.counts().sent, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn pieces_make_the_value_in_any_order(
        bytes in 1..(3 * PIECE_BYTES),
        order in Just([0_u32, 1, 2]).prop_shuffle(),
        part in 1000..PIECE_BYTES,
    ) {
        let whole = value(bytes);
        let manifest = Manifest::of(&whole);
        let assembly = Assembly::new(manifest.clone(), &budget());
        for piece in order.into_iter().filter(|piece| *piece < manifest.pieces()) {
            prop_assert!(assembly.piece(piece).is_none());
            prop_assert!(assembly.store(piece, &cut(&whole, &manifest, piece, part)) != Stored::Corrupt);
            let given = assembly.piece(piece).unwrap();
            let given: Vec<u8> = given.parts(part).flatten().collect();
            prop_assert_eq!(&given[..], &whole[manifest.range(piece)]);
        }
        let together = assembly.whole().unwrap();
        prop_assert_eq!(together.as_slice(), &whole[..]);
    }
}
