//! The tools as [rig-core](https://docs.rs/rig-core)'s: typed ones, and all that an agent has.

use rig_core::message::ToolName;
use rig_core::tool::{DynamicTool, PortableTool, ToolExecutionError, ToolOutput};
use serde_json::Value;
use syntha::HybridHandler;

use crate::Result;

/// All tools that an agent has, the host's too, as rig's registries take them.
///
/// # Errors
///
/// None so far: no tool's name is empty.
pub fn tools(handler: &HybridHandler) -> Result<Vec<DynamicTool>> {
    let offered = handler.mcp();
    let mut tools = Vec::new();
    for tool in offered.as_array().into_iter().flatten() {
        let (handler, name) = (handler.clone(), text(tool, "name"));
        let call = {
            let name = name.clone();
            move |arguments| {
                let (handler, name) = (handler.clone(), name.clone());
                let answer: rig_core::wasm_compat::WasmBoxedFuture<'static, _> =
                    Box::pin(
                        async move { outcome(handler.call(&name, arguments).await).map(ToolOutput::json) },
                    );
                answer
            }
        };
        let definition = (text(tool, "description"), tool["inputSchema"].clone());
        tools.push(DynamicTool::new(ToolName::new(name)?, definition.0, definition.1, call));
    }
    Ok(tools)
}

/// Makes a type that is one tool, for where rig wants to know it when it compiles.
macro_rules! typed {
    ($($(#[$doc:meta])* $type:ident = $name:literal;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $type(pub HybridHandler);

        impl PortableTool for $type {
            const NAME: &'static str = $name;
            type Args = Value;
            type Output = Value;
            type Error = ToolExecutionError;

            fn description(&self) -> String {
                text(&offered(&self.0, $name), "description")
            }

            fn parameters(&self) -> Value {
                offered(&self.0, $name)["inputSchema"].clone()
            }

            async fn call(&self, arguments: Value) -> std::result::Result<Value, ToolExecutionError> {
                outcome(self.0.call($name, arguments).await)
            }
        }
    )+};
}

typed! {
    /// `get_context`.
    GetContext = "get_context";
    /// `push_context`.
    PushContext = "push_context";
}

/// A failure is one for rig too, and the model reads Syntha's words, which say what to do.
fn outcome(answer: Value) -> std::result::Result<Value, ToolExecutionError> {
    if answer["success"] == true {
        return Ok(answer);
    }
    let error = if answer["reason"].is_string() {
        ToolExecutionError::refused("the agent does not have this tool")
    } else {
        ToolExecutionError::other("the tool call failed")
    };
    Err(error.with_model_output(ToolOutput::json(answer)))
}

/// A tool as it is offered; null if the agent does not have it.
fn offered(handler: &HybridHandler, name: &str) -> Value {
    let tools = handler.mcp();
    tools.as_array().into_iter().flatten().find(|tool| tool["name"] == name).cloned().unwrap_or_default()
}

fn text(tool: &Value, field: &str) -> String {
    tool[field].as_str().unwrap_or_default().to_owned()
}
