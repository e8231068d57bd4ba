//! What is changed in the data alone, below the audit layer, shows in a replay of the chain.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use syntha_audit::replay::{Difference, StateReport, replay};
use syntha_audit::verify::Problem;
use syntha_store::{
    At, Batch, Body, Changes, Commit, ErrorKind, Keyspace, Note, Op, Outcome, Page, Record, RecordId, Result,
    Scan, Snapshot, Stamp, Store, StoredRecord, Timestamp, UserState, UserStore, UserTag, Version,
};

use crate::random::Random;
use crate::tamper::places;
use crate::world::{World, name};

/// What somebody makes of the database's file.
type Edit = dyn Fn(&mut UserState, &mut Vec<StoredRecord>) + Send + Sync;

/// A store whose file was changed by hand: reads as of one moment see it.
struct Doctored {
    inner: Arc<dyn UserStore>,
    edit: Box<Edit>,
}

impl std::fmt::Debug for Doctored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Doctored")
    }
}

struct Moment {
    owner: UserTag,
    state: UserState,
    records: Option<Vec<StoredRecord>>,
}

#[async_trait]
impl Snapshot for Moment {
    fn owner(&self) -> UserTag {
        self.owner
    }

    fn state(&self) -> UserState {
        self.state
    }

    fn life(&self) -> Option<syntha_store::Incarnation> {
        None
    }

    fn follows(&self) -> Option<syntha_store::ChainHead> {
        None
    }

    async fn next(&mut self) -> Result<Option<Vec<StoredRecord>>> {
        Ok(self.records.take())
    }
}

#[async_trait]
impl UserStore for Doctored {
    async fn state(&self) -> Result<UserState> {
        self.inner.state().await
    }

    fn is_at(&self, stamp: Stamp) -> bool {
        self.inner.is_at(stamp)
    }

    async fn read(&self, space: Keyspace, ids: &[RecordId]) -> Result<At<Vec<Option<Record>>>> {
        self.inner.read(space, ids).await
    }

    async fn scan(&self, scan: Scan) -> Result<At<Page>> {
        self.inner.scan(scan).await
    }

    async fn commit(&self, batch: Batch) -> Result<Commit> {
        self.inner.commit(batch).await
    }

    async fn outcome(&self, batch: syntha_store::BatchId, since: Stamp) -> Result<Outcome> {
        self.inner.outcome(batch, since).await
    }

    async fn changes(&self, since: Stamp, limit: usize) -> Result<Changes> {
        self.inner.changes(since, limit).await
    }

    async fn changed(&self, since: Stamp) -> Result<Stamp> {
        self.inner.changed(since).await
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        let mut inner = self.inner.snapshot().await?;
        let mut records = Vec::new();
        while let Some(chunk) = inner.next().await? {
            records.extend(chunk);
        }
        let mut state = inner.state();
        (self.edit)(&mut state, &mut records);
        Ok(Box::new(Moment { owner: inner.owner(), state, records: Some(records) }))
    }
}

impl World {
    async fn bare_user(&self, user: usize) -> Arc<dyn UserStore> {
        self.bare.open(self.users[user]).await.unwrap()
    }

    async fn replay(&self, inner: &dyn UserStore, user: usize) -> StateReport {
        replay(inner, &self.trail.deployment, self.users[user].as_bytes(), None).await.unwrap()
    }

    async fn doctored(
        &self,
        user: usize,
        edit: impl Fn(&mut UserState, &mut Vec<StoredRecord>) + Send + Sync + 'static,
    ) -> StateReport {
        let doctored = Doctored { inner: self.bare_user(user).await, edit: Box::new(edit) };
        self.replay(&doctored, user).await
    }
}

fn differences(report: &StateReport) -> Vec<Difference> {
    report.findings.iter().map(|finding| finding.difference).collect()
}

/// A change of a row, and how it must be called.
type Change = fn(&mut Record, &mut Random) -> Difference;

const CHANGES: &[Change] = &[
    |record, random| {
        let mut body = record.body.to_vec();
        if body.is_empty() {
            body.push(0);
        }
        let at = random.below(body.len());
        body[at] ^= 1 << random.below(8);
        record.body = Body(body.into());
        Difference::Changed
    },
    |record, _| {
        record.head.head = [&record.head.head[..], b"+"].concat().into();
        Difference::Changed
    },
    |record, _| {
        record.head.expires = record.head.expires.map_or(Some(Timestamp(1)), |_| None);
        Difference::Changed
    },
    |record, _| {
        record.head.version = Version(record.head.version.0 + 1);
        Difference::Changed
    },
    |record, _| {
        record.body = Body(Bytes::from_static(b"what it was"));
        record.head.version = Version(record.head.version.0 - 1);
        Difference::RolledBack
    },
];

