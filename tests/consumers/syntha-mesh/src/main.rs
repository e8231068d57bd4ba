//! Someone who embeds a mesh over a store.

use syntha_mesh::{Mesh, MeshConfig};
use syntha_mesh::syntha_store::{Batch, CreateMode, MemoryStore, Store, Timestamp, UserId};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = MemoryStore::new()?;
    let alice = store.deployment_key().tag(&UserId::new("alice")?);
    let (user, _) = store.create(alice, Batch::new(Timestamp(0))?, CreateMode::New).await?;
    let mesh = Mesh::open(user, false, MeshConfig::default()).await?;
    mesh.agent("Writer")?.push("plan", 1).await?;
    assert_eq!(mesh.agent("Reader")?.get::<u32>("plan").await?, Some(1));
    Ok(())
}
