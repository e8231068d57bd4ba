//! Who has the storage: reads everything below the layer, and answers the layer as it likes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use syntha_store::{
    At, Batch, BatchId, Capabilities, ChainHead, Changes, Commit, CreateMode, Erased, Error, ErrorKind,
    Fence, ImportMode, Incarnation, Keyspace, Outcome, Page, Record, RecordId, Result, Scan, SelfCheck,
    Snapshot, Stamp, Store, StoredRecord, UserState, UserStore, UserTag, Want,
};

/// The most bytes that the audit layer, which is below what seals, has in a head. What is sealed has more.
const COUNT: usize = 8;

/// What lies below the layer of one user, or of the deployment's own space.
#[derive(Clone)]
pub(super) struct Raw {
    pub(super) state: UserState,
    pub(super) records: BTreeMap<(Keyspace, RecordId), Record>,
}

impl Raw {
    /// Everything, as a thief would take it.
    pub(super) async fn of(user: &dyn UserStore) -> Self {
        let mut records = BTreeMap::new();
        for space in Keyspace::all() {
            let page = user.scan(Scan::records(space, syntha_store::BATCH_OPS)).await.unwrap().value;
            assert!(!page.more);
            for (head, body) in page.records {
                // The records of a trail are of the layer below, which does not seal. What is sealed has a head.
                if space == Keyspace::Audit && head.head.len() <= COUNT {
                    continue;
                }
                records.insert((space, head.id.clone()), Record::new(head, body.unwrap()));
            }
        }
        Self { state: user.state().await.unwrap(), records }
    }

    pub(super) async fn of_user(below: &dyn Store, user: UserTag) -> Self {
        Self::of(&*below.open(user).await.unwrap()).await
    }

    pub(super) async fn of_deployment(below: &dyn Store) -> Self {
        Self::of(&*below.deployment().await.unwrap()).await
    }

    /// The same with other bytes in a record's place, and everything about it as it was.
    pub(super) fn with(&self, place: &(Keyspace, RecordId), head: &[u8], body: &[u8]) -> Self {
        let mut changed = self.clone();
        let record = changed.records.get_mut(place).unwrap();
        record.head.head = Bytes::copy_from_slice(head);
        record.body = syntha_store::Body(Bytes::copy_from_slice(body));
        changed
    }
}

/// A store that shows what the attacker wants, and takes nothing.
#[derive(Debug)]
pub(super) struct Forged {
    users: HashMap<UserTag, Arc<ForgedUser>>,
    deployment: Option<Arc<ForgedUser>>,
}

impl Forged {
    pub(super) fn user(tag: UserTag, raw: Raw) -> Arc<dyn Store> {
        Arc::new(Self::of(tag, ForgedUser { owner: Some(tag), raw, snapshot: None }))
    }

    pub(super) fn of(tag: UserTag, user: ForgedUser) -> Self {
        Self { users: HashMap::from([(tag, Arc::new(user))]), deployment: None }
    }

    pub(super) fn deployment(raw: Raw) -> Arc<dyn Store> {
        Arc::new(Self {
            users: HashMap::new(),
            deployment: Some(Arc::new(ForgedUser { owner: None, raw, snapshot: None })),
        })
    }
}

/// A user as the attacker shows it.
pub(super) struct ForgedUser {
    pub(super) owner: Option<UserTag>,
    pub(super) raw: Raw,
    /// What a snapshot shows, if not the same.
    pub(super) snapshot: Option<Raw>,
}

impl std::fmt::Debug for ForgedUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ForgedUser")
    }
}

fn nothing<T>() -> Result<T> {
    Err(Error::new(ErrorKind::Unavailable, "the attacker takes nothing"))
}

