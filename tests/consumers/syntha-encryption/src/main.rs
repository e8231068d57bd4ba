//! Someone who seals a store; the reference stands for it.

use std::sync::Arc;

use syntha_encryption::syntha_store::{
    Batch, CreateMode, DeploymentKey, Keyspace, MemoryStore, RecordId, Store, Timestamp, UserId,
};
use syntha_encryption::{EncryptedStore, Kek, KeyCache, Keychain, Keystore, Mode, SecretKey};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (below, keys) = (Arc::new(MemoryStore::new()?), Arc::new(MemoryStore::new()?));
    let tags = DeploymentKey::generate()?;
    let kek = Kek::from_key(SecretKey::generate()?);
    let keystore = Keystore::open(keys).await?;
    let keychain = Keychain::create(keystore, &kek, Mode::Sealed, &tags, KeyCache::default()).await?;
    let store = EncryptedStore::new(Arc::clone(&below), &keychain)?;
    let alice = tags.tag(&UserId::new("alice")?);
    let id = RecordId::new("k", 0)?;
    let first = Batch::new(Timestamp(0))?.put(Keyspace::Context, id.clone(), "head", "body");
    let (user, _) = store.create(alice, first, CreateMode::New).await?;
    let ids = [id];
    assert!(user.read(Keyspace::Context, &ids).await?.value.iter().all(Option::is_some));
    assert!(below.open(alice).await?.read(Keyspace::Context, &ids).await?.value.iter().all(Option::is_none));
    Ok(())
}
