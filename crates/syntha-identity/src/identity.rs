use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use syntha_store::{Batch, Keyspace, Op, RecordId, Timestamp, UserId, UserStore, Verdict};

use crate::accounts::Accounts;
use crate::clock::{Time, millis};
use crate::config::IdentityConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::events::{IdentityAction, IdentityEvent, Reason};
use crate::fault::Fault;
use crate::hasher::{Hasher, HashingLoad};
use crate::lease::{Held, Lease};
use crate::rows::{AccountRow, SecretRow};
use crate::secret::{SecretId, SecretKind};
use crate::sessions::Sessions;
use crate::spaces::{Spaces, contended, tries, version};
use crate::tokens::Tokens;

/// Who may: the accounts of a deployment, their passwords, tokens and sessions.
///
/// It is cheap to clone, and every clone is the same. Every process of a deployment opens its own over the same spaces.
///
/// Futures may be dropped at any time: a change is then done whole or not at all, a login that began is counted, and hashing that began ends
/// by itself.
#[derive(Clone)]
pub struct Identity(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) spaces: Spaces,
    pub(crate) time: Arc<Time>,
    pub(crate) config: IdentityConfig,
    pub(crate) hasher: Hasher,
    /// What is in use in this process.
    live: Mutex<HashMap<UserId, Vec<Weak<Held>>>>,
    /// How often something was revoked in this process.
    revocations: AtomicU64,
    /// Empty, but for a planted fault.
    pub(crate) apart: Vec<u8>,
}

impl Identity {
    /// Opens the accounts that are kept in these spaces: the deployment's own, or several of its spaces, so that a flood of logins reaches a
    /// part of it alone. Their number and order are fixed at first use.
    ///
    /// # Errors
    ///
    /// `Refused` if the spaces hold accounts that were made with another key, or with spaces of another number or order, and for the space
    /// of a user; `Invalid` for none or more than 256; what the store answers.
    pub async fn open(spaces: Vec<Arc<dyn UserStore>>, config: IdentityConfig) -> Result<Self> {
        let time = Arc::new(Time::new(Arc::clone(&config.clock), config.has(Fault::ClockFloorIgnored)));
        let spaces = Spaces::open(spaces, config.root.clone(), Arc::clone(&time)).await?;
        let freed = config.has(Fault::PermitFreed);
        let first_come = config.has(Fault::LoginsFirstCome);
        let hasher = Hasher::new(config.cost, config.peppers.clone(), config.permits, freed, first_come)?;
        let apart = if config.has(Fault::ThrottleApart) {
            Arc::as_ptr(&time).addr().to_be_bytes().to_vec()
        } else {
            Vec::new()
        };
        let (live, revocations) = (Mutex::default(), AtomicU64::new(0));
        Ok(Self(Arc::new(Inner { spaces, time, config, hasher, live, revocations, apart })))
    }

