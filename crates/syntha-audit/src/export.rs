//! Trails written from a live store, for an auditor to take away.

use std::io::Write;

use bytes::Bytes;
use syntha_store::{
    ChainHead, DEPLOYMENT_OWNER, Error, ErrorKind, Keyspace, Result, Scan, Store, Subject, UserStore, UserTag,
};

use crate::digests::Digests;
use crate::keeper::is_broken;
use crate::leaf::{Leaf, LeafKind};
use crate::link::{StoredLink, genesis};
use crate::log::Checkpoint;
use crate::retention::floor;
use crate::signer::origin;
use crate::store::AuditedStore;
use crate::trail::{Header, Item, TrailWriter};
use crate::user_store::{key_id, link_id};
use crate::verify::TrustedKeys;

/// How many links a page has.
const PAGE: usize = 256;
/// How many leaves are read at a time.
const LEAVES: usize = 1_024;
/// How many users a page has.
const USERS: usize = 1_000;
/// How often an export is tried.
const TRIES: usize = 3;

/// Whose trails are exported.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Whose {
    /// These users', each with the leaf that names its end and that leaf's proof.
    Users(Vec<UserTag>),
    /// The deployment's own: who was made, erased, restored, and refused.
    Deployment,
    /// Everybody's and the deployment's own, with every leaf of the log: no chain in it can end early, and none can be left out.
    All,
}

/// What an export holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportReport {
    /// How many chains.
    pub chains: u64,
    /// How many links.
    pub links: u64,
    /// How many leaves of the log.
    pub leaves: u64,
    /// The checkpoint that the leaves are proved by, where there is a signer.
    pub checkpoint: Option<Checkpoint>,
    /// Somebody whose trail it holds was erased, restored or pruned while it was read. The log tells of that after this checkpoint, so a verifier may
    /// call the trail bad: export it again.
    pub moved: bool,
}

impl<S: Store + ?Sized> AuditedStore<S> {
    /// Writes trails as [`export`](Self::export) does, and again where that [moved](ExportReport::moved), three times in all. `begin` gives the sink
    /// of each try, with nothing in it; the last one comes back.
    ///
    /// # Errors
    ///
    /// As [`export`](Self::export); `Unavailable` if there is no sink.
    pub async fn export_retried<W: Write + Send>(
        &self,
        whose: &Whose,
        redacted: bool,
        mut begin: impl FnMut() -> std::io::Result<W> + Send,
    ) -> Result<(ExportReport, W)> {
        let mut tries = 0;
        loop {
            let mut sink = begin().map_err(no_sink)?;
            let report = self.export(whose, redacted, &mut sink).await?;
            tries += 1;
            if !report.moved || tries == TRIES {
                return Ok((report, sink));
            }
        }
    }

