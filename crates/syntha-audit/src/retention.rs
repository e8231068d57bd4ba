//! Retention: old links go, and the log says where what is left begins.

use bytes::{Buf, BufMut, Bytes};
use syntha_store::{
    Batch, ChainHead, DEPLOYMENT_OWNER, Error, ErrorKind, Expect, Keyspace, Op, RecordId, Result, Store,
    Timestamp, UserStore, UserTag,
};

use crate::keeper::{answer, is_broken, links, no_signer, put_back};
use crate::leaf::{Leaf, LeafKind};
use crate::link::malformed;
use crate::log::{Entry, Log};
use crate::store::AuditedStore;
use crate::user_store::{AuditedUser, link_id, put};

/// How many links go in one commit.
const LINKS_MOST: u64 = 8_192;
const TRIES: usize = 16;

/// Where a pruned chain begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Floor {
    /// The first link that is left.
    pub(crate) seq: u64,
    /// The hash before it.
    pub(crate) hash: [u8; 32],
}

impl Floor {
    pub(crate) const fn before(&self) -> ChainHead {
        ChainHead { seq: self.seq.saturating_sub(1), head: self.hash }
    }

    /// As the log and a trail's header say it.
    pub(crate) const fn start(&self) -> ChainHead {
        ChainHead { seq: self.seq, head: self.hash }
    }

    pub(crate) fn decode(mut body: &[u8]) -> Result<Self> {
        if body.len() != 40 {
            return Err(malformed());
        }
        let seq = body.get_u64();
        let mut hash = [0; 32];
        body.copy_to_slice(&mut hash);
        Ok(Self { seq, hash })
    }
}

/// What a prune did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pruned {
    /// How many links went.
    pub links: u64,
    /// The first link that is left.
    pub first: u64,
    /// The hash before it.
    pub before: [u8; 32],
}

pub(crate) fn floor_id() -> Result<RecordId> {
    RecordId::new(Bytes::from_static(b"floor"), 0)
}

/// Where a user's chain begins, if it was pruned.
pub(crate) async fn floor(user: &dyn UserStore) -> Result<Option<Floor>> {
    let read = answer(user.read(Keyspace::Audit, &[floor_id()?])).await?;
    let Some(record) = read.value.into_iter().next().flatten() else { return Ok(None) };
    Floor::decode(&record.body).map(Some)
}

impl<S: Store + ?Sized> AuditedStore<S> {
    /// Removes a user's links before one, for good. What the user's data holds now is written into the chain first, every sink takes what
    /// goes, and the log gets a leaf that says where what is left begins. A prune that was cut off is done by calling it again.
    ///
    /// # Errors
    ///
    /// `Invalid` without a signer, or for a link past the chain's end; `AuditUnavailable` if the sinks did not take everything in time;
    /// `Busy` if the data is written all the time; `Tampered` if chain or log are not as they were written; as
    /// [`open`](syntha_store::Store::open).
    pub async fn prune(&self, user: UserTag, before: u64) -> Result<Pruned> {
        let log = self.log().await?.ok_or_else(no_signer)?;
        let opened = self.user(self.inner.open(user).await?, *user.as_bytes());
        self.prune_opened(log, &opened, before).await
    }

    /// The same of the deployment's own chain: who was made, erased, restored and refused before a link is gone for good, but for who is
    /// there and who was erased now. Whoever writes the deployment's records waits while that is written down.
    ///
    /// # Errors
    ///
    /// As [`prune`](Self::prune).
    pub async fn prune_deployment(&self, before: u64) -> Result<Pruned> {
        let log = self.log().await?.ok_or_else(no_signer)?;
        let opened = self.user(self.inner.deployment().await?, DEPLOYMENT_OWNER);
        self.prune_opened(log, &opened, before).await
    }

