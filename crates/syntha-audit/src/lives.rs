//! How a user's chain begins, ends and is put in another's place, as the log tells it.

use syntha_store::{ChainHead, Erased, Error, ErrorKind, Result, Store, UserStore, UserTag};

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

    /// Logs a user's whole chain and takes it to all sinks, before the user's data is closed for good.
    pub(crate) async fn flush_before_end(&self, user: UserTag) -> Result<()> {
        let Some(log) = self.log().await? else { return Ok(()) };
        let owner = *user.as_bytes();
        let _erasing = self.shared.hub.erase(&owner);
        match self.inner.open(user).await {
            Ok(inner) => match self.inspect(&owner, &*inner).await {
                Ok(_) => self.flush_to_the_end(log, &owner, &*inner).await.map(drop),
                // What was tampered with can be erased all the same.
                Err(error) if is_broken(&error) || is_gone(&error) => Ok(()),
                Err(error) => Err(error),
            },
            // The fence says what is wrong.
            Err(_) => Ok(()),
        }
    }

    pub(crate) async fn erase_logged(&self, user: UserTag) -> Result<Erased> {
        let Some(log) = self.log().await? else { return self.inner.erase(user).await };
        let owner = *user.as_bytes();
        let _erasing = self.shared.hub.erase(&owner);
        let mut end = None;
        match self.inner.open(user).await {
            Ok(inner) => match self.inspect(&owner, &*inner).await {
                Ok(_) => end = Some(self.flush_to_the_end(log, &owner, &*inner).await?),
                // What was tampered with can be erased all the same.
                Err(error) if is_broken(&error) || is_gone(&error) => {}
                Err(error) => return Err(error),
            },
            Err(error) if is_broken(&error) || is_gone(&error) => {}
            Err(error) => return Err(error),
        }
        let erased = self.inner.erase(user).await?;
        self.log_erased(log, &owner, end).await?;
        Ok(erased)
    }

    /// Takes a chain that nobody appends to any more to all sinks. Gives where it ends.
    async fn flush_to_the_end(&self, log: &Log, owner: &Owner, user: &dyn UserStore) -> Result<Moved> {
        for _ in 0..TRIES {
            let state = user.state().await?;
            self.flush(log, owner, state.chain.seq).await?;
            if !self.shared.hub.is_open(owner) && user.state().await?.chain == state.chain {
                return Ok(Moved { life: state.stamp.incarnation, chain: state.chain });
            }
        }
        Err(Error::new(ErrorKind::Busy, "other processes write the user's data all the time, try again"))
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

const fn taken_away() -> Error {
    Error::new(
        ErrorKind::Tampered,
        "the user's data is gone, and the audit log does not say that it was erased: restore an archive",
    )
}
