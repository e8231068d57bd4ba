//! Someone who lets a person in by a password and a program by a token; the reference stands for the store.

use syntha_identity::syntha_store::{DeploymentKey, MemoryStore, Store, UserId};
use syntha_identity::{
    ErrorKind, Factor, Identity, IdentityConfig, Password, Scopes, Secret, SessionRequest, Source, TokenRequest,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let space = MemoryStore::new()?.deployment().await?;
    let identity = Identity::open(vec![space], IdentityConfig::new(&DeploymentKey::generate()?)).await?;
    let (alice, typed) = (UserId::new("alice")?, "a horse that nobody knows");
    identity.accounts().create(&alice, Scopes::ALL).await?;
    identity.accounts().set_password(&alice, Password::new(typed)?, Factor::Single).await?;
    let (source, request) = (Source::address("192.0.2.1".parse()?), SessionRequest::default());
    let opened = identity.login(&alice, Password::new(typed)?, &source, &request).await?;
    opened.lease.check()?;
    let refused = identity.login(&alice, Password::new("another horse")?, &source, &request).await;
    assert!(refused.is_err_and(|error| error.kind() == ErrorKind::Denied));
    let (token, _) = identity.tokens().create(&alice, &TokenRequest::new(Scopes::READ)).await?;
    let lease = identity.authenticate(&Secret::parse(token.expose())?).await?;
    assert_eq!((lease.user(), lease.scopes()), (&alice, Scopes::READ));
    identity.accounts().suspend(&alice).await?;
    assert!(lease.check().is_err() && opened.lease.check().is_err());
    Ok(())
}
