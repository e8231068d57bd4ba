//! Envelopes: bytes open if and only if they are what was sealed, under the binding and the algorithm that they were sealed with.

use std::sync::LazyLock;

use syntha_encryption::SecretKey;
use syntha_encryption::envelope::{
    self, Algorithm, Binding, Content, FrameBinding, Header, RecordBinding, WrapBinding,
};
use syntha_encryption::padding;
use syntha_store::{Incarnation, Timestamp, Version};

use crate::mutation;

const CONTENTS: &[&[u8]] =
    &[b"", b"{}", b"a value of some length, so that a change can be anywhere in it", &[0x80; 65]];

/// Every field of the first has neighbours that differ in it alone.
fn bindings() -> Vec<Binding<'static>> {
    let record = RecordBinding {
        deployment: &[1; 16],
        owner: &[2; 32],
        life: Incarnation(3),
        space: 2,
        name: b"name",
        seq: 4,
        version: Version(9),
        body_version: Version(8),
        expires: Some(Timestamp(1_700_000_000_000)),
        extra: b"",
    };
    let wrap = WrapBinding {
        provider: "provider",
        deployment: &[1; 16],
        owner: &[2; 32],
        what: "dek",
        life: Incarnation(3),
        key_epoch: 1,
        extra: b"",
    };
    let frame = FrameBinding { header: &[5; 32], counter: 0, last: false };
    vec![
        Binding::Head(record),
        Binding::Body(record),
        Binding::Note(record),
        Binding::Head(RecordBinding { deployment: &[6; 16], ..record }),
        Binding::Head(RecordBinding { owner: &[6; 32], ..record }),
        Binding::Head(RecordBinding { life: Incarnation(6), ..record }),
        Binding::Head(RecordBinding { space: 6, ..record }),
        Binding::Head(RecordBinding { name: b"nam", extra: b"e", ..record }),
        Binding::Head(RecordBinding { seq: 6, ..record }),
        Binding::Head(RecordBinding { version: Version(6), ..record }),
        Binding::Head(RecordBinding { body_version: Version(6), ..record }),
        Binding::Head(RecordBinding { expires: None, ..record }),
        Binding::Head(RecordBinding { extra: b"extra", ..record }),
        Binding::Wrap(wrap),
        Binding::Wrap(WrapBinding { what: "root", ..wrap }),
        Binding::Wrap(WrapBinding { key_epoch: 2, ..wrap }),
        Binding::Wrap(WrapBinding { extra: b"extra", ..wrap }),
        Binding::Frame(frame),
        Binding::Frame(FrameBinding { counter: 1, ..frame }),
        Binding::Frame(FrameBinding { last: true, ..frame }),
    ]
}

struct Blob {
    bytes: Vec<u8>,
    content: &'static [u8],
    padded: bool,
    binding: usize,
    algorithm: Algorithm,
}

struct World {
    key: SecretKey,
    bindings: Vec<Binding<'static>>,
    blobs: Vec<Blob>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let (key, bindings, mut blobs) = (SecretKey::from_bytes(&[7; 32]), bindings(), Vec::new());
    for (number, binding) in bindings.iter().enumerate() {
        for algorithm in [Algorithm::Record, Algorithm::Committing] {
            for (content, padded) in CONTENTS.iter().flat_map(|content| [(content, false), (content, true)]) {
                if !binding.allows(algorithm) {
                    continue;
                }
                // Each salt is used once.
                let mut salt = [0; 24];
                salt[0] = u8::try_from(blobs.len() % 256).expect("a byte");
                salt[1] = u8::try_from(blobs.len() / 256).expect("a byte");
                let pieces: [&[u8]; 1] = [content];
                let sealing = if padded { Content::Padded(&pieces) } else { Content::Plain(&pieces) };
                let sealed = envelope::seal_with_salt(&key, algorithm, 1, binding, salt, sealing);
                let bytes = sealed.expect("a blob");
                blobs.push(Blob { bytes, content, padded, binding: number, algorithm });
            }
        }
    }
    World { key, bindings, blobs }
});

/// Opens in both ways, and compares with what is right.
fn open(bytes: &[u8], binding: usize, algorithm: Algorithm) {
    let world = &*WORLD;
    let is_it = |blob: &&Blob| blob.bytes == bytes && blob.binding == binding && blob.algorithm == algorithm;
    let blob = world.blobs.iter().find(is_it);
    let opened = envelope::open(&world.key, algorithm, &world.bindings[binding], bytes);
    match (&opened, blob) {
        (Ok(opened), Some(blob)) if !blob.padded => assert_eq!(opened.as_slice(), blob.content),
        (Ok(_), Some(_)) | (Err(_), None) => {}
        (Ok(_), None) => panic!("what was not sealed so opens"),
        (Err(_), Some(_)) => panic!("what was sealed does not open"),
    }
    let opened = envelope::open_padded(&world.key, algorithm, &world.bindings[binding], bytes);
    match (&opened, blob) {
        (Ok(opened), Some(blob)) if blob.padded => assert_eq!(opened.as_slice(), blob.content),
        // A content may look as if it were padded.
        (Ok(_), Some(_)) | (Err(_), None) => {}
        (Ok(_), None) => panic!("what was not sealed so opens"),
        (Err(_), Some(blob)) => assert!(!blob.padded, "what was sealed padded does not open"),
    }
}

/// Opens the bytes as they are, and a valid blob that they change.
pub fn check(data: &[u8]) {
    let world = &*WORLD;
    let _ = Header::read(data);
    if let Ok(unpadded) = padding::unpad(data) {
        assert!(data.starts_with(unpadded) && data[unpadded.len()] == 0x80);
    }
    let Some((&[which, high, low], script)) = data.split_first_chunk() else { return };
    let algorithm = if which & 1 == 0 { Algorithm::Record } else { Algorithm::Committing };
    open(data, usize::from(which) % world.bindings.len(), algorithm);
    open(script, usize::from(high) % world.bindings.len(), algorithm);
    let blob = &world.blobs[usize::from(u16::from_be_bytes([high, low])) % world.blobs.len()];
    let others: Vec<_> = world.blobs.iter().map(|blob| blob.bytes.as_slice()).collect();
    let changed = mutation::apply(script, &blob.bytes, &others);
    open(&changed, blob.binding, blob.algorithm);
    open(&changed, usize::from(which >> 1) % world.bindings.len(), algorithm);
}

/// The golden vectors, valid blobs, and scripts that change nothing.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let vectors = include_str!("../../tests/envelope/vectors.json");
    let vectors: serde_json::Value = serde_json::from_str(vectors).expect("the golden vectors");
    let lists = ["sealed", "refused", "not_padded"].map(|list| &vectors[list]);
    let texts = lists.into_iter().filter_map(|list| list.as_array()).flatten();
    let hex = texts.filter_map(|vector| vector["sealed"].as_str().or_else(|| vector.as_str()));
    let golden = hex.filter_map(|hex| data_encoding::HEXLOWER.decode(hex.as_bytes()).ok());
    let blobs = WORLD.blobs.iter().zip(0_u16..).flat_map(|(blob, number)| {
        let [high, low] = number.to_be_bytes();
        let script = vec![u8::try_from(blob.binding).expect("a byte") << 1, high, low];
        let as_it_is = [&script[..], &blob.bytes].concat();
        [script, as_it_is]
    });
    golden.chain(blobs).collect()
}
