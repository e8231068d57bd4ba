//! Keys over a store in memory: held by users, wrapped again, cached, and not to be had.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use syntha_store::{
    Batch, CreateMode, Error, ErrorKind, Incarnation, Keyspace, MemoryStore, RecordId, Result, Store,
    Timestamp, UserId, UserTag,
};

use crate::keyring::NO_LIFE;
use crate::passphrase::tests::DERIVED;
use crate::{
    EncryptedStore, Kek, KekId, KeyCache, KeyContext, KeyProvider, Keychain, Keystore, LocalKek, Mode, Owner,
    SecretBytes, SecretKey, What, Wrapped,
};

/// Data and keys, and whoever opens them.
struct Site {
    data: Arc<MemoryStore>,
    keys: Arc<MemoryStore>,
}

impl Site {
    fn new() -> Self {
        Self { data: Arc::new(MemoryStore::new().unwrap()), keys: Arc::new(MemoryStore::new().unwrap()) }
    }

    async fn open_with(&self, kek: &Kek, cache: KeyCache) -> Result<Keychain> {
        let keystore = Keystore::open(Arc::clone(&self.keys) as _).await?;
        Keychain::create(keystore, kek, Mode::Sealed, self.data.deployment_key(), cache).await
    }

    async fn open(&self, kek: &Kek) -> Result<Keychain> {
        self.open_with(kek, KeyCache::default()).await
    }

    fn store(&self, keychain: &Keychain) -> EncryptedStore<MemoryStore> {
        EncryptedStore::new(Arc::clone(&self.data), keychain).unwrap()
    }

    fn tag(&self, user: &str) -> UserTag {
        self.data.deployment_key().tag(&UserId::new(user).unwrap())
    }

    async fn create(&self, keychain: &Keychain, user: &str) -> Result<()> {
        self.store(keychain).create(self.tag(user), record(user), CreateMode::New).await.map(drop)
    }

    async fn read(&self, keychain: &Keychain, user: &str) -> Result<String> {
        let opened = self.store(keychain).open(self.tag(user)).await?;
        let read = opened.read(Keyspace::Context, &[id()]).await?.value;
        Ok(String::from_utf8(read[0].as_ref().unwrap().body.to_vec()).unwrap())
    }
}

fn id() -> RecordId {
    RecordId::new("who", 0).unwrap()
}

fn record(text: &str) -> Batch {
    Batch::new(Timestamp(1)).unwrap().put(Keyspace::Context, id(), "head", text.to_owned())
}

fn kek(byte: u8) -> Kek {
    let mut key = *b"a key of a test, which is no key";
    key[0] = byte;
    Kek::from_key(SecretKey::from_bytes(&key))
}

fn secret(text: &str) -> SecretBytes {
    SecretBytes::new(text.as_bytes())
}

fn pass(text: &str) -> Kek {
    Kek::passphrase(secret(text))
}

fn kind<T>(result: Result<T>) -> ErrorKind {
    result.err().expect("it is refused").kind()
}

fn derived() -> u32 {
    DERIVED.with(|derived| derived.replace(0))
}

const ALICE: &str = "correct horse battery";

