use std::sync::Arc;

use syntha_store::{Timestamp, UserId, Verdict};

use crate::secret::SecretId;

pub(crate) type Listener = Arc<dyn Fn(&IdentityEvent) + Send + Sync>;

/// What was done, or tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IdentityAction {
    /// A login with a password.
    Login,
    /// A session was opened by the host, without a password.
    OpenSession,
    /// A token or session was shown again. Only refusals are told.
    Authenticate,
    /// A session got another id.
    RotateSession,
    /// A session was ended.
    EndSession,
    /// A token was made.
    CreateToken,
    /// A token was revoked.
    RevokeToken,
    /// All tokens and sessions of an account, or of everybody, were revoked.
    RevokeAll,
    /// An account was made.
    CreateAccount,
    /// An account was removed.
    RemoveAccount,
    /// An account was suspended.
    Suspend,
    /// A suspension was lifted.
    Resume,
    /// A password was set.
    SetPassword,
    /// A password was taken away.
    RemovePassword,
    /// What an account may do was changed.
    SetRights,
    /// The count of an account's failed logins was put back.
    Forgive,
}

/// Why it was refused. For the host's log alone: told to who tried, it says which users there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// There is no such user.
    UnknownUser,
    /// The password is wrong.
    WrongPassword,
    /// The account has no password, or one that was hashed with a pepper that is not here.
    NoPassword,
    /// The account is suspended.
    Suspended,
    /// Too many logins failed before; the password was not looked at.
    Throttled,
    /// More was asked for than can be done at a time; the password was not looked at.
    Busy,
    /// There is no such token or session, or it was revoked.
    UnknownSecret,
    /// The token or session has expired.
    Expired,
}

/// What a [listener](crate::IdentityConfig::listener) hears. It holds no password, no token and no address, and its `Debug` hides the user.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct IdentityEvent {
    /// When.
    pub at: Timestamp,
    /// What.
    pub action: IdentityAction,
    /// How it ended: `Done`, `Denied` or `Nothing`.
    pub verdict: Verdict,
    /// Why it was refused.
    pub reason: Option<Reason>,
    /// Whose account, as far as it is known. Of a refused login: who it claimed to be.
    pub user: Option<UserId>,
    /// Which token or session.
    pub secret: Option<SecretId>,
}
