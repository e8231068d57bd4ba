//! Someone who runs the storage alone.

use syntha_sqlite::{SqliteConfig, SqliteStore};
use syntha_sqlite::syntha_store::{Batch, CreateMode, Keyspace, RecordId, Store, Timestamp, UserId};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("name a folder")?;
    let store = SqliteStore::open(SqliteConfig::new(folder)).await?;
    let alice = store.deployment_key().tag(&UserId::new("alice")?);
    let id = RecordId::new("k", 0)?;
    let first = Batch::new(Timestamp(0))?.put(Keyspace::Context, id.clone(), "head", "body");
    let (user, _) = store.create(alice, first, CreateMode::New).await?;
    assert!(user.read(Keyspace::Context, &[id]).await?.value.iter().all(Option::is_some));
    store.close().await?;
    Ok(())
}