#[async_trait]
impl Store for Forged {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new("forged", true, false, false)
    }

    async fn create(&self, _: UserTag, _: Batch, _: CreateMode) -> Result<(Arc<dyn UserStore>, Commit)> {
        nothing()
    }

    async fn open(&self, user: UserTag) -> Result<Arc<dyn UserStore>> {
        let user = self.users.get(&user).map(Arc::clone);
        Ok(user.ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no such user"))?)
    }

    async fn fence(&self, _: UserTag, _: Option<Stamp>, _: Fence) -> Result<Stamp> {
        nothing()
    }

    async fn erase(&self, _: UserTag) -> Result<Erased> {
        nothing()
    }

    async fn import(&self, _: UserTag, _: &mut dyn Snapshot, _: ImportMode) -> Result<Stamp> {
        nothing()
    }

    async fn list(&self, _: Option<UserTag>, _: usize) -> Result<Vec<UserTag>> {
        nothing()
    }

    async fn deployment(&self) -> Result<Arc<dyn UserStore>> {
        Ok(self.deployment.as_ref().map(Arc::clone).unwrap())
    }

    async fn verify(&self) -> Result<SelfCheck> {
        nothing()
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl UserStore for ForgedUser {
    async fn state(&self) -> Result<UserState> {
        Ok(self.raw.state)
    }

    fn is_at(&self, stamp: Stamp) -> bool {
        stamp == self.raw.state.stamp
    }

    async fn read(&self, space: Keyspace, ids: &[RecordId]) -> Result<At<Vec<Option<Record>>>> {
        let read = ids.iter().map(|id| self.raw.records.get(&(space, id.clone())).cloned());
        Ok(At { stamp: self.raw.state.stamp, value: read.collect() })
    }

    async fn scan(&self, scan: Scan) -> Result<At<Page>> {
        let after = |id: &RecordId| match &scan.from {
            None => true,
            Some(from) if scan.reverse => id < from,
            Some(from) => id > from,
        };
        let wanted = |id: &RecordId| after(id) && scan.name.as_ref().is_none_or(|name| name == id.name());
        let mut found: Vec<_> = self
            .raw
            .records
            .iter()
            .filter(|((space, id), _)| *space == scan.space && wanted(id))
            .map(|(_, record)| record)
            .collect();
        if scan.reverse {
            found.reverse();
        }
        let more = found.len() > scan.limit;
        found.truncate(scan.limit);
        let page = found
            .into_iter()
            .map(|record| (record.head.clone(), (scan.want == Want::Records).then(|| record.body.0.clone())));
        Ok(At { stamp: self.raw.state.stamp, value: Page::new(page.collect(), more) })
    }

    async fn commit(&self, _: Batch) -> Result<Commit> {
        nothing()
    }

    async fn outcome(&self, _: BatchId, _: Stamp) -> Result<Outcome> {
        nothing()
    }

    async fn changes(&self, _: Stamp, _: usize) -> Result<Changes> {
        Ok(Changes::TooOld)
    }

    async fn changed(&self, _: Stamp) -> Result<Stamp> {
        Ok(self.raw.state.stamp)
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(ForgedSnapshot {
            owner: self.owner.unwrap(),
            raw: Some(self.snapshot.as_ref().unwrap_or(&self.raw).clone()),
            state: self.raw.state,
        }))
    }
}

struct ForgedSnapshot {
    owner: UserTag,
    state: UserState,
    raw: Option<Raw>,
}

#[async_trait]
impl Snapshot for ForgedSnapshot {
    fn owner(&self) -> UserTag {
        self.owner
    }

    fn state(&self) -> UserState {
        self.state
    }

    fn life(&self) -> Option<Incarnation> {
        None
    }

    fn follows(&self) -> Option<ChainHead> {
        None
    }

    async fn next(&mut self) -> Result<Option<Vec<StoredRecord>>> {
        let Some(raw) = self.raw.take() else { return Ok(None) };
        Ok(Some(raw.records.into_iter().map(|((space, _), record)| StoredRecord { space, record }).collect()))
    }
}

/// Everything that a user's handle gives, of all keyspaces.
pub(super) async fn opened(user: &dyn UserStore, spaces: &[Keyspace]) -> Result<Vec<(Keyspace, Record)>> {
    let mut all = Vec::new();
    for space in spaces {
        let page = user.scan(Scan::records(*space, syntha_store::BATCH_OPS)).await?.value;
        all.extend(page.records.into_iter().map(|(head, body)| (*space, Record::new(head, body.unwrap()))));
    }
    all.sort_unstable_by(|(one, a), (other, b)| (one, &a.head.id).cmp(&(other, &b.head.id)));
    Ok(all)
}

/// Reads a snapshot to its end.
pub(super) async fn drained(user: &dyn UserStore) -> Result<usize> {
    let mut snapshot = user.snapshot().await?;
    let mut count = 0;
    while let Some(chunk) = snapshot.next().await? {
        count += chunk.len();
    }
    Ok(count)
}
