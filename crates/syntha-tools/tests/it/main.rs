//! The tools' answers, as a model gets them; who has which; the host's own; prompts.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test prints its row of evidence")]

mod access;
mod fuzz;
mod history;
mod hybrid;
mod injection;
mod limits;
mod moving;
mod prompt;

use serde_json::{Value, json};
use syntha_mesh::{Mesh, MeshConfig};
use syntha_store::{Batch, CreateMode, MemoryStore, Store, Timestamp, UserId};
use syntha_tools::{Access, REPLY_BYTES, Role, ToolHandler};

async fn mesh() -> Mesh {
    mesh_of("alice").await
}

async fn mesh_of(user: &str) -> Mesh {
    mesh_with(user, MeshConfig::default()).await
}

async fn mesh_with(user: &str, config: MeshConfig) -> Mesh {
    let store = MemoryStore::new().unwrap();
    let tag = store.deployment_key().tag(&UserId::new(user).unwrap());
    let (user, _) = store.create(tag, Batch::new(Timestamp(0)).unwrap(), CreateMode::New).await.unwrap();
    Mesh::open(user, false, config).await.unwrap()
}

fn handler(mesh: &Mesh, agent: &str, access: impl Into<Access>) -> ToolHandler {
    ToolHandler::new(&mesh.agent(agent).unwrap(), access)
}

#[tokio::test]
async fn the_tools_for_context_answer_as_documented() {
    let mesh = mesh().await;
    let (ann, ben) = (handler(&mesh, "ann", Role::Admin), handler(&mesh, "ben", Role::Contributor));
    let pushed =
        ann.call("push_context", json!({ "key": "k", "value": "{\"a\": 1}", "topics": ["t"] })).await;
    assert_eq!(pushed["success"], true);
    assert_eq!(pushed["value"], json!({ "a": 1 }), "a text that is JSON is parsed");
    assert_eq!((&pushed["ttl_hours"], &pushed["sender_agent"]), (&json!(24.0), &json!("ann")));
    let subscribed = ben.call("subscribe_to_topics", json!({ "topics": ["t", "u"] })).await;
    assert_eq!(subscribed["topics"], json!(["t", "u"]));
    let got = ben.call("get_context", json!({ "keys": ["k", "absent"] })).await;
    assert_eq!((&got["context"], &got["keys_found"]), (&json!({ "k": { "a": 1 } }), &json!(1)));
    ann.call("push_context", json!({ "key": "all", "value": "plain text", "ttl_hours": 0 })).await;
    let listed = ben.call("list_context", json!({})).await;
    assert_eq!(listed["keys_by_topic"], json!({ "t": ["k"], "other": ["all"] }));
    let found = ann.call("discover_topics", json!({ "include_subscriber_names": true })).await;
    assert_eq!(
        found["topics"]["t"],
        json!({ "subscriber_count": 1, "is_active": true, "subscribers": ["ben"] })
    );
    let left = ben.call("unsubscribe_from_topics", json!({ "topics": ["u", "x"] })).await;
    assert_eq!(left["topics_unsubscribed"], json!(["u"]));
    assert_eq!((&left["topics_not_subscribed"], &left["remaining_topics"]), (&json!(["x"]), &json!(["t"])));
    let unsure = ann.call("delete_topic", json!({ "topic": "t" })).await;
    assert_eq!(unsure["success"], false);
    let refused = ann.call("delete_topic", json!({ "topic": "t", "confirm": true })).await;
    let text = "This agent may not delete the topic, ask the host to grant delete on the topic.";
    assert_eq!((&refused["success"], &refused["error"]), (&json!(false), &json!(text)));
    mesh.set_role("ann", Role::Admin).await.unwrap();
    let deleted = ann.call("delete_topic", json!({ "topic": "t", "confirm": true })).await;
    assert_eq!((&deleted["context_items_deleted"], &deleted["subscribers_affected"]), (&json!(1), &json!(1)));
    let again = ann.call("delete_topic", json!({ "topic": "t", "confirm": true })).await;
    assert_eq!((&again["success"], &again["available_topics"]), (&json!(false), &json!([])));
}

