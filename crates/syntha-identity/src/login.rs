//! A login with a password, and a token or session that is shown again.

use syntha_store::UserId;

use crate::error::{Error, ErrorKind, Result};
use crate::events::{IdentityAction, Reason};
use crate::fault::Fault;
use crate::identity::{Identity, Inner, TOUCH, bound};
use crate::lease::Lease;
use crate::password::Password;
use crate::rows::AccountRow;
use crate::secret::Secret;
use crate::sessions::{LoggedIn, Opened, SessionRequest};
use crate::throttle::{Attempt, Source};

impl Identity {
    /// Opens a session for a user who knows the password.
    ///
    /// An unknown user, a wrong password, a suspended account and one without a password are one answer, and the same work: each is counted,
    /// and each hashes a password. A password that is kept in a weaker form than new ones are is kept anew.
    ///
    /// # Errors
    ///
    /// `Denied`; `Throttled` after too many failures, of the user or from the source, and before the password is looked at; `Busy` if more
    /// logins wait than can be done in two seconds; `Invalid` for a request out of range; what the store answers.
    pub async fn login(
        &self,
        user: &UserId,
        password: Password,
        source: &Source,
        request: &SessionRequest,
    ) -> Result<Opened> {
        let refused = |reason| self.0.tell(IdentityAction::Login, Some(reason), Some(user), None);
        match self.0.login(user, password, source, request).await {
            Ok(opened) => {
                self.0.tell(IdentityAction::Login, None, Some(user), Some(opened.secret.id()));
                Ok(opened)
            }
            Err(Refused::Because(reason)) => {
                refused(reason);
                Err(Error::login())
            }
            Err(Refused::Failed(error)) => {
                match error.kind() {
                    ErrorKind::Throttled => refused(Reason::Throttled),
                    ErrorKind::Busy => refused(Reason::Busy),
                    _ => {}
                }
                Err(error)
            }
        }
    }

    /// Lets in who shows a token or a session id. Rates are the host's matter: 256 random bits are not guessed.
    ///
    /// # Errors
    ///
    /// `Denied` for what does not hold: unknown, revoked, expired, of a suspended or removed account; what the store answers.
    pub async fn authenticate(&self, secret: &Secret) -> Result<Lease> {
        let before = self.0.revocations();
        match self.0.look_up(secret).await? {
            Ok(lease) => self.0.hand_out(lease, before).await,
            Err((reason, user)) => {
                self.0.tell(IdentityAction::Authenticate, Some(reason), user.as_ref(), Some(secret.id()));
                Err(Error::secret())
            }
        }
    }
}

/// Why there is no session.
enum Refused {
    /// Told to the listener alone.
    Because(Reason),
    Failed(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Inner {
    async fn login(
        &self,
        user: &UserId,
        password: Password,
        source: &Source,
        request: &SessionRequest,
    ) -> Result<Opened, Refused> {
        // Before anything is read: a flood costs no more than this.
        let place = self.hasher.queue(user, Some(source)).await?;
        let attempt = Attempt::new(&self.spaces, user, source, &self.apart)?;
        let late = self.config.has(Fault::ThrottleLate);
        if !late {
            attempt.begin(&self.spaces).await?;
        }
        let account = self.account(user).await?;
        if let Some(reason) = self.hasty(account.as_ref()) {
            return Err(Refused::Because(reason));
        }
        let kept = account.as_ref().and_then(|account| account.password.clone());
        let has_password = kept.is_some();
        let verified = match self.hasher.verify(place, password, kept).await {
            Err(error) if error.kind() == ErrorKind::Busy => {
                attempt.withdraw(&self.spaces).await?;
                return Err(error.into());
            }
            verified => verified?,
        };
        if late {
            attempt.begin(&self.spaces).await?;
        }
        let account = account.ok_or(Refused::Because(Reason::UnknownUser))?;
        // Only now: an answer that comes sooner for a suspended account tells that it is one.
        let refused = if account.suspended {
            Some(Reason::Suspended)
        } else if !has_password {
            Some(Reason::NoPassword)
        } else if !verified.holds {
            Some(Reason::WrongPassword)
        } else {
            None
        };
        if let Some(reason) = refused {
            return Err(Refused::Because(reason));
        }
        let login = LoggedIn { generation: account.generation, renewed: verified.renewed };
        let opened = self.open_session(user, request, Some(login)).await?;
        // A count that can't be taken back now is one too many, which is no reason to send back who is known by now.
        let _ = attempt.succeed(&self.spaces).await;
        Ok(opened)
    }

    /// For a test: an answer before any hashing.
    fn hasty(&self, account: Option<&AccountRow>) -> Option<Reason> {
        match account {
            None if self.config.has(Fault::DummyMissing) => Some(Reason::UnknownUser),
            Some(account) if account.suspended && self.config.has(Fault::SuspendedFirst) => {
                Some(Reason::Suspended)
            }
            _ => None,
        }
    }

    async fn look_up(&self, secret: &Secret) -> Result<Result<Lease, (Reason, Option<UserId>)>> {
        let (kind, id, asked) = (secret.kind(), secret.id(), self.time.boot());
        let prefix = self.config.has(Fault::PrefixCompared);
        let found = self.secret_row(kind, id).await?;
        let found = found.filter(|(row, _)| row.is_of(&secret.digest(), prefix));
        let Some((mut row, known)) = found else {
            return Ok(Err((Reason::UnknownSecret, None)));
        };
        let user = UserId::stored(row.user.clone());
        // After the record: what happens to the account in between is seen.
        let account = self.account(&user).await?;
        let scopes = match self.judge(&row, account.as_ref(), kind) {
            Ok(scopes) => scopes,
            Err(reason) => return Ok(Err((reason, Some(user)))),
        };
        let lease = Lease::new(&self.time, bound(&self.config), &user, (kind, id), &row, scopes, asked);
        let now = self.time.now();
        if now.saturating_sub(row.used) >= TOUCH {
            let (space, record) = (self.spaces.of_secret(id), self.spaces.secret(kind, id)?);
            row.used = now;
            // Nobody is sent away because a note could not be made, as beside a process that holds the data.
            let _ = self.touch(space, kind, &record, &row, known).await;
        }
        Ok(Ok(lease))
    }
}
