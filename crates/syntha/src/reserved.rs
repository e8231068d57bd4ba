//! Spaces of the deployment's own beside its first one. They are users to the layers below, so that they are sealed, carried over, backed up
//! and rotated as users are, under names that no user can have.

use syntha_store::UserId;
#[cfg(any(feature = "audit", feature = "identity", feature = "encryption"))]
use syntha_store::{DeploymentKey, UserTag};

/// In how many spaces accounts are kept: a flood of logins of one account, or from one source, waits in one of them.
#[cfg(any(feature = "audit", feature = "identity", feature = "encryption"))]
const ACCOUNTS: usize = 4;

/// No name of a user, agent or anything else begins with it: control characters are refused.
const MARK: char = '\0';

/// The spaces of accounts, in their order.
#[cfg(any(feature = "audit", feature = "identity", feature = "encryption"))]
pub(crate) fn accounts(key: &DeploymentKey) -> impl Iterator<Item = (UserId, UserTag)> {
    (0..ACCOUNTS).map(|number| {
        let name = UserId::stored(format!("{MARK}accounts/{number}"));
        let tag = key.tag(&name);
        (name, tag)
    })
}

/// Whether a name is of such a space. An id that was parsed never is.
pub(crate) fn is_reserved(name: &UserId) -> bool {
    name.as_str().starts_with(MARK)
}
