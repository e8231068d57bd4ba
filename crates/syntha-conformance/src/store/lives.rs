//! Users that come and go.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use syntha_store::{
    ChainHead, CreateMode, EPOCH_JUMP, Error, ErrorKind, Fence, ImportMode, Incarnation, Keyspace, Note,
    Result, Scan, Snapshot, Stamp, StoredRecord, Usage, UserState, UserTag, Version, archive,
};

use super::{batch, checks, id, kind, put, record_body, seq};
use crate::harness::Bed;

checks![
    create_holds_first_batch,
    create_twice_refused,
    create_race_has_one_winner,
    create_after_erase_needs_recreate,
    create_recreate_is_a_new_life,
    create_invalid_leaves_nothing,
    create_takes_the_life_that_is_named,
    open_absent_not_found,
    open_twice_sees_one_user,
    open_after_reopen_keeps_everything,
    fence_stops_open_handles,
    fence_keeps_reads_of_none,
    fence_stale_stamp_conflicts,
    erase_leaves_no_bytes,
    erase_stops_late_writes,
    erase_unlists,
    erase_absent_not_found,
    erase_again_is_done,
    erase_touches_no_neighbour,
    import_equals_snapshot,
    import_is_a_new_life,
    import_foreign_refused,
    import_new_refuses_present,
    import_replaces_everything,
    import_erased_refused,
    import_broken_leaves_old,
    import_follows_a_chain,
    import_takes_the_chain_of_the_end,
    import_takes_life_and_note,
    list_pages_in_order,
    deployment_is_no_user,
    deployment_survives_reopen,
    verify_passes_when_fresh,
    close_refuses_later_calls,
    isolation_same_names,
    isolation_near_tags,
    isolation_files,
    archive_round_trip,
];

async fn create_holds_first_batch(bed: Bed) {
    let (user, commit) =
        bed.store().create(bed.tag("a"), put(batch(), "k", "v"), CreateMode::New).await.unwrap();
    assert_eq!(user.state().await.unwrap().stamp, commit.stamp);
    assert_eq!(record_body(&*bed.open("a").await, "k").await.as_deref(), Some("v"));
    assert_eq!(bed.store().list(None, 9).await.unwrap(), [bed.tag("a")]);
    let (empty, _) = bed.store().create(bed.tag("b"), batch(), CreateMode::New).await.unwrap();
    assert!(empty.scan(Scan::heads(Keyspace::Context, 9)).await.unwrap().value.records.is_empty());
}

async fn create_twice_refused(bed: Bed) {
    bed.user("a").await;
    for mode in [CreateMode::New, CreateMode::Recreate] {
        let again = bed.store().create(bed.tag("a"), put(batch(), "who", "other"), mode).await;
        assert_eq!(kind(again), ErrorKind::AlreadyExists);
    }
    assert_eq!(bed.who("a").await.as_deref(), Some("a"));
}

async fn create_race_has_one_winner(bed: Bed) {
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let (store, tag) = (bed.store(), bed.tag("a"));
        tasks.spawn(async move {
            let first = put(batch(), "who", &n.to_string());
            store.create(tag, first, CreateMode::New).await.map(|_| n).map_err(|error| error.kind())
        });
    }
    let (won, lost): (Vec<_>, Vec<_>) = tasks.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    assert!(lost.iter().all(|result| *result == Err(ErrorKind::AlreadyExists)));
    assert_eq!(bed.who("a").await, Some(won[0].unwrap().to_string()));
}

async fn create_after_erase_needs_recreate(bed: Bed) {
    bed.user("a").await;
    bed.store().erase(bed.tag("a")).await.unwrap();
    assert_eq!(kind(bed.store().create(bed.tag("a"), batch(), CreateMode::New).await), ErrorKind::Erased);
    bed.store().create(bed.tag("a"), batch(), CreateMode::Recreate).await.unwrap();
    bed.open("a").await;
}

