//! Two users, one agent name, no crossing: the first sample of Syntha's specification.

use serde_json::json;
use syntha::{ContextMesh, Role, ToolHandler};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "data".to_owned());
    let user1_mesh = ContextMesh::open(&folder, "user1").await?;
    let user1_handler = ToolHandler::new(&user1_mesh.agent("Assistant")?, Role::Contributor);
    let user2_mesh = ContextMesh::open(&folder, "user2").await?;
    let user2_handler = ToolHandler::new(&user2_mesh.agent("Assistant")?, Role::Contributor);

    user1_handler.push_context("preferences", json!({ "theme": "dark" })).await;
    user2_handler.push_context("preferences", json!({ "theme": "light" })).await;

    let answer = user1_handler.call("get_context", json!({ "keys": ["preferences"] })).await;
    assert_eq!(answer.pointer("/context/preferences/theme"), Some(&json!("dark")));
    let answer = user2_handler.call("get_context", json!({ "keys": ["preferences"] })).await;
    assert_eq!(answer.pointer("/context/preferences/theme"), Some(&json!("light")));
    Ok(())
}
