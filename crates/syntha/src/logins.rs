//! The doors that a user comes in by: a password, a token, a session's id.

use std::sync::Arc;

use syntha_identity::{Opened, Password, Scopes, Secret, SessionRequest, Source};
use syntha_store::{Action, Event, UserId};

use crate::error::{Error, ErrorKind, Result};
use crate::fairness::Line;
use crate::manager::{HostAuthority, UserManager};
use crate::session::Session;

/// A session that was opened, and the id that opens it again.
#[derive(Debug)]
#[non_exhaustive]
pub struct LoggedIn {
    /// The session's id, for whoever comes back: given here and never again. See [`UserManager::enter`].
    pub id: Secret,
    /// The user's mesh, as far as the session may.
    pub session: Session,
}

impl UserManager {
    /// Lets a user in who knows the password. `source`: where the attempt comes from, such as an address; failures are counted for it, too.
    ///
    /// An unknown user, a wrong password, a suspended account and one without a password are one answer, in one time. The session ends after
    /// 30 minutes without use and 12 hours in any case, unless the deployment [says otherwise](crate::Builder::accounts), and with every
    /// revocation: from the next call in this process, and within a second in others.
    ///
    /// # Errors
    ///
    /// `Denied`; `Throttled` after too many failures, with how long to wait; `Busy` while more passwords are waiting than can be looked at
    /// within two seconds; `Invalid` for a request out of range; `Tampered`, `AuditUnavailable`, `Storage`.
    pub async fn login<U>(
        &self,
        user: U,
        password: Password,
        source: &Source,
        request: &SessionRequest,
    ) -> Result<LoggedIn>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        let user = user.try_into()?;
        let identity = &self.deployment.identity().await?.identity;
        let opened = identity.login(&user, password, source, request).await;
        let lines = &self.deployment.lines;
        lines.logins_waited(identity.hashing().waited);
        if opened.as_ref().is_err_and(|error| error.kind() == syntha_identity::ErrorKind::Busy) {
            lines.refused(Line::Login);
        }
        let opened = opened?;
        self.logged_in(opened, Action::Login).await
    }

    /// Lets a user in whom the host has authenticated by other means, such as its own sign-on, if the user has an account that is not
    /// suspended. Unlike [`open`](Self::open) it gives a session that can be revoked, also by other processes.
    ///
    /// # Errors
    ///
    /// `Denied` for another manager's authority, without an account, and for one that is suspended; `Invalid` for a request out of
    /// range; `Tampered`, `AuditUnavailable`, `Storage`.
    pub async fn sign_in<U>(
        &self,
        host: &HostAuthority,
        user: U,
        request: &SessionRequest,
    ) -> Result<LoggedIn>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        let user = user.try_into()?;
        self.check_host(host, &user)?;
        let opened = self.deployment.identity().await?.identity.sessions().open(&user, request).await?;
        self.logged_in(opened, Action::OpenSession).await
    }

    /// Lets in who shows an access token or the id of a session. The session that is given back ends with it. Keep it, and ask again only
    /// when it has ended.
    ///
    /// # Errors
    ///
    /// `Denied` for what does not hold: unknown, revoked, expired, of a suspended account; `Tampered`, `AuditUnavailable`, `Storage`.
    pub async fn enter(&self, secret: &Secret) -> Result<Session> {
        let lease = self.deployment.identity().await?.identity.authenticate(secret).await?;
        self.deployment.leased(lease, Action::OpenSession).await
    }

    /// Gives a session another id, and other scopes if they are named, at most what the account may: after a change of what it is used for.
    /// What was opened with the old id has ended.
    ///
    /// # Errors
    ///
    /// `Denied` if the session does not hold; `Invalid` for a token; `Tampered`, `AuditUnavailable`, `Storage`.
    pub async fn rotate_session(&self, secret: &Secret, scopes: Option<Scopes>) -> Result<LoggedIn> {
        let opened = self.deployment.identity().await?.identity.sessions().rotate(secret, scopes).await?;
        self.logged_in(opened, Action::RotateSession).await
    }

    /// Ends the session of an id, wherever it is in use, and tells the user's audit trail. One that does not hold any more has ended already.
    ///
    /// # Errors
    ///
    /// `AuditUnavailable` if the trail could not be told in time, with the session ended; `Storage`.
    pub async fn logout(&self, secret: &Secret) -> Result<()> {
        let deployment = &self.deployment;
        let Some(user) = deployment.identity().await?.identity.sessions().end(secret).await? else {
            return Ok(());
        };
        if !deployment.audited {
            return Ok(());
        }
        let mesh = match deployment.mesh(&user, false).await {
            // The user went meanwhile, and the trail with the user.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Erased) => return Ok(()),
            mesh => mesh?,
        };
        let event = Event::new(deployment.now(), Action::EndSession);
        Ok(mesh.note_event(event.on(format!("session {}", secret.id()).into())).await?)
    }

    async fn logged_in(&self, opened: Opened, action: Action) -> Result<LoggedIn> {
        let session = self.deployment.leased(opened.lease, action).await;
        let deployment = Arc::clone(&self.deployment);
        match session {
            Ok(session) => Ok(LoggedIn { id: opened.secret, session }),
            Err(error) => {
                // Nobody gets its id.
                if let Ok(accounts) = deployment.identity().await {
                    let _ = accounts.identity.sessions().end(&opened.secret).await;
                }
                Err(error)
            }
        }
    }
}