    /// Accounts: who there is, with which password and rights.
    #[must_use]
    pub fn accounts(&self) -> Accounts<'_> {
        Accounts(&self.0)
    }

    /// Access tokens.
    #[must_use]
    pub fn tokens(&self) -> Tokens<'_> {
        Tokens(&self.0)
    }

    /// Sessions.
    #[must_use]
    pub fn sessions(&self) -> Sessions<'_> {
        Sessions(&self.0)
    }

    /// In which of the spaces everything of a user is.
    #[must_use]
    pub fn space_of(&self, user: &UserId) -> usize {
        self.0.spaces.of_user(user)
    }

    /// How much hashing is under way in this process.
    #[must_use]
    pub fn hashing(&self) -> HashingLoad {
        self.0.hasher.load()
    }

    /// Asks the store whether leases still hold, and ends those that don't. One call for many costs three reads for every 512 of a space.
    ///
    /// # Errors
    ///
    /// What the store answers. Leases that could not be confirmed are `Stale` a second after they last were.
    pub async fn refresh(&self, leases: &[Lease]) -> Result<()> {
        self.0.refresh(leases).await
    }

    /// [`Lease::check`], and a [`refresh`](Self::refresh) first if it is stale.
    ///
    /// # Errors
    ///
    /// `Denied` if it has ended; what the store answers.
    pub async fn confirm(&self, lease: &Lease) -> Result<()> {
        match lease.check() {
            Err(error) if error.kind() == ErrorKind::Stale => {
                self.0.refresh(std::slice::from_ref(lease)).await?;
                lease.check()
            }
            checked => checked,
        }
    }

    /// What a host runs beside everything else: it refreshes whatever is in use twice in each second, so that a revocation in another process
    /// ends it here within one. It returns when the last clone of this is dropped. While the store does not answer, leases go stale.
    pub fn keep_fresh(&self) -> impl Future<Output = ()> + Send + 'static {
        let inner = Arc::downgrade(&self.0);
        let every = self.0.config.bound / 2;
        let spaces = self.0.spaces.count();
        async move {
            // Each space by itself: one that is slow or damaged makes nobody of another wait.
            let mut asking = tokio::task::JoinSet::new();
            for index in 0..spaces {
                let inner = Weak::clone(&inner);
                asking.spawn(async move {
                    while let Some(inner) = inner.upgrade() {
                        inner.refresh_own(index).await;
                        drop(inner);
                        tokio::time::sleep(every).await;
                    }
                });
            }
            while asking.join_next().await.is_some() {}
        }
    }

    /// Deletes tokens and sessions that ended more than a day ago, and says how many. A host calls it once in a while, in one process.
    ///
    /// # Errors
    ///
    /// `Unavailable` if the wall clock has jumped by more than a minute since this was opened; what the store answers. What was deleted until
    /// then stays so.
    pub async fn sweep(&self) -> Result<u64> {
        self.0.sweep().await
    }

    /// Revokes every token and session of everybody: after a restore of the deployment's own space, which would bring back revoked ones.
    /// Accounts and passwords stay.
    ///
    /// # Errors
    ///
    /// What the store answers. Call it again then.
    pub async fn revoke_everything(&self) -> Result<()> {
        self.0.revoke_everything().await
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("spaces", &self.0.spaces.count()).finish_non_exhaustive()
    }
}

/// How many leases are looked at with one read.
const PART: usize = 512;
const PAGE: usize = 500;
/// How far apart two notes of a last use are.
pub(crate) const TOUCH: u64 = 60_000;
/// How long what has ended is kept, in case the clock was wrong.
const GRACE: u64 = 24 * 60 * 60 * 1_000;

pub(crate) const fn keyspace(kind: SecretKind) -> Keyspace {
    match kind {
        SecretKind::Token => Keyspace::Tokens,
        SecretKind::Session => Keyspace::Sessions,
    }
}

impl Inner {
    pub(crate) fn tell(
        &self,
        action: IdentityAction,
        refused: Option<Reason>,
        user: Option<&UserId>,
        secret: Option<SecretId>,
    ) {
        let verdict = if refused.is_some() { Verdict::Denied } else { Verdict::Done };
        let at = Timestamp(self.time.now());
        let event = IdentityEvent { at, action, verdict, reason: refused, user: user.cloned(), secret };
        self.config.listeners.iter().for_each(|listener| listener(&event));
    }

    /// An account as it is.
    pub(crate) async fn account(&self, user: &UserId) -> Result<Option<AccountRow>> {
        let id = self.spaces.account(user)?;
        let found = self.spaces.read_one(self.spaces.of_user(user), Keyspace::Accounts, &id).await?;
        found.map(|(body, _)| own_row(user, &body)).transpose()
    }