    async fn prune_opened(&self, log: &Log, opened: &AuditedUser, before: u64) -> Result<Pruned> {
        let owner = opened.owner;
        opened.check_end().await?;
        self.inspect(&owner, &*opened.inner).await?;
        let start = self.start(&*opened.inner, &owner).await?;
        let state = opened.inner.state().await?;
        if before > state.chain.seq {
            return Err(Error::new(
                ErrorKind::Invalid,
                "there are not as many links, prune before an earlier one",
            ));
        }
        let first = start.seq.saturating_add(1);
        if before <= first {
            return Ok(Pruned { links: 0, first, before: start.head });
        }
        self.write_snapshot(opened).await?;
        let end = self.walk_on(opened, start, before - 1).await?;
        self.flush(log, &owner, before).await?;
        // INVARIANT: nothing goes before the log says from where on there is something.
        let floor = Floor { seq: before, hash: end.head };
        let leaf_chain = ChainHead { seq: floor.seq, head: floor.hash };
        let leaf = Leaf::new(LeafKind::Floor, owner, state.stamp.incarnation, leaf_chain);
        let gather = || async {
            let at = log.at_of(&owner).await?;
            // INVARIANT: a floor of a life that has ended, or past what is logged, would stand in the way of the next one.
            let living = at.filter(|at| !at.erased && at.life == state.stamp.incarnation);
            if living.is_none_or(|at| at.chain.seq < before) {
                return Err(meanwhile());
            }
            Ok(vec![Entry { leaf, from: 0, before: [0; 32], at }])
        };
        self.append(log, None, gather).await?;
        let mut from = start;
        while from.seq < end.seq {
            let next = self.walk_on(opened, from, end.seq.min(from.seq.saturating_add(LINKS_MOST))).await?;
            let mut batch = Batch::new(Timestamp(0))?;
            // INVARIANT: where the chain begins never goes back, as another prune beside this one could make it.
            let first = link_id(from.seq.saturating_add(1))?;
            let read = opened.inner.read(Keyspace::Audit, std::slice::from_ref(&first)).await?.value;
            let version = read.into_iter().next().flatten().map(|link| link.head.version);
            batch.expect.push(Expect::Version {
                space: Keyspace::Audit,
                id: first,
                version: Some(version.ok_or_else(meanwhile)?),
            });
            for seq in from.seq.saturating_add(1)..=next.seq {
                batch.ops.push(Op::Delete { space: Keyspace::Audit, id: link_id(seq)? });
            }
            let mut body = Vec::with_capacity(40);
            body.put_u64(next.seq.saturating_add(1));
            body.put_slice(&next.head);
            batch.ops.push(put(floor_id()?, body.into()));
            opened.inner.commit(batch).await?;
            from = next;
        }
        Ok(Pruned { links: end.seq.saturating_sub(start.seq), first: floor.seq, before: floor.hash })
    }

    /// Where a chain is after its link `last`, from where it begins.
    async fn walk_on(&self, opened: &AuditedUser, from: ChainHead, last: u64) -> Result<ChainHead> {
        match self.walk(&*opened.inner, from, last).await {
            // Another prune took the links that were to be read.
            Err(error) if is_broken(&error) && self.start(&*opened.inner, &opened.owner).await? != from => {
                Err(meanwhile())
            }
            walked => walked,
        }
    }

    /// Where a chain is after its link `last`.
    async fn walk(&self, user: &dyn UserStore, mut from: ChainHead, last: u64) -> Result<ChainHead> {
        while from.seq < last {
            let links = links(user, from.seq, last).await?;
            if links.is_empty() {
                return Err(put_back());
            }
            for link in links {
                from = link.follow(from).map_err(|_| put_back())?.1;
            }
        }
        Ok(from)
    }

    async fn write_snapshot(&self, user: &AuditedUser) -> Result<()> {
        // All of a deployment's users write its own records: it would never stand still for as long as it takes to list them.
        let _still =
            if user.owner == DEPLOYMENT_OWNER { Some(self.shared.still.write().await) } else { None };
        for _ in 0..TRIES {
            let Some(digests) = user.digests().await? else { return Err(crate::user_store::broken()) };
            let state = user.inner.state().await?;
            let ticket = self.shared.admit(&user.owner).await?;
            let mut batch = Batch::new(state.time)?;
            let mut ops = Vec::new();
            let listed = async {
                let size = user.size(state.chain).await?;
                user.snapshot_links(&digests, &state, size, batch.time, batch.id, &mut ops).await
            };
            let end = match listed.await {
                Ok(size) => size.at,
                Err(error) => {
                    ticket.refused();
                    if error.kind() == ErrorKind::Conflict {
                        continue;
                    }
                    return Err(error);
                }
            };
            batch.ops = ops;
            batch.chain = Some(end);
            batch.expect.push(Expect::Stamp(state.stamp));
            batch.expect.push(Expect::Chain(state.chain.seq));
            match user.inner.commit(batch).await {
                Ok(commit) => {
                    ticket.moved(commit.stamp.incarnation, end, end.seq.saturating_sub(state.chain.seq));
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Conflict => ticket.refused(),
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(ErrorKind::Busy, "the user's data is written by others all the time, try again"))
    }
}

const fn meanwhile() -> Error {
    Error::new(
        ErrorKind::Conflict,
        "another prune of the trail, a restore or an erasure went on meanwhile, try again",
    )
}
