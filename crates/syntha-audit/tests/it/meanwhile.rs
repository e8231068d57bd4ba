//! What others do in the middle of an erasure or an export.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use syntha_audit::verify::{Scope, Verdict, Verifier};
use syntha_audit::{AuditedStore, ExportReport, MemorySink, Whose};
use syntha_store::{
    Batch, Capabilities, Commit, CreateMode, Erased, ErrorKind, Fence, ImportMode, MemoryStore, Result,
    SelfCheck, Snapshot, Stamp, Store, UserStore, UserTag,
};
use tokio::sync::{Notify, oneshot};

use crate::{LONG, Memory, audit, batch, commits, create, tag};

/// A store that stops at a call, once, and lets others go first.
#[derive(Debug)]
struct Stopping {
    inner: MemoryStore,
    at: &'static str,
    reached: Mutex<Option<oneshot::Sender<()>>>,
    go_on: Arc<Notify>,
}

impl Stopping {
    async fn pass(&self, call: &'static str) {
        let reached = if call == self.at { self.reached.lock().unwrap().take() } else { None };
        if let Some(reached) = reached {
            reached.send(()).unwrap();
            self.go_on.notified().await;
        }
    }
}

#[async_trait]
impl Store for Stopping {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn create(
        &self,
        user: UserTag,
        first: Batch,
        mode: CreateMode,
    ) -> Result<(Arc<dyn UserStore>, Commit)> {
        self.inner.create(user, first, mode).await
    }

    async fn open(&self, user: UserTag) -> Result<Arc<dyn UserStore>> {
        self.inner.open(user).await
    }

    async fn fence(&self, user: UserTag, at: Option<Stamp>, fence: Fence) -> Result<Stamp> {
        self.pass("fence").await;
        self.inner.fence(user, at, fence).await
    }

    async fn erase(&self, user: UserTag) -> Result<Erased> {
        self.pass("erase").await;
        self.inner.erase(user).await
    }

    async fn import(&self, user: UserTag, snapshot: &mut dyn Snapshot, mode: ImportMode) -> Result<Stamp> {
        self.inner.import(user, snapshot, mode).await
    }

    async fn list(&self, after: Option<UserTag>, limit: usize) -> Result<Vec<UserTag>> {
        self.pass("list").await;
        self.inner.list(after, limit).await
    }

    async fn deployment(&self) -> Result<Arc<dyn UserStore>> {
        self.inner.deployment().await
    }