#[tokio::test]
async fn a_user_holds_the_keys() {
    let site = Site::new();
    let keychain = site.open(&kek(1)).await.unwrap();
    for user in ["alice", "bob"] {
        site.create(&keychain, user).await.unwrap();
    }
    let (store, alice) = (site.store(&keychain), site.tag("alice"));
    assert_eq!(kind(keychain.give_back_key(alice).await), ErrorKind::Invalid);
    assert_eq!(kind(keychain.unlock(alice, &secret(ALICE)).await), ErrorKind::Invalid);
    derived();
    keychain.hold_key(alice, &secret(ALICE)).await.unwrap();
    assert_eq!(derived(), 1);
    assert_eq!(kind(keychain.hold_key(alice, &secret(ALICE)).await), ErrorKind::Invalid);
    assert!(keychain.is_held(alice).await.unwrap() && !keychain.is_held(site.tag("bob")).await.unwrap());
    // Unlocked, life goes on, rotations too; the new key is held as well.
    derived();
    let handle = store.open(alice).await.unwrap();
    handle.commit(record("alice, held")).await.unwrap();
    assert_eq!(store.rotate(Owner::User(alice), &mut |_| {}).await.unwrap().epoch, 2);
    assert_eq!(site.read(&keychain, "alice").await.unwrap(), "alice, held");

    // Locked, nothing does, at once, and no handle that is open helps.
    keychain.lock(alice);
    let locked = ErrorKind::KeyUnavailable;
    assert_eq!(kind(handle.read(Keyspace::Context, &[id()]).await), locked);
    assert_eq!(kind(handle.commit(record("late")).await), locked);
    assert_eq!(kind(handle.snapshot().await), locked);
    assert_eq!(kind(store.open(alice).await), locked);
    assert_eq!(kind(store.rotate(Owner::User(alice), &mut |_| {}).await), locked);
    assert_eq!(kind(store.key_status(Owner::User(alice), true).await), locked);
    assert_eq!(kind(keychain.ring.archive_key(alice.as_bytes()).await), locked);
    assert_eq!(kind(keychain.give_back_key(alice).await), locked);
    assert_eq!(kind(keychain.change_held_key(alice, &secret(ALICE)).await), locked);
    assert_eq!(kind(keychain.ring.make(alice.as_bytes(), Incarnation(77 << 64)).await), locked);
    let status = store.key_status(Owner::User(alice), false).await.unwrap();
    assert_eq!((status.epochs, status.sealing, status.held), (vec![2], 2, true));
    // Others are not in the way of it: nobody else's opening derives anything.
    let another = site.open(&kek(1)).await.unwrap();
    assert_eq!(kind(site.read(&another, "alice").await), locked);
    assert_eq!(site.read(&another, "bob").await.unwrap(), "bob");
    store.verify().await.unwrap();
    // Wrapping again under another deployment key needs no passphrase.
    let both = site.open(&kek(2).formerly(kek(1))).await.unwrap();
    both.rewrap(&mut |_| {}).await.unwrap();
    assert_eq!(derived(), 0);

    // An operator with the deployment's key, the keystore and the data.
    let operator = site.open(&kek(2)).await.unwrap();
    let rows = operator.ring.keystore.owner(alice.as_bytes()).await.unwrap();
    let root = rows.root.unwrap().row;
    assert_eq!(kind(operator.ring.unwrap_root(alice.as_bytes(), &root, None).await), ErrorKind::KeyRefused);
    let context = operator.ring.context(alice.as_bytes(), What::Root, NO_LIFE, 0);
    let inner = operator.ring.wrapping().provider.unwrap(&context, &root.root().unwrap()).await.unwrap();
    // What is below the deployment's wrap is sealed once more, and no deployment key opens that.
    for byte in [1, 2] {
        let mut key = *b"a key of a test, which is no key";
        key[0] = byte;
        assert!(crate::held::open(&SecretKey::from_bytes(&key), &context, &inner).is_err());
    }
    for life in rows.lives {
        for (epoch, wrapped) in life.row.keys().map(|key| key.unwrap()) {
            let life = life.row.life().unwrap();
            let opened = operator.ring.unwrap_key(alice.as_bytes(), life, epoch, &wrapped, None).await;
            assert_eq!(kind(opened), ErrorKind::KeyRefused);
        }
    }

    // A wrong passphrase costs one derivation and opens nothing.
    assert_eq!(kind(operator.unlock(alice, &secret("correct horse batterz")).await), ErrorKind::KeyRefused);
    assert_eq!((derived(), kind(site.read(&operator, "alice").await)), (1, locked));
    operator.unlock(alice, &secret(ALICE)).await.unwrap();
    assert_eq!(site.read(&operator, "alice").await.unwrap(), "alice, held");
    operator.change_held_key(alice, &secret("another horse battery")).await.unwrap();
    assert_eq!(site.read(&operator, "alice").await.unwrap(), "alice, held");
    operator.lock(alice);
    assert_eq!(kind(operator.unlock(alice, &secret(ALICE)).await), ErrorKind::KeyRefused);
    operator.unlock(alice, &secret("another horse battery")).await.unwrap();
    operator.give_back_key(alice).await.unwrap();
    operator.lock(alice);
    assert_eq!(site.read(&operator, "alice").await.unwrap(), "alice, held");
}

