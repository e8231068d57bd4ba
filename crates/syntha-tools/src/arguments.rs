//! What a model writes into a call, and what it is told where that is wrong.

use serde::Deserialize;
use serde_json::{Map, Value};

/// A tool's answer: an object with `success`, or the words of a failure.
pub(crate) type Answer = Result<Value, String>;

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

pub(crate) fn words(error: syntha_mesh::Error) -> String {
    let text = error.message();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), letters.as_str()))
}
