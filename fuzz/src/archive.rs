//! Archives: what is read to its end says the same when it is written and read again.

use sha2::{Digest, Sha256};
use syntha_store::archive::{MAGIC, Reader, write};
use syntha_store::{Snapshot, StoredRecord, UserState};

use crate::now;

fn read(bytes: &[u8]) -> Option<(UserState, Vec<StoredRecord>)> {
    let mut reader = Reader::open(bytes).ok()?;
    let mut records = Vec::new();
    while let Some(chunk) = now(reader.next()).ok()? {
        records.extend(chunk);
    }
    Some((reader.state(), records))
}

fn check_whole(bytes: &[u8]) {
    let Some((state, records)) = read(bytes) else { return };
    let mut reader = Reader::open(bytes).expect("it did a moment ago");
    let mut again = Vec::new();
    now(write(&mut reader, &mut again)).expect("what is read can be written");
    let (state_again, records_again) = read(&again).expect("what was written can be read");
    assert!(state == state_again, "another row");
    assert!(records == records_again, "other records");
}

/// Reads the bytes as they are, and as frames with right hashes: steps of a kind, a length (2) and a payload.
pub fn check(data: &[u8]) {
    check_whole(data);
    let mut archive = MAGIC.to_vec();
    let mut hash: [u8; 32] = Sha256::digest(MAGIC).into();
    let (mut rest, mut counter) = (data, 0_u64);
    while let Some((&[kind, high, low], after)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([high, low])).min(after.len());
        let (payload, after) = after.split_at(length);
        let mut digest = Sha256::new();
        digest.update(hash);
        digest.update([kind]);
        digest.update(counter.to_be_bytes());
        digest.update((length as u64).to_be_bytes());
        digest.update(payload);
        hash = digest.finalize().into();
        archive.push(kind);
        archive.extend_from_slice(&u32::try_from(length).expect("two bytes of length").to_be_bytes());
        archive.extend_from_slice(payload);
        archive.extend_from_slice(&hash);
        (rest, counter) = (after, counter + 1);
    }
    check_whole(&archive);
}

/// Archives of every format, and their frames.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let archives: [&[u8]; 3] = [
        include_bytes!("../../tests/formats/archive-1.syntha"),
        include_bytes!("../../tests/formats/archive-1-of-sqlite-2.syntha"),
        include_bytes!("../../tests/formats/archive-2.syntha"),
    ];
    let frames = |archive: &[u8]| {
        let (mut steps, mut rest) = (Vec::new(), &archive[MAGIC.len()..]);
        while let Some((&[kind, a, b, c, d], after)) = rest.split_first_chunk() {
            let length = u32::from_be_bytes([a, b, c, d]);
            let (payload, after) = after.split_at(usize::try_from(length).expect("a length"));
            steps.push(kind);
            steps.extend_from_slice(&u16::try_from(length).expect("short frames").to_be_bytes());
            steps.extend_from_slice(payload);
            rest = &after[32..];
        }
        steps
    };
    archives.into_iter().flat_map(|archive| [archive.to_vec(), frames(archive)]).collect()
}