/// A life or a key that comes while the keys of its user are wrapped anew makes one of the two begin again.
#[tokio::test]
async fn rows_that_come_meanwhile_are_noticed() {
    let site = Site::new();
    let keychain = site.open(&kek(1)).await.unwrap();
    site.create(&keychain, "alice").await.unwrap();
    let (ring, alice) = (&keychain.ring, *site.tag("alice").as_bytes());
    let (header, keystore) = (ring.wrapping().header, &ring.keystore);
    let rows = keystore.owner(&alice).await.unwrap();
    ring.make(&alice, Incarnation(77 << 70)).await.unwrap();
    assert_eq!(kind(keystore.put_owner(&alice, &rows, header).await), ErrorKind::Conflict);
    // The other way round: a key that is wrapped as the root said, which has changed.
    let life = rows.lives[0].row.life().unwrap();
    let (root, row) = keystore.pair(&alice, life).await.unwrap().unwrap();
    let rows = keystore.owner(&alice).await.unwrap();
    keystore.put_owner(&alice, &rows, header).await.unwrap();
    let (_, now) = keystore.pair(&alice, life).await.unwrap().unwrap();
    let versions = (now.version, root.version, header);
    assert_eq!(kind(keystore.put_key(&alice, &row.row, versions).await), ErrorKind::Conflict);
}

/// Every state that a process which dies leaves behind, opened with each of the keys.
#[tokio::test]
async fn a_passphrase_is_changed() {
    let (old, new) = ("the former passphrase", "the new passphrase");
    let site = Site::new();
    let keychain = site.open(&pass(old)).await.unwrap();
    for user in ["alice", "bob", "carol"] {
        site.create(&keychain, user).await.unwrap();
    }
    // Not begun: the former one, or both.
    let both = pass(new).formerly(pass(old));
    assert_eq!(kind(site.open(&pass(new)).await), ErrorKind::KeyRefused);
    assert_eq!(site.read(&site.open(&both).await.unwrap(), "alice").await.unwrap(), "alice");
    let stale = site.open(&pass(old)).await.unwrap();
    assert_eq!(site.read(&stale, "alice").await.unwrap(), "alice");

    // Begun: the header. Then one row after the other.
    keychain.begin_change(&pass(new)).await.unwrap();
    let kek = keychain.ring.wrapping().provider.current().await.unwrap();
    for user in [None, Some("bob")] {
        if let Some(user) = user {
            assert_eq!(keychain.rewrap_owner(site.tag(user).as_bytes(), kek).await.unwrap(), 2);
        }
        for alone in [new, old] {
            assert_eq!(kind(site.open(&pass(alone)).await), ErrorKind::KeyRefused);
        }
        let opened = site.open(&both).await.unwrap();
        for user in ["alice", "bob", "carol"] {
            assert_eq!(site.read(&opened, user).await.unwrap(), user);
        }
        let status = opened.rewrap_status().await.unwrap();
        assert!(status.under_way && !status.is_finished() && status.current == kek);
    }
    let turned = site.open(&pass(old).formerly(pass(new))).await.unwrap();
    assert_eq!(turned.ring.wrapping().provider.current().await.unwrap(), kek);
    // A process that goes on with the former one writes no row that nobody could open.
    assert_eq!(site.read(&stale, "alice").await.unwrap(), "alice");
    assert_eq!(kind(site.create(&stale, "dora").await), ErrorKind::KeyRefused);
    assert_eq!(
        kind(site.open(&both).await.unwrap().change_passphrase(&pass("short"), &mut |_| {}).await),
        ErrorKind::KeyRefused
    );

    // Ended by whoever opens it next.
    let status = turned.rewrap_status().await.unwrap();
    if !status.is_finished() {
        turned.rewrap(&mut |_| {}).await.unwrap();
    }
    assert!(turned.rewrap_status().await.unwrap().is_finished());
    assert_eq!(kind(site.open(&pass(old)).await), ErrorKind::KeyRefused);
    for kek in [pass(new), both] {
        let opened = site.open(&kek).await.unwrap();
        assert_eq!(site.read(&opened, "carol").await.unwrap(), "carol");
        site.create(&opened, if kek.turned().is_empty() { "eve" } else { "frank" }).await.unwrap();
    }
}