async fn create_recreate_is_a_new_life(bed: Bed) {
    let before = bed.user("a").await.state().await.unwrap().stamp;
    bed.store().erase(bed.tag("a")).await.unwrap();
    let (user, commit) = bed.store().create(bed.tag("a"), batch(), CreateMode::Recreate).await.unwrap();
    assert_ne!(commit.stamp.incarnation, before.incarnation);
    assert_eq!(record_body(&*user, "who").await, None);
}

async fn create_invalid_leaves_nothing(bed: Bed) {
    let wrong = put(put(batch(), "k", "1"), "k", "2");
    assert_eq!(kind(bed.store().create(bed.tag("a"), wrong, CreateMode::New).await), ErrorKind::Invalid);
    assert_eq!(kind(bed.store().open(bed.tag("a")).await), ErrorKind::NotFound);
    assert!(bed.store().list(None, 9).await.unwrap().is_empty());
}

async fn open_absent_not_found(bed: Bed) {
    for _ in 0..2 {
        assert_eq!(kind(bed.store().open(bed.tag("a")).await), ErrorKind::NotFound);
    }
    assert!(bed.store().list(None, 9).await.unwrap().is_empty());
}

async fn open_twice_sees_one_user(bed: Bed) {
    let one = bed.user("a").await;
    let two = bed.open("a").await;
    one.commit(put(batch(), "k", "1")).await.unwrap();
    assert_eq!(record_body(&*two, "k").await.as_deref(), Some("1"));
    two.commit(put(batch(), "k", "2")).await.unwrap();
    assert_eq!(record_body(&*one, "k").await.as_deref(), Some("2"));
}

async fn open_after_reopen_keeps_everything(mut bed: Bed) {
    let user = bed.user("a").await;
    let usage = Usage { contexts: 1, agents: 2, context_bytes: 3, history_bytes: 4 };
    let mut full = put(batch(), "k", "v").usage(usage);
    if !bed.audited() {
        full.chain = Some(syntha_store::ChainHead { seq: 5, head: [6; 32] });
    }
    user.commit(full).await.unwrap();
    let before = user.state().await.unwrap();
    drop(user);
    bed.reopen().await;
    let user = bed.open("a").await;
    assert_eq!(user.state().await.unwrap(), before);
    assert_eq!(record_body(&*user, "k").await.as_deref(), Some("v"));
}

async fn fence_stops_open_handles(bed: Bed) {
    let user = bed.user("a").await;
    bed.store().fence(bed.tag("a"), None, Fence::Moved).await.unwrap();
    assert_eq!(kind(user.commit(put(batch(), "k", "late")).await), ErrorKind::Gone);
}

async fn fence_keeps_reads_of_none(bed: Bed) {
    for (name, fence, expected) in
        [("a", Fence::Erased, ErrorKind::Erased), ("b", Fence::Moved, ErrorKind::Gone)]
    {
        bed.user(name).await;
        bed.store().fence(bed.tag(name), None, fence).await.unwrap();
        assert_eq!(kind(bed.store().open(bed.tag(name)).await), expected);
    }
}

async fn fence_stale_stamp_conflicts(bed: Bed) {
    let user = bed.user("a").await;
    let stale = user.state().await.unwrap().stamp;
    user.commit(put(batch(), "k", "1")).await.unwrap();
    let refused = bed.store().fence(bed.tag("a"), Some(stale), Fence::Erased).await;
    assert_eq!(kind(refused), ErrorKind::Conflict);
    user.commit(put(batch(), "k", "2")).await.unwrap();
}

async fn erase_leaves_no_bytes(bed: Bed) {
    const CANARY: &str = "CANARY-of-the-erased";
    let user = bed.user("a").await;
    for n in 0..5 {
        user.commit(put(batch(), &format!("{CANARY}-{n}"), &CANARY.repeat(300))).await.unwrap();
    }
    bed.store().erase(bed.tag("a")).await.unwrap();
    assert_eq!(kind(user.read(Keyspace::Context, &[id("who")]).await), ErrorKind::Gone);
    for (name, bytes) in bed.files().await {
        let found = bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
        assert!(!found, "the file {name} still holds what was erased");
    }
}

