//! What a model writes into a call, and what it is told where that is wrong.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use syntha_mesh::Exceeded;

use crate::reply::failure;

/// A tool's answer: an object with `success`, or a failure.
pub(crate) type Answer = Result<Value, Failure>;

/// What a model is told of what failed: words, and which of the user's limits stands against it, if one does.
#[derive(Debug)]
pub(crate) struct Failure {
    words: String,
    exceeded: Option<Exceeded>,
    after: Option<Duration>,
}

impl From<String> for Failure {
    fn from(words: String) -> Self {
        Self { words, exceeded: None, after: None }
    }
}

impl Failure {
    /// The answer's JSON object.
    pub(crate) fn reply(self) -> Value {
        let mut reply = failure(self.words);
        if let Value::Object(fields) = &mut reply {
            if let Some(Exceeded { limit, most, used, .. }) = self.exceeded {
                let limit = json!({ "name": limit.name(), "unit": limit.unit(), "most": most, "used": used });
                fields.insert("limit".to_owned(), limit);
            }
            if let Some(after) = self.after {
                fields.insert("retry_after_seconds".to_owned(), after.as_secs_f64().into());
            }
        }
        reply
    }
}

/// Names under which models have tried to act as somebody else.
const IDENTITY: &[&str] =
    &["user", "user_id", "userid", "tenant", "agent", "agent_name", "agent_id", "sender", "sender_agent"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoArguments {}

/// A call's arguments as an object; none at all is an empty one.
pub(crate) fn object(arguments: Value) -> Result<Map<String, Value>, String> {
    match arguments {
        Value::Null => Ok(Map::new()),
        Value::Object(arguments) => Ok(arguments),
        _ => Err("The arguments must be a JSON object.".to_owned()),
    }
}

/// Refuses arguments that name who acts.
pub(crate) fn refuse_identity(arguments: &Map<String, Value>) -> Result<(), String> {
    match arguments.keys().find(|key| IDENTITY.contains(&key.to_lowercase().as_str())) {
        Some(named) => {
            Err(format!("The argument `{named}` is not accepted: you always act as yourself. Leave it out."))
        }
        None => Ok(()),
    }
}

pub(crate) fn parse<T: serde::de::DeserializeOwned>(arguments: Map<String, Value>) -> Result<T, String> {
    // The parser's text names argument names and types only; it is about what this same model has written.
    serde_json::from_value(Value::Object(arguments)).map_err(|error| format!("Wrong arguments: {error}."))
}

pub(crate) fn words(error: syntha_mesh::Error) -> Failure {
    let text = error.to_string();
    let mut letters = text.chars();
    let words = letters
        .next()
        .map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), letters.as_str()));
    Failure { words, exceeded: error.exceeded(), after: error.retry_after() }
}
