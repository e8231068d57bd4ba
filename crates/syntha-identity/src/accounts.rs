use std::fmt;

use syntha_store::{Keyspace, RecordId, Scan, Timestamp, UserId};

use crate::error::{Error, ErrorKind, Result};
use crate::events::IdentityAction;
use crate::identity::Inner;
use crate::password::{Factor, Password};
use crate::rows::AccountRow;
use crate::scopes::Scopes;
use crate::secret::SecretKind;
use crate::spaces::version;
use crate::throttle::Attempt;

/// The most accounts of one page.
const PAGE: usize = 1_000;

/// The accounts of a deployment: [`Identity::accounts`](crate::Identity::accounts). For the host alone: nothing here asks who calls.
#[derive(Clone, Copy)]
pub struct Accounts<'a>(pub(crate) &'a Inner);

/// An account, as it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Account {
    /// Whose.
    pub user: UserId,
    /// Whether nobody gets in by it now.
    pub suspended: bool,
    /// What its sessions and tokens may do at most.
    pub rights: Scopes,
    /// Whether it has a password.
    pub has_password: bool,
    /// How often its sessions were ended all at once, from 1.
    pub generation: u64,
    /// When it was made.
    pub created: Timestamp,
    /// How many tokens it lists, those that expired a short time ago included.
    pub tokens: usize,
    /// How many sessions it lists, as of `tokens`.
    pub sessions: usize,
}

impl Account {
    fn new(row: AccountRow) -> Result<Self> {
        Ok(Self {
            suspended: row.suspended,
            rights: row.rights()?,
            has_password: row.password.is_some(),
            generation: row.generation,
            created: Timestamp(row.created),
            tokens: row.list(SecretKind::Token).len(),
            sessions: row.list(SecretKind::Session).len(),
            user: UserId::stored(row.user),
        })
    }
}

/// A page of accounts, in an order of no meaning.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AccountPage {
    /// At most as many as were asked for.
    pub accounts: Vec<Account>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<AccountCursor>,
}

/// Where a page of accounts begins.
#[derive(Clone)]
pub struct AccountCursor {
    space: usize,
    after: Option<RecordId>,
}

impl fmt::Debug for AccountCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccountCursor(..)")
    }
}