#[tokio::test]
async fn keys_are_wrapped_again() {
    let site = Site::new();
    let keychain = site.open(&kek(1)).await.unwrap();
    for user in 0..20 {
        site.create(&keychain, &format!("user {user}")).await.unwrap();
    }
    site.store(&keychain).deployment().await.unwrap();
    let both = site.open(&kek(2).formerly(kek(1))).await.unwrap();
    assert!(!both.rewrap_status().await.unwrap().is_finished());
    // It stops in the middle: the new key alone is refused, with what to do.
    let kek2 = both.begin_rewrap().await.unwrap();
    both.rewrap_owner(site.tag("user 7").as_bytes(), kek2).await.unwrap();
    assert_eq!(kind(site.open(&kek(2)).await), ErrorKind::KeyRefused);
    assert_eq!(kind(site.open(&kek(1)).await), ErrorKind::KeyRefused);
    let both = site.open(&kek(2).formerly(kek(1))).await.unwrap();
    let mut calls = 0;
    // The header was first; a root and a key of each user, but one, and of the deployment.
    let rewrapped = both.rewrap(&mut |_| calls += 1).await.unwrap();
    assert_eq!((rewrapped.kek, rewrapped.keys, calls), (kek2, 40, 21));
    let status = both.rewrap_status().await.unwrap();
    assert!(status.is_finished());
    assert_eq!(status.keys, [(kek2, 2 + 2 * 21)]);
    assert_eq!(both.rewrap(&mut |_| {}).await.unwrap().keys, 0);
    let opened = site.open(&kek(2)).await.unwrap();
    assert_eq!(site.read(&opened, "user 7").await.unwrap(), "user 7");
}

/// A provider that fails at will.
#[derive(Debug)]
struct FaultyProvider {
    inner: LocalKek,
    other: LocalKek,
    fault: AtomicU8,
    calls: AtomicU64,
}

const NONE: u8 = 0;
const DOWN: u8 = 1;
const DENIED: u8 = 2;
const WRONG: u8 = 3;
const LATE: u8 = 4;

impl FaultyProvider {
    fn new() -> Arc<Self> {
        let key = |byte| LocalKek::new(SecretKey::from_bytes(&std::array::from_fn(|at| byte + at as u8)));
        let (inner, other) = (key(1).unwrap(), key(2).unwrap());
        Arc::new(Self { inner, other, fault: AtomicU8::new(NONE), calls: AtomicU64::new(0) })
    }

    fn set(&self, fault: u8) {
        self.fault.store(fault, Ordering::Relaxed);
    }

    async fn now(&self) -> Result<&LocalKek> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        match self.fault.load(Ordering::Relaxed) {
            DOWN => Err(Error::new(ErrorKind::KeyUnavailable, "what wraps does not answer")),
            DENIED => Err(Error::new(ErrorKind::KeyRefused, "the access is denied")),
            WRONG => Ok(&self.other),
            LATE => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Err(Error::new(ErrorKind::KeyUnavailable, "what wraps does not answer in time"))
            }
            _ => Ok(&self.inner),
        }
    }
}

#[async_trait]
impl KeyProvider for FaultyProvider {
    async fn wrap(&self, context: &KeyContext, secret: &SecretBytes) -> Result<Wrapped> {
        self.now().await?.wrap(context, secret).await
    }

    async fn unwrap(&self, context: &KeyContext, wrapped: &Wrapped) -> Result<SecretBytes> {
        self.now().await?.unwrap(context, wrapped).await
    }

    async fn rewrap(&self, context: &KeyContext, wrapped: &Wrapped) -> Result<Wrapped> {
        self.now().await?.rewrap(context, wrapped).await
    }

    async fn current(&self) -> Result<KekId> {
        self.inner.current().await
    }
}

