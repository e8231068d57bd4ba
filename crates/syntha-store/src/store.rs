//! The contract. Each bullet under "Behavior" starts with the name of the conformance check that holds it.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::batch::{BATCH_OPS, Batch, BatchId};
use crate::error::{Error, ErrorKind, Result};
use crate::keyspace::Keyspace;
use crate::record::{Head, Record, RecordId, StoredRecord};
use crate::state::{ChainHead, Fence, Incarnation, Stamp, UserState, Version};
use crate::user::UserTag;

/// How far an import raises the epoch over both the archive's and the replaced data's, so that no version of a
/// life that the archive does not know is used again.
pub const EPOCH_JUMP: u64 = 1 << 20;

/// The deployment's side: which users there are. Held by the user manager; agents never see one.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// What this backend can do. Isolation is not in it: every backend isolates.
    fn capabilities(&self) -> Capabilities;

    /// Makes a user whose data is what `first` puts (it may be empty), durably, whole or not at all.
    ///
    /// # Behavior
    ///
    /// - `create_holds_first_batch`: after it returns, the user is listed, opens, and holds exactly what the batch put.
    /// - `create_twice_refused`: a user that is there is `AlreadyExists`, and keeps its data.
    /// - `create_race_has_one_winner`: of callers that race to create one user, one wins; the others get `AlreadyExists`.
    /// - `create_after_erase_needs_recreate`: an erased user is `Erased`, unless the mode is `Recreate`.
    /// - `create_recreate_is_a_new_life`: a recreated user has a new incarnation and none of the old data.
    /// - `create_invalid_leaves_nothing`: after a refused first batch there is no user.
    /// - `create_takes_the_life_that_is_named`: the new life is the batch's, if it names one.
    async fn create(
        &self,
        user: UserTag,
        first: Batch,
        mode: CreateMode,
    ) -> Result<(Arc<dyn UserStore>, Commit)>;

    /// Opens a user's store. The handle is bound to the user's present life.
    ///
    /// # Behavior
    ///
    /// - `open_absent_not_found`: a user that was never made is `NotFound`, and opening makes nothing.
    /// - `open_twice_sees_one_user`: two handles of one user see each other's commits.
    /// - `open_after_reopen_keeps_everything`: records, stamp, usage, chain and time survive closing and opening the store.
    async fn open(&self, user: UserTag) -> Result<Arc<dyn UserStore>>;

    /// Closes a user's present life to commits, durably. `at`: only if the data still stands there.
    ///
    /// # Behavior
    ///
    /// - `fence_stops_open_handles`: a commit by a handle that was opened before is `Gone`.
    /// - `fence_keeps_reads_of_none`: a fenced user opens no more: `Erased` for `Fence::Erased`, else `Gone`.
    /// - `fence_stale_stamp_conflicts`: another stamp than the present one is `Conflict`, and nothing is fenced.
    async fn fence(&self, user: UserTag, at: Option<Stamp>, fence: Fence) -> Result<Stamp>;

    /// Destroys a user's data: fences it, then removes every byte that the backend can reach.
    ///
    /// # Behavior
    ///
    /// - `erase_leaves_no_bytes`: no file or value of the backend holds what the user wrote.
    /// - `erase_stops_late_writes`: a handle from before gets `Gone` for every call, also after a recreate.
    /// - `erase_unlists`: the user is not listed, and opening it is `Erased`.
    /// - `erase_absent_not_found`: a user that was never made is `NotFound`.
    /// - `erase_again_is_done`: an erase that is repeated succeeds and says that nothing was left to do.
    /// - `erase_touches_no_neighbour`: every other user's data is as before.
    async fn erase(&self, user: UserTag) -> Result<Erased>;

    /// Makes or replaces a user's data by a snapshot's, as a new life. Whole or not at all.
    ///
    /// # Behavior
    ///
    /// - `import_equals_snapshot`: the records, versions, usage, chain and time are the snapshot's.
    /// - `import_is_a_new_life`: the incarnation is new and the epoch is [`EPOCH_JUMP`] over both the old data's and the snapshot's.
    /// - `import_foreign_refused`: a snapshot of another user is `Invalid`, and nothing changes.
    /// - `import_new_refuses_present`: with `New`, a user that is there is `AlreadyExists`.
    /// - `import_replaces_everything`: with `Replace`, nothing of the old data is left, and old handles get `Gone`.
    /// - `import_erased_refused`: an erased user is `Erased`.
    /// - `import_broken_leaves_old`: a snapshot that ends with an error changes nothing.
    /// - `import_follows_a_chain`: if the snapshot names the chain that it follows, other data than that is `Conflict`, and nothing changes.
    /// - `import_takes_the_chain_of_the_end`: the chain is the one that the snapshot's row has at its end, and audit records may come last.
    /// - `import_takes_life_and_note`: the new life is the snapshot's choice, if it makes one, and the note is the one that it has at its end.
    async fn import(&self, user: UserTag, snapshot: &mut dyn Snapshot, mode: ImportMode) -> Result<Stamp>;

    /// The tags of the users that are there, in order of their bytes.
    ///
    /// # Behavior
    ///
    /// - `list_pages_in_order`: pages of any size give every user once, in order; the deployment's space is not in them.
    async fn list(&self, after: Option<UserTag>, limit: usize) -> Result<Vec<UserTag>>;

    /// The deployment's own space.
    ///
    /// # Behavior
    ///
    /// - `deployment_is_no_user`: it is made at first use, is not listed, and no user's tag reaches it.
    /// - `deployment_survives_reopen`: what was committed to it is there after the store is opened again.
    async fn deployment(&self) -> Result<Arc<dyn UserStore>>;

    /// The backend checks its own isolation, and says what it checked.
    ///
    /// # Behavior
    ///
    /// - `verify_passes_when_fresh`: it passes on a store in order and names at least one check.
    async fn verify(&self) -> Result<SelfCheck>;

    /// Finishes what is under way, closes everything and gives up the root. Calls after it are `Unavailable`.
    ///
    /// # Behavior
    ///
    /// - `close_refuses_later_calls`: opened handles and the store itself answer `Unavailable` afterwards.
    async fn close(&self) -> Result<()>;
}