async fn erase_stops_late_writes(bed: Bed) {
    let user = bed.user("a").await;
    let stamp = user.state().await.unwrap().stamp;
    bed.store().erase(bed.tag("a")).await.unwrap();
    for recreated in [false, true] {
        if recreated {
            bed.store().create(bed.tag("a"), batch(), CreateMode::Recreate).await.unwrap();
        }
        assert_eq!(kind(user.commit(put(batch(), "late", "1")).await), ErrorKind::Gone);
        assert_eq!(kind(user.state().await), ErrorKind::Gone);
        assert_eq!(kind(user.changes(stamp, 9).await), ErrorKind::Gone);
        assert_eq!(kind(user.scan(Scan::heads(Keyspace::Context, 9)).await), ErrorKind::Gone);
    }
    assert_eq!(record_body(&*bed.open("a").await, "late").await, None);
}

async fn erase_unlists(bed: Bed) {
    bed.user("a").await;
    bed.store().erase(bed.tag("a")).await.unwrap();
    assert!(bed.store().list(None, 9).await.unwrap().is_empty());
    assert_eq!(kind(bed.store().open(bed.tag("a")).await), ErrorKind::Erased);
}

async fn erase_absent_not_found(bed: Bed) {
    assert_eq!(kind(bed.store().erase(bed.tag("a")).await), ErrorKind::NotFound);
}

async fn erase_again_is_done(mut bed: Bed) {
    bed.user("a").await;
    assert!(bed.store().erase(bed.tag("a")).await.unwrap().removed);
    assert!(!bed.store().erase(bed.tag("a")).await.unwrap().removed);
    bed.reopen().await;
    assert!(!bed.store().erase(bed.tag("a")).await.unwrap().removed);
}

async fn erase_touches_no_neighbour(bed: Bed) {
    for name in ["a", "b", "c"] {
        bed.user(name).await;
    }
    let before = bed.open("b").await.state().await.unwrap();
    bed.store().erase(bed.tag("a")).await.unwrap();
    assert_eq!(bed.open("b").await.state().await.unwrap(), before);
    assert_eq!(bed.who("b").await.as_deref(), Some("b"));
    assert_eq!(bed.who("c").await.as_deref(), Some("c"));
}

async fn collect(snapshot: &mut dyn Snapshot) -> Vec<StoredRecord> {
    let mut all = Vec::new();
    while let Some(chunk) = snapshot.next().await.unwrap() {
        all.extend(chunk);
    }
    all
}

/// A user's row, and every record that the user's layers have written: those of a trail go their own way.
async fn records(bed: &Bed, user: &str) -> (UserState, Vec<StoredRecord>) {
    let mut snapshot = bed.open(user).await.snapshot().await.unwrap();
    let mut records = collect(&mut *snapshot).await;
    records.retain(|stored| !bed.audited() || stored.space != Keyspace::Audit);
    (snapshot.state(), records)
}

async fn import_equals_snapshot(bed: Bed) {
    let user = bed.user("a").await;
    user.commit(put(batch(), "k", "1").usage(Usage { contexts: 9, ..Usage::default() })).await.unwrap();
    user.commit(put(batch(), "l", "2").put(Keyspace::Agents, id("x"), "h", "b")).await.unwrap();
    let (before, old) = records(&bed, "a").await;
    let mut snapshot = bed.open("a").await.snapshot().await.unwrap();
    user.commit(put(batch(), "k", "later")).await.unwrap();
    let present = user.state().await.unwrap();
    bed.store().import(bed.tag("a"), &mut *snapshot, ImportMode::Replace).await.unwrap();
    let (after, new) = records(&bed, "a").await;
    assert_eq!(old, new);
    assert_eq!((before.usage, before.time), (after.usage, after.time));
    if bed.audited() {
        // A trail goes on where it is.
        assert_eq!(after.chain.seq, present.chain.seq + 1);
    } else {
        assert_eq!(before.chain, after.chain);
    }
}

