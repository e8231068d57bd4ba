//! Answers and their size.

use serde_json::{Map, Value, json};

/// The most bytes of a reply's JSON text.
pub const REPLY_BYTES: usize = 64 * 1024;

/// Room for everything in a reply but its values.
const FRAME_BYTES: usize = 8 * 1024;

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

/// The last word on a reply's size: what is still too large is replaced by a failure that says what to do.
pub(crate) fn bounded(reply: Value) -> Value {
    if reply.to_string().len() <= REPLY_BYTES {
        return reply;
    }
    failure("The answer is larger than 64 KiB. Ask for fewer things at once.")
}
