//! The keystore in wrong hands, and keys that are gone.

use std::sync::Arc;

use serde_json::Value;
use syntha_encryption::{
    EncryptedStore, Kek, KeyCache, KeyContext, Keychain, Keystore, LocalKek, Mode, SecretBytes, SecretKey,
    What,
};
use syntha_store::{CreateMode, ErrorKind, ImportMode, MemoryStore, RecordId, Store};

use super::attacker::{Forged, Raw, opened};
use super::lens::{self, Lens};
use super::{Filled, assert_tampered, checks, kind, named, open_forged, seq, spaces};
use crate::encrypted::KEK;
use crate::harness::Bed;
use crate::store::batch;

checks![
    sealed_wrong_key_changes_nothing,
    sealed_other_keystore_refused,
    sealed_key_of_another_user_refused,
    sealed_header_changed_refused,
    sealed_erase_destroys_keys,
    sealed_recreated_reads_nothing_of_before,
    sealed_import_destroys_former_keys,
    sealed_debug_shows_no_key,
];

fn kek() -> Kek {
    Kek::from_key(SecretKey::from_bytes(KEK))
}

async fn mode(bed: &Bed) -> Mode {
    lens::deployment_of(&lens::rows(&*bed.keys()).await).1
}

/// An empty keystore of its own.
async fn keystore() -> (Arc<dyn Store>, Keystore) {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new().unwrap());
    let keystore = Keystore::open(Arc::clone(&store)).await.unwrap();
    (store, keystore)
}

async fn sealed_wrong_key_changes_nothing(bed: Bed) {
    let filled = Filled::new(&bed, "a").await;
    bed.store().deployment().await.unwrap();
    let (mode, before) = (mode(&bed).await, lens::rows(&*bed.keys()).await);
    let deployment = Raw::of_deployment(&*bed.below()).await;
    for wrong in [
        Kek::from_key(SecretKey::from_bytes(b"b key of a test, which is no key")),
        Kek::passphrase(SecretBytes::new(KEK.to_vec())),
    ] {
        let open = async || Keystore::open(bed.keys()).await.unwrap();
        let opened = Keychain::open(open().await, &wrong, KeyCache::default()).await;
        assert_eq!(kind(opened), ErrorKind::KeyRefused);
        let key = syntha_store::DeploymentKey::from_bytes([7; 32]);
        let made = Keychain::create(open().await, &wrong, mode, &key, KeyCache::default()).await;
        assert_eq!(kind(made), ErrorKind::KeyRefused);
    }
    assert!(lens::rows(&*bed.keys()).await == before, "keys were written");
    let after = Raw::of_user(&*bed.below(), filled.tag).await;
    assert!(after.records == filled.raw.records && after.state == filled.raw.state, "data was written");
    assert!(Raw::of_deployment(&*bed.below()).await.state == deployment.state);
    opened(&*bed.open("a").await, &spaces(&bed)).await.unwrap();
}

async fn sealed_other_keystore_refused(bed: Bed) {
    let filled = Filled::new(&bed, "a").await;
    bed.store().deployment().await.unwrap();
    let (store, other) = keystore().await;
    let key = syntha_store::DeploymentKey::from_bytes([7; 32]);
    // The same wrapping key, and another deployment.
    let made = Keychain::create(other, &kek(), mode(&bed).await, &key, KeyCache::default()).await;
    let sealing = EncryptedStore::new(bed.below(), &made.unwrap()).unwrap();
    assert_eq!(kind(sealing.open(filled.tag).await), ErrorKind::KeyRefused);
    assert_eq!(kind(sealing.deployment().await), ErrorKind::KeyRefused);
    let own: Vec<_> = lens::rows(&*bed.keys()).await;
    let own: Vec<_> = own.into_iter().filter(|(id, _)| id.name() != "header").collect();
    lens::put_rows(&*store, &own).await;
    assert_eq!(kind(sealing.open(filled.tag).await), ErrorKind::Tampered);
    assert_eq!(kind(sealing.deployment().await), ErrorKind::Tampered);
    let after = Raw::of_user(&*bed.below(), filled.tag).await;
    assert!(after.records == filled.raw.records && after.state == filled.raw.state, "data was written");
}