    /// Writes trails, in the form of docs/audit-v1.md. Everything is logged and signed first, where there is a signer. `redacted`: without
    /// details, which verifies as well and tells less.
    ///
    /// # Errors
    ///
    /// `NotFound` for a user who is not there; as [`checkpoint`](Self::checkpoint); `Unavailable` if the sink fails.
    pub async fn export<W: Write + Send>(
        &self,
        whose: &Whose,
        redacted: bool,
        sink: W,
    ) -> Result<ExportReport> {
        let checkpoint = match self.keeper.signer {
            Some(_) => Some(self.checkpoint().await?),
            None => None,
        };
        let mut export = Export { writer: TrailWriter::new(sink), redacted, report: ExportReport::default() };
        export.report.checkpoint.clone_from(&checkpoint);
        let space = self.inner.deployment().await?;
        let mut owners = Vec::new();
        match whose {
            Whose::Deployment => {
                self.chain(&mut export, &*space, DEPLOYMENT_OWNER).await?;
                owners.push(DEPLOYMENT_OWNER);
            }
            Whose::Users(users) => {
                for user in users {
                    let opened = self.inner.open(*user).await?;
                    self.chain(&mut export, &*opened, *user.as_bytes()).await?;
                    owners.push(*user.as_bytes());
                }
            }
            Whose::All => {
                self.chain(&mut export, &*space, DEPLOYMENT_OWNER).await?;
                let mut after = None;
                loop {
                    let page = self.inner.list(after, USERS).await?;
                    for user in page.iter().filter(|user| self.is_chained(**user)) {
                        match self.inner.open(*user).await {
                            // Erased meanwhile: its leaf says so.
                            Err(error) if matches!(error.kind(), ErrorKind::Erased | ErrorKind::Gone) => {}
                            opened => self.chain(&mut export, &*opened?, *user.as_bytes()).await?,
                        }
                    }
                    if page.len() < USERS {
                        break;
                    }
                    after = page.last().copied();
                }
            }
        }
        if let Some(checkpoint) = checkpoint {
            let size = checkpoint.head.size;
            let log = self.log().await?.ok_or_else(crate::keeper::no_signer)?;
            export.report.moved |= log.ended_since(size, (*whose != Whose::All).then_some(&owners)).await?;
            if *whose == Whose::All {
                let mut from = 0;
                while from < size {
                    for logged in log.leaves(from, size, LEAVES).await? {
                        export.put(Item::Leaf { index: logged.index, leaf: logged.leaf })?;
                        export.report.leaves += 1;
                        from = logged.index.saturating_add(1);
                    }
                }
            } else {
                for owner in owners {
                    let begins = floor(&*self.inner_of(&owner).await?).await?;
                    if let Some(begins) = begins
                        && let Some((index, leaf)) = self.floor_leaf(&owner, begins.start(), size).await?
                    {
                        export.put(Item::Leaf { index, leaf })?;
                        let hashes = self.inclusion(index, size).await?;
                        export.put(Item::Proof { index, size, hashes })?;
                        export.report.leaves += 1;
                    }
                    for (index, leaf) in self.lost_leaves(&owner, size).await? {
                        export.put(Item::Leaf { index, leaf })?;
                        let hashes = self.inclusion(index, size).await?;
                        export.put(Item::Proof { index, size, hashes })?;
                        export.report.leaves += 1;
                    }
                    let Some((index, leaf)) = self.last_leaf(&owner).await? else { continue };
                    // One of a later checkpoint is not in this one.
                    if index < size {
                        export.put(Item::Leaf { index, leaf })?;
                        let hashes = self.inclusion(index, size).await?;
                        export.put(Item::Proof { index, size, hashes })?;
                        export.report.leaves += 1;
                    }
                }
            }
            export.put(Item::Checkpoint { note: checkpoint.note.to_string() })?;
        }
        export.writer.finish()?;
        Ok(export.report)
    }

    /// The leaf that says where a pruned chain begins.
    async fn floor_leaf(
        &self,
        owner: &[u8; 32],
        begins: ChainHead,
        size: u64,
    ) -> Result<Option<(u64, Leaf)>> {
        let Some(log) = self.log().await? else { return Ok(None) };
        Ok(log.floor_at(owner, begins).await?.filter(|(index, _)| *index < size))
    }

    /// The leaves that say of an owner what was lost. A chain that was never lost or erased has none.
    async fn lost_leaves(&self, owner: &[u8; 32], size: u64) -> Result<Vec<(u64, Leaf)>> {
        let Some(log) = self.log().await? else { return Ok(Vec::new()) };
        let Some(last) = log.at_of(owner).await?.map(|at| at.gone).filter(|last| *last > 0) else {
            return Ok(Vec::new());
        };
        let (mut from, mut found) = (0, Vec::new());
        while from < size.min(last.saturating_add(1)) {
            let leaves = log.leaves(from, size, LEAVES).await?;
            from = from.saturating_add(leaves.len() as u64);
            let lost = |leaf: &Leaf| leaf.kind == LeafKind::Lost && leaf.owner == *owner;
            found.extend(leaves.iter().filter(|logged| lost(&logged.leaf)).map(|l| (l.index, l.leaf)));
        }
        Ok(found)
    }

