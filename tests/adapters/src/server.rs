use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::{Provider, Result};

/// A provider's wire format.
pub trait Wire: Send + Sync + 'static {
    /// The path of the one call.
    const PATH: &'static str;

    /// The address without that path.
    const BASE: &'static str;

    /// Checks a request as the provider does. `said` is what the model has answered so far, in this wire's form.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    fn check(headers: &HeaderMap, body: &Value, said: &[Value]) -> std::result::Result<(), &'static str>;

    /// The model's next answer: the whole reply, and the part of it that the next request repeats.
    fn reply(turn: usize, step: &Step) -> (Value, Value);

    /// How the provider words a refusal.
    fn refusal(why: &str) -> Value;
}

/// What the scripted model does in one turn.
#[derive(Clone, Debug)]
pub enum Step {
    /// It calls tools, several at once.
    Call(Vec<Call>),
    /// It answers in words.
    Say(&'static str),
}

/// One call of a tool.
#[derive(Clone, Debug)]
pub struct Call {
    /// The tool's name.
    pub tool: &'static str,
    /// The arguments; a text stands for arguments that the model wrote wrongly, where a wire can carry them.
    pub arguments: Value,
}

impl Call {
    /// A call.
    #[must_use]
    pub const fn new(tool: &'static str, arguments: Value) -> Self {
        Self { tool, arguments }
    }
}

/// A model that follows a script, behind a provider's wire format on 127.0.0.1. It ends when it is dropped.
#[derive(Debug)]
pub struct ScriptedServer {
    provider: Provider,
    state: Arc<Mutex<Script>>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Script {
    steps: Vec<Step>,
    said: Vec<Value>,
    requests: Vec<Value>,
}

impl ScriptedServer {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// If there is no free port.
    pub async fn start<W: Wire>(steps: Vec<Step>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}{}", listener.local_addr()?, W::BASE);
        let state = Arc::new(Mutex::new(Script { steps, said: Vec::new(), requests: Vec::new() }));
        let path = format!("{}{}", W::BASE, W::PATH);
        let router = Router::new().route(&path, post(answer::<W>)).with_state(Arc::clone(&state));
        let task = tokio::spawn(async move {
            // It is stopped by being aborted; there is nobody to tell an error of a connection.
            let _ = axum::serve(listener, router).await;
        });
        let provider = Provider { url, key: "not-a-real-key".into(), model: "scripted".into() };
        Ok(Self { provider, state, task })
    }

    /// Where it listens.
    #[must_use]
    pub const fn provider(&self) -> &Provider {
        &self.provider
    }

    /// The requests that it accepted.
    #[must_use]
    pub fn requests(&self) -> Vec<Value> {
        self.state.lock().requests.clone()
    }
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer<W: Wire>(
    State(state): State<Arc<Mutex<Script>>>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> (StatusCode, Json<Value>) {
    let mut script = state.lock();
    let turn = script.said.len();
    let checked = W::check(&headers, &body, &script.said);
    match (checked, script.steps.get(turn).cloned()) {
        (Err(why), _) => (StatusCode::BAD_REQUEST, Json(W::refusal(why))),
        (Ok(()), None) => (StatusCode::BAD_REQUEST, Json(W::refusal("the script has ended"))),
        (Ok(()), Some(step)) => {
            let (reply, said) = W::reply(turn, &step);
            script.said.push(said);
            script.requests.push(body);
            (StatusCode::OK, Json(reply))
        }
    }
}

/// Whether each tool has a name that the provider takes, a description, and a schema of an object; no name twice.
pub(crate) fn are_tools<'a>(
    tools: impl IntoIterator<Item = (&'a Value, &'a Value, &'a Value)>,
) -> std::result::Result<(), &'static str> {
    let mut names = Vec::new();
    for (name, description, schema) in tools {
        let name = name.as_str().ok_or("a tool has no name")?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
            return Err("a tool's name is not accepted");
        }
        if names.contains(&name) {
            return Err("two tools have one name");
        }
        names.push(name);
        if !description.is_string() || schema["type"] != "object" || !schema["properties"].is_object() {
            return Err("a tool lacks its description or its schema of an object");
        }
    }
    if names.is_empty() { Err("there are no tools") } else { Ok(()) }
}
