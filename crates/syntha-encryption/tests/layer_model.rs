//! Random batches through the layer and through a plain store: the same answers, the same records, and a roster that fits.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs, reason = "a test")]

use std::sync::Arc;

use proptest::prelude::*;
use syntha_encryption::{EncryptedStore, Kek, KeyCache, Keychain, Keystore, Mode, Owner, SecretKey};
use syntha_store::{
    Batch, CreateMode, DeploymentKey, Keyspace, MemoryStore, Note, Op, RecordId, Scan, Store, StoredRecord,
    Timestamp, UserId, UserStore, UserTag,
};

const KEK: &[u8; 32] = b"a key of a test, which is no key";

/// One change; the space and the record by their numbers.
#[derive(Clone, Debug)]
enum Change {
    Put(u8, u8, u8),
    PutHead(u8, u8),
    /// Of the version that is there, or of another one.
    Rewrite(u8, u8, u8, bool),
    Delete(u8, u8),
    DeleteName(u8, u8),
    Clear(u8),
}

#[derive(Clone, Debug)]
enum Step {
    /// By one of the handles.
    Commit(u8, Vec<Change>),
    Rotate(u8),
    Reopen(u8),
}

fn change() -> impl Strategy<Value = Change> {
    let (space, record, body) = (0..4_u8, 0..4_u8, 0..3_u8);
    prop_oneof![
        6 => (space.clone(), record.clone(), body.clone()).prop_map(|(space, id, body)| Change::Put(space, id, body)),
        5 => (space.clone(), record.clone()).prop_map(|(space, id)| Change::PutHead(space, id)),
        3 => (space.clone(), record.clone(), body, prop::bool::weighted(0.8))
            .prop_map(|(space, id, body, fits)| Change::Rewrite(space, id, body, fits)),
        2 => (space.clone(), record.clone()).prop_map(|(space, id)| Change::Delete(space, id)),
        1 => (space.clone(), record).prop_map(|(space, id)| Change::DeleteName(space, id)),
        1 => space.prop_map(Change::Clear),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (prop_oneof![4 => Just(0_u8), 1 => 1..3_u8], prop::collection::vec(change(), 1..4)).prop_map(|(by, changes)| Step::Commit(by, changes)),
        1 => (0..2_u8).prop_map(Step::Rotate),
        1 => (0..3_u8).prop_map(Step::Reopen),
    ]
}

/// Records of two names, of one name several.
fn id(number: u8) -> RecordId {
    let (name, seq) = [("a", 0), ("a", 1), ("a", 7), ("b", 0)][usize::from(number)];
    RecordId::new(name, seq).unwrap()
}

fn body(number: u8) -> Vec<u8> {
    [vec![], b"short".to_vec(), vec![5; 300]][usize::from(number)].clone()
}

async fn records(user: &dyn UserStore) -> Vec<StoredRecord> {
    let mut found = Vec::new();
    for space in Keyspace::all() {
        let page = user.scan(Scan::records(space, 100)).await.unwrap().value;
        for (head, body) in page.records {
            let record = syntha_store::Record::new(head, body.unwrap());
            found.push(StoredRecord { space, record });
        }
    }
    found.sort_by(|a, b| (a.space, &a.record.head.id).cmp(&(b.space, &b.record.head.id)));
    found
}

struct Bed {
    stores: Vec<EncryptedStore>,
    handles: Vec<Arc<dyn UserStore>>,
    model: Arc<dyn UserStore>,
    spaces: [Keyspace; 4],
    owner: Owner,
}

impl Bed {
    async fn new(mode: Mode, deployment: bool, first: &[Change]) -> Option<Self> {
        let key = DeploymentKey::generate().unwrap();
        let tag: UserTag = key.tag(&UserId::new("alice").unwrap());
        let (below, keys) =
            (Arc::new(MemoryStore::new().unwrap()) as Arc<dyn Store>, Arc::new(MemoryStore::new().unwrap()));
        let mut stores = Vec::new();
        for _ in 0..2 {
            let keystore = Keystore::open(Arc::clone(&keys) as _).await.unwrap();
            let kek = Kek::from_key(SecretKey::from_bytes(KEK));
            let chain = Keychain::create(keystore, &kek, mode, &key, KeyCache::default()).await.unwrap();
            stores.push(EncryptedStore::new(Arc::clone(&below), &chain).unwrap());
        }
        let plain = MemoryStore::new().unwrap();
        let (spaces, owner) = if deployment {
            ([Keyspace::Meta, Keyspace::Ledger, Keyspace::Directory, Keyspace::Audit], Owner::Deployment)
        } else {
            ([Keyspace::Meta, Keyspace::Agents, Keyspace::Context, Keyspace::Audit], Owner::User(tag))
        };
        let model = if deployment {
            let model = plain.deployment().await.unwrap();
            stores[0].deployment().await.unwrap();
            raise(&*model).await;
            model
        } else {
            let mut batch = Batch::new(Timestamp(1)).unwrap();
            batch.ops = ops(first, spaces, &[]);
            let made = plain.create(tag, batch.clone(), CreateMode::New).await;
            let sealed = stores[0].create(tag, batch, CreateMode::New).await;
            assert_eq!(
                made.as_ref().map(|_| ()).map_err(syntha_store::Error::kind),
                sealed.map(|_| ()).map_err(|error| error.kind())
            );
            made.ok()?.0
        };
        let mut bed = Self { stores, handles: Vec::new(), model, spaces, owner };
        for by in 0..3 {
            let handle = bed.open(by).await;
            bed.handles.push(handle);
        }
        Some(bed)
    }