    async fn chain<W: Write>(
        &self,
        export: &mut Export<W>,
        user: &dyn UserStore,
        owner: [u8; 32],
    ) -> Result<()> {
        let deployment = self.shared.deployment;
        let floor = floor(user).await?.map(|floor| floor.start());
        let end = user.state().await?.chain;
        if end.seq == 0 {
            // Data from before the trail, that nobody has written since.
            return Ok(());
        }
        export.put(Item::Trail(Header::new(origin(&deployment), deployment, owner).with_floor(floor)))?;
        let mut from = floor.map_or(0, |floor| floor.seq.saturating_sub(1));
        while from < end.seq {
            let scan = Scan::records(Keyspace::Audit, PAGE).name(Bytes::new()).from(link_id(from)?);
            let page = user.scan(scan).await?.value;
            if page.records.is_empty() {
                break;
            }
            for (head, body) in page.records {
                from = head.id.seq();
                if from > end.seq {
                    break;
                }
                let stored = StoredLink::decode(&body.unwrap_or_default())?;
                export.put(Item::Link { seq: from, stored })?;
                export.report.links += 1;
            }
        }
        // A prune takes the links after its leaf was signed, which may be before this checkpoint.
        export.report.moved |= self::floor(user).await?.map(|floor| floor.start()) != floor;
        // A chain that nobody began ends where it begins.
        let end = if end == ChainHead::default() {
            ChainHead { seq: 0, head: genesis(&deployment, &owner) }
        } else {
            end
        };
        export.put(Item::End(end))?;
        export.report.chains += 1;
        Ok(())
    }

    /// The keys that checkpoints are verified with, as a verifier takes them. An auditor keeps them from another time than the trail's.
    ///
    /// # Errors
    ///
    /// As [`signer_keys`](Self::signer_keys).
    pub async fn trusted_keys(&self) -> Result<TrustedKeys> {
        TrustedKeys::parse(&self.trusted_keys_text().await?)
    }

    /// The same as text: on each line a size of the log and the C2SP verifier key that signs from there on.
    ///
    /// # Errors
    ///
    /// As [`signer_keys`](Self::signer_keys).
    pub async fn trusted_keys_text(&self) -> Result<String> {
        let keys = self.signer_keys().await?;
        Ok(keys.keys().map(|(from, key)| format!("{from} {key}\n")).collect())
    }

    /// Where a user's chain begins, if it was pruned: the number of the first link that is left, and the hash of the one before. What the
    /// data says of it counts where the log has it too, or does not know the chain.
    ///
    /// # Errors
    ///
    /// `NotFound` for a user who is not there; those of the store; as [`checkpoint`](Self::checkpoint).
    pub async fn floor(&self, user: UserTag) -> Result<Option<ChainHead>> {
        let opened = self.inner.open(user).await?;
        let found = floor(&*opened).await?.map(|floor| floor.start());
        let Some(log) = self.log().await? else { return Ok(found) };
        let owner = user.as_bytes();
        match self.pruned(log, owner, &*opened).await {
            Ok(floor) => Ok(floor.map(|floor| floor.start())),
            Err(error) if is_broken(&error) => match log.at_of(owner).await? {
                Some(at) if !at.erased => Ok(log.floor_of(owner).await?.map(|(_, leaf)| leaf.chain)),
                _ => Ok(found),
            },
            Err(error) => Err(error),
        }
    }

    /// What stands for a name in the events of a user's trail where nobody seals them; `None` if the user has no trail.
    ///
    /// # Errors
    ///
    /// `NotFound` for a user who is not there; those of the store.
    pub async fn subject(&self, user: UserTag, name: &str) -> Result<Option<Subject>> {
        let opened = self.inner.open(user).await?;
        let read = opened.read(Keyspace::Audit, &[key_id()?]).await?;
        let Some(record) = read.value.into_iter().next().flatten() else { return Ok(None) };
        Ok(Some(Digests::new(&record.body)?.subject(name)))
    }
}

fn no_sink(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "there is no sink for the trail").with_source(error)
}

struct Export<W: Write> {
    writer: TrailWriter<W>,
    redacted: bool,
    report: ExportReport,
}

impl<W: Write> Export<W> {
    fn put(&mut self, item: Item) -> Result<()> {
        let item = if self.redacted { item.redacted() } else { item };
        self.writer.write(&item)
    }
}
