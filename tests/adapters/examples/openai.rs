//! An agent with Syntha's tools in a loop over the provider's API: `src/openai.rs`. The model is scripted.

use serde_json::{Value, json};
use syntha::{ContextMesh, HybridHandler, Placement, Prompt, Role, ToolHandler};
use syntha_adapters::{Call, OpenAi, Result, ScriptedServer, Step, openai};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "data".to_owned());
    let agent = ContextMesh::open(&folder, "alice").await?.agent("Assistant")?;
    agent.push("user_name", "Alice").await?;
    let tools = HybridHandler::new(ToolHandler::new(&agent, Role::Contributor));
    let system = Prompt::new(&agent).existing("You plan releases.", Placement::Append).build().await?;

    let server = ScriptedServer::start::<OpenAi>(vec![
        Step::Call(vec![Call::new("push_context", json!({ "key": "plan", "value": ["test", "ship"] }))]),
        Step::Call(vec![Call::new("get_context", json!({ "keys": ["plan"] }))]),
        Step::Say("First test, then ship."),
    ])
    .await?;
    let answer = openai::run(server.provider(), &tools, &system.text, "What is the plan?").await?;

    assert_eq!(answer, "First test, then ship.");
    assert_eq!(agent.get::<Value>("plan").await?, Some(json!(["test", "ship"])));
    Ok(())
}