/// One user's side. Nothing here names a user.
#[async_trait]
pub trait UserStore: fmt::Debug + Send + Sync + 'static {
    /// The user's row.
    ///
    /// # Behavior
    ///
    /// - `state_follows_commits`: stamp, usage, chain and time are the last commit's.
    /// - `state_next_expiry`: the next expiry is the lowest of the records that are there, or less than a minute later.
    /// - `state_keeps_the_note`: the note is the last that a batch named, also after a reopen.
    /// - `state_time_never_falls`: a batch with an earlier time does not lower it.
    async fn state(&self) -> Result<UserState>;

    /// Whether the data is known to stand at a stamp. It waits for nothing; `false` means "ask [`state`](Self::state)".
    ///
    /// # Behavior
    ///
    /// - `is_at_false_when_behind`: once a commit of any handle has returned, no handle says it of the stamp before.
    /// - `is_at_false_after_the_life`: no handle says it once its user was fenced, erased or imported.
    fn is_at(&self, stamp: Stamp) -> bool;

    /// Reads records by id, in the ids' order; `None` for an absent one.
    ///
    /// # Behavior
    ///
    /// - `read_in_order_of_ids`: the answer has one place for each id, repeated and absent ids included.
    /// - `read_says_when`: the stamp is that of the state that was read.
    /// - `read_binary_names`: names, heads and bodies are bytes, zeros and empty ones included.
    /// - `read_stays_in_space`: a record of one keyspace is not seen in another.
    async fn read(&self, space: Keyspace, ids: &[RecordId]) -> Result<At<Vec<Option<Record>>>>;

    /// Reads a page of a keyspace. Records of a name come by their sequence numbers; names come in an order of the store's own, the same
    /// for every page (their bytes, unless a layer keeps names as something else).
    ///
    /// # Behavior
    ///
    /// - `scan_pages_are_complete`: pages of any size give each record once, forward and in reverse.
    /// - `scan_by_name`: with a name, only records of exactly that name are given, by sequence number.
    /// - `scan_from_is_exclusive`: a page starts after `from`, which need not exist.
    /// - `scan_heads_have_no_bodies`: with `Heads` no body is read; with `Records` each is.
    /// - `scan_limit_checked`: a limit of 0 or over 65,536 is `Invalid`.
    /// - `scan_says_when`: the stamp is that of the state that was read.
    async fn scan(&self, scan: Scan) -> Result<At<Page>>;

    /// Applies a batch: all or nothing, durable when it returns.
    ///
    /// # Behavior
    ///
    /// - `commit_applies_every_op`: puts, head-only puts, deletes, deletes by name and clears do what [`Op`](crate::Op) says.
    /// - `commit_stale_stamp_conflicts`: an expected stamp that is not the present one is `Conflict`, and nothing is written.
    /// - `commit_stale_version_conflicts`: an expected version, or absence, that does not hold is `Conflict`, and nothing is written.
    /// - `commit_stale_chain_conflicts`: an expected chain sequence that is not the present one is `Conflict`, and nothing is written.
    /// - `commit_is_atomic`: a batch that fails at its last operation leaves nothing of its first.
    /// - `commit_version_is_epoch`: each record written has the new epoch as its version, which is higher than any before, also after deletes.
    /// - `commit_put_head_keeps_body`: a head-only put keeps body and body version.
    /// - `commit_rewrite_changes_bytes_alone`: a rewrite of the version that is there changes head and body, and neither versions, expiry nor the
    ///   epoch, and no list of changes names it; of another version it is `Conflict`.
    /// - `commit_audit_raises_no_epoch`: a batch of only audit records and chain leaves the epoch and moves the chain.
    /// - `commit_usage_is_absolute`: the stored usage is the batch's, unchanged when the batch names none.
    /// - `commit_same_id_twice_invalid`: a batch that names a record twice is `Invalid`.
    /// - `commit_over_limit_refused`: a head over 4 KiB is `LimitExceeded`, and nothing is written.
    /// - `commit_empty_invalid`: a batch that changes nothing is `Invalid`.
    /// - `commit_deployment_space_refused`: a user's store refuses the deployment's keyspaces.
    /// - `commit_racing_writers_admit_one`: of commits that race on one stamp, exactly one succeeds.
    /// - `commit_other_life_gone`: a commit that expects another incarnation is `Gone`.
    async fn commit(&self, batch: Batch) -> Result<Commit>;

    /// Whether a batch was committed, for a caller who lost the answer.
    ///
    /// # Behavior
    ///
    /// - `outcome_of_committed`: a committed batch is `Committed` with its stamp.
    /// - `outcome_of_refused`: a batch that was refused, or never arrived, is `Not`.
    /// - `outcome_forgets_after_many`: once more than [`OUTCOMES_KEPT`](crate::OUTCOMES_KEPT) batches were committed since `since`, an unknown one is `Forgotten`.
    async fn outcome(&self, batch: BatchId, since: Stamp) -> Result<Outcome>;

    /// What changed after a stamp, the audit keyspace left out.
    ///
    /// # Behavior
    ///
    /// - `changes_lists_what_changed`: it gives the heads written and the ids deleted since, or says that it is too long ago.
    /// - `changes_never_misses_a_delete`: a delete since the stamp is in the answer, or the answer is `TooOld`.
    /// - `changes_other_life_too_old`: a stamp of another incarnation is `TooOld`.
    /// - `changes_never_splits_a_commit`: with a limit, the answer stands at a commit's end and the rest comes with the next call.
    async fn changes(&self, since: Stamp, limit: usize) -> Result<Changes>;

    /// Waits until the data stands elsewhere than at `since`, and says where. May be dropped at any time.
    ///
    /// # Behavior
    ///
    /// - `changed_returns_at_once_when_behind`: a stamp that is not the present one returns at once.
    /// - `changed_wakes_on_commit`: a waiter wakes on a commit of another handle.
    async fn changed(&self, since: Stamp) -> Result<Stamp>;

    /// The user's whole data as of one commit. The deployment's own space has none: `Unsupported`.
    ///
    /// # Behavior
    ///
    /// - `snapshot_is_one_moment`: commits after it are not in it, and it holds no commit up while it is read.
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>>;
}

