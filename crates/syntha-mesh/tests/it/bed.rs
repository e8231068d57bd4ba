//! An audited user's data, what its chain says, and a store that fails when it is told to.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use syntha_audit::AuditedStore;
use syntha_audit::link::{Kind, Link, StoredLink, Trace};
use syntha_mesh::{Mesh, MeshConfig, Opening};
use syntha_store::{
    Action, At, Batch, BatchId, Changes, Commit, CreateMode, Error, ErrorKind, Event, Keyspace, MemoryStore,
    Outcome, Page, Record, RecordId, Result, Scan, Snapshot, Stamp, Store, Subject, Timestamp, UserId,
    UserState, UserStore, Verdict, decode_events,
};
use tokio::sync::Semaphore;

/// What a check finds: nothing, or what is wrong. Its check runs on planted faults too.
pub(crate) type Found<T = ()> = std::result::Result<T, String>;

pub(crate) struct Bed {
    pub(crate) store: Arc<Unruly>,
    pub(crate) mesh: Mesh,
}

impl Bed {
    pub(crate) async fn new(config: MeshConfig) -> Self {
        let memory = MemoryStore::new().unwrap();
        let key = memory.deployment_key();
        let (tag, fingerprint) = (key.tag(&UserId::new("alice").unwrap()), key.fingerprint());
        let audited = AuditedStore::new(Arc::new(memory), fingerprint).unwrap();
        assert!(audited.capabilities().audited);
        let first = Batch::new(Timestamp(1)).unwrap();
        let (user, _) = audited.create(tag, first, CreateMode::New).await.unwrap();
        let store = Arc::new(Unruly {
            inner: user,
            fails: AtomicBool::default(),
            open: Semaphore::new(Semaphore::MAX_PERMITS),
            kind: ErrorKind::AuditUnavailable,
            commits: AtomicUsize::default(),
        });
        let mesh = Self::another(&store, config).await;
        Self { store, mesh }
    }

    /// One more mesh of the user.
    pub(crate) async fn another(store: &Arc<Unruly>, config: MeshConfig) -> Mesh {
        Mesh::open(Arc::clone(store) as Arc<dyn UserStore>, Opening::new().audited(true), config)
            .await
            .unwrap()
    }

    /// Writes down what waits, and gives all events.
    pub(crate) async fn flushed(&self) -> Vec<Event> {
        self.mesh.flush_audit().await.unwrap();
        self.events().await
    }

    pub(crate) async fn events(&self) -> Vec<Event> {
        self.links().await.into_iter().flat_map(|(_, events)| events).collect()
    }

    pub(crate) async fn count(&self, action: Action, verdict: Verdict) -> u64 {
        let events = self.events().await;
        let found = events.iter().filter(|event| event.action == action && event.verdict == verdict);
        found.map(|event| event.count).sum()
    }

    /// The user's chain, each link with its events. The hashes are checked.
    pub(crate) async fn links(&self) -> Vec<(Link, Vec<Event>)> {
        let mut links = Vec::new();
        let mut from: Option<RecordId> = None;
        loop {
            let scan = Scan::records(Keyspace::Audit, 1_000).name(bytes::Bytes::new());
            let page = self.store.inner.scan(match from.take() {
                Some(from) => scan.from(from),
                None => scan,
            });
            let page = page.await.unwrap().value;
            for (_, body) in &page.records {
                let stored = StoredLink::decode(body.as_ref().unwrap()).unwrap();
                let link = Link::decode(&stored.text).unwrap();
                let events =
                    stored.details.map(|(_, details)| decode_events(&details).unwrap()).unwrap_or_default();
                assert_eq!(link.events as usize, events.len());
                links.push((link, events));
            }
            from = page.next();
            if from.is_none() {
                return links;
            }
        }
    }

    pub(crate) async fn stamp(&self) -> Stamp {
        self.store.inner.state().await.unwrap().stamp
    }
}

/// How many entries a link says were written.
pub(crate) fn entries_put(link: &Link) -> usize {
    let put = |trace: &&Trace| matches!(trace, Trace::Put { at, .. } if at.space == Keyspace::Context.code());
    link.changes.iter().filter(put).count()
}

pub(crate) fn is_note(link: &Link) -> bool {
    link.kind == Kind::Note
}

/// Which tag stands for which name.
#[derive(Default)]
pub(crate) struct Names(HashMap<Arc<str>, String>);

impl Names {
    /// Whether a subject stands for a name, or for nothing: one tag for one name, in all links.
    pub(crate) fn is(&mut self, subject: Option<&Subject>, name: Option<&str>) -> bool {
        match (subject, name) {
            (None, None) => true,
            (Some(Subject::Tag(tag)), Some(name)) => {
                let other = self.0.iter().any(|(known, of)| known != tag && of == name);
                !other && self.0.entry(Arc::clone(tag)).or_insert_with(|| name.to_owned()) == name
            }
            _ => false,
        }
    }
}

/// A user's store whose commits fail or wait when they are told to.
#[derive(Debug)]
pub(crate) struct Unruly {
    pub(crate) inner: Arc<dyn UserStore>,
    fails: AtomicBool,
    kind: ErrorKind,
    open: Semaphore,
    commits: AtomicUsize,
}

impl Unruly {
    pub(crate) fn fail(&self, fails: bool) {
        self.fails.store(fails, Ordering::SeqCst);
    }

    /// No commit ends until it is let go.
    pub(crate) fn block(&self) {
        self.open.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub(crate) fn let_go(&self) {
        self.open.add_permits(Semaphore::MAX_PERMITS);
    }

    pub(crate) fn commits(&self) -> usize {
        self.commits.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl UserStore for Unruly {
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
        self.commits.fetch_add(1, Ordering::SeqCst);
        let _open = self.open.acquire().await.unwrap();
        if self.fails.load(Ordering::SeqCst) {
            return Err(Error::new(self.kind, "the store was told to fail"));
        }
        self.inner.commit(batch).await
    }

    async fn outcome(&self, batch: BatchId, since: Stamp) -> Result<Outcome> {
        self.inner.outcome(batch, since).await
    }

    async fn changes(&self, since: Stamp, limit: usize) -> Result<Changes> {
        self.inner.changes(since, limit).await
    }

    async fn changed(&self, since: Stamp) -> Result<Stamp> {
        self.inner.changed(since).await
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        self.inner.snapshot().await
    }
}
