use std::fmt;
use std::time::Duration;

use syntha_store::{Timestamp, UserId, name};

use crate::clock::millis;
use crate::config::IdentityConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::events::IdentityAction;
use crate::identity::{Inner, keyspace};
use crate::rows::{NewSecret, SecretRow};
use crate::scopes::Scopes;
use crate::secret::{Secret, SecretId, SecretKind};
use crate::spaces::version;

/// The most tokens of an account.
pub const TOKENS_MOST: usize = 100;
const LABEL_BYTES: usize = 128;

/// Access tokens: [`Identity::tokens`](crate::Identity::tokens). For the host alone: nothing here asks who calls.
#[derive(Clone, Copy)]
pub struct Tokens<'a>(pub(crate) &'a Inner);

/// What a token is to be.
#[derive(Clone, Debug)]
#[must_use]
pub struct TokenRequest {
    label: String,
    scopes: Scopes,
    agent: Option<String>,
    lifetime: Duration,
}

impl TokenRequest {
    /// A token that may do this, for 90 days.
    pub const fn new(scopes: Scopes) -> Self {
        Self { label: String::new(), scopes, agent: None, lifetime: IdentityConfig::TOKEN_LIFETIME }
    }

    /// What its user calls it: up to 128 bytes.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// It acts as one agent of its user, and as nobody else.
    pub fn agent(mut self, agent: impl Into<String>) -> Self {
        self.agent = Some(agent.into());
        self
    }

    /// How long it lives: from one second to [`IdentityConfig::TOKEN_LIFETIME_MOST`].
    pub const fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    fn check(&self) -> Result<()> {
        let wrong = |message| Err(Error::new(ErrorKind::Invalid, message));
        if self.lifetime < Duration::from_secs(1) || self.lifetime > IdentityConfig::TOKEN_LIFETIME_MOST {
            return wrong("a token lives from one second to 366 days");
        }
        if self.scopes.is_empty() {
            return wrong("a token without a scope opens nothing, give it one");
        }
        if self.label.len() > LABEL_BYTES || self.label.chars().any(char::is_control) {
            return wrong("a token's label has at most 128 bytes and no control characters");
        }
        check_agent(self.agent.as_deref())
    }
}

/// An agent's name is checked as it is where agents are made.
pub(crate) fn check_agent(agent: Option<&str>) -> Result<()> {
    agent.map_or(Ok(()), |agent| {
        name::check_actor(agent)
            .map_err(|_| Error::new(ErrorKind::Invalid, "the name is none that an agent can have"))
    })
}

/// A token or session as lists show it. It opens nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SecretInfo {
    /// What it is called.
    pub id: SecretId,
    /// What its user calls it.
    pub label: String,
    /// What it may do, as far as its account may.
    pub scopes: Scopes,
    /// The agent that it acts as.
    pub agent: Option<String>,
    /// When it was made.
    pub created: Timestamp,
    /// When it ends at the latest.
    pub expires: Timestamp,
    /// When it was last used, to a minute or so; `None` for never.
    pub last_used: Option<Timestamp>,
}

impl SecretInfo {
    fn new(id: SecretId, row: SecretRow) -> Result<Self> {
        Ok(Self {
            id,
            scopes: row.scopes()?,
            label: row.label,
            agent: row.agent,
            created: Timestamp(row.created),
            expires: Timestamp(row.expires),
            last_used: Some(row.used).filter(|used| *used > row.created).map(Timestamp),
        })
    }
}

