//! The layer over a store that keeps an audit trail: what goes through it as it is, what it seals of the trail's details, and how long
//! they open.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::sync::Arc;

use bytes::Bytes;
use syntha_audit::AuditedStore;
use syntha_audit::link::{Kind, Link, StoredLink, Trace};
use syntha_encryption::envelope::Algorithm;
use syntha_encryption::padding::padded_len;
use syntha_encryption::{EncryptedStore, Kek, KeyCache, Keychain, Keystore, Mode, Owner, SecretKey};
use syntha_store::{
    Action, Batch, CreateMode, DeploymentKey, ErrorKind, Event, Events, ImportMode, Keyspace, MemoryStore,
    RecordId, Scan, Store, Timestamp, UserId, UserStore, UserTag, archive,
};

const MODES: [Mode; 2] = [Mode::Sealed, Mode::Values];

struct Site {
    bare: Arc<MemoryStore>,
    keys: Arc<MemoryStore>,
    keychain: Keychain,
    store: Arc<EncryptedStore<AuditedStore<MemoryStore>>>,
}

fn kek() -> Kek {
    Kek::from_key(SecretKey::from_bytes(b"a key of a test, which is no key"))
}

impl Site {
    async fn new(mode: Mode) -> Self {
        let key = || DeploymentKey::from_bytes([7; 32]);
        let bare = Arc::new(MemoryStore::with_key(key()).unwrap());
        let keys = Arc::new(MemoryStore::with_key(key()).unwrap());
        let keystore = Keystore::open(Arc::clone(&keys) as _).await.unwrap();
        let keychain = Keychain::create(keystore, &kek(), mode, &key(), KeyCache::default()).await.unwrap();
        let audited = AuditedStore::new(Arc::clone(&bare), key().fingerprint()).unwrap();
        let store = Arc::new(EncryptedStore::new(Arc::new(audited), &keychain).unwrap());
        Self { bare, keys, keychain, store }
    }

    fn tag(&self, user: &str) -> UserTag {
        self.bare.deployment_key().tag(&UserId::new(user).unwrap())
    }

    /// A user with some records and the events of their writes.
    async fn user(&self, user: &str) -> Arc<dyn UserStore> {
        let first = put("first", "1").events(events(0));
        let (handle, _) = self.store.create(self.tag(user), first, CreateMode::New).await.unwrap();
        for n in 1..5 {
            handle.commit(put(&format!("k{n}"), "value").events(events(n))).await.unwrap();
        }
        handle.commit(batch().events(events(5))).await.unwrap();
        handle
    }

    async fn links(&self, user: &str) -> Vec<(Link, Option<Bytes>)> {
        links(&*self.bare.open(self.tag(user)).await.unwrap()).await
    }

    /// Opens the details of the first links as a process that has just begun does.
    async fn assert_open(&self, user: &str) {
        let keystore = Keystore::open(Arc::clone(&self.keys) as _).await.unwrap();
        let other = Keychain::open(keystore, &kek(), KeyCache::default()).await.unwrap();
        let links = self.links(user).await;
        for (n, (link, details)) in links.iter().take(6).enumerate() {
            assert_eq!(link.events, 1);
            for keychain in [&self.keychain, &other] {
                let owner = Owner::User(self.tag(user));
                let opened = keychain.open_details(owner, details.as_ref().unwrap()).await.unwrap();
                assert_eq!(Events::Clear(opened), events(n));
            }
        }
    }
}

async fn links(bare: &dyn UserStore) -> Vec<(Link, Option<Bytes>)> {
    let page = bare.scan(Scan::records(Keyspace::Audit, 1_000).name(Bytes::new())).await.unwrap().value;
    assert!(!page.more);
    let link = |body: Option<Bytes>| {
        let stored = StoredLink::decode(&body.unwrap()).unwrap();
        (Link::decode(&stored.text).unwrap(), stored.details.map(|(_, details)| details))
    };
    page.records.into_iter().map(|(_, body)| link(body)).collect()
}

