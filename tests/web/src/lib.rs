//! A web service over Syntha with axum.
//!
//! Who is asking is decided once, in `Caller`, from the request's token. No path, query, header or body names a user, and the
//! handlers below could not pass one on: they get a session. `docs/multi-user-setup.md` walks through it.

#![forbid(unsafe_code)]

mod failure;
pub mod loopback;

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, FromRequestParts, Path};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use syntha::{HostAuthority, Role, Session, ToolHandler, UserId, UserManager};

use failure::Failure;

/// The agent that this service runs for each of its users. A name of the host's choice: a request does not choose it either.
const AGENT: &str = "Assistant";

/// What the service holds: the users, the one authority to open their sessions, and who has which token.
pub struct Service {
    users: UserManager,
    host: HostAuthority,
    tokens: HashMap<String, UserId>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the tokens.
        f.debug_struct("Service").field("users", &self.users).finish_non_exhaustive()
    }
}

impl Service {
    /// A service of these users. The tokens stand for what a real host has in their place: a session cookie's store, or the
    /// signature and expiry of a JWT. It keeps no token in the clear (a map is looked up by a hash of the token, so that nothing
    /// is compared that an attacker can time), takes them over TLS only, and can withdraw them.
    #[must_use]
    pub fn new(users: UserManager, host: HostAuthority, tokens: HashMap<String, UserId>) -> Arc<Self> {
        Arc::new(Self { users, host, tokens })
    }

    /// Closes the users' data in order. The last holder calls it, after the server has ended.
    ///
    /// # Errors
    ///
    /// `Storage`, if a file can't be closed in order.
    pub async fn shutdown(self: Arc<Self>) -> syntha::Result<()> {
        match Arc::into_inner(self) {
            Some(service) => service.users.shutdown().await,
            None => Ok(()),
        }
    }
}

/// The routes.
pub fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/context/{key}", get(read).put(write).delete(remove))
        .route("/tools", get(tools))
        .route("/tools/{tool}", post(call))
        // A value has at most 1 MiB; what surrounds it in a body is small.
        .layer(DefaultBodyLimit::max(2 << 20))
        .with_state(service)
}

/// The authenticated user of a request, as a session that ends with the request.
///
/// The one place that turns a request into a user. A handler that takes it can't run for anybody else, and one that does not take
/// it has no data at all.
struct Caller(Session);

impl FromRequestParts<Arc<Service>> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, service: &Arc<Service>) -> Result<Self, Failure> {
        let mut headers = parts.headers.get_all(AUTHORIZATION).iter();
        // Of two, a proxy in front may have checked the other.
        let (Some(header), None) = (headers.next(), headers.next()) else {
            return Err(Failure::Unauthenticated);
        };
        let token = header.to_str().ok().and_then(|value| value.strip_prefix("Bearer "));
        let user = token.and_then(|token| service.tokens.get(token)).ok_or(Failure::Unauthenticated)?;
        Ok(Self(service.users.create_user_session(&service.host, user).await?))
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        // Also when the client hangs up and axum drops the handler: what it left running has no session any more.
        self.0.end();
    }
}

async fn read(caller: Caller, Path(key): Path<String>) -> Result<Response, Failure> {
    match caller.0.agent(AGENT)?.get::<Value>(&key).await? {
        Some(value) => Ok(Json(json!({ "value": value })).into_response()),
        // Absent, expired and not for this agent are one answer.
        None => Err(Failure::Absent),
    }
}

/// The body of a write. A field that it does not know is refused, so that nobody believes that one named a user.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Write {
    value: Value,
    #[serde(default)]
    topics: Vec<String>,
}

async fn write(
    caller: Caller,
    Path(key): Path<String>,
    Json(body): Json<Write>,
) -> Result<Response, Failure> {
    let push = caller.0.agent(AGENT)?.push(key, body.value);
    let pushed = if body.topics.is_empty() { push.await? } else { push.topics(body.topics).await? };
    Ok(Json(json!({ "version": pushed.version.0 })).into_response())
}

async fn remove(caller: Caller, Path(key): Path<String>) -> Result<Response, Failure> {
    if caller.0.agent(AGENT)?.remove(key, None).await? {
        Ok(Json(json!({})).into_response())
    } else {
        Err(Failure::Absent)
    }
}

async fn tools(caller: Caller) -> Result<Response, Failure> {
    let tools = ToolHandler::new(&caller.0.agent(AGENT)?, Role::Contributor);
    Ok(Json(tools.openai_chat()).into_response())
}

/// A model's call, with the arguments as the model wrote them. The handler acts as its agent whatever they say.
async fn call(
    caller: Caller,
    Path(tool): Path<String>,
    Json(arguments): Json<Value>,
) -> Result<Response, Failure> {
    let tools = ToolHandler::new(&caller.0.agent(AGENT)?, Role::Contributor);
    Ok(Json(tools.call(&tool, arguments).await).into_response())
}