    /// Changes an account, and with it what else is in its space, over whatever others change at the same time.
    pub(crate) async fn change<T: Send>(
        &self,
        user: &UserId,
        mut edit: impl FnMut(&mut AccountRow, Batch) -> Result<(Batch, T)> + Send,
    ) -> Result<T> {
        let (index, id) = (self.spaces.of_user(user), self.spaces.account(user)?);
        for _ in tries() {
            let found = self.spaces.read_one(index, Keyspace::Accounts, &id).await?;
            let (body, known) = found.ok_or_else(Error::no_account)?;
            let mut row = own_row(user, &body)?;
            let (batch, done) = edit(&mut row, self.spaces.batch()?)?;
            let batch = batch.put(Keyspace::Accounts, id.clone(), "", row.encode()?);
            if self.spaces.commit(index, batch.expect(version(Keyspace::Accounts, &id, Some(known)))).await? {
                return Ok(done);
            }
        }
        Err(contended())
    }

    /// A token's or session's record.
    pub(crate) async fn secret_row(
        &self,
        kind: SecretKind,
        id: SecretId,
    ) -> Result<Option<(SecretRow, syntha_store::Version)>> {
        let found = self
            .spaces
            .read_one(self.spaces.of_secret(id), keyspace(kind), &self.spaces.secret(kind, id)?)
            .await?;
        found.map(|(body, version)| Ok((SecretRow::decode(&body)?, version))).transpose()
    }

    /// A new lease, which every revocation from now on reaches. `before`: [`revocations`](Self::revocations) before what it is made from was
    /// read. One that was revoked in between is looked at once more.
    pub(crate) async fn hand_out(&self, lease: Lease, before: u64) -> Result<Lease> {
        {
            let mut live = self.live.lock();
            let leases = live.entry(lease.user().clone()).or_default();
            leases.retain(|held| held.strong_count() > 0);
            leases.push(Arc::downgrade(&lease.0));
        }
        if self.revocations() != before {
            self.refresh(std::slice::from_ref(&lease)).await?;
            lease.check()?;
        }
        Ok(lease)
    }

    pub(crate) fn revocations(&self) -> u64 {
        self.revocations.load(Ordering::SeqCst)
    }

    /// Ends a user's leases here. Called after what revokes them was committed.
    pub(crate) fn end(&self, user: &UserId, which: impl Fn(&Held) -> bool) {
        self.revocations.fetch_add(1, Ordering::SeqCst);
        if self.config.has(Fault::RevokeLate) || self.config.has(Fault::RevokeIgnored) {
            return;
        }
        let held: Vec<_> = {
            let live = self.live.lock();
            live.get(user).into_iter().flatten().filter_map(Weak::upgrade).collect()
        };
        // Outside of the lock: an end calls what the host hung on it.
        held.iter().filter(|held| which(held)).for_each(|held| held.end());
    }

    fn in_use(&self) -> Vec<Lease> {
        let mut live = self.live.lock();
        live.retain(|_, leases| {
            leases.retain(|held| held.upgrade().is_some_and(|held| !held.is_ended()));
            !leases.is_empty()
        });
        live.values().flatten().filter_map(Weak::upgrade).map(Lease).collect()
    }

    pub(crate) async fn refresh(&self, leases: &[Lease]) -> Result<()> {
        let mut parts: HashMap<usize, Vec<&Lease>> = HashMap::new();
        for lease in leases.iter().filter(|lease| !lease.0.is_ended()) {
            parts.entry(self.spaces.of_user(lease.user())).or_default().push(lease);
        }
        // One space that does not answer ends nothing for the others.
        let mut done = Ok(());
        for (index, leases) in parts {
            done = self.refresh_space(index, &leases).await.and(done);
        }
        done
    }

    /// Asks for what is in use of a space's users. A lease that could not be confirmed is refused by its check.
    async fn refresh_own(&self, index: usize) {
        let leases = self.in_use();
        let own: Vec<_> = leases.iter().filter(|lease| self.spaces.of_user(lease.user()) == index).collect();
        if !own.is_empty() {
            let _ = self.refresh_space(index, &own).await;
        }
    }

    async fn refresh_space(&self, index: usize, leases: &[&Lease]) -> Result<()> {
        self.spaces.look_at_time(index).await?;
        for kind in [SecretKind::Token, SecretKind::Session] {
            let leases: Vec<_> = leases.iter().copied().filter(|lease| lease.kind() == kind).collect();
            for part in leases.chunks(PART) {
                self.refresh_part(index, kind, part).await?;
            }
        }
        Ok(())
    }