fn batch() -> Batch {
    Batch::new(Timestamp(10)).unwrap()
}

fn put(name: &str, body: &str) -> Batch {
    let id = RecordId::new(Bytes::copy_from_slice(name.as_bytes()), 0).unwrap();
    batch().put(Keyspace::Context, id, &b"head"[..], Bytes::copy_from_slice(body.as_bytes()))
}

fn events(n: usize) -> Events {
    let event = Event::new(Timestamp(10), Action::Push).by(Some("an-agent".into()));
    Events::Clear(vec![event.on(format!("a-key-{n}").into())])
}

#[tokio::test]
async fn details_open_after_a_rotation_a_rewrap_and_a_restore() {
    for mode in MODES {
        let site = Site::new(mode).await;
        let user = site.user("a").await;
        let owner = Owner::User(site.tag("a"));
        let mut bytes = Vec::new();
        archive::write(&mut *user.snapshot().await.unwrap(), &mut bytes).await.unwrap();
        site.assert_open("a").await;
        let rotated = site.store.rotate(owner, &mut |_| {}).await.unwrap();
        // Five records: none of the trail's is sealed again.
        assert_eq!((rotated.epoch, rotated.sealed), (2, 5));
        site.assert_open("a").await;
        let status = site.store.key_status(owner, true).await.unwrap();
        assert_eq!(status.records.unwrap().into_values().sum::<u64>(), 5);
        let (last, _) = site.links("a").await.pop().unwrap();
        assert!(
            last.changes.len() == 5
                && last.changes.iter().all(|trace| matches!(trace, Trace::Rewrite { .. }))
        );
        let mut reader = archive::Reader::open(bytes.as_slice()).unwrap();
        site.store.import(site.tag("a"), &mut reader, ImportMode::Replace).await.unwrap();
        assert_eq!(site.links("a").await.pop().unwrap().0.kind, Kind::Restore);
        site.assert_open("a").await;
        site.store.open(site.tag("a")).await.unwrap().commit(put("k9", "value")).await.unwrap();
        assert!(site.store.verify().await.unwrap().passed.len() > 2);
    }
}

#[tokio::test]
async fn details_open_after_the_deployments_key_is_changed() {
    let site = Site::new(Mode::Sealed).await;
    site.user("a").await;
    let details = site.links("a").await[0].1.clone().unwrap();
    let other = Kek::from_key(SecretKey::from_bytes(b"another of a test, no key either")).formerly(kek());
    let keystore = Keystore::open(Arc::clone(&site.keys) as _).await.unwrap();
    let keychain = Keychain::open(keystore, &other, KeyCache::default()).await.unwrap();
    assert!(keychain.rewrap(&mut |_| {}).await.unwrap().keys > 0);
    let owner = Owner::User(site.bare.deployment_key().tag(&UserId::new("a").unwrap()));
    assert_eq!(Events::Clear(keychain.open_details(owner, &details).await.unwrap()), events(0));
}

#[tokio::test]
async fn details_open_for_nobody_after_an_erasure() {
    for mode in MODES {
        let site = Site::new(mode).await;
        site.user("a").await;
        site.user("b").await;
        let owner = Owner::User(site.tag("a"));
        let details: Vec<_> = site.links("a").await.into_iter().filter_map(|(_, details)| details).collect();
        site.store.erase(site.tag("a")).await.unwrap();
        for sealed in &details {
            let refused = site.keychain.open_details(owner, sealed).await;
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::KeyRefused);
        }
        site.store.create(site.tag("a"), put("first", "1"), CreateMode::Recreate).await.unwrap();
        for (sealed, by) in
            details.iter().zip([owner, Owner::User(site.tag("b")), Owner::Deployment].into_iter().cycle())
        {
            if by == Owner::Deployment {
                site.store.deployment().await.unwrap();
            }
            assert_eq!(site.keychain.open_details(by, sealed).await.unwrap_err().kind(), ErrorKind::Tampered);
        }
    }
}

