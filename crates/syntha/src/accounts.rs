//! What a host does with accounts, tokens and sessions.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use syntha_identity::{
    Account, AccountCursor, AccountPage, Factor, HashingLoad, Password, Scopes, Secret, SecretId, SecretInfo,
    TokenRequest,
};
use syntha_store::{Action, UserId, Verdict};

use crate::deployment::Deployment;
use crate::directory::Standing;
use crate::error::{Error, ErrorKind, Result};
use crate::manager::UserManager;

/// The accounts of a deployment: [`UserManager::accounts`]. Every change is told to the deployment's audit trail, with when it began.
///
/// An account is what lets its user in by a password, a token or a session; its user's data is made with it if it is not there.
#[derive(Clone, Copy)]
pub struct Accounts<'a>(&'a Arc<Deployment>);

impl UserManager {
    /// Accounts, tokens and sessions, for the host: nothing there asks who calls.
    #[must_use]
    pub const fn accounts(&self) -> Accounts<'_> {
        Accounts(&self.deployment)
    }
}

/// One call: the user's name is parsed, and the trail is told.
macro_rules! administer {
    ($self:ident, $action:ident, $user:ident, |$identity:ident, $id:ident| $work:expr) => {{
        let $id: UserId = $user.try_into()?;
        $self.0.administer(Action::$action, Some(&$id), async |$identity| Ok($work.await?)).await
    }};
}