    async fn refresh_part(&self, index: usize, kind: SecretKind, leases: &[&Lease]) -> Result<()> {
        let asked = self.time.boot();
        let ids = |id: &dyn Fn(&Lease) -> Result<RecordId>| -> Result<Vec<_>> {
            leases.iter().map(|lease| id(lease)).collect()
        };
        let secrets = ids(&|lease| self.spaces.secret(kind, lease.id()))?;
        let accounts = ids(&|lease| self.spaces.account(lease.user()))?;
        // The record first: what happens to the account afterwards is then seen, and no older state of it is.
        let rows = self.spaces.read(index, keyspace(kind), &secrets).await?;
        let accounts = self.spaces.read(index, Keyspace::Accounts, &accounts).await?;
        for (((lease, id), row), account) in leases.iter().zip(&secrets).zip(rows).zip(accounts) {
            let held = &lease.0;
            let Some((body, known)) = row else {
                if !self.config.has(Fault::RevokeIgnored) {
                    held.end();
                }
                held.confirm(lease.scopes(), asked);
                continue;
            };
            let account = account.map(|(body, _)| own_row(lease.user(), &body)).transpose();
            // What can't be read confirms nothing, and is no reason to let others go stale.
            let (Ok(account), Ok(mut row)) = (account, SecretRow::decode(&body)) else { continue };
            let (stored, used) = (row.used, held.used.fetch_max(row.used, Ordering::AcqRel).max(row.used));
            row.used = used;
            match self.judge(&row, account.as_ref(), kind) {
                Ok(scopes) => held.confirm(scopes, asked),
                Err(_) => held.end(),
            }
            if used.saturating_sub(stored) >= TOUCH && !held.is_ended() {
                // It is noted the next time: a store that takes no commits now still says what holds.
                let _ = self.touch(index, kind, id, &row, known).await;
            }
        }
        Ok(())
    }

    /// Notes when a token or session was last used. Somebody else's change of it comes first.
    pub(crate) async fn touch(
        &self,
        index: usize,
        kind: SecretKind,
        id: &RecordId,
        row: &SecretRow,
        known: syntha_store::Version,
    ) -> Result<()> {
        let space = keyspace(kind);
        let mut batch = self.spaces.batch()?.put(space, id.clone(), "", row.encode()?);
        if !self.config.has(Fault::TouchRevives) {
            batch = batch.expect(version(space, id, Some(known)));
        }
        self.spaces.commit(index, batch).await.map(drop)
    }

    /// What a token or session may do now, or why it does not hold.
    pub(crate) fn judge(
        &self,
        row: &SecretRow,
        account: Option<&AccountRow>,
        kind: SecretKind,
    ) -> Result<crate::Scopes, Reason> {
        let account = account.filter(|account| account.user == row.user).ok_or(Reason::UnknownUser)?;
        if account.suspended {
            return Err(Reason::Suspended);
        }
        let other = kind == SecretKind::Session && row.generation != Some(account.generation);
        if other && !self.config.has(Fault::GenerationIgnored) && !self.config.has(Fault::RevokeIgnored) {
            return Err(Reason::UnknownSecret);
        }
        if row.is_over(self.time.now()) && !self.config.has(Fault::ExpiryIgnored) {
            return Err(Reason::Expired);
        }
        let (own, rights) = (row.scopes().unwrap_or_default(), account.rights().unwrap_or_default());
        Ok(if self.config.has(Fault::RightsIgnored) { own } else { own.and(rights) })
    }

    /// Deletes every token and session that an account lists.
    pub(crate) fn forget_secrets(&self, row: &mut AccountRow, mut batch: Batch) -> Result<Batch> {
        for kind in [SecretKind::Token, SecretKind::Session] {
            for id in row.ids(kind)? {
                batch = batch.delete(keyspace(kind), self.spaces.secret(kind, id)?);
            }
            row.list_mut(kind).clear();
        }
        Ok(batch)
    }

