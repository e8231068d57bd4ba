//! Each loop, with models that do what they should and models that don't.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use rig_core::tool::{ErasedTool, ToolContext, ToolErrorKind};
use serde_json::{Value, json};
use syntha::{Agent, ContextMesh, HostTool, HybridHandler, Level, Role, ToolHandler};
use syntha_adapters::{Anthropic, Call, OpenAi, Result, ScriptedServer, Step, Wire, anthropic, openai, rig};
use tempfile::TempDir;

/// The two loops, for tests that hold for both.
#[derive(Clone, Copy, Debug)]
enum Loop {
    OpenAi,
    Anthropic,
}

const LOOPS: [Loop; 2] = [Loop::OpenAi, Loop::Anthropic];

impl Loop {
    /// Runs it; what came out, and the requests.
    async fn run(self, tools: &HybridHandler, steps: Vec<Step>) -> (Result<String>, Vec<Value>) {
        match self {
            Self::OpenAi => {
                let server = ScriptedServer::start::<OpenAi>(steps).await.unwrap();
                let out = openai::run(server.provider(), tools, "You help.", "Do it.").await;
                (out, server.requests())
            }
            Self::Anthropic => {
                let server = ScriptedServer::start::<Anthropic>(steps).await.unwrap();
                let out = anthropic::run(server.provider(), tools, "You help.", "Do it.").await;
                (out, server.requests())
            }
        }
    }

    /// The tools' answers that a request carries, oldest first.
    fn answers(self, request: &Value) -> Vec<Value> {
        let messages = request["messages"].as_array().unwrap();
        let texts: Vec<_> = match self {
            Self::OpenAi => messages.iter().filter(|message| message["role"] == "tool").collect(),
            Self::Anthropic => messages
                .iter()
                .filter_map(|message| message["content"].as_array())
                .flatten()
                .filter(|block| block["type"] == "tool_result")
                .inspect(|block| {
                    let failed = block["content"].as_str().unwrap().contains("\"success\":false");
                    assert_eq!(block["is_error"], failed);
                })
                .collect(),
        };
        texts.iter().map(|text| serde_json::from_str(text["content"].as_str().unwrap()).unwrap()).collect()
    }
}

/// Alice's and Bob's agents of the same name, in one folder. Bob's has something to hide.
async fn two_users(folder: &TempDir) -> (Agent, Agent) {
    let agent = async |user: &str| {
        ContextMesh::open(folder.path().join("data"), user).await.unwrap().agent("Assistant").unwrap()
    };
    let (alice, bob) = (agent("alice").await, agent("bob").await);
    bob.push("plan", "CANARY of bob").await.unwrap();
    (alice, bob)
}

fn tools(agent: &Agent, access: impl Into<syntha::Access>) -> HybridHandler {
    HybridHandler::new(ToolHandler::new(agent, access))
}

#[tokio::test]
async fn what_a_model_pushes_is_stored_and_what_it_gets_is_its_own() {
    for each in LOOPS {
        let folder = TempDir::new().unwrap();
        let (alice, bob) = two_users(&folder).await;
        let schema = json!({ "type": "object", "properties": {} });
        let weather =
            HostTool::new("weather", "The weather.", schema, |_, _| async { Ok(json!("rain")) }).unwrap();
        let steps = vec![
            Step::Call(vec![
                Call::new("push_context", json!({ "key": "plan", "value": "{\"steps\": [1]}" })),
                Call::new("weather", json!({})),
            ]),
            Step::Call(vec![Call::new("get_context", json!({}))]),
            Step::Say("Done."),
        ];
        let tools = tools(&alice, Role::Contributor).tool(weather).unwrap();
        let (out, requests) = each.run(&tools, steps).await;
        assert_eq!(out.unwrap(), "Done.");
        let answers = each.answers(requests.last().unwrap());
        assert_eq!(answers.len(), 3);
        assert_eq!(answers[1], json!({ "success": true, "result": "rain" }));
        assert_eq!(answers[2]["context"], json!({ "plan": { "steps": [1] } }));
        assert_eq!(alice.get::<Value>("plan").await.unwrap(), Some(json!({ "steps": [1] })));
        assert_eq!(bob.get::<String>("plan").await.unwrap().unwrap(), "CANARY of bob");
        assert!(!json!(requests).to_string().contains("CANARY"), "{each:?}");
    }
}

