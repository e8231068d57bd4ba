//! Trails as real stores make them: several processes on one deployment, many users, lives that end, begin again and are restored.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use syntha_audit::AuditedStore;
use syntha_audit::leaf::{Leaf, LeafKind};
use syntha_audit::link::StoredLink;
use syntha_store::{
    Action, Batch, CreateMode, DeploymentKey, Event, Events, ImportMode, Keyspace, MemoryStore, Op, RecordId,
    Scan, Store, Timestamp, Usage, UserId, UserStore, UserTag,
};

use crate::random::Random;
use crate::trail::{Chain, Trail, Tree, key_of, sign};

const USERS: usize = 8;
const PROCESSES: usize = 3;
const ROUNDS: usize = 8;
/// Erased for good.
const ERASED: usize = 0;
/// Erased and made again.
const RECREATED: usize = 1;
/// Restored from a snapshot of its own.
const RESTORED: usize = 2;

pub(crate) struct World {
    pub(crate) bare: Arc<MemoryStore>,
    pub(crate) processes: Vec<AuditedStore<MemoryStore>>,
    pub(crate) users: Vec<UserTag>,
    pub(crate) trail: Trail,
    /// As it was some rounds before.
    pub(crate) past: Trail,
    logged: BTreeMap<[u8; 32], u64>,
    clock: u64,
}

pub(crate) fn name(text: &str) -> RecordId {
    RecordId::new(Bytes::copy_from_slice(text.as_bytes()), 0).unwrap()
}