    async fn sweep(&self) -> Result<u64> {
        if self.time.is_off() {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "the wall clock jumped since the accounts were opened, nothing is deleted until they are opened again",
            ));
        }
        let mut count = 0;
        for index in 0..self.spaces.count() {
            for kind in [SecretKind::Token, SecretKind::Session] {
                for (user, id) in self.ended(index, kind).await? {
                    count += u64::from(self.remove_ended(&user, kind, &id).await?);
                }
            }
        }
        Ok(count)
    }

    /// What ended long ago in a space: whose it is, and its record.
    async fn ended(&self, index: usize, kind: SecretKind) -> Result<Vec<(UserId, RecordId)>> {
        let mut found = Vec::new();
        self.spaces
            .each(index, keyspace(kind), PAGE, |id, body| {
                let row = SecretRow::decode(body)?;
                if row.is_over(self.time.now().saturating_sub(GRACE)) {
                    found.push((UserId::stored(row.user), id));
                }
                Ok(())
            })
            .await?;
        Ok(found)
    }

    async fn remove_ended(&self, user: &UserId, kind: SecretKind, id: &RecordId) -> Result<bool> {
        let index = self.spaces.of_user(user);
        let Some((body, known)) = self.spaces.read_one(index, keyspace(kind), id).await? else {
            return Ok(false);
        };
        // It was used meanwhile.
        if !SecretRow::decode(&body)?.is_over(self.time.now().saturating_sub(GRACE)) {
            return Ok(false);
        }
        let names: HashMap<_, _> = match self.account(user).await? {
            None => HashMap::new(),
            Some(row) => row
                .ids(kind)?
                .into_iter()
                .map(|known| Ok((self.spaces.secret(kind, known)?, known)))
                .collect::<Result<_>>()?,
        };
        let delete = |batch: Batch| {
            batch.op(Op::Delete { space: keyspace(kind), id: id.clone() }).expect(version(
                keyspace(kind),
                id,
                Some(known),
            ))
        };
        let Some(own) = names.get(id) else {
            // Of nobody any more.
            return self.spaces.commit(index, delete(self.spaces.batch()?)).await;
        };
        let own = own.to_string();
        self.change(user, |row, batch| {
            row.list_mut(kind).retain(|id| *id != own);
            Ok((delete(batch), ()))
        })
        .await?;
        Ok(true)
    }

    async fn revoke_everything(&self) -> Result<()> {
        for index in 0..self.spaces.count() {
            let clear = [Keyspace::Tokens, Keyspace::Sessions].map(|space| Op::Clear { space });
            let batch = clear.into_iter().fold(self.spaces.batch()?, Batch::op);
            self.spaces.commit(index, batch).await?;
        }
        self.revocations.fetch_add(1, Ordering::SeqCst);
        let users: Vec<_> = self.live.lock().keys().cloned().collect();
        for user in &users {
            self.end(user, |_| true);
        }
        // What was made meanwhile goes too, and the lists with it.
        for index in 0..self.spaces.count() {
            let mut users = Vec::new();
            self.spaces
                .each(index, Keyspace::Accounts, PAGE, |_, body| {
                    users.push(UserId::stored(AccountRow::decode(body)?.user));
                    Ok(())
                })
                .await?;
            for user in users {
                let emptied = self.change(&user, |row, batch| {
                    row.next_generation();
                    Ok((self.forget_secrets(row, batch)?, ()))
                });
                match emptied.await {
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    done => done?,
                }
                self.end(&user, |_| true);
            }
        }
        self.tell(IdentityAction::RevokeAll, None, None, None);
        Ok(())
    }
}

/// A record is its user's own, whatever place it was found in.
fn own_row(user: &UserId, body: &[u8]) -> Result<AccountRow> {
    let row = AccountRow::decode(body)?;
    if row.user == user.as_str() { Ok(row) } else { Err(Error::corrupt()) }
}

pub(crate) fn bound(config: &IdentityConfig) -> u64 {
    millis(config.bound)
}