/// A user's whole data as of one commit, read in chunks: from a store or from an archive.
#[async_trait]
pub trait Snapshot: Send {
    /// Whose data it is.
    fn owner(&self) -> UserTag;

    /// The user's row at that moment. Its note and the end of its audit chain may come only with the last record: an import asks again at
    /// the end.
    fn state(&self) -> UserState;

    /// The life that an import of it begins; `None` lets the store draw one.
    fn life(&self) -> Option<Incarnation>;

    /// Where the audit chain of the data that an import of it replaces must end at that moment; `None` for anywhere. For a layer that goes
    /// on with that chain.
    fn follows(&self) -> Option<ChainHead>;

    /// The next records (at most a few MiB), in order of keyspace, each once; `None` at the end. Those of the audit keyspace may come last.
    async fn next(&mut self) -> Result<Option<Vec<StoredRecord>>>;
}

/// What a backend can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// The backend's name, from a closed set.
    pub name: &'static str,
    /// An acknowledged commit survives the process.
    pub durable: bool,
    /// No other process writes while this one holds the store, so that reads may come from memory alone.
    pub exclusive: bool,
    /// [`UserStore::changed`] sees other processes' commits.
    pub notifies: bool,
    /// What it keeps is sealed, by this layer or one below. Sealing it again is refused.
    pub sealed: bool,
    /// It keeps an audit trail, in this layer or one below. A batch of events alone is taken then.
    pub audited: bool,
}

