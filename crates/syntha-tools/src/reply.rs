//! Answers and their size.

use std::sync::Arc;

use serde_json::{Map, Value, json};

/// The most bytes of a reply's JSON text.
pub const REPLY_BYTES: usize = 64 * 1024;

/// Room for everything in a reply but its values.
pub(crate) const FRAME_BYTES: usize = 8 * 1024;

pub(crate) fn failure(message: impl Into<String>) -> Value {
    json!({ "success": false, "error": message.into() })
}

/// Takes pairs while they fit; says how many did not.
pub(crate) fn take_fitting(pairs: impl IntoIterator<Item = (String, Value)>) -> (Map<String, Value>, usize) {
    let (mut taken, mut left, mut bytes) = (Map::new(), 0, 0);
    for (key, value) in pairs {
        let size = key.len() * 2 + value.to_string().len() + 8;
        if bytes + size > REPLY_BYTES - FRAME_BYTES {
            left += 1;
        } else {
            bytes += size;
            taken.insert(key, value);
        }
    }
    (taken, left)
}

/// Takes names while they fit into one of so many equal parts of a reply; says how many did not.
pub(crate) fn names_fitting(names: &[Arc<str>], parts: usize) -> (Vec<&str>, usize) {
    let mut bytes = 0;
    // A name's JSON text: at worst every character is escaped.
    let fits = |name: &&Arc<str>| {
        bytes += name.len() * 2 + 3;
        bytes <= (REPLY_BYTES - FRAME_BYTES) / parts
    };
    let taken: Vec<_> = names.iter().take_while(fits).map(|name| &**name).collect();
    let left = names.len() - taken.len();
    (taken, left)
}

/// Says in an answer how many topics it left out.
#[allow(clippy::indexing_slicing, reason = "a JSON object takes a new name by index")]
pub(crate) fn note_omitted(answer: &mut Value, topics: usize) {
    if topics > 0 {
        answer["topics_omitted"] = topics.into();
    }
}

/// The last word on a reply's size: what is still too large is replaced by a failure that says what to do.
pub(crate) fn bounded(reply: Value) -> Value {
    if reply.to_string().len() <= REPLY_BYTES {
        return reply;
    }
    failure("The answer is larger than 64 KiB. Ask for fewer things at once.")
}