/// Calls of a model that wants to be somebody else, or writes nonsense.
fn wrong_calls() -> Vec<Call> {
    let mut calls = Vec::new();
    for name in ["user", "user_id", "agent", "agent_name", "tenant", "User"] {
        calls.push(Call::new("get_context", json!({ "keys": ["plan"], name: "bob" })));
        calls.push(Call::new("push_context", json!({ "key": "plan", "value": "taken over", name: "bob" })));
        calls.push(Call::new("list_context", json!({ name: "bob" })));
    }
    calls.push(Call::new("get_context", json!({ "keys": ["plan"], "mesh": "bob" })));
    calls.push(Call::new("get_context_of_bob", json!({})));
    calls.push(Call::new("delete_topic", json!({ "topic": "t", "confirm": true })));
    calls.push(Call::new("push_context", json!("{\"key\": \"plan\", \"value\":")));
    calls
}

#[tokio::test]
async fn a_model_that_names_another_user_or_agent_is_refused() {
    for each in LOOPS {
        let folder = TempDir::new().unwrap();
        let (alice, bob) = two_users(&folder).await;
        let steps = vec![Step::Call(wrong_calls()), Step::Say("I could not.")];
        let (out, requests) = each.run(&tools(&alice, Level::Safe), steps).await;
        assert_eq!(out.unwrap(), "I could not.");
        let answers = each.answers(requests.last().unwrap());
        assert_eq!(answers.len(), wrong_calls().len());
        for (answer, call) in answers.iter().zip(wrong_calls()) {
            assert_eq!(answer["success"], false, "{each:?} {call:?}");
        }
        for answer in &answers[..18] {
            assert!(answer["error"].as_str().unwrap().contains("you always act as yourself"), "{answer}");
        }
        assert_eq!(alice.get::<Value>("plan").await.unwrap(), None);
        assert_eq!(bob.get::<String>("plan").await.unwrap().unwrap(), "CANARY of bob");
        assert!(!json!(requests).to_string().contains("CANARY"), "{each:?}");
    }
}

#[tokio::test]
async fn a_model_that_never_stops_is_stopped() {
    for each in LOOPS {
        let folder = TempDir::new().unwrap();
        let (alice, _) = two_users(&folder).await;
        let steps = vec![Step::Call(vec![Call::new("list_context", json!({}))]); 100];
        let (out, requests) = each.run(&tools(&alice, Role::Readonly), steps).await;
        assert!(out.unwrap_err().to_string().contains("did not stop"));
        assert!(requests.len() < 100);
    }
}

/// Sends the first request of a conversation, then the second one with a change; says whether it was taken.
async fn takes<W: Wire>(requests: &[Value], change: impl FnOnce(&mut Value)) -> bool {
    let calls = Step::Call(vec![Call::new("list_context", json!({})), Call::new("get_context", json!({}))]);
    let server = ScriptedServer::start::<W>(vec![calls, Step::Say("Done.")]).await.unwrap();
    let client = reqwest::Client::new();
    let post = |body: &Value| {
        let request = client.post(format!("{}{}", server.provider().url, W::PATH)).bearer_auth("k");
        request.header("x-api-key", "k").header("anthropic-version", "2023-06-01").json(body).send()
    };
    assert!(post(&requests[0]).await.unwrap().status().is_success());
    let mut second = requests[1].clone();
    change(&mut second);
    post(&second).await.unwrap().status().is_success()
}