async fn import_is_a_new_life(bed: Bed) {
    let user = bed.user("a").await;
    let mut snapshot = user.snapshot().await.unwrap();
    user.commit(put(batch(), "k", "1")).await.unwrap();
    let before = user.state().await.unwrap().stamp;
    let after = bed.store().import(bed.tag("a"), &mut *snapshot, ImportMode::Replace).await.unwrap();
    assert_ne!(after.incarnation, before.incarnation);
    assert_eq!(after.epoch.0, before.epoch.0 + EPOCH_JUMP);
    assert_eq!(bed.open("a").await.state().await.unwrap().stamp, after);
}

async fn import_foreign_refused(bed: Bed) {
    let user = bed.user("a").await;
    bed.user("b").await;
    for target in ["b", "c"] {
        let mut snapshot = user.snapshot().await.unwrap();
        let refused = bed.store().import(bed.tag(target), &mut *snapshot, ImportMode::Replace).await;
        assert_eq!(kind(refused), ErrorKind::Invalid);
    }
    assert_eq!(bed.who("b").await.as_deref(), Some("b"));
    assert_eq!(kind(bed.store().open(bed.tag("c")).await), ErrorKind::NotFound);
}

async fn import_new_refuses_present(bed: Bed) {
    let user = bed.user("a").await;
    let mut snapshot = user.snapshot().await.unwrap();
    user.commit(put(batch(), "who", "newer")).await.unwrap();
    let refused = bed.store().import(bed.tag("a"), &mut *snapshot, ImportMode::New).await;
    assert_eq!(kind(refused), ErrorKind::AlreadyExists);
    assert_eq!(bed.who("a").await.as_deref(), Some("newer"));
}

async fn import_replaces_everything(mut bed: Bed) {
    let user = bed.user("a").await;
    let mut snapshot = user.snapshot().await.unwrap();
    user.commit(put(batch(), "extra", "1")).await.unwrap();
    bed.store().import(bed.tag("a"), &mut *snapshot, ImportMode::Replace).await.unwrap();
    assert_eq!(kind(user.commit(put(batch(), "late", "1")).await), ErrorKind::Gone);
    assert_eq!(kind(user.state().await), ErrorKind::Gone);
    drop(user);
    bed.reopen().await;
    let user = bed.open("a").await;
    assert_eq!(record_body(&*user, "extra").await, None);
    assert_eq!(record_body(&*user, "who").await.as_deref(), Some("a"));
    user.commit(put(batch(), "extra", "2")).await.unwrap();
}

async fn import_erased_refused(bed: Bed) {
    let mut snapshot = bed.user("a").await.snapshot().await.unwrap();
    bed.store().erase(bed.tag("a")).await.unwrap();
    let refused = bed.store().import(bed.tag("a"), &mut *snapshot, ImportMode::Replace).await;
    assert_eq!(kind(refused), ErrorKind::Erased);
    assert_eq!(kind(bed.store().open(bed.tag("a")).await), ErrorKind::Erased);
}

/// A snapshot that fails after its first records.
struct Failing(UserTag, UserState, Option<Vec<StoredRecord>>);

#[async_trait]
impl Snapshot for Failing {
    fn owner(&self) -> UserTag {
        self.0
    }

    fn state(&self) -> UserState {
        self.1
    }

    fn life(&self) -> Option<Incarnation> {
        None
    }

    fn follows(&self) -> Option<syntha_store::ChainHead> {
        None
    }

    async fn next(&mut self) -> Result<Option<Vec<StoredRecord>>> {
        self.2.take().map(Some).ok_or_else(|| Error::new(ErrorKind::Corrupt, "the snapshot broke off"))
    }
}

async fn import_broken_leaves_old(bed: Bed) {
    let user = bed.user("a").await;
    let (state, old) = records(&bed, "a").await;
    user.commit(put(batch(), "who", "newer")).await.unwrap();
    let mut broken = Failing(bed.tag("a"), state, Some(old.clone()));
    let refused = bed.store().import(bed.tag("a"), &mut broken, ImportMode::Replace).await;
    assert_eq!(kind(refused), ErrorKind::Corrupt);
    user.commit(put(batch(), "k", "1")).await.unwrap();
    assert_eq!(bed.who("a").await.as_deref(), Some("newer"));
    let state = UserState { stamp: Stamp { ..state.stamp }, ..state };
    let mut broken = Failing(bed.tag("b"), state, Some(old));
    bed.store().import(bed.tag("b"), &mut broken, ImportMode::New).await.unwrap_err();
    assert_eq!(kind(bed.store().open(bed.tag("b")).await), ErrorKind::NotFound);
}

