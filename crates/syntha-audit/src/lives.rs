//! How a user's chain begins, ends and is put in another's place, as the log tells it.

use syntha_store::{
    ChainHead, Erased, Error, ErrorKind, Fence, Result, Stamp, Store, UserState, UserStore, UserTag,
};

use crate::hub::{Moved, Owner};
use crate::keeper::{TRIES, is_broken, is_gone};
use crate::leaf::{Leaf, LeafKind};
use crate::log::{At, Entry, Log};
use crate::store::AuditedStore;

impl<S: Store + ?Sized> AuditedStore<S> {
    /// Refuses to make a user whose data is in the log and was never erased: it was taken away.
    pub(crate) async fn check_free(&self, user: UserTag) -> Result<()> {
        let Some(log) = self.log().await? else { return Ok(()) };
        let owner = user.as_bytes();
        if log.at_of(owner).await?.is_none_or(|at| at.erased) {
            return Ok(());
        }
        match self.inner.open(user).await {
            // An erasure that was cut off before it was logged.
            Err(error) if error.kind() == ErrorKind::Erased => self.log_erased(log, owner, None).await,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // Another process may have logged its end meanwhile.
                let is_free = log.at_of(owner).await?.is_none_or(|at| at.erased);
                if is_free { Ok(()) } else { Err(taken_away()) }
            }
            _ => Ok(()),
        }
    }

    /// Logs an owner's chain that an archive brought, in the place of one that is gone or was changed. `logged`: where the log has that one, and
    /// whether the new one goes on from there. If not, the log says what was lost.
    pub(crate) async fn log_anew(
        &self,
        log: &Log,
        owner: &Owner,
        now: Moved,
        logged: Option<(At, bool)>,
    ) -> Result<()> {
        let user = self.inner_of(owner).await?;
        let start = self.start(&*user, owner).await?;
        let leaf = |kind, life, chain| Leaf::new(kind, *owner, life, chain);
        let gather = || async {
            let at = log.at_of(owner).await?;
            if at.is_some_and(|at| !at.erased && (at.life, at.chain) == (now.life, now.chain)) {
                return Ok(Vec::new());
            }
            if at.filter(|at| !at.erased) != logged.map(|(known, _)| known) {
                return Err(Error::new(
                    ErrorKind::Busy,
                    "another process erased or restored the user meanwhile, try again",
                ));
            }
            let silent = |leaf| Entry { leaf, from: 0, before: [0; 32], at };
            let mut entries = Vec::new();
            let mut before = start;
            match logged {
                Some((at, true)) => before = at.chain,
                Some((at, false)) => entries.push(silent(leaf(LeafKind::Lost, at.life, at.chain))),
                None => {}
            }
            if before == start && start.seq > 0 {
                let chain = ChainHead { seq: start.seq.saturating_add(1), head: start.head };
                entries.push(silent(leaf(LeafKind::Floor, now.life, chain)));
            }
            let head = leaf(LeafKind::Head, now.life, now.chain);
            entries.push(Entry { leaf: head, from: before.seq.saturating_add(1), before: before.head, at });
            Ok(entries)
        };
        self.append(log, None, gather).await.map(drop)
    }

    /// Closes a user's data for good, after the whole chain was logged and taken to all sinks. `at`: only if the data still stands there.
    pub(crate) async fn fence_at_the_end(&self, user: UserTag, at: Option<Stamp>) -> Result<Stamp> {
        let Some(log) = self.log().await? else { return self.inner.fence(user, at, Fence::Erased).await };
        // INVARIANT: held until the fence stands. A commit after the last flush would be gone before anybody was told.
        let _erasing = self.shared.hub.erase(user.as_bytes());
        match self.flush_and_fence(log, user, at).await? {
            Some((stamp, _)) => Ok(stamp),
            // The fence says what is wrong with data that can't be opened.
            None => self.inner.fence(user, at, Fence::Erased).await,
        }
    }

    pub(crate) async fn erase_logged(&self, user: UserTag) -> Result<Erased> {
        let Some(log) = self.log().await? else { return self.inner.erase(user).await };
        let owner = *user.as_bytes();
        let _erasing = self.shared.hub.erase(&owner);
        let end = self.flush_and_fence(log, user, None).await?.map(|(_, end)| end);
        let erased = self.inner.erase(user).await?;
        self.log_erased(log, &owner, end).await?;
        Ok(erased)
    }

    /// Takes a user's chain to all sinks and closes the data where the chain ended. Gives where that is; nothing for data that is closed already,
    /// or was tampered with, and can be erased all the same.
    async fn flush_and_fence(
        &self,
        log: &Log,
        user: UserTag,
        at: Option<Stamp>,
    ) -> Result<Option<(Stamp, Moved)>> {
        let owner = *user.as_bytes();
        for _ in 0..TRIES {
            let inner = match self.inner.open(user).await {
                Ok(inner) => inner,
                Err(error) if is_broken(&error) || is_gone(&error) => return Ok(None),
                Err(error) => return Err(error),
            };
            match self.inspect(&owner, &*inner).await {
                Ok(_) => {}
                Err(error) if is_broken(&error) || is_gone(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
            let end = self.flush_to_the_end(log, &owner, &*inner).await?;
            match self.inner.fence(user, at.or(Some(end.stamp)), Fence::Erased).await {
                Ok(stamp) => {
                    let moved = Moved { life: end.stamp.incarnation, chain: end.chain };
                    return Ok(Some((stamp, moved)));
                }
                // Another process has changed the data since, which no guard here keeps it from.
                Err(error) if error.kind() == ErrorKind::Conflict && at.is_none() => {}
                Err(error) => return Err(error),
            }
        }
        Err(written_all_the_time())
    }

    /// Takes a chain that nobody here appends to any more to all sinks. Gives where it ends.
    async fn flush_to_the_end(&self, log: &Log, owner: &Owner, user: &dyn UserStore) -> Result<UserState> {
        for _ in 0..TRIES {
            let state = user.state().await?;
            self.flush(log, owner, state.chain.seq).await?;
            if !self.shared.hub.is_open(owner) && user.state().await?.chain == state.chain {
                return Ok(state);
            }
        }
        Err(written_all_the_time())
    }

    /// Logs that an owner's chain ended, if the log doesn't say so yet.
    pub(crate) async fn log_erased(&self, log: &Log, owner: &Owner, end: Option<Moved>) -> Result<()> {
        let gather = || async {
            let at = log.at_of(owner).await?;
            let end = match (at, end) {
                (Some(at), _) if at.erased && end.is_none_or(|end| end.life == at.life) => {
                    return Ok(Vec::new());
                }
                (_, Some(end)) => end,
                (Some(at), None) => Moved { life: at.life, chain: at.chain },
                (None, None) => return Ok(Vec::new()),
            };
            let leaf = Leaf::new(LeafKind::Erased, *owner, end.life, end.chain);
            Ok(vec![Entry { leaf, from: 0, before: [0; 32], at }])
        };
        self.append(log, None, gather).await?;
        self.shared.hub.ended(owner);
        Ok(())
    }
}

const fn written_all_the_time() -> Error {
    Error::new(ErrorKind::Busy, "other processes write the user's data all the time, try again")
}

const fn taken_away() -> Error {
    Error::new(
        ErrorKind::Tampered,
        "the user's data is gone, and the audit log does not say that it was erased: restore an archive",
    )
}