impl World {
    /// `erratic`: the clock jumps, forward and back.
    pub(crate) async fn new(seed: u64, erratic: bool) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let bare = Arc::new(MemoryStore::with_key(DeploymentKey::from_bytes([7; 32])).unwrap());
        let deployment = bare.deployment_key().fingerprint();
        let process = |_| AuditedStore::new(Arc::new(bare.reopen()), deployment).unwrap();
        let users = (0..USERS).map(|user| UserId::new(format!("user {user}")).unwrap());
        let trail = Trail {
            deployment,
            chains: Vec::new(),
            leaves: Vec::new(),
            checkpoints: Vec::new(),
            sizes: Vec::new(),
        };
        let mut world = Self {
            processes: (0..PROCESSES).map(process).collect(),
            users: users.map(|user| bare.deployment_key().tag(&user)).collect(),
            bare,
            past: trail.clone(),
            trail,
            logged: BTreeMap::new(),
            clock: 1_700_000_000_000,
        };
        for user in 0..USERS {
            world.create(user, CreateMode::New).await;
        }
        for round in 0..ROUNDS {
            for user in 0..USERS {
                if world.processes[0].open(world.users[user]).await.is_ok() {
                    for _ in 0..random.below(4) + usize::from(round == 0) {
                        world.tick(&mut random, erratic);
                        world.commit(user, &mut random).await;
                    }
                }
            }
            match round {
                2 => world.erase(ERASED).await,
                3 => world.erase(RECREATED).await,
                4 => {
                    world.past = world.trail.clone();
                    world.past.chains = world.chains().await;
                    world.create(RECREATED, CreateMode::Recreate).await;
                }
                5 => world.restore(RESTORED).await,
                // What no checkpoint covers.
                _ if round + 1 == ROUNDS => break,
                _ => {}
            }
            world.log().await;
        }
        // An erased user's chain is what was exported before.
        let erased = world.trail.chains.iter().find(|chain| chain.owner == *world.users[ERASED].as_bytes());
        let mut chains = vec![erased.unwrap().clone()];
        chains.extend(world.chains().await);
        world.trail.chains = chains;
        world
    }

    fn tick(&mut self, random: &mut Random, erratic: bool) {
        self.clock = match random.below(3) {
            0 if erratic => self.clock - 3_600_000,
            1 if erratic => self.clock + 86_400_000,
            _ => self.clock + 17,
        };
    }

    fn batch(&self) -> Batch {
        Batch::new(Timestamp(self.clock)).unwrap()
    }

    async fn create(&self, user: usize, mode: CreateMode) {
        let first = self.batch().put(Keyspace::Meta, name("made"), &b"head"[..], &b"body"[..]);
        self.processes[user % PROCESSES].create(self.users[user], first, mode).await.unwrap();
    }

    /// One commit of any kind, by any process.
    pub(crate) async fn commit(&self, user: usize, random: &mut Random) {
        let store = random.pick(&self.processes).open(self.users[user]).await.unwrap();
        let key = name(&format!("key {}", random.below(6)));
        let event = Event::new(Timestamp(self.clock), Action::Push).on("key".into()).by(Some("agent".into()));
        let value = || Bytes::from(format!("value {}", self.clock));
        let there = store.read(Keyspace::Context, std::slice::from_ref(&key)).await.unwrap();
        let there = there.value.into_iter().next().unwrap();
        let batch = self.batch();
        let batch = match (random.below(8), there) {
            (0, _) => batch,
            (1, Some(_)) => batch.delete(Keyspace::Context, key),
            (2, Some(record)) => {
                let (head, expires) = (record.head.head, Some(Timestamp(self.clock + 1)));
                batch.op(Op::PutHead { space: Keyspace::Context, id: key, head, expires })
            }
            (3, Some(record)) => batch.op(Op::Rewrite {
                space: Keyspace::Context,
                id: key,
                version: record.head.version,
                head: record.head.head,
                body: value(),
            }),
            (4, _) => batch.op(Op::DeleteName { space: Keyspace::Context, name: key.name().clone() }),
            (5, _) => (0..64).fold(batch, |batch, seq| {
                let id = RecordId::new(Bytes::from_static(b"thread"), self.clock % 1_000 * 64 + seq).unwrap();
                batch.put(Keyspace::History, id, Bytes::new(), value())
            }),
            _ => batch
                .put(Keyspace::Context, key, &b"head"[..], value())
                .usage(Usage { contexts: self.clock % 7, ..Usage::default() }),
        };
        let batch = if batch.is_empty() || !random.chance(3) {
            batch.events(Events::Clear(vec![event]))
        } else {
            batch
        };
        store.commit(batch).await.unwrap();
    }

    async fn erase(&mut self, user: usize) {
        let owner = *self.users[user].as_bytes();
        let store = self.bare.open(self.users[user]).await.unwrap();
        let state = store.state().await.unwrap();
        let chain = Chain { owner, links: links(&*store).await };
        self.trail.chains.push(chain);
        self.processes[0].erase(self.users[user]).await.unwrap();
        self.trail.leaves.push(Leaf::new(LeafKind::Erased, owner, state.stamp.incarnation, state.chain));
        self.logged.remove(&owner);
    }

    async fn restore(&self, user: usize) {
        let store = self.processes[0].open(self.users[user]).await.unwrap();
        let mut snapshot = store.snapshot().await.unwrap();
        store.commit(self.batch().delete(Keyspace::Meta, name("made"))).await.unwrap();
        self.processes[1].import(self.users[user], &mut *snapshot, ImportMode::Replace).await.unwrap();
    }

    /// A user's last link is taken away behind the store, and an archive of before takes the place of the data. The log says so.
    pub(crate) async fn lose(&mut self, user: usize, random: &mut Random) {
        let (tag, owner) = (self.users[user], *self.users[user].as_bytes());
        let store = self.processes[0].open(tag).await.unwrap();
        let mut archive = store.snapshot().await.unwrap();
        for _ in 0..3 {
            self.tick(random, false);
            self.commit(user, random).await;
        }
        self.log().await;
        let bare = self.bare.open(tag).await.unwrap();
        let state = bare.state().await.unwrap();
        let id = RecordId::new(Bytes::new(), state.chain.seq).unwrap();
        bare.commit(self.batch().op(Op::Delete { space: Keyspace::Audit, id })).await.unwrap();
        self.processes[1].import(tag, &mut *archive, ImportMode::Replace).await.unwrap();
        self.trail.leaves.push(Leaf::new(LeafKind::Lost, owner, state.stamp.incarnation, state.chain));
        self.logged.remove(&owner);
        self.log().await;
        let mut chains = vec![self.trail.chains[0].clone()];
        chains.extend(self.chains().await);
        self.trail.chains = chains;
    }

    /// Leaves for all chains that moved, and a checkpoint.
    async fn log(&mut self) {
        for user in &self.users {
            let Ok(store) = self.bare.open(*user).await else { continue };
            let (owner, state) = (*user.as_bytes(), store.state().await.unwrap());
            if self.logged.insert(owner, state.chain.seq) != Some(state.chain.seq) {
                self.trail.leaves.push(Leaf::new(
                    LeafKind::Head,
                    owner,
                    state.stamp.incarnation,
                    state.chain,
                ));
            }
        }
        let size = self.trail.leaves.len() as u64;
        let root = Tree::of(&self.trail.leaves).root(size);
        self.trail.checkpoints.push(sign(size, root, key_of(size)));
        self.trail.sizes.push(size);
    }

    /// The chains of the users who are there.
    async fn chains(&self) -> Vec<Chain> {
        let mut chains = Vec::new();
        for user in &self.users {
            if let Ok(store) = self.bare.open(*user).await {
                chains.push(Chain { owner: *user.as_bytes(), links: links(&*store).await });
            }
        }
        chains
    }
}

async fn links(store: &dyn UserStore) -> Vec<StoredLink> {
    let scan = Scan::records(Keyspace::Audit, 60_000).name(Bytes::new());
    let page = store.scan(scan).await.unwrap().value;
    assert!(!page.more);
    page.records.iter().map(|(_, body)| StoredLink::decode(body.as_ref().unwrap()).unwrap()).collect()
}