/// A snapshot that follows a chain, or has another one at its end than it says before.
struct Chained {
    owner: UserTag,
    inner: Box<dyn Snapshot>,
    follows: Option<ChainHead>,
    end: Option<ChainHead>,
    /// What comes last.
    last: Option<StoredRecord>,
    ended: bool,
}

#[async_trait]
impl Snapshot for Chained {
    fn owner(&self) -> UserTag {
        self.owner
    }

    fn state(&self) -> UserState {
        let state = self.inner.state();
        let end = self.end.filter(|_| self.ended);
        UserState { chain: end.unwrap_or(state.chain), ..state }
    }

    fn life(&self) -> Option<Incarnation> {
        None
    }

    fn follows(&self) -> Option<ChainHead> {
        self.follows
    }

    async fn next(&mut self) -> Result<Option<Vec<StoredRecord>>> {
        match self.inner.next().await? {
            Some(chunk) => Ok(Some(chunk)),
            None => {
                self.ended = true;
                Ok(self.last.take().map(|last| vec![last]))
            }
        }
    }
}

async fn import_follows_a_chain(bed: Bed) {
    let user = bed.user("a").await;
    let end = user.state().await.unwrap().chain;
    let of = async |follows| {
        let inner = bed.open("a").await.snapshot().await.unwrap();
        Chained { owner: bed.tag("a"), inner, follows: Some(follows), end: None, last: None, ended: false }
    };
    let other = ChainHead { seq: end.seq + 1, head: [9; 32] };
    let mut elsewhere = of(other).await;
    let mut absent = of(other).await;
    user.commit(put(batch(), "who", "newer")).await.unwrap();
    let import = async |snapshot: &mut Chained, mode| bed.store().import(bed.tag("a"), snapshot, mode).await;
    assert_eq!(kind(import(&mut elsewhere, ImportMode::Replace).await), ErrorKind::Conflict);
    user.commit(put(batch(), "k", "1")).await.unwrap();
    assert_eq!(bed.who("a").await.as_deref(), Some("newer"));
    // Where nothing is, there is no chain to follow.
    absent.owner = bed.tag("b");
    let refused = bed.store().import(bed.tag("b"), &mut absent, ImportMode::New).await;
    assert_eq!(kind(refused), ErrorKind::Conflict);
    assert_eq!(kind(bed.store().open(bed.tag("b")).await), ErrorKind::NotFound);
    let mut right = of(user.state().await.unwrap().chain).await;
    import(&mut right, ImportMode::Replace).await.unwrap();
}

async fn import_takes_the_chain_of_the_end(mut bed: Bed) {
    let user = bed.user("a").await;
    let inner = user.snapshot().await.unwrap();
    let before = user.state().await.unwrap();
    let end = ChainHead { seq: before.chain.seq + 7, head: [7; 32] };
    let id = seq("", end.seq);
    let head = syntha_store::Head::new(id.clone(), Bytes::new(), Version(1), Version(1), None);
    let record = syntha_store::Record::new(head, Bytes::from_static(b"a link"));
    let last = Some(StoredRecord { space: Keyspace::Audit, record });
    let mut late = Chained { owner: bed.tag("a"), inner, follows: None, end: Some(end), last, ended: false };
    let imported = bed.store().import(bed.tag("a"), &mut late, ImportMode::Replace).await;
    if bed.audited() {
        // That is no link, and not how the trail ends: refused by the layer that knows.
        assert_eq!(kind(imported), ErrorKind::Corrupt);
        assert_eq!(user.state().await.unwrap(), before);
        return;
    }
    imported.unwrap();
    bed.reopen().await;
    let user = bed.open("a").await;
    assert_eq!(user.state().await.unwrap().chain, end);
    let read = user.read(Keyspace::Audit, &[id]).await.unwrap().value;
    assert_eq!(&read[0].as_ref().unwrap().body[..], b"a link");
}