async fn sealed_key_of_another_user_refused(mut bed: Bed) {
    let (a, b) = (Filled::new(&bed, "a").await, Filled::new(&bed, "b").await);
    let all = lens::rows(&*bed.keys()).await;
    let row = |of: &Filled, root: bool| {
        let own =
            |(id, _): &&(RecordId, Value)| id.name()[..] == *of.tag.as_bytes() && (id.seq() == 0) == root;
        all.iter().find(own).unwrap().clone()
    };
    let id = |of: &Filled, root: bool| row(of, root).0;
    // A's wrapped keys in the rows of B, alone and together, each said to be of B's life.
    let mut life = row(&a, false).1;
    life["life"] = row(&b, false).1["life"].clone();
    let root = row(&a, true).1;
    for rows in [
        vec![(id(&b, true), root.clone())],
        vec![(id(&b, false), life.clone())],
        vec![(id(&b, true), root), (id(&b, false), life)],
    ] {
        lens::put_rows(&*bed.keys(), &rows).await;
        bed.reopen().await;
        assert_eq!(kind(bed.store().open(b.tag).await), ErrorKind::Tampered);
        // Nor do they open A's data where B's is.
        assert_eq!(kind(open_forged(&bed, b.tag, a.raw.clone()).await), ErrorKind::KeyRefused);
        lens::put_rows(&*bed.keys(), &[row(&b, true), row(&b, false)]).await;
    }
    // A life's row under another life of the same user.
    let mut other = row(&b, false);
    other.1["life"] = format!("{:032x}", b.lens.life.0 ^ 1).into();
    lens::put_rows(&*bed.keys(), &[other]).await;
    bed.reopen().await;
    assert_eq!(kind(bed.store().open(b.tag).await), ErrorKind::Tampered);
    // Root and data key exchanged.
    let (mut first, mut second) = (row(&b, true), row(&b, false));
    std::mem::swap(&mut first.1["root"], &mut second.1["keys"][0]["key"]);
    lens::put_rows(&*bed.keys(), &[first, second]).await;
    bed.reopen().await;
    assert_eq!(kind(bed.store().open(b.tag).await), ErrorKind::Tampered);
    lens::put_rows(&*bed.keys(), &[row(&b, true), row(&b, false)]).await;
    bed.reopen().await;
    opened(&*bed.open("b").await, &spaces(&bed)).await.unwrap();
}

async fn sealed_header_changed_refused(bed: Bed) {
    bed.user("a").await;
    let (_, header) =
        lens::rows(&*bed.keys()).await.into_iter().find(|(id, _)| id.name() == "header").unwrap();
    let other_mode = if header["mode"] == "sealed" { "values" } else { "sealed" };
    let (store, keystore) = keystore().await;
    for (member, value) in [
        ("", Value::Null),
        ("mode", other_mode.into()),
        ("deployment", "0123456789abcdef0123456789abcdef".into()),
        ("check", header["deployment_key"].clone()),
        ("deployment_key", header["check"].clone()),
    ] {
        let mut changed = header.clone();
        if !member.is_empty() {
            changed[member] = value;
        }
        lens::put_rows(&*store, &[(seq("header", 0), changed)]).await;
        let opened = Keychain::open(keystore.clone(), &kek(), KeyCache::default()).await;
        match opened {
            Ok(_) => assert!(member.is_empty(), "{member}"),
            Err(error) => {
                assert_eq!((error.kind(), member.is_empty()), (ErrorKind::Tampered, false), "{member}")
            }
        }
    }
}

async fn sealed_erase_destroys_keys(mut bed: Bed) {
    let filled = Filled::new(&bed, "a").await;
    let stays = Filled::new(&bed, "b").await;
    let erased = bed.store().erase(filled.tag).await.unwrap();
    assert_eq!((erased.removed, erased.keys), (true, 2), "a root, and a life's keys");
    let rows = lens::rows(&*bed.keys()).await;
    assert!(!rows.iter().any(|(id, _)| id.name()[..] == *filled.tag.as_bytes()), "a row of keys is left");
    assert_eq!(bed.store().erase(filled.tag).await.unwrap().keys, 0);
    // A copy of all that was stored, in the hands of who has the wrapping key too.
    bed.reopen().await;
    assert_eq!(kind(open_forged(&bed, filled.tag, filled.raw.clone()).await), ErrorKind::KeyRefused);
    bed.store().create(filled.tag, batch(), CreateMode::Recreate).await.unwrap();
    assert_eq!(kind(open_forged(&bed, filled.tag, filled.raw.clone()).await), ErrorKind::KeyRefused);
    open_forged(&bed, stays.tag, stays.raw.clone()).await.unwrap();
    // Nothing of what wrapped them is left either, in a file or a row.
    for (name, bytes) in bed.files().await {
        for secret in &filled.lens.secrets {
            assert!(!bytes.windows(32).any(|window| window == secret.as_bytes()), "{name}");
        }
    }
}