impl Accounts<'_> {
    /// Makes an account without a password: its user gets in by a token, by a session that the host opens, or once a password is set.
    ///
    /// # Errors
    ///
    /// `AlreadyExists`; what the store answers.
    pub async fn create(self, user: &UserId, rights: Scopes) -> Result<()> {
        let spaces = &self.0.spaces;
        let (index, id) = (spaces.of_user(user), spaces.account(user)?);
        let row = AccountRow::new(user.as_str(), rights, spaces.now());
        let batch = spaces.batch()?.put(Keyspace::Accounts, id.clone(), "", row.encode()?);
        if !spaces.commit(index, batch.expect(version(Keyspace::Accounts, &id, None))).await? {
            return Err(Error::new(ErrorKind::AlreadyExists, "the account is there already"));
        }
        self.0.tell(IdentityAction::CreateAccount, None, Some(user), None);
        Ok(())
    }

    /// Removes an account with its password, tokens and sessions. One that is made again under the same name has none of them.
    ///
    /// # Errors
    ///
    /// `NotFound`; what the store answers.
    pub async fn remove(self, user: &UserId) -> Result<()> {
        let spaces = &self.0.spaces;
        let (index, id) = (spaces.of_user(user), spaces.account(user)?);
        for _ in crate::spaces::tries() {
            let found = spaces.read_one(index, Keyspace::Accounts, &id).await?;
            let (body, known) = found.ok_or_else(Error::no_account)?;
            let batch = self.0.forget_secrets(&mut AccountRow::decode(&body)?, spaces.batch()?)?;
            let batch = batch.delete(Keyspace::Accounts, id.clone());
            if spaces.commit(index, batch.expect(version(Keyspace::Accounts, &id, Some(known)))).await? {
                self.0.end(user, |_| true);
                self.0.tell(IdentityAction::RemoveAccount, None, Some(user), None);
                return Ok(());
            }
        }
        Err(crate::spaces::contended())
    }

    /// An account.
    ///
    /// # Errors
    ///
    /// `NotFound`; what the store answers.
    pub async fn get(self, user: &UserId) -> Result<Account> {
        Account::new(self.0.account(user).await?.ok_or_else(Error::no_account)?)
    }

    /// A page of 1 to 1,000 accounts, after another one.
    ///
    /// # Errors
    ///
    /// What the store answers.
    pub async fn list(self, after: Option<AccountCursor>, limit: usize) -> Result<AccountPage> {
        let spaces = &self.0.spaces;
        let limit = limit.clamp(1, PAGE);
        let mut cursor = Some(after.unwrap_or(AccountCursor { space: 0, after: None }));
        let mut accounts = Vec::new();
        while let Some(AccountCursor { space, after }) = cursor.take_if(|_| accounts.len() < limit) {
            let scan = Scan::records(Keyspace::Accounts, limit - accounts.len());
            let scan = match after {
                Some(after) => scan.from(after),
                None => scan,
            };
            let page = spaces.space(space)?.scan(scan).await?.value;
            let next = page.next();
            for (_, body) in page.records {
                accounts.push(Account::new(AccountRow::decode(&body.unwrap_or_default())?)?);
            }
            cursor = match next {
                Some(after) => Some(AccountCursor { space, after: Some(after) }),
                None => Some(AccountCursor { space: space + 1, after: None })
                    .filter(|cursor| cursor.space < spaces.count()),
            };
        }
        Ok(AccountPage { accounts, next: cursor })
    }

    /// Suspends an account: no login, token or session of it holds from the next call in this process on, and within a second in others.
    /// Tokens hold again once it is resumed; sessions don't. Suspending it twice is as once.
    ///
    /// # Errors
    ///
    /// `NotFound`; what the store answers.
    pub async fn suspend(self, user: &UserId) -> Result<()> {
        self.0
            .change(user, |row, batch| {
                row.suspended = true;
                row.next_generation();
                Ok((batch, ()))
            })
            .await?;
        self.0.end(user, |_| true);
        self.0.tell(IdentityAction::Suspend, None, Some(user), None);
        Ok(())
    }

    /// Lifts a suspension.
    ///
    /// # Errors
    ///
    /// `NotFound`; what the store answers.
    pub async fn resume(self, user: &UserId) -> Result<()> {
        let resume = |row: &mut AccountRow, batch| {
            row.suspended = false;
            Ok((batch, ()))
        };
        self.0.change(user, resume).await?;
        self.0.tell(IdentityAction::Resume, None, Some(user), None);
        Ok(())
    }

    /// Sets an account's password, ends all its sessions, and forgives its failed logins. Its tokens go on; see
    /// [`revoke_all`](Self::revoke_all).
    ///
    /// # Errors
    ///
    /// `WeakPassword`; `NotFound`; `Busy` if too many passwords are looked at just now; what the store answers.
    pub async fn set_password(self, user: &UserId, password: Password, factor: Factor) -> Result<()> {
        password.check(user, factor)?;
        self.0.account(user).await?.ok_or_else(Error::no_account)?;
        let place = self.0.hasher.queue(user, None).await?;
        let kept = self.0.hasher.hash(place, password).await?;
        self.0
            .change(user, |row, batch| {
                row.password = Some(kept.clone());
                row.next_generation();
                Ok((batch, ()))
            })
            .await?;
        self.0.end(user, |held| held.kind == SecretKind::Session);
        Attempt::forgive(&self.0.spaces, user).await?;
        self.0.tell(IdentityAction::SetPassword, None, Some(user), None);
        Ok(())
    }

    /// Takes an account's password away and ends all its sessions.
    ///
    /// # Errors
    ///
    /// `NotFound`; what the store answers.
    pub async fn remove_password(self, user: &UserId) -> Result<()> {
        self.0
            .change(user, |row, batch| {
                row.password = None;
                row.next_generation();
                Ok((batch, ()))
            })
            .await?;
        self.0.end(user, |held| held.kind == SecretKind::Session);
        self.0.tell(IdentityAction::RemovePassword, None, Some(user), None);
        Ok(())
    }

    /// Sets what an account may do, and ends all its sessions: no session id outlives a change of rights. Tokens go on with what is in their
    /// own scopes and in these.
    ///
    /// # Errors
    ///
    /// `NotFound`; what the store answers.
    pub async fn set_rights(self, user: &UserId, rights: Scopes) -> Result<()> {
        self.0
            .change(user, |row, batch| {
                row.set_rights(rights);
                row.next_generation();
                Ok((batch, ()))
            })
            .await?;
        self.0.end(user, |held| {
            held.narrow(rights);
            held.kind == SecretKind::Session
        });
        self.0.tell(IdentityAction::SetRights, None, Some(user), None);
        Ok(())
    }

    /// Revokes all tokens and sessions of an account, in one commit.
    ///
    /// # Errors
    ///
    /// `NotFound`; what the store answers.
    pub async fn revoke_all(self, user: &UserId) -> Result<()> {
        self.0
            .change(user, |row, batch| {
                row.next_generation();
                Ok((self.0.forget_secrets(row, batch)?, ()))
            })
            .await?;
        self.0.end(user, |_| true);
        self.0.tell(IdentityAction::RevokeAll, None, Some(user), None);
        Ok(())
    }

    /// Puts the count of an account's failed logins back, once its user has shown who they are by other means.
    ///
    /// # Errors
    ///
    /// What the store answers.
    pub async fn forgive(self, user: &UserId) -> Result<()> {
        Attempt::forgive(&self.0.spaces, user).await?;
        self.0.tell(IdentityAction::Forgive, None, Some(user), None);
        Ok(())
    }
}

impl fmt::Debug for Accounts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Accounts(..)")
    }
}
