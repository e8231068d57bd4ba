//! Whether JSON text can be read again. Not all that can be written can be.

use serde_json::Value;

/// How deeply text is nested before a parser is asked, which stops at 128.
const DEPTH: usize = 100;
/// How `serde_json` names to itself what is not plain JSON. An object whose first member is so called is read as something else,
/// and a model's arguments may well become one: members are sorted on the way.
const PRIVATE: &str = "$serde_json::private::";

pub(crate) const UNREADABLE: &str =
    "the value could not be read back: nest it less deeply, rename its members";

/// Whether text that was written as JSON will be a value to its readers. Raw text may still hold a number or an escape that
/// is none; that is an error to who asks for that value, and to nobody else.
pub(crate) fn is_readable(text: &str) -> bool {
    (is_flat(text) && !text.contains(PRIVATE))
        || serde_json::from_str::<Value>(text).is_ok_and(|value| !has_private_member(&value))
}

/// Wherever the member stands: who reads and writes the object again may sort it to the front.
fn has_private_member(value: &Value) -> bool {
    match value {
        Value::Array(values) => values.iter().any(has_private_member),
        Value::Object(members) => {
            members.iter().any(|(name, value)| name.starts_with(PRIVATE) || has_private_member(value))
        }
        _ => false,
    }
}

/// Whether it is not deep: most text has too few brackets for it, and is only counted.
fn is_flat(text: &str) -> bool {
    text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count() < DEPTH || depth(text) < DEPTH
}

fn depth(text: &str) -> usize {
    let (mut depth, mut most, mut quoted, mut escaped) = (0_usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => {
                depth += 1;
                most = most.max(depth);
            }
            b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_that_of_the_brackets_outside_of_strings() {
        for (text, expected) in
            [("1", 0), ("[]", 1), (r#"{"a":[1,{"b":2}],"c":[]}"#, 3), (r#"["[[[", "\"[[", "\\", [1]]"#, 2)]
        {
            assert_eq!(depth(text), expected, "{text}");
        }
    }

    #[test]
    fn what_a_parser_does_not_take_is_not_readable() {
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        let wide = format!("[{}[]]", "[],".repeat(10_000));
        assert!(is_readable(&nested(127)) && !is_readable(&nested(128)) && is_readable(&wide));
        assert!(!is_readable(r#"{"$serde_json::private::RawValue":"x","a":1}"#));
        assert!(!is_readable(r#"[{"a":1,"$serde_json::private::RawValue":"x"}]"#));
        assert!(is_readable(r#"{"a":"$serde_json::private::RawValue"}"#));
    }
}
