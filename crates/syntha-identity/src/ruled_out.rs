//! What the types rule out, as document tests: each block that must not compile stands beside one that differs in that alone and does.

/// A secret is shown by [`expose`](crate::Secret::expose) alone.
///
/// ```
/// fn shown(secret: &syntha_identity::Secret) -> String { secret.expose().to_string() }
/// ```
/// ```compile_fail
/// fn shown(secret: &syntha_identity::Secret) -> String { secret.to_string() }
/// ```
struct SecretIsNotPrinted;

/// There is one copy of a secret.
///
/// ```
/// fn copied(lease: &syntha_identity::Lease) -> syntha_identity::Lease { lease.clone() }
/// ```
/// ```compile_fail
/// fn copied(secret: &syntha_identity::Secret) -> syntha_identity::Secret { secret.clone() }
/// ```
struct SecretIsNotCopied;

/// A password is not read back.
///
/// ```
/// fn read(secret: &syntha_identity::SecretId) -> String { secret.to_string() }
/// ```
/// ```compile_fail
/// fn read(password: &syntha_identity::Password) -> String { password.to_string() }
/// ```
/// ```compile_fail
/// fn read(password: &syntha_identity::Password) -> &[u8] { password.as_bytes() }
/// ```
struct PasswordIsNotReadBack;

/// A password is used once.
///
/// ```
/// use syntha_identity::{Factor, Identity, Password, syntha_store::UserId};
/// async fn set(identity: &Identity, user: &UserId, one: Password, two: Password) {
///     let _ = identity.accounts().set_password(user, one, Factor::Single).await;
///     let _ = identity.accounts().set_password(user, two, Factor::Single).await;
/// }
/// ```
/// ```compile_fail
/// use syntha_identity::{Factor, Identity, Password, syntha_store::UserId};
/// async fn set(identity: &Identity, user: &UserId, one: Password) {
///     let _ = identity.accounts().set_password(user, one, Factor::Single).await;
///     let _ = identity.accounts().set_password(user, one, Factor::Single).await;
/// }
/// ```
struct PasswordIsUsedOnce;

/// A set of scopes is made of known ones.
///
/// ```
/// let scopes = syntha_identity::Scopes::READ;
/// ```
/// ```compile_fail
/// let scopes = syntha_identity::Scopes(0xff);
/// ```
struct ScopesAreClosed;

/// A lease is handed out by an identity.
///
/// ```
/// let request = syntha_identity::SessionRequest::default();
/// ```
/// ```compile_fail
/// let lease = syntha_identity::Lease::default();
/// ```
struct LeaseIsNotMadeUp;

/// Who holds a lease has no way to the accounts.
///
/// ```
/// fn reach(identity: &syntha_identity::Identity) -> syntha_identity::Accounts<'_> { identity.accounts() }
/// ```
/// ```compile_fail
/// fn reach(lease: &syntha_identity::Lease) -> syntha_identity::Accounts<'_> { lease.accounts() }
/// ```
struct LeaseReachesNoAccounts;