#[tokio::test]
async fn a_moderator_manages_the_subscriptions_of_others() {
    let mesh = mesh().await;
    mesh.register_agent("ben").await.unwrap();
    mesh.agent("ben").unwrap().subscribe(["hidden", "t"]).await.unwrap();
    assert!(!handler(&mesh, "ann", Role::Contributor).access().allows("subscribe_member"));
    let ann = handler(&mesh, "ann", Role::Moderator);
    let call = |tool: &'static str, topics: Value| {
        let ann = &ann;
        async move { ann.call(tool, json!({ "member": "ben", "topics": topics })).await }
    };
    // The tool is offered by the handler's role; whether it may the mesh says.
    let refused = call("subscribe_member", json!(["u"])).await;
    assert!(refused["error"].as_str().unwrap().contains("grant manage on the topic"), "{refused}");
    mesh.grant("ann", syntha_mesh::Grant::topic("u").unwrap().manage()).await.unwrap();
    let done = call("subscribe_member", json!(["u"])).await;
    assert_eq!(
        (&done["success"], &done["agent"], &done["member"]),
        (&json!(true), &json!("ann"), &json!("ben"))
    );
    assert_eq!(done["topics_subscribed"], json!(["u"]));
    assert_eq!(
        call("subscribe_member", json!(["u", "t"])).await["success"],
        false,
        "one of the two was not granted"
    );
    mesh.set_role("ann", Role::Moderator).await.unwrap();
    let again = call("subscribe_member", json!(["u", "v"])).await;
    assert_eq!(
        (&again["topics_subscribed"], &again["topics_subscribed_before"]),
        (&json!(["v"]), &json!(["u"]))
    );
    let left = call("unsubscribe_member", json!(["u", "x"])).await;
    assert_eq!(
        (&left["topics_unsubscribed"], &left["topics_not_subscribed"]),
        (&json!(["u"]), &json!(["x"]))
    );
    assert!(
        !(again.to_string() + &left.to_string()).contains("hidden"),
        "what it was not asked about it does not say"
    );
    assert_eq!(
        *mesh.agent("ben").unwrap().topics().await.unwrap(),
        ["hidden".into(), "t".into(), "v".into()]
    );
    assert!(mesh.agent("ann").unwrap().topics().await.unwrap().is_empty());
    let nobody = ann.call("subscribe_member", json!({ "member": "nobody", "topics": ["t"] })).await;
    assert_eq!(nobody["success"], false);
    assert_eq!(mesh.agents().await.unwrap().len(), 2, "it makes no agent");
    assert_eq!(call("subscribe_member", json!([])).await["success"], false);
}

#[tokio::test]
async fn nobody_acts_as_somebody_else() {
    let mesh = mesh().await;
    let ann = handler(&mesh, "ann", Role::Admin);
    ann.push_context("k", json!(1)).await;
    for name in ["user", "user_id", "agent", "agent_name", "User_ID", "sender"] {
        for tool in ann.available_tools() {
            let answer = ann.call(tool, json!({ name: "bob" })).await;
            assert_eq!(answer["success"], false, "{tool} {name}");
            assert!(answer["error"].as_str().unwrap().contains("act as yourself"), "{answer}");
        }
    }
    let unknown = ann.call("get_context", json!({ "key": "k" })).await;
    assert!(unknown["error"].as_str().unwrap().contains("unknown field `key`, expected `keys`"), "{unknown}");
}

#[tokio::test]
async fn a_role_bounds_the_tools() {
    let mesh = mesh().await;
    let reader = handler(&mesh, "ann", Role::Readonly);
    let denied = reader.push_context("k", json!(1)).await;
    assert_eq!(denied["error"], "Access denied to tool: push_context");
    assert_eq!(denied["agent_role"], "readonly");
    assert_eq!(
        denied["available_tools"],
        json!(["get_context", "list_context", "discover_topics", "get_history"])
    );
    let unknown = reader.call("drop_everything", Value::Null).await;
    assert_eq!(unknown["error"], "Unknown tool: drop_everything");
    assert_eq!(handler(&mesh, "a", Role::Contributor).available_tools().len(), 8);
}

