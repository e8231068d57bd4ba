//! Bytes that were changed where they lie.

use syntha_store::{ErrorKind, Keyspace, Note};

use super::attacker::drained;
use super::{Called, Filled, assert_refused, assert_tampered, checks, kind, open_forged, rewrite};
use crate::harness::Bed;

checks![sealed_changed_bytes, sealed_stripped, sealed_plaintext, sealed_note_changed];

const CALLED: [Called; 3] =
    [(Keyspace::Context, "expires", 0), (Keyspace::Context, "empty", 0), (Keyspace::History, "k", 1)];

/// Every way to change a blob: each of the parts that a blob has, each length up to them, and more.
fn changed(blob: &[u8]) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = Vec::new();
    let ends = [0, 1, 2, 5, 6, 17, 18, 29, 30, 31, 45, 46, 47, blob.len() / 2];
    let near = [64, 32, 17, 16, 15, 2, 1].map(|back| blob.len().saturating_sub(back));
    for end in ends.into_iter().chain(near) {
        all.push(blob[..end.min(blob.len())].to_vec());
    }
    for tail in [&[0][..], &[0x80], &[0; 16], &[0; 64], blob] {
        all.push([blob, tail].concat());
        all.push([tail, blob].concat());
    }
    // Version, algorithm, epoch, both halves of the salt, ciphertext, tag: one bit, and other values.
    let places = [
        0,
        1,
        2,
        3,
        4,
        5,
        6,
        17,
        18,
        29,
        30,
        31,
        blob.len() / 2,
        blob.len() - 17,
        blob.len() - 16,
        blob.len() - 1,
    ];
    for place in places {
        for bit in [0x01, 0x03] {
            let mut one = blob.to_vec();
            one[place] ^= bit;
            all.push(one);
        }
    }
    all.push(vec![0; blob.len()]);
    all.push(blob.iter().rev().copied().collect());
    all.retain(|one| one != blob);
    all
}

async fn sealed_changed_bytes(bed: Bed) {
    let filled = Filled::new(&bed, "a").await;
    for called in CALLED {
        let place = filled.place(called);
        let record = &filled.raw.records[&place];
        let (head, body) = (&record.head.head[..], &record.body[..]);
        for other in changed(head) {
            let raw = filled.raw.with(&place, &other, body);
            assert_tampered(&bed, filled.tag, raw, called, true, "a changed head").await;
        }
        if body.is_empty() {
            continue;
        }
        for other in changed(body) {
            let raw = filled.raw.with(&place, head, &other);
            assert_tampered(&bed, filled.tag, raw, called, false, "a changed body").await;
        }
    }
    // In the real store too, seen by a handle that was there before, and until it is as it was.
    let (user, below) = (bed.open("a").await, bed.below());
    let called = CALLED[2];
    let place = filled.place(called);
    let record = &filled.raw.records[&place];
    let (head, body) = (record.head.head.to_vec(), record.body.to_vec());
    let flip = |bytes: &[u8], place: usize| {
        let mut bytes = bytes.to_vec();
        bytes[place] ^= 1;
        bytes
    };
    for end in [31, head.len() - 1] {
        rewrite(&*below, filled.tag, &place, &filled.raw, &flip(&head, end), &body).await;
        assert_refused(&*user, called, true, "a changed head").await;
        rewrite(&*below, filled.tag, &place, &filled.raw, &head, &flip(&body, end.min(body.len() - 1))).await;
        assert_refused(&*user, called, false, "a changed body").await;
        assert_eq!(kind(drained(&*user).await), ErrorKind::Tampered);
    }
    rewrite(&*below, filled.tag, &place, &filled.raw, &head, &body).await;
    drained(&*user).await.unwrap();
}

async fn sealed_stripped(bed: Bed) {
    let filled = Filled::new(&bed, "a").await;
    for called in filled.called() {
        let place = filled.place(called);
        let record = &filled.raw.records[&place];
        let raw = filled.raw.with(&place, b"", &record.body);
        assert_tampered(&bed, filled.tag, raw, called, true, "no head").await;
        let raw = filled.raw.with(&place, b"", b"");
        assert_tampered(&bed, filled.tag, raw, called, true, "nothing").await;
        if record.body.is_empty() {
            let body = &filled.raw.records[&filled.place((Keyspace::Context, "lasts", 0))].body;
            for body in [body, &b"{}"[..]] {
                let raw = filled.raw.with(&place, &record.head.head, body);
                assert_tampered(&bed, filled.tag, raw, called, false, "a body where there is none").await;
            }
        } else {
            let raw = filled.raw.with(&place, &record.head.head, b"");
            assert_tampered(&bed, filled.tag, raw, called, false, "no body").await;
        }
    }
}

async fn sealed_plaintext(bed: Bed) {
    let filled = Filled::new(&bed, "a").await;
    let head = br#"{"v":1,"at":1,"up":1,"to":{"e":true,"a":[],"t":[]},"size":2}"#;
    for called in filled.called() {
        let place = filled.place(called);
        let record = &filled.raw.records[&place];
        let opened = filled.lens.open(place.0, record);
        let raw = filled.raw.with(&place, &opened.head, opened.body.as_deref().unwrap_or_default());
        assert_tampered(&bed, filled.tag, raw, called, true, "an opened record").await;
        let raw = filled.raw.with(&place, head, b"{}");
        assert_tampered(&bed, filled.tag, raw, called, true, "a readable record").await;
    }
    for called in filled.targets() {
        let place = filled.place(called);
        let record = &filled.raw.records[&place];
        for plain in [&b"{}"[..], b"1", head, &[0; 200], b"a-k-1"] {
            let raw = filled.raw.with(&place, &record.head.head, plain);
            assert_tampered(&bed, filled.tag, raw, called, false, "a readable body").await;
            for body in [&record.body[..], b"", plain] {
                let raw = filled.raw.with(&place, plain, body);
                assert_tampered(&bed, filled.tag, raw, called, true, "a readable head").await;
            }
        }
    }
}

async fn sealed_note_changed(bed: Bed) {
    let (filled, other) = (Filled::new(&bed, "a").await, Filled::new(&bed, "b").await);
    let note = filled.raw.state.note;
    open_forged(&bed, filled.tag, filled.raw.clone()).await.unwrap();
    let mut notes = changed(note.as_bytes());
    notes.retain(|note| note.len() <= 192);
    notes.extend([other.raw.state.note, filled.before.state.note].map(|note| note.as_bytes().to_vec()));
    for note in notes {
        let mut raw = filled.raw.clone();
        raw.state.note = Note::new(&note).unwrap();
        let opened = open_forged(&bed, filled.tag, raw).await;
        assert_eq!(kind(opened), ErrorKind::Tampered, "a note of {} bytes", note.len());
    }
}