impl Tokens<'_> {
    /// Makes a token. Its text is given here and never again.
    ///
    /// # Errors
    ///
    /// `NotFound` without an account; `Invalid` for scopes that the account does not have, for a suspended account, and for a request out of
    /// range; `LimitExceeded` over [`TOKENS_MOST`]; what the store answers.
    pub async fn create(self, user: &UserId, request: &TokenRequest) -> Result<(Secret, SecretInfo)> {
        request.check()?;
        let spaces = &self.0.spaces;
        let own = spaces.of_user(user);
        let secret = Secret::generate(SecretKind::Token, |id| spaces.of_secret(id) == own)?;
        let created = spaces.now();
        let new = NewSecret {
            hash: secret.digest(),
            scopes: request.scopes,
            agent: request.agent.clone(),
            label: request.label.clone(),
            created,
            expires: created.saturating_add(millis(request.lifetime)),
            idle: None,
            generation: None,
        };
        let row = SecretRow::new(user.as_str(), new);
        let (id, body) = (spaces.secret(SecretKind::Token, secret.id())?, row.encode()?);
        self.0
            .change(user, |account, batch| {
                if account.suspended {
                    return Err(Error::new(ErrorKind::Invalid, "the account is suspended, resume it first"));
                }
                if !account.rights()?.contains(request.scopes) {
                    let message = "a token can't do what its account may not";
                    return Err(Error::new(ErrorKind::Invalid, message));
                }
                let list = account.list_mut(SecretKind::Token);
                if list.len() >= TOKENS_MOST {
                    let message = "an account has at most 100 tokens, revoke one first";
                    return Err(Error::new(ErrorKind::LimitExceeded, message));
                }
                list.push(secret.id().to_string());
                let space = keyspace(SecretKind::Token);
                let batch = batch.put(space, id.clone(), "", body.clone());
                Ok((batch.expect(version(space, &id, None)), ()))
            })
            .await?;
        self.0.tell(IdentityAction::CreateToken, None, Some(user), Some(secret.id()));
        let info = SecretInfo::new(secret.id(), row)?;
        Ok((secret, info))
    }

    /// The tokens of an account, oldest first, those that have expired a short time ago included.
    ///
    /// # Errors
    ///
    /// `NotFound` without an account; what the store answers.
    pub async fn list(self, user: &UserId) -> Result<Vec<SecretInfo>> {
        self.0.list(user, SecretKind::Token).await
    }

    /// Revokes a token: it holds no more from the next call in this process on, and within a second in others.
    ///
    /// # Errors
    ///
    /// `NotFound` if the account has no such token; what the store answers.
    pub async fn revoke(self, user: &UserId, id: SecretId) -> Result<()> {
        self.0.revoke(user, SecretKind::Token, id).await?;
        self.0.tell(IdentityAction::RevokeToken, None, Some(user), Some(id));
        Ok(())
    }
}

impl Inner {
    pub(crate) async fn list(&self, user: &UserId, kind: SecretKind) -> Result<Vec<SecretInfo>> {
        let ids = self.account(user).await?.ok_or_else(Error::no_account)?.ids(kind)?;
        let records: Vec<_> = ids.iter().map(|id| self.spaces.secret(kind, *id)).collect::<Result<_>>()?;
        let found = self.spaces.read(self.spaces.of_user(user), keyspace(kind), &records).await?;
        let rows = ids.into_iter().zip(found).filter_map(|(id, found)| Some((id, found?.0)));
        rows.map(|(id, body)| SecretInfo::new(id, SecretRow::decode(&body)?)).collect()
    }

    pub(crate) async fn revoke(&self, user: &UserId, kind: SecretKind, id: SecretId) -> Result<()> {
        let (record, text) = (self.spaces.secret(kind, id)?, id.to_string());
        self.change(user, |account, batch| {
            let list = account.list_mut(kind);
            let before = list.len();
            list.retain(|known| *known != text);
            if list.len() == before {
                let message = "the account has no such token or session";
                return Err(Error::new(ErrorKind::NotFound, message));
            }
            Ok((batch.delete(keyspace(kind), record.clone()), ()))
        })
        .await?;
        self.end(user, |held| held.id == id && held.kind == kind);
        Ok(())
    }
}

impl fmt::Debug for Tokens<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens(..)")
    }
}