async fn list_pages_in_order(bed: Bed) {
    let mut tags = Vec::new();
    for n in 0..11 {
        let name = format!("user-{n}");
        bed.user(&name).await;
        tags.push(bed.tag(&name));
    }
    tags.sort_unstable();
    bed.store().deployment().await.unwrap();
    for size in [1, 3, 100] {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = bed.store().list(after, size).await.unwrap();
            assert!(page.len() <= size);
            let Some(last) = page.last() else { break };
            after = Some(*last);
            found.extend(page);
        }
        assert_eq!(found, tags, "pages of {size}");
    }
}

async fn deployment_is_no_user(bed: Bed) {
    let space = bed.store().deployment().await.unwrap();
    let row = batch().put(Keyspace::Directory, id("row"), "", "value");
    space.commit(row).await.unwrap();
    assert!(bed.store().list(None, 9).await.unwrap().is_empty());
    assert_eq!(kind(UserTag::from_bytes(syntha_store::DEPLOYMENT_OWNER)), ErrorKind::Invalid);
    let user = bed.user("a").await;
    let read = user.read(Keyspace::Directory, &[id("row")]).await.unwrap();
    assert_eq!(read.value, [None]);
}

async fn deployment_survives_reopen(mut bed: Bed) {
    let space = bed.store().deployment().await.unwrap();
    space.commit(batch().put(Keyspace::Ledger, id("row"), "", "value")).await.unwrap();
    drop(space);
    bed.reopen().await;
    let space = bed.store().deployment().await.unwrap();
    let read = space.read(Keyspace::Ledger, &[id("row")]).await.unwrap();
    assert_eq!(&read.value[0].as_ref().unwrap().body[..], b"value");
}

async fn verify_passes_when_fresh(bed: Bed) {
    assert!(!bed.store().verify().await.unwrap().passed.is_empty());
    bed.user("a").await;
    bed.user("b").await;
    assert!(!bed.store().verify().await.unwrap().passed.is_empty());
}

async fn close_refuses_later_calls(bed: Bed) {
    let user = bed.user("a").await;
    let store = bed.store();
    store.close().await.unwrap();
    assert_eq!(kind(store.open(bed.tag("a")).await), ErrorKind::Unavailable);
    assert_eq!(kind(store.list(None, 9).await), ErrorKind::Unavailable);
    assert_eq!(kind(user.commit(put(batch(), "k", "1")).await), ErrorKind::Unavailable);
    assert_eq!(kind(user.state().await), ErrorKind::Unavailable);
}

async fn isolation_same_names(bed: Bed) {
    let mut users = Vec::new();
    for n in 0..12 {
        users.push(bed.user(&format!("user-{n}")).await);
    }
    let mut tasks = tokio::task::JoinSet::new();
    for (n, user) in users.iter().enumerate() {
        let user = Arc::clone(user);
        tasks.spawn(async move {
            for round in 0..5 {
                user.commit(put(batch(), "same", &format!("{n}-{round}"))).await.unwrap();
                assert_eq!(record_body(&*user, "same").await, Some(format!("{n}-{round}")));
            }
        });
    }
    tasks.join_all().await;
    for (n, user) in users.iter().enumerate() {
        assert_eq!(record_body(&**user, "who").await, Some(format!("user-{n}")));
        let page = user.scan(Scan::records(Keyspace::Context, 99)).await.unwrap().value;
        assert_eq!(page.records.len(), 2, "exactly the user's own records");
    }
}

async fn isolation_near_tags(bed: Bed) {
    let base = *bed.tag("a").as_bytes();
    let mut tags = vec![UserTag::from_bytes(base).unwrap()];
    for bit in [0, 7, 40, 128, 250, 255] {
        let mut near = base;
        near[bit / 8] ^= 1 << (bit % 8);
        tags.push(UserTag::from_bytes(near).unwrap());
    }
    for (n, tag) in tags.iter().enumerate() {
        let first = put(batch(), "who", &n.to_string());
        bed.store().create(*tag, first, CreateMode::New).await.unwrap();
    }
    for (n, tag) in tags.iter().enumerate() {
        let user = bed.store().open(*tag).await.unwrap();
        assert_eq!(record_body(&*user, "who").await, Some(n.to_string()));
    }
}