#[tokio::test]
async fn a_reply_is_bounded_and_says_what_it_left_out() {
    let mesh = mesh().await;
    let ann = handler(&mesh, "ann", Role::Contributor);
    for n in 0..30 {
        ann.push_context(&format!("key-{n:02}"), json!("x".repeat(5_000))).await;
    }
    let all = ann.call("get_context", json!({})).await;
    assert!(all.to_string().len() <= REPLY_BYTES);
    let (found, left) = (all["keys_found"].as_u64().unwrap(), all["omitted"].as_u64().unwrap());
    assert_eq!(found + left, 30);
    assert!(found > 5);
    let large = ann.push_context("large", json!("y".repeat(100_000))).await;
    assert!(large["success"] == true && large.to_string().len() <= REPLY_BYTES);
    let one = ann.call("get_context", json!({ "keys": ["large"] })).await;
    assert_eq!((&one["keys_found"], &one["omitted"]), (&json!(0), &json!(1)));
}

#[tokio::test]
async fn one_definition_has_four_shapes() {
    let mesh = mesh().await;
    let ann = handler(&mesh, "ann", Role::Admin);
    let pointers = [
        (ann.openai_chat(), "/function/name", "/function/parameters"),
        (ann.openai_responses(), "/name", "/parameters"),
        (ann.anthropic(), "/name", "/input_schema"),
        (ann.mcp(), "/name", "/inputSchema"),
    ];
    for (shape, name, schema) in pointers {
        let tools = shape.as_array().unwrap();
        let names: Vec<_> = tools.iter().map(|tool| tool.pointer(name).unwrap().as_str().unwrap()).collect();
        assert_eq!(names, ann.available_tools());
        for tool in tools {
            let schema = tool.pointer(schema).unwrap();
            assert_eq!((&schema["type"], &schema["additionalProperties"]), (&json!("object"), &json!(false)));
            assert!(
                schema["properties"].get("user").is_none() && schema["properties"].get("agent").is_none()
            );
        }
    }
}

/// What is done is said to be done, however long its list is.
#[tokio::test]
async fn long_lists_are_shortened_and_said_to_be() {
    let mesh = mesh().await;
    let ann = handler(&mesh, "ann", Role::Admin);
    let topics: Vec<_> = (0..300).map(|n| format!("{}{n:03}", "t".repeat(247))).collect();
    for call in ["subscribe_to_topics", "list_context", "unsubscribe_from_topics"] {
        let arguments = if call == "list_context" { json!({}) } else { json!({ "topics": topics }) };
        let answer = ann.call(call, arguments).await;
        assert_eq!(answer["success"], true, "{call}");
        assert!(answer["topics_omitted"].as_u64().unwrap() > 0, "{call}");
        assert!(answer.to_string().len() <= REPLY_BYTES);
    }
    assert!(mesh.agent("ann").unwrap().topics().await.unwrap().is_empty());
}

/// A model that asks for one large value many times makes the process read it once at most.
#[tokio::test]
async fn no_more_is_read_than_an_answer_holds() {
    let mesh = mesh().await;
    let ann = handler(&mesh, "ann", Role::Readonly);
    mesh.push("large", "x".repeat(500_000)).await.unwrap();
    for n in 0..30 {
        mesh.push(format!("medium-{n}"), "y".repeat(10_000)).await.unwrap();
    }
    let many = ann.call("get_context", json!({ "keys": vec!["large"; 1_500] })).await;
    assert!(many["error"].as_str().unwrap().contains("256"), "{many}");
    let repeated = ann.call("get_context", json!({ "keys": vec!["large"; 200] })).await;
    assert_eq!((&repeated["keys_requested"], &repeated["omitted"]), (&json!(1), &json!(1)));
    let all = ann.call("get_context", json!({})).await;
    assert_eq!((&all["success"], &all["keys_found"], &all["omitted"]), (&json!(true), &json!(5), &json!(26)));
}
