use std::fmt;
use std::time::Duration;

use syntha_store::{Batch, UserId};

use crate::clock::millis;
use crate::error::{Error, ErrorKind, Result};
use crate::events::IdentityAction;
use crate::identity::{Inner, bound, keyspace};
use crate::lease::Lease;
use crate::rows::{AccountRow, NewSecret, PasswordRow, SecretRow};
use crate::scopes::Scopes;
use crate::secret::{Secret, SecretId, SecretKind};
use crate::spaces::version;
use crate::tokens::{SecretInfo, check_agent};

/// The most sessions of an account. A new one takes the place of the oldest.
pub const SESSIONS_MOST: usize = 100;

/// Sessions: [`Identity::sessions`](crate::Identity::sessions). For the host alone: nothing here asks who calls.
#[derive(Clone, Copy)]
pub struct Sessions<'a>(pub(crate) &'a Inner);

/// What a session is to be: by default all that its account may do, for as long as the deployment lets a session live.
#[derive(Clone, Debug)]
#[must_use]
pub struct SessionRequest {
    scopes: Scopes,
    agent: Option<String>,
    lifetime: Option<Duration>,
}

impl Default for SessionRequest {
    fn default() -> Self {
        Self { scopes: Scopes::ALL, agent: None, lifetime: None }
    }
}

impl SessionRequest {
    /// At most this, and at most what the account may.
    pub const fn scopes(mut self, scopes: Scopes) -> Self {
        self.scopes = scopes;
        self
    }

    /// It acts as one agent of its user, and as nobody else.
    pub fn agent(mut self, agent: impl Into<String>) -> Self {
        self.agent = Some(agent.into());
        self
    }

    /// At most so long, and at most what [`IdentityConfig::sessions`](crate::IdentityConfig::sessions) says.
    pub const fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = Some(lifetime);
        self
    }
}

/// A session that was opened: the id to give to whom it is for, and what the host keeps.
#[derive(Debug)]
#[non_exhaustive]
pub struct Opened {
    /// Given here and never again.
    pub secret: Secret,
    /// What to check before each operation.
    pub lease: Lease,
}

impl Sessions<'_> {
    /// Opens a session for a user whom the host knows by other means, such as its own sign-on. No password is asked for.
    ///
    /// # Errors
    ///
    /// `NotFound` without an account; `Denied` if it is suspended; `Invalid` for a request out of range; what the store answers.
    pub async fn open(self, user: &UserId, request: &SessionRequest) -> Result<Opened> {
        let opened = self.0.open_session(user, request, None).await?;
        self.0.tell(IdentityAction::OpenSession, None, Some(user), Some(opened.secret.id()));
        Ok(opened)
    }

    /// Gives a session another id, and other scopes if they are named: at most what its account may. The old id is refused from then on, in
    /// other processes within a second. It ends when the old one would have.
    ///
    /// # Errors
    ///
    /// `Denied` if the session does not hold; `Invalid` for a token; what the store answers.
    pub async fn rotate(self, secret: &Secret, scopes: Option<Scopes>) -> Result<Opened> {
        if secret.kind() != SecretKind::Session {
            return Err(Error::new(ErrorKind::Invalid, "a token has one id for life, make another token"));
        }
        self.0.rotate(secret, scopes).await
    }

    /// Ends the session of an id, as a logout does, and says whose it was. One that does not hold any more is ended already.
    ///
    /// # Errors
    ///
    /// What the store answers.
    pub async fn end(self, secret: &Secret) -> Result<Option<UserId>> {
        let Some((row, _)) = self.0.secret_row(SecretKind::Session, secret.id()).await? else {
            return Ok(None);
        };
        if secret.kind() != SecretKind::Session || !row.is_of(&secret.digest(), false) {
            return Ok(None);
        }
        let user = UserId::stored(row.user);
        match self.end_id(&user, secret.id()).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            ended => ended.map(|()| Some(user)),
        }
    }

    /// Ends a session of an account by what lists call it.
    ///
    /// # Errors
    ///
    /// `NotFound` if the account has no such session; what the store answers.
    pub async fn end_id(self, user: &UserId, id: SecretId) -> Result<()> {
        self.0.revoke(user, SecretKind::Session, id).await?;
        self.0.tell(IdentityAction::EndSession, None, Some(user), Some(id));
        Ok(())
    }

    /// The sessions of an account, oldest first; those that a change of password or rights has ended may still be among them.
    ///
    /// # Errors
    ///
    /// `NotFound` without an account; what the store answers.
    pub async fn list(self, user: &UserId) -> Result<Vec<SecretInfo>> {
        self.0.list(user, SecretKind::Session).await
    }
}

/// What a login has found out, which must still be so when its session is made.
pub(crate) struct LoggedIn {
    pub(crate) generation: u64,
    pub(crate) renewed: Option<PasswordRow>,
}