impl Capabilities {
    /// A backend's capabilities.
    #[must_use]
    pub const fn new(name: &'static str, durable: bool, exclusive: bool, notifies: bool) -> Self {
        Self { name, durable, exclusive, notifies, sealed: false, audited: false }
    }

    /// The same, for a layer that seals.
    #[must_use]
    pub const fn sealed(mut self) -> Self {
        self.sealed = true;
        self
    }

    /// The same, for a layer that keeps an audit trail.
    #[must_use]
    pub const fn audited(mut self) -> Self {
        self.audited = true;
        self
    }
}

/// Whether a create may bring back the name of an erased user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateMode {
    /// No: an erased user is an error.
    New,
    /// Yes, as a new life.
    Recreate,
}

/// Whether an import may replace what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportMode {
    /// No: a user that is there is an error.
    New,
    /// Yes. A user that is not there is made.
    Replace,
}

/// What an erase did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Erased {
    /// Whether there was anything left to remove.
    pub removed: bool,
    /// How many files, rows or schemas were removed.
    pub objects: u64,
    /// How many rows of wrapped keys were destroyed, where a layer seals.
    pub keys: u64,
}

impl Erased {
    /// What an erase did.
    #[must_use]
    pub const fn new(removed: bool, objects: u64) -> Self {
        Self { removed, objects, keys: 0 }
    }

    /// The same, with the keys that were destroyed.
    #[must_use]
    pub const fn with_keys(mut self, keys: u64) -> Self {
        self.keys = keys;
        self
    }
}

/// What a successful commit gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Commit {
    /// Where the data stands now.
    pub stamp: Stamp,
    /// The version of every record that the batch wrote.
    pub version: Version,
    /// The end of the audit chain now.
    pub chain: ChainHead,
    /// The user's audit trail comes near its limit. Whoever tells it of reads tells less of each then.
    pub trail_is_tight: bool,
}

