//! Wrapped keys: bytes unwrap if and only if they are what was wrapped, in the context that it was wrapped in.

use std::sync::LazyLock;

use syntha_encryption::{
    KekId, KeyContext, KeyProvider, LocalKek, PassphraseParameters, SecretBytes, SecretKey, What, Wrapped,
};

use crate::{mutation, now};

struct World {
    kek: LocalKek,
    contexts: Vec<KeyContext>,
    /// Of each context.
    wraps: Vec<Vec<u8>>,
}

const SECRET: [u8; 32] = [42; 32];

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let key: [u8; 32] = std::array::from_fn(|n| n as u8);
    let former: [u8; 32] = std::array::from_fn(|n| 255 - n as u8);
    let old = LocalKek::new(SecretKey::from_bytes(&former)).expect("a key");
    let kek = LocalKek::new(SecretKey::from_bytes(&key))
        .and_then(|kek| kek.formerly(SecretKey::from_bytes(&former)));
    let kek = kek.expect("a key");
    let first = KeyContext { deployment: [1; 16], owner: [2; 32], what: What::Dek, life: 3, epoch: 4 };
    let contexts = vec![
        first,
        KeyContext { deployment: [9; 16], ..first },
        KeyContext { owner: [9; 32], ..first },
        KeyContext { what: What::Root, ..first },
        KeyContext { what: What::Check, ..first },
        KeyContext { life: 9, ..first },
        KeyContext { epoch: 9, ..first },
        first,
    ];
    let wrap = |(number, context): (usize, &KeyContext)| {
        // The last is of the former key.
        let by = if number == 7 { &old } else { &kek };
        now(by.wrap(context, &SecretBytes::new(SECRET.to_vec())))
            .and_then(|wrap| wrap.encode())
            .expect("a wrap")
    };
    let wraps = contexts.iter().enumerate().map(wrap).collect();
    World { kek, contexts, wraps }
});

fn open(bytes: &[u8], context: usize) {
    let world = &*WORLD;
    let Ok(wrapped) = Wrapped::decode(bytes) else { return };
    assert_eq!(wrapped.encode().expect("what was decoded"), bytes, "two encodings of one wrap");
    let right = world
        .wraps
        .iter()
        .zip(&world.contexts)
        .any(|(wrap, of)| wrap == bytes && *of == world.contexts[context]);
    match now(world.kek.unwrap(&world.contexts[context], &wrapped)) {
        Ok(secret) => assert!(right && secret.as_bytes() == SECRET, "what was not wrapped so unwraps"),
        Err(_) => assert!(!right, "what was wrapped does not unwrap"),
    }
}

/// Decodes the bytes as they are, and unwraps them, a wrap that they change, and a blob that they are under the right key's id.
pub fn check(data: &[u8]) {
    let world = &*WORLD;
    open(data, 0);
    if let Some(bytes) = data.first_chunk::<{ PassphraseParameters::BYTES }>() {
        let parameters = PassphraseParameters::decode(bytes);
        let _ = parameters.check();
        assert_eq!(parameters.encode(), *bytes);
    }
    let Some((&[which, context], script)) = data.split_first_chunk() else { return };
    let wrap = &world.wraps[usize::from(which) % world.wraps.len()];
    let context = usize::from(context) % world.contexts.len();
    let others: Vec<_> = world.wraps.iter().map(Vec::as_slice).collect();
    open(&mutation::apply(script, wrap, &others), context);
    let kek: KekId = now(world.kek.current()).expect("an id");
    if let Ok(bytes) = (Wrapped { kek, blob: script.to_vec() }).encode() {
        open(&bytes, context);
    }
}

/// Wraps, in their own context and another, and parameters.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let numbers = 0..u8::try_from(WORLD.wraps.len()).expect("a byte");
    let scripts = numbers.flat_map(|number| [vec![number, number], vec![number, 0]]);
    let parameters = PassphraseParameters::generate().expect("a salt").encode().to_vec();
    // Whole ones would open in another process, which has made others.
    WORLD.wraps.iter().map(|wrap| mutation::broken(wrap)).chain(scripts).chain([parameters]).collect()
}
