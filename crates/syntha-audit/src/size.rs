//! How many bytes a chain has. Each link's record says how many all links up to it have, so that the last one and the first that is left
//! tell it exactly, to every process; nothing is written for it alone.

use bytes::{Buf, Bytes};
use syntha_store::{ChainHead, Error, ErrorKind, Keyspace, Op, Result, Scan, Store, UserStore, UserTag};

use crate::store::AuditedStore;
use crate::user_store::link_id;

/// The fewest and the most bytes that a user's trail may be limited to.
const LIMITS: (u64, u64) = (64 * 1024, 1 << 40);
/// What it is limited to unless somebody says otherwise.
pub(crate) const LIMIT: u64 = 1 << 30;
/// How many links are read at a time where they have to be counted.
const PAGE: usize = 1_000;

/// Where the bytes of a chain stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    /// After which link.
    pub(crate) at: ChainHead,
    /// Of all links up to there.
    pub(crate) total: u64,
    /// Of those that were pruned.
    pub(crate) pruned: u64,
}

impl Size {
    /// Of the links that are there.
    pub(crate) const fn used(&self) -> u64 {
        self.total.saturating_sub(self.pruned)
    }

    /// With one more link.
    pub(crate) const fn with(self, at: ChainHead, bytes: usize) -> Self {
        Self { at, total: self.total.saturating_add(bytes as u64), pruned: self.pruned }
    }
}

/// How much of its limit a user's trail has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TrailSize {
    /// The bytes of its links as they are stored, with their details.
    pub bytes: u64,
    /// How many they may be.
    pub limit: u64,
}

impl TrailSize {
    pub(crate) const fn new(bytes: u64, limit: u64) -> Self {
        Self { bytes, limit }
    }

    /// Whether it has nine tenths of its limit, or more.
    #[must_use]
    pub const fn is_tight(&self) -> bool {
        self.bytes >= self.limit / 10 * 9
    }
}

/// A put of a link: its body, and in the head how many bytes the chain has with it.
pub(crate) fn put_link(size: &Size, body: Bytes) -> Result<Op> {
    let id = link_id(size.at.seq)?;
    Ok(Op::Put { space: Keyspace::Audit, id, head: head(size.total), body, expires: None })
}

/// What the head of a link's record says.
pub(crate) fn head(total: u64) -> Bytes {
    Bytes::copy_from_slice(&total.to_be_bytes())
}

fn total(mut head: &[u8]) -> Option<u64> {
    if head.len() == 8 { head.try_get_u64().ok() } else { None }
}

/// Counts a chain up to a link.
///
/// # Errors
///
/// `Conflict` if that link is not there any more.
pub(crate) async fn size(user: &dyn UserStore, at: ChainHead) -> Result<Size> {
    if at.seq == 0 {
        return Ok(Size { at, ..Size::default() });
    }
    let links = || Scan::records(Keyspace::Audit, 1).name(Bytes::new());
    let first = user.scan(links()).await?.value.records.into_iter().next();
    let last = user.read(Keyspace::Audit, &[link_id(at.seq)?]).await?.value.into_iter().next().flatten();
    let (Some((first, body)), Some(last)) = (first, last) else { return Err(moved_on()) };
    let before =
        total(&first.head).map(|total| total.saturating_sub(body.map_or(0, |body| body.len() as u64)));
    let total = total(&last.head.head);
    if let (Some(pruned), Some(total)) = (before, total) {
        return Ok(Size { at, total, pruned });
    }
    // Links of a build that did not count them: all are looked at, once.
    let used = count(user, at.seq).await?;
    let total = total.unwrap_or_else(|| before.unwrap_or(0).saturating_add(used));
    Ok(Size { at, total, pruned: total.saturating_sub(used) })
}

async fn count(user: &dyn UserStore, last: u64) -> Result<u64> {
    let (mut bytes, mut from) = (0_u64, None);
    loop {
        let scan = Scan::records(Keyspace::Audit, PAGE).name(Bytes::new());
        let page = user.scan(match from.take() {
            Some(from) => scan.from(from),
            None => scan,
        });
        let page = page.await?.value;
        let links = page.records.iter().filter(|(head, _)| head.id.seq() <= last);
        let more: u64 = links.map(|(_, body)| body.as_ref().map_or(0, |body| body.len() as u64)).sum();
        bytes = bytes.saturating_add(more);
        from = page.next();
        if from.as_ref().is_none_or(|from| from.seq() >= last) {
            return Ok(bytes);
        }
    }
}

impl<S: Store + ?Sized> AuditedStore<S> {
    /// How many bytes each user's trail may have: 64 KiB to 1 TiB, 1 GiB unless set. A commit that would take it past that is refused with
    /// `AuditUnavailable`, until the trail is [pruned](Self::prune) or the limit is raised. Erasing, restoring and pruning are not.
    /// The deployment's own chain has none: it grows by what an operator does, and by two links for each [interval](crate::Refusals) of
    /// what is refused.
    #[must_use]
    pub fn trail_limit(self, bytes: u64) -> Self {
        self.shared.limit.store(bytes.clamp(LIMITS.0, LIMITS.1), std::sync::atomic::Ordering::Relaxed);
        self
    }

    /// How much of its limit a user's trail has.
    ///
    /// # Errors
    ///
    /// `NotFound` for a user who is not there; those of the store.
    pub async fn trail_size(&self, user: UserTag) -> Result<TrailSize> {
        let opened = self.inner.open(user).await?;
        // A commit of another may prune what is looked at.
        for _ in 0..TRIES {
            let chain = opened.state().await?.chain;
            match size(&*opened, chain).await {
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                counted => return Ok(TrailSize::new(counted?.used(), self.shared.limit())),
            }
        }
        Err(Error::new(ErrorKind::Busy, "the trail is pruned by others all the time, try again"))
    }
}

const TRIES: usize = 16;

const fn moved_on() -> Error {
    Error::new(ErrorKind::Conflict, "the user's data moved on, reload and try again")
}