impl Inner {
    pub(crate) async fn open_session(
        &self,
        user: &UserId,
        request: &SessionRequest,
        login: Option<LoggedIn>,
    ) -> Result<Opened> {
        check_agent(request.agent.as_deref())?;
        let (before, asked) = (self.revocations(), self.time.boot());
        let secret = self.session_secret(user)?;
        let created = self.spaces.now();
        let lifetime =
            request.lifetime.unwrap_or(self.config.session_lifetime).min(self.config.session_lifetime);
        let (row, scopes, evicted) = self
            .change(user, |account, batch| {
                let moved_on = login.as_ref().is_some_and(|login| login.generation != account.generation);
                if account.suspended || moved_on {
                    return Err(Error::login());
                }
                if let Some(renewed) = login.as_ref().and_then(|login| login.renewed.clone()) {
                    account.password = Some(renewed);
                }
                let scopes = request.scopes.and(account.rights()?);
                let new = NewSecret {
                    hash: secret.digest(),
                    scopes,
                    agent: request.agent.clone(),
                    label: String::new(),
                    created,
                    expires: created.saturating_add(millis(lifetime)),
                    idle: Some(millis(self.config.idle)),
                    generation: Some(account.generation),
                };
                let row = SecretRow::new(&account.user, new);
                let (batch, evicted) = self.add_session(account, batch, &secret, &row)?;
                Ok((batch, (row, scopes, evicted)))
            })
            .await?;
        let before = self.end_evicted(user, &evicted, before);
        self.opened(user, secret, &row, scopes, (before, asked)).await
    }

    async fn rotate(&self, secret: &Secret, scopes: Option<Scopes>) -> Result<Opened> {
        let (before, asked) = (self.revocations(), self.time.boot());
        let id = secret.id();
        let found = self.secret_row(SecretKind::Session, id).await?;
        let (old, known) =
            found.filter(|(row, _)| row.is_of(&secret.digest(), false)).ok_or_else(Error::secret)?;
        let user = UserId::stored(old.user.clone());
        let next = self.session_secret(&user)?;
        let (space, record) = (keyspace(SecretKind::Session), self.spaces.secret(SecretKind::Session, id)?);
        let rotated = self.change(&user, |account, batch| {
            let held = self.judge(&old, Some(account), SecretKind::Session).map_err(|_| Error::secret())?;
            let scopes = match scopes {
                Some(scopes) => scopes.and(account.rights()?),
                None => held,
            };
            let new = NewSecret {
                hash: next.digest(),
                scopes,
                agent: old.agent.clone(),
                label: String::new(),
                created: self.spaces.now(),
                expires: old.expires,
                idle: old.idle,
                generation: old.generation,
            };
            let row = SecretRow::new(&account.user, new);
            account.list_mut(SecretKind::Session).retain(|known| *known != id.to_string());
            let (batch, _) = self.add_session(account, batch, &next, &row)?;
            let batch = batch.delete(space, record.clone());
            Ok((batch.expect(version(space, &record, Some(known))), (row, scopes)))
        });
        let (row, scopes) = match rotated.await {
            // Somebody else ended or rotated it: it holds no more.
            Err(error) if error.kind() == ErrorKind::Busy && self.is_gone(id).await? => {
                return Err(Error::secret());
            }
            rotated => rotated?,
        };
        self.end(&user, |held| held.id == id && held.kind == SecretKind::Session);
        // This revocation is of the old id.
        let opened = self.opened(&user, next, &row, scopes, (before.saturating_add(1), asked)).await?;
        self.tell(IdentityAction::RotateSession, None, Some(&user), Some(opened.secret.id()));
        Ok(opened)
    }

    async fn is_gone(&self, id: SecretId) -> Result<bool> {
        Ok(self.secret_row(SecretKind::Session, id).await?.is_none())
    }

    fn session_secret(&self, user: &UserId) -> Result<Secret> {
        let own = self.spaces.of_user(user);
        Secret::generate(SecretKind::Session, |id| self.spaces.of_secret(id) == own)
    }

    /// Puts a session beside its account, in place of the oldest if there are too many.
    fn add_session(
        &self,
        account: &mut AccountRow,
        mut batch: Batch,
        secret: &Secret,
        row: &SecretRow,
    ) -> Result<(Batch, Vec<SecretId>)> {
        let (kind, space) = (SecretKind::Session, keyspace(SecretKind::Session));
        let over = (account.list(kind).len() + 1).saturating_sub(SESSIONS_MOST);
        let mut evicted = account.ids(kind)?;
        evicted.truncate(over);
        for id in &evicted {
            batch = batch.delete(space, self.spaces.secret(kind, *id)?);
        }
        let list = account.list_mut(kind);
        list.drain(..over);
        list.push(secret.id().to_string());
        let id = self.spaces.secret(kind, secret.id())?;
        let batch = batch.put(space, id.clone(), "", row.encode()?).expect(version(space, &id, None));
        Ok((batch, evicted))
    }

    /// Ends the leases of sessions that made place, and says which count of revocations a new lease starts from then.
    fn end_evicted(&self, user: &UserId, evicted: &[SecretId], before: u64) -> u64 {
        if evicted.is_empty() {
            return before;
        }
        self.end(user, |held| held.kind == SecretKind::Session && evicted.contains(&held.id));
        before.saturating_add(1)
    }

    async fn opened(
        &self,
        user: &UserId,
        secret: Secret,
        row: &SecretRow,
        scopes: Scopes,
        (before, asked): (u64, u64),
    ) -> Result<Opened> {
        let of = (SecretKind::Session, secret.id());
        let lease = Lease::new(&self.time, bound(&self.config), user, of, row, scopes, asked);
        let lease = self.hand_out(lease, before).await?;
        Ok(Opened { secret, lease })
    }
}

impl fmt::Debug for Sessions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sessions(..)")
    }
}