/// A server that takes everything would prove nothing.
#[tokio::test]
async fn the_servers_refuse_what_the_providers_refuse() {
    type Change = fn(&mut Value);
    let folder = TempDir::new().unwrap();
    let (alice, _) = two_users(&folder).await;
    let both: [(&str, Change); 6] = [
        ("no tools", |body| body["tools"] = Value::Null),
        ("a tool twice", |body| body["tools"][1] = body["tools"][0].clone()),
        ("no model", |body| body["model"] = Value::Null),
        ("no question", |body| drop(body["messages"].as_array_mut().unwrap().pop())),
        ("the model's words changed", |body| {
            body["messages"].as_array_mut().unwrap().iter_mut().for_each(|m| {
                if m["role"] == "assistant" {
                    m["content"] = json!("words")
                }
            })
        }),
        ("messages are no array", |body| body["messages"] = json!({})),
    ];
    let openai: [(&str, Change); 5] = [
        ("another provider's tool", |body| body["tools"][0] = json!({ "name": "a", "input_schema": {} })),
        ("a wrong id", |body| body["messages"][3]["tool_call_id"] = json!("call_9_9")),
        ("an id twice", |body| {
            body["messages"][4]["tool_call_id"] = body["messages"][3]["tool_call_id"].clone()
        }),
        ("an answer that is no text", |body| body["messages"][3]["content"] = json!({ "success": true })),
        ("an answer too few", |body| drop(body["messages"].as_array_mut().unwrap().remove(4))),
    ];
    let anthropic: [(&str, Change); 6] = [
        ("another provider's tool", |body| body["tools"][0] = json!({ "type": "function", "function": {} })),
        ("no max_tokens", |body| body["max_tokens"] = Value::Null),
        ("a wrong id", |body| body["messages"][2]["content"][0]["tool_use_id"] = json!("toolu_9_9")),
        ("an answer that is no text", |body| body["messages"][2]["content"][1]["content"] = json!(1)),
        ("an answer too few", |body| drop(body["messages"][2]["content"].as_array_mut().unwrap().pop())),
        ("a message too many", |body| {
            let last = body["messages"][2].clone();
            body["messages"].as_array_mut().unwrap().push(last);
        }),
    ];
    for each in LOOPS {
        let calls =
            Step::Call(vec![Call::new("list_context", json!({})), Call::new("get_context", json!({}))]);
        let steps = vec![calls, Step::Say("Done.")];
        let (_, requests) = each.run(&tools(&alice, Role::Readonly), steps).await;
        match each {
            Loop::OpenAi => {
                assert!(takes::<OpenAi>(&requests, |_| ()).await);
                for (what, change) in both.iter().chain(&openai) {
                    assert!(!takes::<OpenAi>(&requests, change).await, "{what}");
                }
            }
            Loop::Anthropic => {
                assert!(takes::<Anthropic>(&requests, |_| ()).await);
                for (what, change) in both.iter().chain(&anthropic) {
                    assert!(!takes::<Anthropic>(&requests, change).await, "{what}");
                }
            }
        }
    }
}

#[tokio::test]
async fn rig_runs_the_tools_as_the_agent_and_as_nobody_else() {
    let folder = TempDir::new().unwrap();
    let (alice, bob) = two_users(&folder).await;
    let handler = tools(&alice, Level::Safe);
    let all = rig::tools(&handler).unwrap();
    let names: Vec<_> = all.iter().map(|tool| tool.name().to_string()).collect();
    assert_eq!(names, handler.available_tools());
    for (tool, offered) in all.iter().zip(handler.mcp().as_array().unwrap()) {
        assert_eq!(tool.definition().parameters, offered["inputSchema"]);
    }
    // As rig's bus calls a typed tool: with the text that the model wrote.
    let (push, mut context) = (rig::PushContext(handler.clone()), ToolContext::new());
    assert_eq!(ErasedTool::parameters(&push), handler.mcp()[1]["inputSchema"]);
    let pushed = push.execute(json!({ "key": "mine", "value": 1 }).to_string(), &mut context).await;
    assert!(pushed.is_success());
    assert_eq!(alice.get::<u32>("mine").await.unwrap(), Some(1));
    let broken = push.execute("{\"key\":".to_owned(), &mut context).await;
    assert!(broken.is_error_kind(ToolErrorKind::InvalidArgs));
    for call in wrong_calls() {
        let Some(tool) = all.iter().find(|tool| *tool.name() == *call.tool) else { continue };
        let error = tool.execute(call.arguments).await.unwrap_err();
        let words = error.model_output().as_json().unwrap();
        assert_eq!(words["success"], false);
        assert!(!words.to_string().contains("CANARY") && !error.to_string().contains("bob"));
    }
    assert_eq!(alice.get::<Value>("plan").await.unwrap(), None);
    assert_eq!(bob.get::<String>("plan").await.unwrap().unwrap(), "CANARY of bob");
}

/// A typed tool can be registered for an agent that does not have it; it is refused all the same.
#[tokio::test]
async fn rig_refuses_what_the_agent_does_not_have() {
    let folder = TempDir::new().unwrap();
    let (alice, _) = two_users(&folder).await;
    let push = rig::PushContext(tools(&alice, Role::Readonly));
    let refused = push.execute(json!({ "key": "k", "value": 1 }).to_string(), &mut ToolContext::new()).await;
    assert!(refused.is_refused());
    assert_eq!(alice.get::<Value>("k").await.unwrap(), None);
}