impl Commit {
    /// What a commit gives back.
    #[must_use]
    pub const fn new(stamp: Stamp, chain: ChainHead) -> Self {
        Self { stamp, version: Version(stamp.epoch.0), chain, trail_is_tight: false }
    }
}

/// Whether a batch was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It was, and the data stood there after it.
    Committed(Stamp),
    /// It was not.
    Not,
    /// Too many batches ago to know.
    Forgotten,
}

/// A value, and the stamp of the state that it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At<T> {
    /// When.
    pub stamp: Stamp,
    /// What.
    pub value: T,
}

/// What to scan.
#[derive(Clone, Debug)]
#[must_use]
#[non_exhaustive]
pub struct Scan {
    /// The keyspace.
    pub space: Keyspace,
    /// Only records of this name.
    pub name: Option<Bytes>,
    /// Start after this id (before it, in reverse).
    pub from: Option<RecordId>,
    /// From the highest id down.
    pub reverse: bool,
    /// Heads or whole records.
    pub want: Want,
    /// The most records of the page, 1 to 65,536.
    pub limit: usize,
}

impl Scan {
    /// A scan of a keyspace's heads from the start, at most `limit` of them.
    pub const fn heads(space: Keyspace, limit: usize) -> Self {
        Self { space, name: None, from: None, reverse: false, want: Want::Heads, limit }
    }

    /// A scan of a keyspace's records from the start, at most `limit` of them.
    pub const fn records(space: Keyspace, limit: usize) -> Self {
        Self { space, name: None, from: None, reverse: false, want: Want::Records, limit }
    }

    /// Only records of a name.
    pub fn name(mut self, name: impl Into<Bytes>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Start after an id.
    pub fn from(mut self, from: RecordId) -> Self {
        self.from = Some(from);
        self
    }

    /// From the highest id down.
    pub const fn reverse(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// Checks what every backend checks before it reads.
    ///
    /// # Errors
    ///
    /// `Invalid` for a limit outside 1 to 65,536.
    pub const fn validate(&self) -> Result<()> {
        if self.limit == 0 || self.limit > BATCH_OPS {
            return Err(Error::new(ErrorKind::Invalid, "a page has 1 to 65,536 records"));
        }
        Ok(())
    }
}

/// What a scan reads of each record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Heads only.
    Heads,
    /// Heads and bodies.
    Records,
}

/// A page of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// The records; each body is there or not, as the scan wanted.
    pub records: Vec<(Head, Option<Bytes>)>,
    /// Whether there are more after the last one.
    pub more: bool,
}

impl Page {
    /// A page.
    #[must_use]
    pub const fn new(records: Vec<(Head, Option<Bytes>)>, more: bool) -> Self {
        Self { records, more }
    }

    /// Where the next page starts; `None` when there is none.
    #[must_use]
    pub fn next(&self) -> Option<RecordId> {
        if self.more { self.records.last().map(|(head, _)| head.id.clone()) } else { None }
    }
}

/// What changed after a stamp.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Changes {
    /// This.
    Delta(Delta),
    /// The backend does not know any more; scan instead.
    TooOld,
}

/// Changes up to a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delta {
    /// The commit that the changes reach up to.
    pub at: Stamp,
    /// Heads as they are now of what was written.
    pub heads: Vec<(Keyspace, Head)>,
    /// What was deleted and is not there now.
    pub deleted: Vec<(Keyspace, RecordId)>,
    /// Whether there are changes after `at`.
    pub more: bool,
}

impl Delta {
    /// Changes up to a commit.
    #[must_use]
    pub const fn new(
        at: Stamp,
        heads: Vec<(Keyspace, Head)>,
        deleted: Vec<(Keyspace, RecordId)>,
        more: bool,
    ) -> Self {
        Self { at, heads, deleted, more }
    }
}

/// What a backend checked about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SelfCheck {
    /// The names of the checks that passed.
    pub passed: Vec<&'static str>,
}

impl SelfCheck {
    /// The checks that passed.
    #[must_use]
    pub const fn new(passed: Vec<&'static str>) -> Self {
        Self { passed }
    }
}
