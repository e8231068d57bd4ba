//! The host's own tools beside Syntha's.

use serde_json::{Map, Value, json};
use syntha_mesh::Agent;
use syntha_tools::{ErrorKind, HostTool, HybridHandler, Level, REPLY_BYTES, Role};

use crate::{handler, mesh, mesh_of};

fn object() -> Value {
    json!({ "type": "object", "properties": {}, "additionalProperties": false })
}

/// Reads the caller's own entry, whatever the arguments say.
fn notes() -> HostTool {
    HostTool::new(
        "read_notes",
        "Read your notes.",
        object(),
        |agent: Agent, _: Map<String, Value>| async move {
            let notes: Option<String> = agent.get("notes").await.map_err(|error| error.to_string())?;
            Ok(json!({ "agent": agent.name(), "notes": notes }))
        },
    )
    .unwrap()
}

fn answering(name: &str, answer: Result<Value, String>) -> HostTool {
    HostTool::new(name, "Answer.", object(), move |_, _| {
        let answer = answer.clone();
        async move { answer }
    })
    .unwrap()
}

#[tokio::test]
async fn both_kinds_run_and_are_offered_in_all_shapes() {
    let mesh = mesh().await;
    let hybrid = HybridHandler::new(handler(&mesh, "ann", Level::Minimal)).tool(notes()).unwrap();
    let names = ["get_context", "push_context", "list_context", "read_notes"];
    assert_eq!(hybrid.available_tools(), names);
    let shapes = [
        (hybrid.openai_chat(), "/function/name"),
        (hybrid.openai_responses(), "/name"),
        (hybrid.anthropic(), "/name"),
        (hybrid.mcp(), "/name"),
    ];
    for (shape, pointer) in &shapes {
        let offered: Vec<_> =
            shape.as_array().unwrap().iter().map(|tool| tool.pointer(pointer).unwrap()).collect();
        assert_eq!(json!(offered), json!(names));
    }
    assert_eq!(
        shapes[2].0[3],
        json!({ "name": "read_notes", "description": "Read your notes.", "input_schema": object() })
    );
    assert_eq!(
        hybrid.call("push_context", json!({ "key": "notes", "value": "mine" })).await["success"],
        true
    );
    let answer = hybrid.call("read_notes", Value::Null).await;
    assert_eq!(answer, json!({ "success": true, "result": { "agent": "ann", "notes": "mine" } }));
    let denied = hybrid.call("delete_topic", json!({})).await;
    assert_eq!((&denied["success"], &denied["available_tools"]), (&json!(false), &json!(names)));
    let unknown = hybrid.call("Read_Notes", json!({})).await;
    assert_eq!(
        (&unknown["error"], &unknown["available_tools"]),
        (&json!("Unknown tool: Read_Notes"), &json!(names))
    );
}

#[tokio::test]
async fn a_tool_that_is_not_registered_is_not_there() {
    let mesh = mesh().await;
    let with = HybridHandler::new(handler(&mesh, "ann", Role::Admin)).tool(notes()).unwrap();
    let without = HybridHandler::new(handler(&mesh, "ann", Role::Admin));
    assert!(
        with.mcp().to_string().contains("read_notes") && !without.mcp().to_string().contains("read_notes")
    );
    assert_eq!(without.call("read_notes", json!({})).await["error"], "Unknown tool: read_notes");
}

#[tokio::test]
async fn no_name_is_taken_twice() {
    let mesh = mesh().await;
    let made = |name: &str| HostTool::new(name, "", object(), |_, _| async { Ok(Value::Null) });
    for name in handler(&mesh, "ann", Role::Admin).available_tools() {
        assert_eq!(made(name).unwrap_err().kind(), ErrorKind::NameTaken);
        assert_eq!(made(&name.to_uppercase()).unwrap_err().kind(), ErrorKind::NameTaken);
    }
    for name in ["", "a b", "a.b", "ä", &"x".repeat(65)] {
        assert_eq!(made(name).unwrap_err().kind(), ErrorKind::Invalid, "{name}");
    }
    for schema in [json!(null), json!({}), json!({ "type": "array" })] {
        let tool = HostTool::new("a", "", schema, |_, _| async { Ok(Value::Null) });
        assert_eq!(tool.unwrap_err().kind(), ErrorKind::Invalid);
    }
    let hybrid = HybridHandler::new(handler(&mesh, "ann", Role::Readonly)).tool(notes()).unwrap();
    assert_eq!(hybrid.tool(made("READ_notes").unwrap()).unwrap_err().kind(), ErrorKind::NameTaken);
}

/// One tool for all users: each call has its own caller's agent, and arguments do not change that.
#[tokio::test]
async fn one_host_tool_serves_two_users_apart() {
    let (alice, bob) = (mesh_of("alice").await, mesh_of("bob").await);
    let tool = notes();
    let hybrid =
        |mesh: &_| HybridHandler::new(handler(mesh, "ann", Role::Contributor)).tool(tool.clone()).unwrap();
    let (alices, bobs) = (hybrid(&alice), hybrid(&bob));
    alices.syntha().push_context("notes", json!("of alice")).await;
    bobs.syntha().push_context("notes", json!("of bob")).await;
    let lies = json!({ "user": "bob", "agent": "root" });
    let calls = (0..64).map(|n| {
        let (handler, own) = if n % 2 == 0 { (alices.clone(), "of alice") } else { (bobs.clone(), "of bob") };
        let lies = lies.clone();
        tokio::spawn(async move { (handler.call("read_notes", lies).await, own) })
    });
    for call in calls.collect::<Vec<_>>() {
        let (answer, own) = call.await.unwrap();
        assert_eq!(answer["result"], json!({ "agent": "ann", "notes": own }));
    }
}

#[tokio::test]
async fn what_a_host_tool_answers_is_bounded() {
    let mesh = mesh().await;
    let hybrid = HybridHandler::new(handler(&mesh, "ann", Role::Readonly))
        .tool(answering("fails", Err("The ticket is closed.".to_owned())))
        .and_then(|hybrid| hybrid.tool(answering("fails_long", Err("x".repeat(REPLY_BYTES)))))
        .and_then(|hybrid| hybrid.tool(answering("long", Ok(json!("\n".repeat(REPLY_BYTES / 2))))))
        .unwrap();
    let failed = hybrid.call("fails", json!({})).await;
    assert_eq!(failed, json!({ "success": false, "error": "The ticket is closed." }));
    for tool in ["fails_long", "long"] {
        let answer = hybrid.call(tool, json!({})).await;
        assert_eq!(answer["success"], false);
        assert!(answer.to_string().len() <= REPLY_BYTES);
    }
    let wrong = hybrid.call("fails", json!([1])).await;
    assert_eq!(wrong["error"], "The arguments must be a JSON object.");
}
