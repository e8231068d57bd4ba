//! Someone who offers a model the tools on a mesh of their own.

use syntha_tools::syntha_mesh::{Mesh, MeshConfig};
use syntha_tools::syntha_mesh::syntha_store::{Batch, CreateMode, MemoryStore, Store, Timestamp, UserId};
use syntha_tools::{Role, ToolHandler};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = MemoryStore::new()?;
    let alice = store.deployment_key().tag(&UserId::new("alice")?);
    let (user, _) = store.create(alice, Batch::new(Timestamp(0))?, CreateMode::New).await?;
    let mesh = Mesh::open(user, false, MeshConfig::default()).await?;
    let tools = ToolHandler::new(&mesh.agent("Assistant")?, Role::Contributor);
    let answer = tools.push_context("city", "Lisbon".into()).await;
    assert_eq!(answer["success"], true);
    Ok(())
}
