//! Whether JSON text can be read again. Not all that can be written can be.

use serde_json::Value;

/// How many brackets text has before it may be nested too deeply for a parser, which stops at 128.
const BRACKETS: usize = 100;
/// How `serde_json` names to itself what is not plain JSON. An object whose first member is so called is read as something else,
/// and a model's arguments may well become one: members are sorted on the way.
const PRIVATE: &str = "$serde_json::private::";

pub(crate) const UNREADABLE: &str =
    "the value could not be read back: nest it less deeply, rename its members";

/// Whether text that was written as JSON will be a value to its readers. Raw text may still hold a number or an escape that
/// is none; that is an error to who asks for that value, and to nobody else.
pub(crate) fn is_readable(text: &str) -> bool {
    let brackets = text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count();
    (brackets < BRACKETS && !text.contains(PRIVATE)) || serde_json::from_str::<Value>(text).is_ok()
}
