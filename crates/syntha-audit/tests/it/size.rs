//! How many bytes a trail has, and what happens at its limit.

use syntha_audit::AuditedStore;
use syntha_store::{
    CreateMode, ErrorKind, Head, ImportMode, Keyspace, MemoryStore, Op, Record, Scan, Store, StoredRecord,
    Timestamp,
};

use crate::{Memory, batch, commits, create, tag};

const LIMIT: u64 = 64 * 1024;

/// The bytes of a user's links as they are stored.
async fn stored(bed: &Memory, number: u8) -> u64 {
    let user = bed.raw().open(tag(number)).await.unwrap();
    let page = user.scan(Scan::records(Keyspace::Audit, 10_000).name("")).await.unwrap().value;
    page.records.iter().map(|(_, body)| body.as_ref().unwrap().len() as u64).sum()
}

async fn check(bed: &Memory, stores: &[&AuditedStore<MemoryStore>]) {
    let there = stored(bed, 1).await;
    for store in stores.iter().copied().chain([&bed.open(&[])]) {
        assert_eq!(store.trail_size(tag(1)).await.unwrap().bytes, there);
    }
}

#[tokio::test]
async fn every_process_counts_the_same_bytes_whatever_became_of_the_chain() {
    let bed = Memory::new();
    let (one, other) = (bed.open(&[]), bed.open(&[]));
    let first = create(&one, 1).await;
    let second = other.open(tag(1)).await.unwrap();
    for _ in 0..10 {
        commits(&first, 3).await;
        commits(&second, 2).await;
        check(&bed, &[&one, &other]).await;
    }
    one.prune(tag(1), 20).await.unwrap();
    check(&bed, &[&one, &other]).await;
    commits(&second, 5).await;
    check(&bed, &[&one, &other]).await;
    let mut archive = second.snapshot().await.unwrap();
    other.import(tag(1), &mut *archive, ImportMode::Replace).await.unwrap();
    check(&bed, &[&one, &other]).await;
    commits(&one.open(tag(1)).await.unwrap(), 5).await;
    one.prune(tag(1), 40).await.unwrap();
    check(&bed, &[&one, &other]).await;
    // An archive of where nobody is brings its links along, and they are counted anew.
    let mut archive = one.open(tag(1)).await.unwrap().snapshot().await.unwrap();
    let elsewhere = Memory::new();
    elsewhere.open(&[]).import(tag(1), &mut *archive, ImportMode::New).await.unwrap();
    check(&elsewhere, &[]).await;
    commits(&elsewhere.open(&[]).open(tag(1)).await.unwrap(), 3).await;
    check(&elsewhere, &[]).await;
    one.erase(tag(1)).await.unwrap();
    one.create(tag(1), batch("again"), CreateMode::Recreate).await.unwrap();
    check(&bed, &[&one, &other]).await;
}

/// Links of a build that did not count.
#[tokio::test]
async fn links_that_were_not_counted_are_counted_once() {
    let bed = Memory::new();
    let store = bed.open(&[]);
    commits(&create(&store, 1).await, 30).await;
    let raw = bed.raw().open(tag(1)).await.unwrap();
    for uncounted in [1..=31, 1..=10, 5..=20] {
        let page = raw.scan(Scan::records(Keyspace::Audit, 1_000).name("")).await.unwrap().value;
        let mut batch = syntha_store::Batch::new(Timestamp(0)).unwrap();
        for (head, body) in page.records.into_iter().filter(|(head, _)| uncounted.contains(&head.id.seq())) {
            let Head { id, .. } = head;
            let put = Op::Put {
                space: Keyspace::Audit,
                id,
                head: bytes::Bytes::new(),
                body: body.unwrap(),
                expires: None,
            };
            batch.ops.push(put);
        }
        raw.commit(batch).await.unwrap();
        check(&bed, &[]).await;
        commits(&bed.open(&[]).open(tag(1)).await.unwrap(), 4).await;
        check(&bed, &[]).await;
    }
}