#[tokio::test]
async fn a_changed_row_shows() {
    let mut random = Random(0x57A7E);
    let mut world = World::new(21, false).await;
    let mut found = 0;
    for place in 0..places() * 4 {
        if place % 100 == 99 {
            world = World::new(21 + place as u64, false).await;
        }
        let user = 1 + random.below(world.users.len() - 1);
        let clean = world.replay(&*world.bare_user(user).await, user).await;
        assert!(clean.is_clean(), "{:?} {:?}", clean.findings, clean.chain.findings);
        let (rows, at, what) = (clean.records as usize, random.next(), random.below(CHANGES.len() + 3));
        let pick = move |records: &[StoredRecord]| {
            let data: Vec<_> =
                (0..records.len()).filter(|at| records[*at].space != Keyspace::Audit).collect();
            data[usize::try_from(at >> 33).unwrap() % data.len()]
        };
        if rows == 0 {
            continue;
        }
        let seed = random.next();
        let report = world.doctored(user, move |_, records| {
            let at = pick(records);
            match CHANGES.get(what) {
                Some(change) => drop(change(&mut records[at].record, &mut Random(seed))),
                None if what == CHANGES.len() => drop(records.remove(at)),
                None => {
                    let mut twice = records[at].clone();
                    let id = &twice.record.head.id;
                    twice.record.head.id = RecordId::new(id.name().clone(), id.seq() + 1_000_000).unwrap();
                    if what == CHANGES.len() + 1 {
                        records.remove(at);
                    }
                    records.push(twice);
                }
            }
        });
        let report = report.await;
        let expected = match what {
            4 => vec![Difference::RolledBack],
            0..=3 => vec![Difference::Changed],
            5 => vec![Difference::Deleted],
            6 => vec![Difference::Moved, Difference::Deleted],
            _ => vec![Difference::Added],
        };
        let mut differences = differences(&report);
        if what == 7 {
            // Rows of one commit have equal versions: one that is away is not needed for it.
            assert!(matches!(differences[..], [Difference::Added]), "{differences:?}");
        } else {
            differences.sort_unstable();
            let mut expected = expected;
            expected.sort_unstable();
            assert_eq!(differences, expected, "kind {what}");
        }
        assert!(report.findings.iter().any(|finding| finding.seq.is_some() || what == 7));
        assert_eq!(report.chain.findings, []);
        found += 1;
    }
    println!(
        "evidence: {found} changes of one row below the trail, each found and named by a replay of the chain"
    );
}

#[tokio::test]
async fn a_changed_user_row_shows() {
    let world = World::new(22, false).await;
    let user = 3;
    let usage = world.doctored(user, |state, _| state.usage.contexts += 1).await;
    assert_eq!(differences(&usage), [Difference::Usage]);
    let note = world.doctored(user, |state, _| state.note = Note::new(b"another").unwrap()).await;
    assert_eq!(differences(&note), [Difference::Note]);
    let stamp = world.doctored(user, |state, _| state.stamp.epoch.0 -= 1).await;
    assert_eq!(differences(&stamp), [Difference::Stamp]);
    let chain = world.doctored(user, |state, _| state.chain.head[0] ^= 1).await;
    assert_eq!(chain.chain.findings[0].problem, Problem::End);
    // The last link is taken away with the row, its change is not.
    let tail = world.doctored(user, |state, records| {
        records.retain(|stored| {
            stored.space != Keyspace::Audit || stored.record.head.id.seq() != state.chain.seq
        });
        state.chain.seq -= 1;
    });
    assert!(!tail.await.is_clean());
}

#[tokio::test]
async fn a_trail_that_was_deleted_shows() {
    let world = World::new(23, false).await;
    let user = 4;
    for edit in [
        // All of it, a link, the key.
        (|stored: &StoredRecord| stored.space == Keyspace::Audit) as fn(&StoredRecord) -> bool,
        |stored| stored.space == Keyspace::Audit && stored.record.head.id.name().is_empty(),
        |stored| stored.space == Keyspace::Audit && !stored.record.head.id.name().is_empty(),
    ] {
        let report = world.doctored(user, move |_, records| records.retain(|stored| !edit(stored))).await;
        assert!(differences(&report).contains(&Difference::NoChain));
    }
    let report = world.doctored(user, |_, records| {
        records.retain(|stored| stored.space != Keyspace::Audit || stored.record.head.id.seq() != 2);
    });
    let first = report.await.chain.findings[0];
    assert_eq!((first.problem, first.until), (Problem::Number, Some(2)));
    // In the live store: it does not open any more, and a replay says why.
    let bare = world.bare_user(user).await;
    bare.commit(Batch::new(Timestamp(1)).unwrap().op(Op::Clear { space: Keyspace::Audit })).await.unwrap();
    let refused = world.processes[0].open(world.users[user]).await.map(|_| ()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Tampered);
    let report = world.processes[0].replay(world.users[user], None).await.unwrap();
    assert!(differences(&report).contains(&Difference::NoChain));
    // A change beside the layer.
    let user = 5;
    let bare = world.bare_user(user).await;
    let batch = Batch::new(Timestamp(1)).unwrap();
    bare.commit(batch.put(Keyspace::Context, name("aside"), Bytes::new(), Bytes::new())).await.unwrap();
    let report = world.processes[0].replay(world.users[user], None).await.unwrap();
    assert_eq!(differences(&report), [Difference::Stamp, Difference::Added]);
}

/// A replay beside writers sees one moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_beside_writers_is_of_one_moment() {
    let world = Arc::new(World::new(24, false).await);
    let writing = Arc::clone(&world);
    let writer = tokio::spawn(async move {
        let mut random = Random(24);
        for _ in 0..300 {
            writing.commit(6, &mut random).await;
        }
    });
    let mut replays = 0;
    while !writer.is_finished() {
        let report = world.processes[2].replay(world.users[6], None).await.unwrap();
        assert!(report.is_clean(), "{:?} {:?}", report.findings, report.chain.findings);
        replays += 1;
    }
    writer.await.unwrap();
    assert!(replays > 0);
    // The deployment's own space has no snapshot, and is replayed as well.
    let own = world.processes[0].deployment().await.unwrap();
    own.commit(Batch::new(Timestamp(1)).unwrap().put(
        Keyspace::Directory,
        name("a"),
        Bytes::new(),
        Bytes::new(),
    ))
    .await
    .unwrap();
    let bare = world.bare.deployment().await.unwrap();
    let report = replay(&*bare, &world.trail.deployment, &[0; 32], None).await.unwrap();
    assert!(report.is_clean() && report.records == 1, "{report:?}");
}
