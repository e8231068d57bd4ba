//! Syntha's tools as rig-core's: `src/rig.rs`.

use rig_core::tool::PortableTool;
use serde_json::json;
use syntha::{ContextMesh, HybridHandler, Role, ToolHandler};
use syntha_adapters::Result;
use syntha_adapters::rig::{GetContext, PushContext, tools};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "data".to_owned());
    let agent = ContextMesh::open(&folder, "alice").await?.agent("Assistant")?;
    let handler = HybridHandler::new(ToolHandler::new(&agent, Role::Contributor));

    // One tool, known when it compiles.
    let push = PushContext(handler.clone());
    push.call(json!({ "key": "plan", "value": ["test", "ship"] })).await?;
    let got = GetContext(handler.clone()).call(json!({ "keys": ["plan"] })).await?;
    assert_eq!(got.pointer("/context/plan"), Some(&json!(["test", "ship"])));

    // All that the agent has, for a registry.
    for tool in tools(&handler)? {
        if *tool.name() == *"list_context" {
            let output = tool.execute(json!({})).await?;
            assert_eq!(output.as_json().and_then(|json| json.get("total_keys")), Some(&json!(1)));
        }
    }
    Ok(())
}