    /// Two handles of one process, and one of another.
    async fn open(&self, by: u8) -> Arc<dyn UserStore> {
        let store = &self.stores[usize::from(by / 2)];
        match self.owner {
            Owner::User(tag) => store.open(tag).await.unwrap(),
            Owner::Deployment => store.deployment().await.unwrap(),
        }
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Commit(by, changes) => {
                let present = records(&*self.model).await;
                let mut batch = Batch::new(Timestamp(2)).unwrap();
                batch.ops = ops(changes, self.spaces, &present);
                let model = self.model.commit(batch.clone()).await;
                let sealed = self.handles[usize::from(*by)].commit(batch).await;
                let kind = |done: Result<syntha_store::Commit, syntha_store::Error>| {
                    done.map(|commit| commit.stamp.epoch).map_err(|error| error.kind())
                };
                assert_eq!(kind(sealed), kind(model));
            }
            Step::Rotate(by) => {
                self.stores[usize::from(*by)].rotate(self.owner, &mut |_| {}).await.unwrap();
                raise(&*self.model).await;
            }
            Step::Reopen(by) => self.handles[usize::from(*by)] = self.open(*by).await,
        }
        // Opening adds the roster up anew.
        let fresh = self.open(0).await;
        let expected = records(&*self.model).await;
        assert_eq!(records(&*fresh).await, expected);
        for handle in &self.handles {
            assert_eq!(records(&**handle).await, expected);
        }
    }
}

async fn raise(model: &dyn UserStore) {
    let mut batch = Batch::new(Timestamp(2)).unwrap();
    batch.note = Some(Note::NONE);
    model.commit(batch).await.unwrap();
}

fn ops(changes: &[Change], spaces: [Keyspace; 4], present: &[StoredRecord]) -> Vec<Op> {
    let space = |number: &u8| spaces[usize::from(*number)];
    changes
        .iter()
        .map(|change| match change {
            Change::Put(at, record, bytes) => Op::Put {
                space: space(at),
                id: id(*record),
                head: "head".into(),
                body: body(*bytes).into(),
                expires: None,
            },
            Change::PutHead(at, record) => {
                Op::PutHead { space: space(at), id: id(*record), head: "other".into(), expires: None }
            }
            Change::Rewrite(at, record, bytes, fits) => {
                let found = |one: &&StoredRecord| one.space == space(at) && one.record.head.id == id(*record);
                let there = present.iter().find(found);
                let mut version = there.map(|one| one.record.head.version).unwrap_or_default();
                version.0 += u64::from(!fits);
                // A rewrite neither adds nor takes away a body.
                let bytes =
                    if there.is_some_and(|one| one.record.body.is_empty()) { 0 } else { (*bytes).max(1) };
                Op::Rewrite {
                    space: space(at),
                    id: id(*record),
                    version,
                    head: "again".into(),
                    body: body(bytes).into(),
                }
            }
            Change::Delete(at, record) => Op::Delete { space: space(at), id: id(*record) },
            Change::DeleteName(at, record) => {
                Op::DeleteName { space: space(at), name: id(*record).name().clone() }
            }
            Change::Clear(at) => Op::Clear { space: space(at) },
        })
        .collect()
}

fn run(mode: Mode, deployment: bool, first: &[Change], steps: &[Step]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let Some(mut bed) = Bed::new(mode, deployment, first).await else { return };
        for step in steps {
            bed.step(step).await;
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_users_batches_are_those_of_a_plain_store(
        first in prop::collection::vec(change(), 0..4),
        steps in prop::collection::vec(step(), 1..20),
        values in any::<bool>(),
    ) {
        run(if values { Mode::Values } else { Mode::Sealed }, false, &first, &steps);
    }

    #[test]
    fn the_deployments_batches_are_those_of_a_plain_store(steps in prop::collection::vec(step(), 1..20)) {
        run(Mode::Sealed, true, &[], &steps);
    }
}

/// What a handle remembers of a body is not used for a body that was written since.
#[test]
fn a_head_after_a_new_body_fits_that_body() {
    for space in 0..4 {
        for between in
            [Change::Put(space, 0, 2), Change::Put(space, 0, 0), Change::Rewrite(space, 0, 2, true)]
        {
            for by in [0, 1, 2] {
                let put = Step::Commit(0, vec![Change::Put(space, 0, 1)]);
                let head = Step::Commit(0, vec![Change::PutHead(space, 0)]);
                let steps = [put, head.clone(), Step::Commit(by, vec![between.clone()]), head];
                run(Mode::Sealed, false, &[], &steps);
            }
        }
    }
}