#[tokio::test]
async fn a_provider_that_fails_stops_those_whose_keys_are_not_there() {
    for fault in [DOWN, DENIED, WRONG, LATE] {
        let (site, provider) = (Site::new(), FaultyProvider::new());
        let cache = KeyCache { age: Duration::from_millis(1_500), ..KeyCache::default() };
        let keychain = site.open_with(&Kek::provider(Arc::clone(&provider) as _), cache).await.unwrap();
        for user in ["alice", "bob"] {
            site.create(&keychain, user).await.unwrap();
        }
        let store = site.store(&keychain);
        let alice = store.open(site.tag("alice")).await.unwrap();
        keychain.lock(site.tag("bob"));
        provider.set(fault);
        let refused = |kind| matches!(kind, ErrorKind::KeyUnavailable | ErrorKind::KeyRefused);
        let down = matches!(fault, DOWN | LATE);
        let fits = |kind| refused(kind) && (!down || kind == ErrorKind::KeyUnavailable);
        // Cached ones go on, to the age limit.
        alice.commit(record("alice goes on")).await.unwrap();
        assert_eq!(site.read(&keychain, "alice").await.unwrap(), "alice goes on");
        assert!(fits(kind(site.read(&keychain, "bob").await)));
        if fault != WRONG {
            assert!(fits(kind(site.create(&keychain, "carol").await)));
            assert!(fits(kind(store.rotate(Owner::User(site.tag("alice")), &mut |_| {}).await)));
        }
        tokio::time::sleep(Duration::from_millis(1_600)).await;
        assert!(fits(kind(alice.commit(record("plaintext")).await)));
        assert!(fits(kind(alice.read(Keyspace::Context, &[id()]).await)));
        assert!(fits(kind(site.read(&keychain, "alice").await)));
        // Nothing was written in clear, and all of it is there again.
        for user in ["alice", "bob"] {
            let below = site.data.open(site.tag(user)).await.unwrap();
            let scan = syntha_store::Scan::records(Keyspace::Context, 10);
            for (head, body) in below.scan(scan).await.unwrap().value.records {
                let text = [&head.head[..], &body.unwrap()].concat();
                assert!(!text.windows(9).any(|part| part == b"plaintext" || part == b"alice goe"));
            }
        }
        provider.set(NONE);
        assert_eq!(site.read(&keychain, "alice").await.unwrap(), "alice goes on");
        assert_eq!(site.read(&keychain, "bob").await.unwrap(), "bob");
    }
}

#[tokio::test]
async fn the_cache_is_never_over_its_limit() {
    let site = Site::new();
    let cache = KeyCache { users: 7, ..KeyCache::default() };
    let keychain = site.open_with(&kek(1), cache).await.unwrap();
    let mut owners = Vec::new();
    for user in 0..40 {
        let (tag, life) = (*site.tag(&format!("user {user}")).as_bytes(), Incarnation::random().unwrap());
        keychain.ring.make(&tag, life).await.unwrap();
        owners.push((tag, life));
        assert!(keychain.ring.cached_users() <= 7);
    }
    let mut state = 1_u64;
    for step in 0..100_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Most of the time a few users, as in life.
        let of = if state >> 60 == 0 { owners.len() } else { 6 };
        let (tag, life) = &owners[(state >> 33) as usize % of];
        match state >> 50 & 255 {
            0 => keychain.ring.forget(tag),
            1 => keychain.ring.refresh(tag),
            _ => drop(keychain.ring.keys(tag, *life).await.unwrap()),
        }
        assert!(keychain.ring.cached_users() <= 7, "at step {step}");
    }
    assert!(keychain.ring.cached_users() > 0);
}

#[tokio::test]
async fn cached_keys_end_with_their_age() {
    let (site, provider) = (Site::new(), FaultyProvider::new());
    let cache = KeyCache { age: Duration::from_millis(200), ..KeyCache::default() };
    let keychain = site.open_with(&Kek::provider(Arc::clone(&provider) as _), cache).await.unwrap();
    site.create(&keychain, "alice").await.unwrap();
    site.read(&keychain, "alice").await.unwrap();
    let calls = provider.calls.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(250)).await;
    site.read(&keychain, "alice").await.unwrap();
    assert!(provider.calls.load(Ordering::Relaxed) > calls);
}
