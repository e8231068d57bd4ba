//! Levels, lists, and several agents from one configuration.

use serde_json::json;
use syntha_tools::{Access, AgentTools, ErrorKind, Level, Role};

use crate::{handler, mesh};

#[tokio::test]
async fn what_is_denied_is_told_why() {
    let mesh = mesh().await;
    let cases = [
        (Access::level(Level::Minimal), "delete_topic", "The level minimal does not have it.", None),
        (
            Access::allow(["get_context"]).unwrap(),
            "push_context",
            "It is not on the list of allowed tools.",
            None,
        ),
        (
            Access::deny(["push_context"]).unwrap(),
            "push_context",
            "It is on the list of denied tools.",
            Some("contributor"),
        ),
        (
            Access::role(Role::Readonly),
            "push_context",
            "The role readonly does not have it.",
            Some("readonly"),
        ),
    ];
    for (access, tool, reason, role) in cases {
        let ann = handler(&mesh, "ann", access);
        let denied = ann.call(tool, json!({ "key": "k", "value": 1, "topic": "t", "confirm": true })).await;
        assert_eq!(denied["success"], false);
        assert_eq!(denied["error"], format!("Access denied to tool: {tool}"));
        assert_eq!(denied["reason"], reason);
        assert_eq!(denied["available_tools"], json!(ann.available_tools()));
        assert_eq!(denied.get("agent_role"), role.map(|role| json!(role)).as_ref());
    }
    assert_eq!(mesh.size().await.unwrap(), 0, "nothing was pushed");
}

/// What is offered and what runs is one decision.
#[tokio::test]
async fn what_is_not_offered_is_denied() {
    let mesh = mesh().await;
    let all = handler(&mesh, "ann", Role::Admin).available_tools();
    for access in [
        Access::level(Level::Safe),
        Access::level(Level::Minimal),
        Access::level(Level::Readonly),
        Access::allow(["list_context"]).unwrap(),
        Access::deny(["list_context"]).unwrap().and_level(Level::Readonly),
    ] {
        let ann = handler(&mesh, "ann", access);
        for tool in &all {
            let answer = ann.call(tool, json!([])).await;
            let denied = answer["error"].as_str().unwrap().starts_with("Access denied");
            assert_eq!(denied, !ann.available_tools().contains(tool), "{tool}: {answer}");
        }
        let offered = ann.mcp();
        let offered: Vec<_> =
            offered.as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
        assert_eq!(offered, ann.available_tools());
    }
}

#[tokio::test]
async fn several_agents_from_one_configuration() {
    let mesh = mesh().await;
    let agents = AgentTools::from_json(
        r#"{ "ann": { "role": "admin" }, "ben": { "level": "minimal", "denied_tools": ["push_context"] },
             "cat": { "allowed_tools": ["push_context", "delete_topic"], "role": "contributor" },
             "dan": {}, "eve": { "denied_tools": ["push_context"] }, "fay": { "allowed_tools": [] } }"#,
    )
    .unwrap()
    .agent("gus", Level::Readonly)
    .unwrap();
    assert_eq!(agents.names().collect::<Vec<_>>(), ["ann", "ben", "cat", "dan", "eve", "fay", "gus"]);
    let handlers = agents.handlers(|name| mesh.agent(name)).unwrap();
    let tools = |name: &str| handlers[name].available_tools();
    assert_eq!(tools("ann").len(), handler(&mesh, "ann", Role::Admin).available_tools().len());
    assert_eq!(tools("ben"), ["get_context", "list_context"]);
    assert_eq!(tools("cat"), ["push_context"], "a list gives nothing that the role does not");
    assert_eq!(tools("dan"), handler(&mesh, "dan", Role::Contributor).available_tools());
    assert!(!tools("eve").contains(&"push_context") && !tools("eve").contains(&"delete_topic"));
    assert!(tools("fay").is_empty());
    assert_eq!(tools("gus"), ["get_context", "list_context", "discover_topics", "get_history"]);
    for (name, handler) in &handlers {
        assert_eq!(handler.agent().name(), name);
    }
    let answer = handlers["cat"].push_context("k", json!(1)).await;
    assert_eq!(answer["sender_agent"], "cat");
}

/// Each of these would mean more tools than somebody meant, if it were skipped.
#[test]
fn nothing_in_a_configuration_is_skipped() {
    let cases = [
        (r#"{ "ann": { "denied_tools": ["push_contxt"] } }"#, ErrorKind::UnknownTool),
        (r#"{ "ann": { "allowed_tools": ["get_context", "Push_Context"] } }"#, ErrorKind::UnknownTool),
        (r#"{ "ann": { "role": "owner" } }"#, ErrorKind::Invalid),
        (r#"{ "ann": { "role": "Readonly" } }"#, ErrorKind::Invalid),
        (r#"{ "ann": { "level": "admin" } }"#, ErrorKind::Invalid),
        (r#"{ "ann": { "roles": "readonly" } }"#, ErrorKind::Invalid),
        (r#"{ "ann": { "allowed_tools": null } }"#, ErrorKind::Invalid),
        (r#"{ "ann": { "role": null } }"#, ErrorKind::Invalid),
        (r#"{ "ann": { "denied_tools": "push_context" } }"#, ErrorKind::Invalid),
        (r#"{ "ann": { "role": "admin", "role": "readonly" } }"#, ErrorKind::Invalid),
        (r#"{ "ann": { "role": "readonly" }, "ann": { "role": "admin" } }"#, ErrorKind::NameTaken),
        (r#"{ "": { "role": "readonly" } }"#, ErrorKind::Mesh),
        (r#"{ "ann": "readonly" }"#, ErrorKind::Invalid),
        (r"[]", ErrorKind::Invalid),
        (r"{} {}", ErrorKind::Invalid),
    ];
    for (text, kind) in cases {
        let error = AgentTools::from_json(text).unwrap_err();
        assert_eq!(error.kind(), kind, "{text}");
        assert!(!error.to_string().contains("ann"), "{error}");
    }
}

#[tokio::test]
async fn one_agent_that_is_refused_makes_no_handlers() {
    let mesh = mesh().await;
    let agents = AgentTools::new().agent("ann", Role::Admin).unwrap().agent("ben", Role::Admin).unwrap();
    let handlers = agents
        .handlers(|name| if name.as_str() == "ben" { Err("no") } else { Ok(mesh.agent(name).unwrap()) });
    assert_eq!(handlers.unwrap_err(), "no");
}