#[tokio::test]
async fn details_that_were_changed_do_not_open() {
    for mode in MODES {
        let site = Site::new(mode).await;
        site.user("a").await;
        let owner = Owner::User(site.tag("a"));
        let sealed = site.links("a").await[0].1.clone().unwrap();
        for at in 0..sealed.len() {
            let mut changed = sealed.to_vec();
            changed[at] ^= 1;
            assert_eq!(
                site.keychain.open_details(owner, &changed).await.unwrap_err().kind(),
                ErrorKind::Tampered
            );
        }
        for end in 0..sealed.len() {
            let cut = site.keychain.open_details(owner, &sealed[..end]).await;
            assert_eq!(cut.unwrap_err().kind(), ErrorKind::Tampered);
        }
        // In the mode `sealed` the size tells little.
        let Events::Clear(of) = events(0) else { unreachable!() };
        let text = syntha_store::encode_events(&of).unwrap().len();
        let content = if mode == Mode::Sealed { padded_len(text) } else { text };
        assert_eq!(sealed.len(), 16 + Algorithm::Record.overhead() + content);
    }
}

#[tokio::test]
async fn the_deployments_own_space_is_founded_beside_its_trail() {
    for mode in MODES {
        let site = Site::new(mode).await;
        // The log writes there before anything is sealed: by the bare store, records of the trail's keyspace.
        let leaf = RecordId::new(Bytes::from_static(b"leaf"), 0).unwrap();
        let bare = site.bare.deployment().await.unwrap();
        bare.commit(batch().put(Keyspace::Audit, leaf.clone(), "", "a leaf")).await.unwrap();
        let space = site.store.deployment().await.unwrap();
        let row = RecordId::new(Bytes::from_static(b"row"), 0).unwrap();
        space.commit(batch().put(Keyspace::Ledger, row, "", "value").events(events(1))).await.unwrap();
        space.commit(batch().events(events(2))).await.unwrap();
        // What is of the trail is read as it is, from above too.
        let read = site.store.deployment().await.unwrap().read(Keyspace::Audit, &[leaf]).await.unwrap();
        assert_eq!(&read.value[0].as_ref().unwrap().body[..], b"a leaf");
        let links = links(&*bare).await;
        let details: Vec<_> = links.into_iter().filter_map(|(_, details)| details).collect();
        assert_eq!(details.len(), 2);
        for (sealed, n) in details.iter().zip(1..) {
            let opened = site.keychain.open_details(Owner::Deployment, sealed).await.unwrap();
            assert_eq!(Events::Clear(opened), events(n));
        }
        site.store.rotate(Owner::Deployment, &mut |_| {}).await.unwrap();
        site.keychain.open_details(Owner::Deployment, &details[0]).await.unwrap();
        drop(site.store.deployment().await.unwrap());
    }
}

#[tokio::test]
async fn events_of_a_store_without_a_trail_are_nowhere() {
    let key = || DeploymentKey::from_bytes([7; 32]);
    let (bare, keys) = (MemoryStore::with_key(key()).unwrap(), MemoryStore::with_key(key()).unwrap());
    let keystore = Keystore::open(Arc::new(keys) as _).await.unwrap();
    let keychain =
        Keychain::create(keystore, &kek(), Mode::Sealed, &key(), KeyCache::default()).await.unwrap();
    let store = EncryptedStore::new(Arc::new(bare), &keychain).unwrap();
    let tag = key().tag(&UserId::new("a").unwrap());
    let (user, _) = store.create(tag, put("first", "1").events(events(0)), CreateMode::New).await.unwrap();
    let alone = user.commit(batch().events(events(1))).await;
    assert_eq!(alone.unwrap_err().kind(), ErrorKind::Invalid);
    // Its records are the user's own, and sealed as all others.
    let id = RecordId::new(Bytes::from_static(b"x"), 1).unwrap();
    user.commit(batch().put(Keyspace::Audit, id.clone(), "head", "body")).await.unwrap();
    let read = user.read(Keyspace::Audit, &[id]).await.unwrap();
    assert_eq!(&read.value[0].as_ref().unwrap().body[..], b"body");
}
