//! Images: what is decoded says the same when it is encoded and decoded again.

use sha2::{Digest, Sha256};
use syntha_store::{Batch, CreateMode, DEPLOYMENT_OWNER, Image, Keyspace, RecordId, Timestamp};

const OWNER: [u8; 32] = [3; 32];

fn check_whole(bytes: &[u8], owner: &[u8; 32]) {
    let Ok(image) = Image::decode(bytes.to_vec(), owner) else { return };
    let encoded = image.encode(owner).expect("what was decoded can be encoded");
    let again = Image::decode(encoded.clone(), owner).expect("what was encoded can be decoded");
    assert!(image.state() == again.state(), "another row");
    assert!(image.records().eq(again.records()), "other records");
    assert_eq!(again.encode(owner).expect("once more"), encoded);
}

/// Decodes the bytes as they are, and with the right hash behind them.
pub fn check(data: &[u8]) {
    check_whole(data, &OWNER);
    check_whole(data, &DEPLOYMENT_OWNER);
    let hashed = [data, &Sha256::digest(data)[..]].concat();
    check_whole(&hashed, &OWNER);
    check_whole(&hashed, &DEPLOYMENT_OWNER);
}

/// Images, without their hash too.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut batch = Batch::new(Timestamp(5)).expect("a batch");
    for n in 0..9_u64 {
        let id = RecordId::new(format!("name-{n}"), n).expect("an id");
        batch = batch.put(Keyspace::Context, id, vec![1; 10], vec![2; 30]);
    }
    let made = Image::created(None, batch, CreateMode::New).expect("an image");
    let image = made.0.expect("an image").encode(&OWNER).expect("bytes");
    let bare = image[..image.len() - 32].to_vec();
    vec![image, bare]
}