#[tokio::test]
async fn a_full_trail_goes_on_when_it_is_pruned_by_whomever() {
    let bed = Memory::new();
    let (one, other) = (bed.open(&[]).trail_limit(LIMIT), bed.open(&[]).trail_limit(LIMIT));
    let user = create(&one, 1).await;
    let mut tight = 0;
    let refused = loop {
        match user.commit(batch("key")).await {
            Ok(commit) => tight += u64::from(commit.trail_is_tight),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.kind(), ErrorKind::AuditUnavailable);
    assert!(refused.is_full_trail() && refused.message().contains("prune"), "{refused}");
    let size = one.trail_size(tag(1)).await.unwrap();
    assert!(size.is_tight() && size.bytes <= LIMIT && size.limit == LIMIT, "{size:?}");
    let links = user.state().await.unwrap().chain.seq;
    assert!(tight > links / 12 && tight < links / 8, "{tight} of {links} were near the limit");
    // Nobody else's.
    commits(&create(&one, 2).await, 5).await;
    // A restore brings no more than it must, and is done.
    let mut archive = other.open(tag(1)).await.unwrap().snapshot().await.unwrap();
    one.import(tag(1), &mut *archive, ImportMode::Replace).await.unwrap();
    let user = one.open(tag(1)).await.unwrap();
    assert_eq!(user.commit(batch("key")).await.unwrap_err().kind(), ErrorKind::AuditUnavailable);
    // The other process prunes: this one sees that, and is not refused for what it remembers.
    other.prune(tag(1), links - 10).await.unwrap();
    let commit = user.commit(batch("key")).await.unwrap();
    assert!(!commit.trail_is_tight);
    assert!(one.trail_size(tag(1)).await.unwrap().bytes < LIMIT / 4);
    assert_eq!(one.trail_size(tag(1)).await.unwrap().bytes, stored(&bed, 1).await);
}

/// A prune writes its snapshot first and removes links later, when the chain does not move.
#[tokio::test]
async fn links_that_another_process_removes_make_room_at_once() {
    let bed = Memory::new();
    let store = bed.open(&[]).trail_limit(LIMIT);
    let user = create(&store, 1).await;
    while user.commit(batch("key")).await.is_ok() {}
    let mut removed = syntha_store::Batch::new(Timestamp(0)).unwrap();
    for seq in 1..=50 {
        let id = syntha_store::RecordId::new("", seq).unwrap();
        removed.ops.push(Op::Delete { space: Keyspace::Audit, id });
    }
    bed.raw().open(tag(1)).await.unwrap().commit(removed).await.unwrap();
    user.commit(batch("key")).await.unwrap();
}

#[tokio::test]
async fn what_an_archive_says_of_its_size_decides_nothing() {
    struct Lying(Box<dyn syntha_store::Snapshot>);

    #[async_trait::async_trait]
    impl syntha_store::Snapshot for Lying {
        fn owner(&self) -> syntha_store::UserTag {
            self.0.owner()
        }

        fn state(&self) -> syntha_store::UserState {
            self.0.state()
        }

        fn life(&self) -> Option<syntha_store::Incarnation> {
            self.0.life()
        }

        fn follows(&self) -> Option<syntha_store::ChainHead> {
            self.0.follows()
        }

        async fn next(&mut self) -> syntha_store::Result<Option<Vec<StoredRecord>>> {
            let lie = |mut stored: StoredRecord| {
                if stored.space == Keyspace::Audit && stored.record.head.id.name().is_empty() {
                    let mut head = stored.record.head.clone();
                    head.head = bytes::Bytes::copy_from_slice(&u64::MAX.to_be_bytes());
                    stored.record = Record::new(head, stored.record.body.0.clone());
                }
                stored
            };
            Ok(self.0.next().await?.map(|chunk| chunk.into_iter().map(lie).collect()))
        }
    }

    let bed = Memory::new();
    let user = create(&bed.open(&[]), 1).await;
    commits(&user, 10).await;
    let empty = MemoryStore::with_key(syntha_store::DeploymentKey::generate().unwrap()).unwrap();
    let elsewhere = AuditedStore::new(std::sync::Arc::new(empty), bed.deployment()).unwrap();
    let mut lying = Lying(user.snapshot().await.unwrap());
    elsewhere.import(tag(1), &mut lying, ImportMode::New).await.unwrap();
    let restored = elsewhere.open(tag(1)).await.unwrap();
    for _ in 0..2 {
        let page = restored.scan(Scan::records(Keyspace::Audit, 1_000).name("")).await.unwrap().value;
        let there: u64 = page.records.iter().map(|(_, body)| body.as_ref().unwrap().len() as u64).sum();
        assert_eq!(elsewhere.trail_size(tag(1)).await.unwrap().bytes, there);
        commits(&restored, 3).await;
    }
}