impl Accounts<'_> {
    /// Makes an account without a password, and the user if there is none. Its user gets in by a token, by
    /// [`sign_in`](UserManager::sign_in), or once a password is set.
    ///
    /// # Errors
    ///
    /// `Invalid`; `AlreadyExists`; `Erased` for an erased user, who has to be recreated first; `Tampered`, `AuditUnavailable`, `Storage`.
    pub async fn create<U>(self, user: U, rights: Scopes) -> Result<()>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        let user = user.try_into()?;
        match self.0.create(&user, syntha_store::CreateMode::New).await {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            created => created?,
        }
        let work = async |identity: &syntha_identity::Identity| {
            identity.accounts().create(&user, rights).await?;
            // An erasure may have removed the account before there was one.
            if self.0.directory.standing(self.0.tag(&user)).await? == Standing::There {
                return Ok(());
            }
            identity.accounts().remove(&user).await?;
            Err(crate::directory::erased())
        };
        self.0.administer(Action::CreateAccount, Some(&user), work).await
    }

    /// Removes an account with its password, tokens and sessions. The user's data stays.
    ///
    /// # Errors
    ///
    /// `Invalid`, `NotFound`, `Tampered`, `AuditUnavailable`, `Storage`.
    pub async fn remove<U>(self, user: U) -> Result<()>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        administer!(self, RemoveAccount, user, |identity, id| identity.accounts().remove(&id))
    }

    /// An account.
    ///
    /// # Errors
    ///
    /// `Invalid`, `NotFound`, `Tampered`, `Storage`.
    pub async fn get<U>(self, user: U) -> Result<Account>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        let user = user.try_into()?;
        self.0.looked(Action::ListAccounts);
        Ok(self.0.identity().await?.identity.accounts().get(&user).await?)
    }

    /// A page of 1 to 1,000 accounts, after another one, in an order of no meaning.
    ///
    /// # Errors
    ///
    /// `Tampered`, `Storage`.
    pub async fn list(self, after: Option<AccountCursor>, limit: usize) -> Result<AccountPage> {
        self.0.looked(Action::ListAccounts);
        Ok(self.0.identity().await?.identity.accounts().list(after, limit).await?)
    }

    /// Suspends an account: no login, token or session of it holds from the next call in this process on, and within a second in others.
    /// Tokens hold again once it is resumed, sessions don't. What the host opens by its [authority](crate::HostAuthority) alone asks no account.
    ///
    /// # Errors
    ///
    /// `Invalid`, `NotFound`, `Tampered`, `AuditUnavailable`, `Storage`.
    pub async fn suspend<U>(self, user: U) -> Result<()>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        administer!(self, SuspendAccount, user, |identity, id| identity.accounts().suspend(&id))
    }

    /// Lifts a suspension.
    ///
    /// # Errors
    ///
    /// `Invalid`, `NotFound`, `Tampered`, `AuditUnavailable`, `Storage`.
    pub async fn resume<U>(self, user: U) -> Result<()>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        administer!(self, ResumeAccount, user, |identity, id| identity.accounts().resume(&id))
    }

    /// Sets an account's password, ends all its sessions, and forgives its failed logins. Its tokens go on.
    ///
    /// # Errors
    ///
    /// `Invalid`, also for a password that is too short or too common; `NotFound`; `Busy` if too many passwords are looked at just now;
    /// `Tampered`, `AuditUnavailable`, `Storage`.
    pub async fn set_password<U>(self, user: U, password: Password, factor: Factor) -> Result<()>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        administer!(self, SetPassword, user, |identity, id| identity
            .accounts()
            .set_password(&id, password, factor))
    }

    /// Takes an account's password away and ends all its sessions.
    ///
    /// # Errors
    ///
    /// `Invalid`, `NotFound`, `Tampered`, `AuditUnavailable`, `Storage`.
    pub async fn remove_password<U>(self, user: U) -> Result<()>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        administer!(self, RemovePassword, user, |identity, id| identity.accounts().remove_password(&id))
    }

    /// Sets what an account may do, and ends all its sessions. Tokens go on with what is in their own scopes and in these.
    ///
    /// # Errors
    ///
    /// `Invalid`, `NotFound`, `Tampered`, `AuditUnavailable`, `Storage`.
    pub async fn set_rights<U>(self, user: U, rights: Scopes) -> Result<()>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        administer!(self, SetRights, user, |identity, id| identity.accounts().set_rights(&id, rights))
    }

    /// Revokes all tokens and sessions of an account, in one commit.
    ///
    /// # Errors
    ///
    /// `Invalid`, `NotFound`, `Tampered`, `AuditUnavailable`, `Storage`.
    pub async fn revoke_all<U>(self, user: U) -> Result<()>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        administer!(self, RevokeAll, user, |identity, id| identity.accounts().revoke_all(&id))
    }

    /// Puts the count of an account's failed logins back, once its user has shown who they are by other means.
    ///
    /// # Errors
    ///
    /// `Invalid`, `Tampered`, `AuditUnavailable`, `Storage`.
    pub async fn forgive<U>(self, user: U) -> Result<()>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        administer!(self, ForgiveLogins, user, |identity, id| identity.accounts().forgive(&id))
    }

    /// Makes an access token. Its text is given here and never again.
    ///
    /// # Errors
    ///
    /// `NotFound` without an account; `Invalid` for scopes that the account does not have, for a suspended account, for a request out of range,
    /// and for the 101st; `Tampered`, `AuditUnavailable`, `Storage`.
    pub async fn create_token<U>(self, user: U, request: &TokenRequest) -> Result<(Secret, SecretInfo)>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        administer!(self, CreateToken, user, |identity, id| identity.tokens().create(&id, request))
    }

    /// The tokens of an account, oldest first, those that have expired a short time ago included.
    ///
    /// # Errors
    ///
    /// `Invalid`, `NotFound`, `Tampered`, `Storage`.
    pub async fn tokens<U>(self, user: U) -> Result<Vec<SecretInfo>>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        let user = user.try_into()?;
        self.0.looked(Action::ListAccounts);
        Ok(self.0.identity().await?.identity.tokens().list(&user).await?)
    }

    /// Revokes a token: it holds no more from the next call in this process on, and within a second in others.
    ///
    /// # Errors
    ///
    /// `Invalid`; `NotFound` if the account has no such token; `Tampered`, `AuditUnavailable`, `Storage`.
    pub async fn revoke_token<U>(self, user: U, token: SecretId) -> Result<()>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        administer!(self, RevokeToken, user, |identity, id| identity.tokens().revoke(&id, token))
    }

    /// The sessions of an account, oldest first; those that a change of password or rights has ended may still be among them.
    ///
    /// # Errors
    ///
    /// `Invalid`, `NotFound`, `Tampered`, `Storage`.
    pub async fn sessions<U>(self, user: U) -> Result<Vec<SecretInfo>>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        let user = user.try_into()?;
        self.0.looked(Action::ListAccounts);
        Ok(self.0.identity().await?.identity.sessions().list(&user).await?)
    }

    /// Ends a session of an account by what lists call it.
    ///
    /// # Errors
    ///
    /// `Invalid`; `NotFound` if the account has no such session; `Tampered`, `AuditUnavailable`, `Storage`.
    pub async fn end_session<U>(self, user: U, session: SecretId) -> Result<()>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        administer!(self, EndSession, user, |identity, id| identity.sessions().end_id(&id, session))
    }

    /// Revokes every token and session of everybody. Accounts and passwords stay. It is done by itself where accounts were restored from a
    /// backup.
    ///
    /// # Errors
    ///
    /// `Tampered`, `AuditUnavailable`, `Storage`. Call it again then.
    pub async fn revoke_everything(self) -> Result<()> {
        let work = async |identity: &syntha_identity::Identity| Ok(identity.revoke_everything().await?);
        self.0.administer(Action::RevokeAll, None, work).await
    }

    /// Takes accounts as they are that were refused as older than what was last done to them, and revokes every token and session. What was
    /// suspended or changed since they were in this state has to be done again.
    ///
    /// # Errors
    ///
    /// `AuditUnavailable`, `Storage`.
    pub async fn accept_older(self) -> Result<()> {
        /// Ends with the call, also with one that is given up.
        struct Accepting<'a>(&'a std::sync::atomic::AtomicBool);

        impl Drop for Accepting<'_> {
            fn drop(&mut self) {
                self.0.store(false, Ordering::Release);
            }
        }

        self.0.accounts.accepts.store(true, Ordering::Release);
        let _accepting = Accepting(&self.0.accounts.accepts);
        self.revoke_everything().await
    }

    /// Deletes tokens and sessions that ended more than a day ago, and says how many. Call it once in a while, in one process.
    ///
    /// # Errors
    ///
    /// `Storage`, also if the wall clock has jumped since the accounts were opened; `Tampered`.
    pub async fn sweep(self) -> Result<u64> {
        Ok(self.0.identity().await?.identity.sweep().await?)
    }

    /// How much hashing of passwords is under way in this process.
    ///
    /// # Errors
    ///
    /// `Tampered`, `Storage`, if the accounts can't be opened.
    pub async fn hashing(self) -> Result<HashingLoad> {
        Ok(self.0.identity().await?.identity.hashing())
    }
}

impl Deployment {
    /// Whether a user was erased.
    pub(crate) async fn is_erased(&self, user: &UserId) -> Result<bool> {
        Ok(self.directory.standing(self.tag(user)).await? == Standing::Erased)
    }

    /// Removes the account of a user who is to be erased, if there is one.
    pub(crate) async fn remove_account(self: &Arc<Self>, user: &UserId) -> Result<()> {
        if !self.has_accounts().await? {
            return Ok(());
        }
        let opened = self.identity().await?;
        // By its tag: the name goes with the user.
        let target: std::sync::Arc<str> = self.tag(user).to_string().into();
        match opened.identity.accounts().remove(user).await {
            Err(error) if error.kind() == syntha_identity::ErrorKind::NotFound => Ok(()),
            Err(error) => {
                self.note(Action::RemoveAccount, Some(target), Verdict::Failed).await?;
                Err(error.into())
            }
            Ok(()) => {
                let event = syntha_store::Event::new(self.now(), Action::RemoveAccount).on(target);
                self.anchor(opened, Some(user), event).await
            }
        }
    }
}

impl fmt::Debug for Accounts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Accounts(..)")
    }
}