    async fn verify(&self) -> Result<SelfCheck> {
        self.inner.verify().await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

struct Stopped {
    store: Arc<AuditedStore<Stopping>>,
    reached: oneshot::Receiver<()>,
    go_on: Arc<Notify>,
}

fn stopping(bed: &Memory, at: &'static str, sink: &MemorySink) -> Stopped {
    let (sender, reached) = oneshot::channel();
    let go_on = Arc::new(Notify::new());
    let inner =
        Stopping { inner: bed.raw(), at, reached: Mutex::new(Some(sender)), go_on: Arc::clone(&go_on) };
    let store = AuditedStore::new(Arc::new(inner), bed.deployment()).unwrap();
    let store = store.signer(Arc::new(bed.signer.clone())).sink(Arc::new(sink.clone())).bounds(1_000, LONG);
    Stopped { store: Arc::new(store), reached, go_on }
}

/// Nothing is committed after the last flush that the sinks don't get: here it is refused, and what another process commits is taken, too.
#[tokio::test]
async fn no_commit_slips_in_between_the_last_flush_and_the_end() {
    // A layer above fences first, to destroy keys; without one the erasure is one call.
    for fences in [true, false] {
        let bed = Memory::new();
        let sink = MemorySink::new("one");
        let Stopped { store, reached, go_on } = stopping(&bed, "fence", &sink);
        let user = create(&store, 1).await;
        commits(&user, 3).await;
        let other = bed.open(&[]);
        let theirs = other.open(tag(1)).await.unwrap();
        let ending = Arc::clone(&store);
        let ending = tokio::spawn(async move {
            if fences {
                ending.fence(tag(1), None, Fence::Erased).await.map(drop)
            } else {
                ending.erase(tag(1)).await.map(drop)
            }
        });
        reached.await.unwrap();
        assert_eq!(user.commit(batch("late")).await.unwrap_err().kind(), ErrorKind::Erased);
        commits(&theirs, 2).await;
        let end = theirs.state().await.unwrap().chain;
        go_on.notify_one();
        ending.await.unwrap().unwrap();
        assert_eq!(theirs.commit(batch("late")).await.unwrap_err().kind(), ErrorKind::Gone);
        store.erase(tag(1)).await.unwrap();
        store.checkpoint().await.unwrap();
        store.shipped().await.unwrap();
        let keys = store.signer_keys().await.unwrap();
        let ends = audit(&sink.taken(), &bed.deployment(), &keys).unwrap();
        assert_eq!(ends.get(&[1; 32]), Some(&end), "fences: {fences}");
        let (_, leaf) = store.last_leaf(&[1; 32]).await.unwrap().unwrap();
        assert_eq!(leaf.chain, end, "fences: {fences}");
    }
}

/// A fence that names where the data has to stand does not go on past that.
#[tokio::test]
async fn a_fence_at_a_stamp_stays_at_it() {
    let bed = Memory::new();
    let store = bed.open(&[]);
    let user = create(&store, 1).await;
    let at = user.state().await.unwrap().stamp;
    commits(&user, 1).await;
    let refused = store.fence(tag(1), Some(at), Fence::Erased).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    commits(&user, 1).await;
    let at = user.state().await.unwrap().stamp;
    store.fence(tag(1), Some(at), Fence::Erased).await.unwrap();
    assert_eq!(store.open(tag(1)).await.unwrap_err().kind(), ErrorKind::Erased);
}

async fn verdict(store: &AuditedStore<Stopping>, written: &[u8]) -> Verdict {
    let mut verifier = Verifier::new(store.trusted_keys().await.unwrap()).scope(Scope::All);
    verifier.read(written).unwrap();
    verifier.finish().verdict()
}

/// What an export says, how often it was tried, and what a verifier says, where somebody does something in the middle of the first try.
async fn exported(
    retries: bool,
    meanwhile: impl AsyncFnOnce(&AuditedStore<MemoryStore>),
) -> (ExportReport, usize, Verdict) {
    let bed = Memory::new();
    let Stopped { store, reached, go_on } = stopping(&bed, "list", &MemorySink::new("one"));
    for number in 1..=3 {
        commits(&create(&store, number).await, 9).await;
    }
    let exporting = Arc::clone(&store);
    let exporting = tokio::spawn(async move {
        let mut tries = 0;
        if retries {
            let begin = || {
                tries += 1;
                Ok(Vec::new())
            };
            let (report, written) = exporting.export_retried(&Whose::All, false, begin).await.unwrap();
            (report, tries, written)
        } else {
            let mut written = Vec::new();
            (exporting.export(&Whose::All, false, &mut written).await.unwrap(), 1, written)
        }
    });
    reached.await.unwrap();
    meanwhile(&bed.open(&[])).await;
    go_on.notify_one();
    let (report, tries, written) = exporting.await.unwrap();
    let verdict = verdict(&store, &written).await;
    (report, tries, verdict)
}

#[tokio::test]
async fn an_export_begins_anew_where_somebody_is_erased_or_pruned() {
    let erases = async |other: &AuditedStore<MemoryStore>| {
        other.erase(tag(2)).await.unwrap();
    };
    let prunes = async |other: &AuditedStore<MemoryStore>| {
        other.prune(tag(2), 5).await.unwrap();
    };
    let writes = async |other: &AuditedStore<MemoryStore>| {
        commits(&other.open(tag(2)).await.unwrap(), 3).await;
        other.checkpoint().await.unwrap();
    };
    for retries in [true, false] {
        let (erased, pruned) = (exported(retries, erases).await, exported(retries, prunes).await);
        for (report, tries, verdict) in [erased, pruned] {
            let expected = if retries { (false, 2, Verdict::Clean) } else { (true, 1, Verdict::Bad) };
            assert_eq!((report.moved, tries, verdict), expected);
        }
        let (report, tries, verdict) = exported(retries, writes).await;
        assert_eq!((report.moved, tries, verdict), (false, 1, Verdict::Clean), "others write all the time");
    }
}

/// A sink that prunes a user while it takes the first line.
struct Prunes<'a>(Option<&'a AuditedStore<MemoryStore>>);

impl std::io::Write for Prunes<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Some(other) = self.0.take() {
            tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(other.prune(tag(2), 5)).unwrap();
            });
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Of some users' trails it matters what becomes of those.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_of_one_user_is_not_disturbed_by_others() {
    for (whose, moved) in [(tag(1), false), (tag(2), true)] {
        let bed = Memory::new();
        let store = bed.open(&[]);
        for number in 1..=2 {
            commits(&create(&store, number).await, 9).await;
        }
        let other = bed.open(&[]);
        let report = store.export(&Whose::Users(vec![whose]), false, Prunes(Some(&other))).await.unwrap();
        assert_eq!(report.moved, moved);
    }
}