async fn sealed_recreated_reads_nothing_of_before(bed: Bed) {
    let former = Filled::new(&bed, "a").await;
    bed.store().erase(former.tag).await.unwrap();
    let (user, _) = bed.store().create(former.tag, named(batch(), 1), CreateMode::Recreate).await.unwrap();
    // To the same version as the former life's, so that nothing but the life tells.
    user.commit(named(batch(), 1)).await.unwrap();
    user.commit(named(batch(), 1)).await.unwrap();
    let raw = Raw::of_user(&*bed.below(), former.tag).await;
    assert_eq!(raw.state.stamp.epoch.0, 3);
    let lens = Lens::of(&*bed.keys(), *former.tag.as_bytes(), raw.state.stamp.incarnation).await;
    assert!(lens.secrets[0].as_bytes() != former.lens.secrets[0].as_bytes(), "it has the root of before");
    assert!(lens.secrets[1].as_bytes() != former.lens.secrets[1].as_bytes(), "it has the key of before");
    for name in ["expires", "lasts", "again", "empty"] {
        let called = (syntha_store::Keyspace::Context, name, 0);
        let (old, new) = (former.place(called), lens.place(called.0, name, 0));
        let (old, own) = (&former.before.records[&old], &raw.records[&new]);
        assert_eq!(old.head.version, own.head.version);
        let forged = raw.with(&new, &old.head.head, &old.body);
        assert_tampered(&bed, former.tag, forged, called, true, "a former life's record").await;
        if !old.body.is_empty() {
            let forged = raw.with(&new, &own.head.head, &old.body);
            assert_tampered(&bed, former.tag, forged, called, false, "a former life's body").await;
        }
    }
    // All of the former life, and all but the state.
    assert_eq!(kind(open_forged(&bed, former.tag, former.raw.clone()).await), ErrorKind::KeyRefused);
    let mixed = Raw { state: raw.state, ..former.before.clone() };
    assert_eq!(kind(open_forged(&bed, former.tag, mixed).await), ErrorKind::Tampered);
}

async fn sealed_import_destroys_former_keys(mut bed: Bed) {
    let filled = Filled::new(&bed, "a").await;
    let mut snapshot = bed.open("a").await.snapshot().await.unwrap();
    bed.store().import(filled.tag, &mut *snapshot, ImportMode::Replace).await.unwrap();
    let lives = lens::rows(&*bed.keys()).await;
    let lives = lives.iter().filter(|(id, _)| id.name()[..] == *filled.tag.as_bytes() && id.seq() != 0);
    assert_eq!(lives.count(), 1, "the former life's keys are left");
    bed.reopen().await;
    assert_eq!(kind(open_forged(&bed, filled.tag, filled.raw.clone()).await), ErrorKind::KeyRefused);
    opened(&*bed.open("a").await, &spaces(&bed)).await.unwrap();
}

async fn sealed_debug_shows_no_key(bed: Bed) {
    let filled = Filled::new(&bed, "a").await;
    let keystore = Keystore::open(bed.keys()).await.unwrap();
    let keychain = Keychain::open(keystore.clone(), &kek(), KeyCache::default()).await.unwrap();
    let store = EncryptedStore::new(bed.below(), &keychain).unwrap();
    let user = store.open(filled.tag).await.unwrap();
    opened(&*user, &spaces(&bed)).await.unwrap();
    let snapshot_error =
        open_forged(&bed, filled.tag, Raw { state: filled.before.state, ..filled.raw.clone() }).await;
    let secret = SecretKey::from_bytes(KEK);
    let local = LocalKek::new(secret.clone()).unwrap();
    let deployment = filled.lens.deployment;
    let context = KeyContext { deployment, owner: [1; 32], what: What::Root, life: 1, epoch: 1 };
    let wrapped = lens::provider().await.wrap(&context, &SecretBytes::new(KEK.to_vec())).await.unwrap();
    let passphrase = Kek::passphrase(SecretBytes::new(KEK.to_vec()));
    let shown = [
        format!("{keychain:?} {keychain:#?}"),
        format!("{keystore:?} {keystore:#?}"),
        format!("{store:?} {store:#?} {user:?} {user:#?}"),
        format!("{:?} {:#?} {passphrase:?}", kek(), kek()),
        format!("{local:?} {:?} {wrapped:?}", lens::provider().await),
        format!("{:?}", kind(snapshot_error)),
        format!("{:?}", bed.over(Forged::user(filled.tag, filled.raw.clone()))),
    ];
    let key = keychain.deployment_key().as_bytes();
    let [root, data] = &filled.lens.secrets;
    for secret in [KEK, root.as_bytes(), data.as_bytes(), key] {
        let part = &secret[..8];
        let decimal: Vec<_> = part.iter().map(ToString::to_string).collect();
        let forms = [
            data_encoding::HEXLOWER.encode(part),
            data_encoding::HEXUPPER.encode(part),
            data_encoding::BASE64.encode(&secret[..6]),
            decimal.join(", "),
            decimal.join(",\n"),
            String::from_utf8_lossy(part).into_owned(),
            part.escape_ascii().to_string(),
        ];
        for text in &shown {
            let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(!forms.iter().any(|form| text.contains(form) || flat.contains(form)), "{text}");
        }
    }
    assert!(shown.iter().all(|text| !text.is_empty()));
}