async fn isolation_files(bed: Bed) {
    let names = ["a", "b", "c"];
    for name in names {
        let user = bed.user(name).await;
        user.commit(put(batch(), "k", &format!("CANARY-of-{name}-end"))).await.unwrap();
    }
    for (file, bytes) in bed.files().await {
        let holds = |name: &&&str| {
            let canary = format!("CANARY-of-{name}-end");
            bytes.windows(canary.len()).any(|window| window == canary.as_bytes())
        };
        assert!(names.iter().filter(holds).count() <= 1, "the file {file} holds two users");
    }
}

async fn archive_round_trip(bed: Bed) {
    let user = bed.user("a").await;
    user.commit(put(batch(), "k", &"x".repeat(100_000))).await.unwrap();
    let (_, old) = records(&bed, "a").await;
    let mut bytes = Vec::new();
    archive::write(&mut *user.snapshot().await.unwrap(), &mut bytes).await.unwrap();
    let middle = bytes.len() / 2;
    let mut flipped = bytes.clone();
    flipped[middle] ^= 1;
    for damaged in [&bytes[..middle], &flipped[..]] {
        let mut reader = archive::Reader::open(damaged).unwrap();
        let refused = bed.store().import(bed.tag("a"), &mut reader, ImportMode::Replace).await;
        assert_eq!(kind(refused), ErrorKind::Corrupt);
    }
    let mut reader = archive::Reader::open(bytes.as_slice()).unwrap();
    bed.store().import(bed.tag("a"), &mut reader, ImportMode::Replace).await.unwrap();
    assert_eq!(records(&bed, "a").await.1, old);
}

async fn create_takes_the_life_that_is_named(mut bed: Bed) {
    let mut first = put(batch(), "k", "v");
    first.life = Some(Incarnation(77));
    let (user, commit) = bed.store().create(bed.tag("a"), first, CreateMode::New).await.unwrap();
    assert_eq!(commit.stamp.incarnation, Incarnation(77));
    assert_eq!(user.state().await.unwrap().stamp, commit.stamp);
    drop(user);
    bed.reopen().await;
    assert_eq!(bed.open("a").await.state().await.unwrap().stamp, commit.stamp);
    // A life that is drawn is another one each time.
    let lives = [bed.user("b").await, bed.user("c").await];
    let [first, second] = [lives[0].state().await.unwrap(), lives[1].state().await.unwrap()];
    assert_ne!(first.stamp.incarnation, second.stamp.incarnation);
}

/// A snapshot that names the life that it begins, and knows its note only at its end.
struct Late {
    inner: Box<dyn Snapshot>,
    ended: bool,
}

#[async_trait]
impl Snapshot for Late {
    fn owner(&self) -> UserTag {
        self.inner.owner()
    }

    fn state(&self) -> UserState {
        let note = if self.ended { Note::new(b"at the end").unwrap() } else { Note::NONE };
        UserState { note, ..self.inner.state() }
    }

    fn life(&self) -> Option<Incarnation> {
        Some(Incarnation(78))
    }

    fn follows(&self) -> Option<syntha_store::ChainHead> {
        None
    }

    async fn next(&mut self) -> Result<Option<Vec<StoredRecord>>> {
        let chunk = self.inner.next().await?;
        self.ended = chunk.is_none();
        Ok(chunk)
    }
}

async fn import_takes_life_and_note(mut bed: Bed) {
    let user = bed.user("a").await;
    let mut late = Late { inner: user.snapshot().await.unwrap(), ended: false };
    let stamp = bed.store().import(bed.tag("a"), &mut late, ImportMode::Replace).await.unwrap();
    assert_eq!(stamp.incarnation, Incarnation(78));
    bed.reopen().await;
    let state = bed.open("a").await.state().await.unwrap();
    assert_eq!(state.stamp.incarnation, Incarnation(78));
    assert_eq!(state.note.as_bytes(), b"at the end");
}
